//! Jacobian-vector products, vector-Jacobian products and rows of the Jacobian of the network's outputs.

use faer::prelude::{Reborrow as _, ReborrowMut as _};
use faer::{Mat, MatMut, MatRef};
use qn_kernels::ordered_reduce;

use crate::columns::Tensors;
use crate::curvature::{TOO_LARGE, Task};
use crate::error::{CurvatureError, check_finite, check_len};
use crate::primal::Primal;
use crate::product::{MAX_BLOCK, check_columns};
use crate::tangent::{Part, pack, pull_back, push_outputs};
use crate::{Curvature, Real};

/// The Jacobian J of the network's outputs by its parameters: with K outputs a sample J is (N K) × P, and row i K + k is
/// the gradient of output k of sample i, an output of several axes counted in row-major order. [`Curvature::jvp`] and
/// [`Curvature::vjp`] multiply by J and Jᵀ without forming it; [`Curvature::jacobian_rows`] and
/// [`Curvature::sample_gradients`] give rows. A Gauss–Newton product is G v = (1/N) Jᵀ A J v, A being block diagonal with
/// the samples' d²ℓ/dz².
///
/// # Examples
/// ```
/// use faer::Mat;
/// use qn_curvature::{Curvature, Operator, Options, Samples};
/// use qn_model::{Graph, Preset};
///
/// let graph = Graph::new(&Preset::Digits.architecture([1, 8, 8], 10))?;
/// let theta: Vec<f64> = (0..graph.layout().len()).map(|i| (i as f64).sin() / 10.0).collect();
/// let images = (0..3 * 64).map(|i| (i as f64).cos());
/// let samples = Samples::<f64>::new(64, images, vec![3, 1, 4])?;
/// let network = Curvature::new(&graph, &theta, &[], samples, &Options::default())?;
/// let (p, n, k) = (network.dim(), 3, 10);
///
/// let v = Mat::from_fn(p, 1, |i, _| (7.0 * i as f64).sin());
/// let mut along = Mat::zeros(n * k, 1);
/// network.jvp(v.as_ref(), along.as_mut())?;
///
/// // A z = p ∘ z - p (pᵀ z) of cross-entropy, p being the softmax of a sample's outputs.
/// let outputs = network.outputs()?;
/// for (i, z) in outputs.chunks(k).enumerate() {
///     let sum: f64 = z.iter().map(|z| z.exp()).sum();
///     let p: Vec<f64> = z.iter().map(|z| z.exp() / sum).collect();
///     let mean: f64 = (0..k).map(|j| p[j] * along[(i * k + j, 0)]).sum();
///     (0..k).for_each(|j| along[(i * k + j, 0)] = p[j] * (along[(i * k + j, 0)] - mean) / n as f64);
/// }
/// let (mut product, mut expected) = (Mat::zeros(p, 1), Mat::zeros(p, 1));
/// network.vjp(along.as_ref(), product.as_mut())?;
/// network.product(Operator::Ggn, v.as_ref(), expected.as_mut())?;
/// assert!((&product - &expected).norm_l2() < 1e-12 * expected.norm_l2());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
impl<T: Real> Curvature<T> {
    /// K: numbers that the network gives for one sample.
    pub fn outputs_per_sample(&self) -> usize {
        self.network().graph.output().len()
    }

    /// The network's outputs z at θ (the logits, where the loss is cross-entropy) of every sample, [N, K] row-major.
    ///
    /// # Errors
    /// An output is not finite.
    ///
    /// # Examples
    /// ```
    /// use qn_curvature::{Curvature, Options, Samples};
    /// use qn_model::{Graph, Op, ParamKind, Shape};
    ///
    /// let mut graph = Graph::empty("z = W x", Shape::new([2]));
    /// let weight = graph.parameter("weight", vec![2, 2], ParamKind::Affine { fan_in: 2 });
    /// graph.push(Op::Linear { weight, bias: None }, vec![0])?;
    /// let samples = Samples::<f64>::new(2, [1.0, 10.0].into_iter(), vec![0])?;
    /// let network = Curvature::new(&graph, &[1.0, 2.0, 3.0, 4.0], &[], samples, &Options::default())?;
    /// assert_eq!(network.outputs()?, [21.0, 43.0]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn outputs(&self) -> Result<Vec<f64>, CurvatureError> {
        let (microbatches, k) = (self.microbatches, self.outputs_per_sample());
        let z = ordered_reduce(
            microbatches.batches(),
            self.threads(),
            vec![0.0; self.samples() * k],
            || (self.task(0), 0, Vec::new()),
            |batch, (task, first, z)| {
                let primal = self.forward(microbatches.samples_of(batch), &mut task.work);
                *first = microbatches.samples_of(batch).start;
                z.clone_from(&primal.values[primal.values.len() - 1]);
                primal.recycle(&mut task.work);
            },
            |all, (_, first, z)| {
                let m = z.len() / k;
                (0..z.len()).for_each(|at| all[(*first + at % m) * k + at / m] = z[at].f64());
            },
        );
        check_finite("an output of the network", TOO_LARGE, z.iter().copied())?;
        Ok(z)
    }

    /// y = J x for a block of tangents: x is P × b, and y is (N K) × b.
    ///
    /// # Errors
    /// Sizes do not agree, or a number in x or in the result is not finite.
    ///
    /// # Examples
    /// With z = W x the derivative along V is V x:
    /// ```
    /// use faer::{Mat, mat};
    /// use qn_curvature::{Curvature, Options, Samples};
    /// use qn_model::{Graph, Op, ParamKind, Shape};
    ///
    /// let mut graph = Graph::empty("z = W x", Shape::new([2]));
    /// let weight = graph.parameter("weight", vec![2, 2], ParamKind::Affine { fan_in: 2 });
    /// graph.push(Op::Linear { weight, bias: None }, vec![0])?;
    /// let samples = Samples::<f64>::new(2, [1.0, 10.0].into_iter(), vec![0])?;
    /// let network = Curvature::new(&graph, &[1.0, 2.0, 3.0, 4.0], &[], samples, &Options::default())?;
    /// let mut y = Mat::zeros(2, 1);
    /// network.jvp(mat![[5.0], [6.0], [7.0], [8.0]].as_ref(), y.as_mut())?;
    /// assert_eq!(y, mat![[65.0], [87.0]]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn jvp<S: Real>(&self, x: MatRef<'_, S>, mut y: MatMut<'_, S>) -> Result<(), CurvatureError> {
        check_len("a tangent", x.nrows(), self.dim())?;
        check_len("a tangent of the outputs", y.nrows(), self.samples() * self.outputs_per_sample())?;
        check_len("the block of tangents of the outputs", y.ncols(), x.ncols())?;
        for first in (0..x.ncols()).step_by(MAX_BLOCK) {
            let b = MAX_BLOCK.min(x.ncols() - first);
            self.push_block(x.subcols(first, b), y.rb_mut().subcols_mut(first, b))?;
        }
        check_columns("a tangent of the outputs", TOO_LARGE, y.rb())
    }

    /// J x for at most [`MAX_BLOCK`] tangents.
    fn push_block<S: Real>(&self, x: MatRef<'_, S>, y: MatMut<'_, S>) -> Result<(), CurvatureError> {
        let (b, network) = (x.ncols(), self.network());
        let mut tangents = self.buffer(self.dim() * b);
        if !self.tensors().gather(x, &mut tangents) {
            check_columns("a tangent", "look at what it is made of", x)?;
        }
        let (active, reached) = &network.everything;
        let packed = pack(network, &tangents, (active, b));
        let part = Part { active, reached, b, packed: &packed };
        let (microbatches, k) = (self.microbatches, self.outputs_per_sample());
        ordered_reduce(
            microbatches.batches(),
            self.threads(),
            y,
            || (self.task(0), 0, Vec::new()),
            |batch, (task, first, zdot)| {
                self.at_batch(batch, task, |primal, task| {
                    *first = microbatches.samples_of(batch).start;
                    let found = push_outputs(network, primal, &tangents, &part, &mut task.work);
                    task.work.give([std::mem::replace(zdot, found)]);
                });
            },
            |y, (_, first, zdot)| {
                let m = zdot.len() / (k * b);
                for (t, zdot) in zdot.chunks_exact(k * m).enumerate() {
                    (0..k * m).for_each(|at| y[((*first + at % m) * k + at / m, t)] = S::of(zdot[at].f64()));
                }
            },
        );
        self.give_buffer(tangents);
        Ok(())
    }

    /// y = Jᵀ u for a block of cotangents of the outputs: u is (N K) × b, and y is P × b.
    ///
    /// # Errors
    /// Sizes do not agree, or a number in u or in the result is not finite.
    ///
    /// # Examples
    /// With z = W x the gradient of uᵀ z is u xᵀ:
    /// ```
    /// use faer::{Mat, mat};
    /// use qn_curvature::{Curvature, Options, Samples};
    /// use qn_model::{Graph, Op, ParamKind, Shape};
    ///
    /// let mut graph = Graph::empty("z = W x", Shape::new([2]));
    /// let weight = graph.parameter("weight", vec![2, 2], ParamKind::Affine { fan_in: 2 });
    /// graph.push(Op::Linear { weight, bias: None }, vec![0])?;
    /// let samples = Samples::<f64>::new(2, [1.0, 10.0].into_iter(), vec![0])?;
    /// let network = Curvature::new(&graph, &[1.0, 2.0, 3.0, 4.0], &[], samples, &Options::default())?;
    /// let mut y = Mat::zeros(4, 1);
    /// network.vjp(mat![[2.0], [3.0]].as_ref(), y.as_mut())?;
    /// assert_eq!(y, mat![[2.0], [20.0], [3.0], [30.0]]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn vjp<S: Real>(&self, u: MatRef<'_, S>, mut y: MatMut<'_, S>) -> Result<(), CurvatureError> {
        check_len("a cotangent of the outputs", u.nrows(), self.samples() * self.outputs_per_sample())?;
        check_len("a cotangent", y.nrows(), self.dim())?;
        check_len("the block of cotangents", y.ncols(), u.ncols())?;
        check_columns("a cotangent of the outputs", "look at what it is made of", u)?;
        for first in (0..u.ncols()).step_by(MAX_BLOCK) {
            let b = MAX_BLOCK.min(u.ncols() - first);
            let sums = self.pull_block(u.subcols(first, b))?;
            if !self.tensors().scatter(&sums, 1.0, y.rb_mut().subcols_mut(first, b)) {
                check_columns("a cotangent", TOO_LARGE, y.rb().subcols(first, b))?;
            }
            self.totals.give(sums);
        }
        Ok(())
    }

    /// Jᵀ u for at most [`MAX_BLOCK`] cotangents, tensor by tensor as `[tangent][entry]`.
    fn pull_block<S: Real>(&self, u: MatRef<'_, S>) -> Result<Vec<f64>, CurvatureError> {
        let (b, microbatches, k) = (u.ncols(), self.microbatches, self.outputs_per_sample());
        let sum = self.sum([microbatches.tasks(), self.dim() * b], &|| false, |task, state| {
            for batch in microbatches.batches_of(task) {
                self.at_batch(batch, state, |primal, state| {
                    let (m, first) = (primal.m, microbatches.samples_of(batch).start);
                    let mut seed = state.work.take(b * k * m);
                    for (t, seed) in seed.chunks_exact_mut(k * m).enumerate() {
                        for (at, slot) in seed.iter_mut().enumerate() {
                            *slot = T::of(u[((first + at % m) * k + at / m, t)].f64());
                        }
                    }
                    self.pull_outputs(primal, (seed, b), state);
                });
            }
        });
        Ok(sum?.0)
    }

    /// Rows of J: for every sample of a list, the gradients by θ of its K outputs. P × (m K): column i K + k is the
    /// gradient of output k of the i-th sample of the list.
    ///
    /// Each sample is gone through by itself, as its outer products must not be added to those of the others; with
    /// [`Self::vjp`] weighted sums over samples cost a fraction of that.
    ///
    /// # Errors
    /// There is no such sample, or a derivative is not finite.
    ///
    /// # Examples
    /// ```
    /// use faer::mat;
    /// use qn_curvature::{Curvature, Options, Samples};
    /// use qn_model::{Graph, Op, ParamKind, Shape};
    ///
    /// let mut graph = Graph::empty("z = W x", Shape::new([2]));
    /// let weight = graph.parameter("weight", vec![2, 2], ParamKind::Affine { fan_in: 2 });
    /// graph.push(Op::Linear { weight, bias: None }, vec![0])?;
    /// let samples = Samples::<f64>::new(2, [1.0, 10.0].into_iter(), vec![0])?;
    /// let network = Curvature::new(&graph, &[1.0, 2.0, 3.0, 4.0], &[], samples, &Options::default())?;
    /// let rows = network.jacobian_rows(&[0])?;
    /// assert_eq!(rows, mat![[1.0, 0.0], [10.0, 0.0], [0.0, 1.0], [0.0, 10.0]]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn jacobian_rows(&self, samples: &[usize]) -> Result<Mat<f64>, CurvatureError> {
        let k = self.outputs_per_sample();
        self.by_sample(samples, k, |_, outputs, seed| {
            let (first, count) = (outputs.start, outputs.len());
            seed.fill(T::of(0.0));
            (0..count).for_each(|t| seed[t * k + first + t] = T::of(1.0));
            1.0
        })
    }

    /// Gradients by θ of single samples' losses ℓ_i, as they are before their mean is taken and without an L2 term: P × m,
    /// a column for every sample of a list.
    ///
    /// # Errors
    /// There is no such sample, or a derivative is not finite.
    ///
    /// # Examples
    /// The loss (z₁ - 1)² + z₂² of a sample with label 0, for z = W x:
    /// ```
    /// use std::sync::Arc;
    ///
    /// use faer::mat;
    /// use qn_curvature::losses::MeanSquaredError;
    /// use qn_curvature::{Curvature, Options, Samples};
    /// use qn_model::{Graph, Op, ParamKind, Shape};
    ///
    /// let mut graph = Graph::empty("z = W x", Shape::new([1]));
    /// let weight = graph.parameter("weight", vec![2, 1], ParamKind::Affine { fan_in: 1 });
    /// graph.push(Op::Linear { weight, bias: None }, vec![0])?;
    /// let samples = Samples::<f64>::new(1, [10.0, 1.0].into_iter(), vec![0, 0])?;
    /// let options = Options { loss: Arc::new(MeanSquaredError::default()), ..Options::default() };
    /// let network = Curvature::new(&graph, &[2.0, 3.0], &[], samples, &options)?;
    /// assert_eq!(network.sample_gradients(&[0, 1])?, mat![[380.0, 2.0], [600.0, 6.0]]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn sample_gradients(&self, samples: &[usize]) -> Result<Mat<f64>, CurvatureError> {
        // So that small derivatives stay in the range of single precision.
        let scale = self.scale();
        self.by_sample(samples, 1, |primal, _, seed| {
            seed.copy_from_slice(&primal.loss.cotangent(scale));
            scale
        })
    }

    /// Jᵀ u for single samples and `each` cotangents u of every one: `seed` writes those of a range, `[cotangent][output]`,
    /// and says by what they are too large.
    fn by_sample(
        &self,
        samples: &[usize],
        each: usize,
        seed: impl Fn(&Primal<T>, std::ops::Range<usize>, &mut [T]) -> f64 + Sync,
    ) -> Result<Mat<f64>, CurvatureError> {
        if let Some(&sample) = samples.iter().find(|i| **i >= self.samples()) {
            return Err(CurvatureError::Sample { sample, n: self.samples() });
        }
        let (p, k) = (self.dim(), self.outputs_per_sample());
        let block = MAX_BLOCK.min(each);
        let mut columns = ordered_reduce(
            samples.len(),
            self.threads(),
            Mat::zeros(p, samples.len() * each),
            || (self.task(p * block), 0, Mat::<f64>::zeros(p, each)),
            |i, (state, at, columns)| {
                *at = i * each;
                let primal = Primal::forward(self.network(), &self.samples, &samples[i..=i], &mut state.work);
                for first in (0..each).step_by(block) {
                    let b = block.min(each - first);
                    let mut cotangents = state.work.take(b * k);
                    let scale = seed(&primal, first..first + b, &mut cotangents);
                    state.sums[..p * b].fill(T::of(0.0));
                    self.pull_outputs(&primal, (cotangents, b), state);
                    let tensors = Tensors { threads: 1, ..self.tensors() };
                    // What is not finite is found, and named, in the end.
                    let _ =
                        tensors.scatter(&state.sums[..p * b], scale, columns.as_mut().subcols_mut(first, b));
                }
                primal.recycle(&mut state.work);
            },
            |all, (_, at, columns)| all.as_mut().subcols_mut(*at, each).copy_from(&*columns),
        );
        check_columns("a derivative", TOO_LARGE, columns.as_mut().rb())?;
        Ok(columns)
    }

    /// Does something at a microbatch, with the pass that is kept where there is one.
    fn at_batch(
        &self,
        batch: usize,
        task: &mut Task<'_, T>,
        visit: impl FnOnce(&Primal<T>, &mut Task<'_, T>),
    ) {
        if let Some(primal) = self.cache.get(batch).and_then(|slot| slot.get()) {
            return visit(primal, task);
        }
        let primal = self.forward(self.microbatches.samples_of(batch), &mut task.work);
        visit(&primal, task);
        primal.recycle(&mut task.work);
    }

    /// Adds Jᵀ u of a microbatch to a task's sums, for b cotangents `[tangent][output][sample]` of its outputs.
    fn pull_outputs(&self, primal: &Primal<T>, (seed, b): (Vec<T>, usize), task: &mut Task<'_, T>) {
        let network = self.network();
        let (active, reached) = &network.everything;
        let part = Part { active, reached, b, packed: &[] };
        let mut cotangents = vec![Vec::new(); network.value_len.len()];
        if let Some(last) = cotangents.last_mut() {
            *last = seed;
        }
        let Task { work, sums, .. } = task;
        let sums = &mut sums[..self.dim() * b];
        pull_back(network, primal, None, &part, (&mut cotangents, work), Some(sums));
        work.give(cotangents);
    }
}
