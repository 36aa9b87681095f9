use std::ops::Range;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use faer::prelude::ReborrowMut as _;
use faer::{MatMut, MatRef};
use qn_kernels::{norm_l2, ordered_reduce};
use qn_model::{Graph, ParamLayout};

use crate::cut::Cut;
use crate::error::{check_finite, check_len};
use crate::loss_at::scale_of;
use crate::losses::{CrossEntropy, Loss, Targets, Term};
use crate::network::Network;
use crate::primal::Primal;
use crate::scratch::Scratch;
use crate::tangent::{Operator, Part, pack, product};
use crate::{CurvatureError, Real, Samples};

/// The loss, and how the work is cut.
#[derive(Clone, Debug)]
pub struct Options {
    /// Threads. Results do not depend on it.
    pub threads: usize,
    /// Samples in a microbatch; chosen from the network's size where `None`. Results depend on it
    /// in the last bits.
    pub microbatch: Option<usize>,
    /// Bytes that may be spent on keeping primal passes between products.
    pub memory: usize,
    /// Whether small convolutions that a max-pool follows are done directly, in products at the outputs that the
    /// pool lets through, and not as matrix products. Results differ by rounding.
    pub direct: bool,
    /// The loss.
    pub loss: Arc<dyn Loss>,
    /// λ of a further term λ/2 |θ|² of the loss.
    pub weight_decay: f64,
    /// The parameters by which there are derivatives, by name or glob pattern as in [`ParamLayout::only`]; all where
    /// there are none. The others are constants: P, everywhere, counts those that are named.
    pub only: Vec<String>,
}

impl Default for Options {
    /// All processors, a chosen microbatch, 1 GiB; mean cross-entropy without decay, over all parameters.
    fn default() -> Self {
        let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
        Self {
            threads,
            microbatch: None,
            memory: 1 << 30,
            direct: true,
            loss: Arc::new(CrossEntropy::default()),
            weight_decay: 0.0,
            only: Vec::new(),
        }
    }
}

/// L, its gradient, and the share of samples classified correctly.
#[derive(Clone, Debug)]
pub struct LossAndGradient {
    /// The loss; cross-entropy is in nats.
    pub loss: f64,
    /// Share of labels whose output is the largest; none where the targets are no classes.
    pub accuracy: Option<f64>,
    /// dL/dθ, [P].
    pub gradient: Vec<f64>,
}

/// The class gradients of all samples, and the curvatures that the paper reads from them.
#[derive(Clone, Debug)]
pub struct ClassGradients {
    /// c_k, eq. (8), [C, P] row-major: the mean over the samples of class k of the gradient of logit k; zero where
    /// there are none.
    pub rows: Vec<f64>,
    /// λ_k = (1/N) Σ y_k p_k (1 − p_k) |c_k|², eq. (12), [C].
    pub lambda: Vec<f64>,
}

/// Tangents that go through a microbatch together. More do not make the matrix products better.
pub(crate) const MAX_BLOCK: usize = 16;
/// What to do about a derivative that is not finite.
const TOO_LARGE: &str = "the parameters are too large for this precision; try --dtype f64";
/// Samples in a microbatch of the direct kernels, which go from sample to sample: enough to shape the
/// matrix products of the layers behind them. Measured with LeNet.
const DIRECT_MICROBATCH: usize = 32;

/// A network at one point, its data, and the derivatives of the loss there.
pub struct Curvature<T: Real> {
    network: Network<T>,
    samples: Samples<T>,
    /// What the sum over samples is divided by.
    terms: f64,
    weight_decay: f64,
    threads: usize,
    /// How the samples are cut for products, and the primal passes where they are kept.
    cut: Cut,
    cache: Vec<OnceLock<Primal<T>>>,
    /// See [`Self::scale`].
    scale: OnceLock<f64>,
    /// Buffers of threads that have finished, for the next product.
    idle: Mutex<Vec<Scratch<T>>>,
}

impl<T: Real> Curvature<T> {
    /// Prepares a network with parameters `theta` (layout order, [P]) and running statistics
    /// `buffers` over `samples`.
    ///
    /// # Errors
    /// Sizes do not agree, a label is not a class, a number is not finite, or no parameter is called as asked.
    pub fn new(
        graph: &Graph,
        theta: &[f64],
        buffers: &[Vec<f64>],
        samples: Samples<T>,
        options: &Options,
    ) -> Result<Self, CurvatureError> {
        let network = Network::new(graph, theta, buffers, options)?;
        check_len("a sample", samples.features(), graph.input().len())?;
        let fits = options.loss.check(graph.output(), samples.targets(), samples.len());
        fits.map_err(|reason| CurvatureError::Targets { reason })?;
        let terms = options.loss.terms(graph.output(), samples.targets());
        let chosen = if network.fused { DIRECT_MICROBATCH } else { default_microbatch(&network) };
        let cut = Cut::new(samples.len(), options.microbatch.unwrap_or(chosen));
        let bytes = cut.batches().saturating_mul(Primal::bytes(&network, cut.microbatch));
        let kept = if bytes <= options.memory { cut.batches() } else { 0 };
        let cache = (0..kept).map(|_| OnceLock::new()).collect();
        Ok(Self {
            network,
            samples,
            terms,
            weight_decay: options.weight_decay,
            threads: options.threads,
            cut,
            cache,
            scale: OnceLock::new(),
            idle: Mutex::new(Vec::new()),
        })
    }

    /// P: the parameters by which there are derivatives.
    pub fn dim(&self) -> usize {
        self.network.layout.len()
    }

    /// Their names and order.
    pub fn layout(&self) -> &ParamLayout {
        &self.network.layout
    }

    /// N.
    pub fn samples(&self) -> usize {
        self.samples.len()
    }

    /// Samples in a microbatch.
    pub fn microbatch(&self) -> usize {
        self.cut.microbatch
    }

    pub(crate) fn threads(&self) -> usize {
        self.threads
    }

    pub(crate) fn network(&self) -> &Network<T> {
        &self.network
    }

    /// Whether primal passes are kept between products.
    pub fn keeps_primal(&self) -> bool {
        !self.cache.is_empty()
    }

    /// The power of two by which deltas are multiplied on their way through the network and sums divided at its end: it
    /// brings the largest |dℓ/dz| of the data between 1/2 and 1. One, without a pass over the data, in double
    /// precision, whose range is that of the probabilities.
    pub fn scale(&self) -> f64 {
        if size_of::<T>() == size_of::<f64>() {
            return 1.0;
        }
        *self.scale.get_or_init(|| {
            let cut = self.cut;
            let largest = ordered_reduce(
                cut.batches(),
                self.threads,
                0.0,
                || (self.task(0), 0.0),
                |batch, (state, largest): &mut (Task<'_, T>, f64)| {
                    let primal = self.forward(cut.samples_of(batch), &mut state.work);
                    *largest = primal.loss.largest();
                    primal.recycle(&mut state.work);
                },
                |total, (_, largest)| *total = f64::max(*total, *largest),
            );
            scale_of(largest)
        })
    }

    /// What a sample's deltas are multiplied by: its share of the mean, times [`Self::scale`].
    pub(crate) fn weight(&self) -> f64 {
        self.scale() / self.terms
    }

    /// The multiple of the identity in a matrix that an L2 term gives.
    pub(crate) fn decay(&self, operator: Operator) -> f64 {
        if operator.has_decay() { self.weight_decay } else { 0.0 }
    }

    /// Loss, accuracy and gradient.
    ///
    /// # Errors
    /// The loss or the gradient is not finite.
    pub fn loss_and_gradient(&self) -> Result<LossAndGradient, CurvatureError> {
        let p = self.dim();
        let (cut, weight, scale) = (self.cut, self.weight(), self.scale());
        let (term, mut gradient) = ordered_reduce(
            cut.tasks(),
            self.threads,
            (Term::default(), vec![0.0; p]),
            || self.task(p),
            |task, state| {
                for batch in cut.batches_of(task) {
                    let mut primal = self.forward(cut.samples_of(batch), &mut state.work);
                    primal.gradient(&self.network, weight, &mut state.work, &mut state.sums);
                    state.term += primal.loss.sum;
                    primal.recycle(&mut state.work);
                }
            },
            |(term, gradient), state| {
                *term += std::mem::take(&mut state.term);
                state.move_sums_to(gradient);
            },
        );
        let Network { theta, ranges, places, .. } = &self.network;
        for (range, place) in ranges.iter().zip(places).filter(|(_, place)| !place.is_empty()) {
            let pairs = gradient[place.clone()].iter_mut().zip(&theta[range.clone()]);
            pairs.for_each(|(g, t)| *g = *g / scale + self.weight_decay * t.f64());
        }
        let squares: f64 = theta.iter().map(|t| t.f64() * t.f64()).sum();
        let loss = term.loss / self.terms + 0.5 * self.weight_decay * squares;
        check_finite("the loss", "the parameters have diverged", std::iter::once(loss))?;
        check_finite("the gradient", TOO_LARGE, gradient.iter().copied())?;
        let accuracy = (term.positions > 0).then(|| term.hits as f64 / term.positions as f64);
        Ok(LossAndGradient { loss, accuracy, gradient })
    }

    /// Class gradients and their λ_k over all samples. Each logit is differentiated over its own class only, so the
    /// cost is that of one gradient.
    ///
    /// # Errors
    /// A derivative is not finite.
    pub fn class_gradients(&self) -> Result<ClassGradients, CurvatureError> {
        let (p, classes) = (self.dim(), self.network.graph.output().len());
        let Targets::Classes(labels) = self.samples.targets() else {
            return Err(CurvatureError::Targets { reason: "class gradients need labels".into() });
        };
        if labels.len() != self.samples() {
            return Err(CurvatureError::Targets { reason: "class gradients need one label a sample".into() });
        }
        let (mut rows, mut lambda) = (Vec::with_capacity(classes * p), Vec::with_capacity(classes));
        for class in 0..classes {
            let own = labels.iter().enumerate().filter(|(_, l)| **l as usize == class);
            let members: Vec<usize> = own.map(|(i, _)| i).collect();
            let weight = T::of(1.0 / members.len().max(1) as f64);
            let batches: Vec<&[usize]> = members.chunks(self.microbatch()).collect();
            let (spread, row) = ordered_reduce(
                batches.len(),
                self.threads,
                (0.0, vec![0.0; p]),
                || self.task(p),
                |task, state| {
                    let m = batches[task].len();
                    let mut primal =
                        Primal::forward(&self.network, &self.samples, batches[task], &mut state.work);
                    let mut seed = vec![T::of(0.0); classes * m];
                    seed[class * m..(class + 1) * m].fill(weight);
                    state.spread += primal.loss.curvature(self.network.loss.as_ref(), class);
                    primal.backward_from(&self.network, &seed, &mut state.work, Some(&mut state.sums));
                    primal.recycle(&mut state.work);
                },
                |(spread, total), state| {
                    *spread += std::mem::take(&mut state.spread);
                    state.move_sums_to(total);
                },
            );
            let norm = norm_l2(&row);
            lambda.push(spread / self.samples() as f64 * norm * norm);
            rows.extend(row);
        }
        check_finite("a class gradient", TOO_LARGE, rows.iter().copied())?;
        check_finite("a class gradient's curvature", TOO_LARGE, lambda.iter().copied())?;
        Ok(ClassGradients { rows, lambda })
    }

    /// y = A x for a block of vectors, x and y being P × b.
    ///
    /// # Errors
    /// Sizes do not agree, or a number in x or in the result is not finite.
    pub fn product(
        &self,
        operator: Operator,
        x: MatRef<'_, f64>,
        y: MatMut<'_, f64>,
    ) -> Result<(), CurvatureError> {
        self.product_of(operator, &self.network.everything.0, x, y)
    }

    /// The product of the part of the matrix between those tensors of the graph that are `active`: the rows of the others
    /// are zero, and their part of x is not looked at.
    pub(crate) fn product_of(
        &self,
        operator: Operator,
        active: &[bool],
        x: MatRef<'_, f64>,
        mut y: MatMut<'_, f64>,
    ) -> Result<(), CurvatureError> {
        check_len("a tangent", x.nrows(), self.dim())?;
        check_len("a product", y.nrows(), self.dim())?;
        check_len("the block of products", y.ncols(), x.ncols())?;
        for column in x.col_iter() {
            check_finite("a tangent", "this is a fault of the solver", column.iter().copied())?;
        }
        for first in (0..x.ncols()).step_by(MAX_BLOCK) {
            let b = MAX_BLOCK.min(x.ncols() - first);
            let decay = self.decay(operator);
            let total = self.block_product(operator, active, x.subcols(first, b));
            for (place, &taken) in self.network.places.iter().zip(active).filter(|(p, _)| !p.is_empty()) {
                let part = &total[place.start * b..place.end * b];
                for (t, values) in part.chunks_exact(place.len()).enumerate() {
                    for (row, &value) in place.clone().zip(values) {
                        y[(row, first + t)] = value + if taken { decay * x[(row, first + t)] } else { 0.0 };
                    }
                }
            }
        }
        for column in y.rb_mut().col_iter_mut() {
            check_finite("a Hessian-vector product", TOO_LARGE, column.iter().copied())?;
        }
        Ok(())
    }

    /// The tensors of the graph that `param` and the parameters behind it lie in.
    pub(crate) fn tensors_from(&self, param: usize) -> Vec<bool> {
        self.network.places.iter().map(|place| !place.is_empty() && place.end > param).collect()
    }

    /// The product with at most [`MAX_BLOCK`] vectors, tensor by tensor as `[tangent][entry]`.
    fn block_product(&self, operator: Operator, active: &[bool], x: MatRef<'_, f64>) -> Vec<f64> {
        let b = x.ncols();
        let mut tangents = Vec::with_capacity(self.dim() * b);
        for place in &self.network.places {
            for column in x.col_iter() {
                tangents.extend(place.clone().map(|row| T::of(column[row])));
            }
        }
        let reached = self.network.reached(active);
        let packed = pack(&self.network, &tangents, (active, b));
        let part = Part { active, reached: &reached, b, packed: &packed };
        let (cut, weight, scale) = (self.cut, self.weight(), self.scale());
        let mut total = ordered_reduce(
            cut.tasks(),
            self.threads,
            vec![0.0; self.dim() * b],
            || self.task(self.dim() * b),
            |task, state| {
                for batch in cut.batches_of(task) {
                    let mut make = || self.differentiated(batch, weight, &mut state.work);
                    let mut fresh = None;
                    let primal = match self.cache.get(batch) {
                        Some(slot) => slot.get_or_init(|| make().shrunk()),
                        None => fresh.insert(make()),
                    };
                    let sums = (&mut state.work, state.sums.as_mut_slice());
                    product(&self.network, primal, operator, (&tangents, &part), weight, sums);
                    if let Some(primal) = fresh {
                        primal.recycle(&mut state.work);
                    }
                }
            },
            |total, state| state.move_sums_to(total),
        );
        total.iter_mut().for_each(|x| *x /= scale);
        total
    }

    fn differentiated(&self, batch: usize, weight: f64, work: &mut Scratch<T>) -> Primal<T> {
        let mut primal = self.forward(self.cut.samples_of(batch), work);
        primal.backward(&self.network, weight, work);
        primal
    }

    fn task(&self, len: usize) -> Task<'_, T> {
        let work = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        Task {
            work: work.unwrap_or_else(Scratch::new),
            sums: vec![T::of(0.0); len],
            term: Term::default(),
            spread: 0.0,
            idle: &self.idle,
        }
    }

    pub(crate) fn forward(&self, samples: Range<usize>, work: &mut Scratch<T>) -> Primal<T> {
        let indices: Vec<usize> = samples.collect();
        Primal::forward(&self.network, &self.samples, &indices, work)
    }
}

/// A thread's state: buffers, and sums that wait to be added to the total.
struct Task<'a, T: Real> {
    work: Scratch<T>,
    sums: Vec<T>,
    term: Term,
    spread: f64,
    /// Where the buffers go in the end.
    idle: &'a Mutex<Vec<Scratch<T>>>,
}

impl<T: Real> Drop for Task<'_, T> {
    fn drop(&mut self) {
        let work = std::mem::replace(&mut self.work, Scratch::new());
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(work);
    }
}

impl<T: Real> Task<'_, T> {
    fn move_sums_to(&mut self, total: &mut [f64]) {
        for (total, sum) in total.iter_mut().zip(&mut self.sums) {
            *total += sum.f64();
            *sum = T::of(0.0);
        }
    }
}

/// As many samples, a power of two from 4 to 64, as keep one tangent's planes within about 1 MiB:
/// measured with LeNet (analysis/bench/products.py), 8 to 16 are best in both precisions.
fn default_microbatch<T: Real>(network: &Network<T>) -> usize {
    let sample = network.total_len() * size_of::<T>();
    ((1 << 20) / sample).next_power_of_two().clamp(4, 64)
}

#[cfg(test)]
mod tests {
    use faer::Mat;
    use qn_model::{Layer, Preset};

    use super::*;

    /// Passes that are not kept give back as many buffers as they take.
    #[test]
    fn buffers_do_not_pile_up() {
        let relu = Preset::Digits.architecture([1, 8, 8], 10);
        let mut smooth = relu.clone();
        smooth.layers.iter_mut().filter(|l| matches!(l, Layer::Relu)).for_each(|l| *l = Layer::Tanh);
        for arch in [relu, smooth] {
            let graph = Graph::new(&arch).unwrap();
            let images = (0..320 * 64).map(|i| f64::from(i % 17) / 16.0);
            let labels = (0..320).map(|i| i % 10).collect();
            let samples = Samples::<f32>::new(64, images, labels).unwrap();
            let theta = vec![0.05; graph.layout().len()];
            let options = Options { threads: 1, microbatch: Some(16), memory: 0, ..Options::default() };
            let here = Curvature::new(&graph, &theta, &[], samples, &options).unwrap();
            let x = Mat::from_fn(here.dim(), 2, |i, _| f64::from(u8::from(i % 3 == 0)));
            let mut y = Mat::zeros(here.dim(), 2);
            let mut all = || {
                here.loss_and_gradient().unwrap();
                here.class_gradients().unwrap();
                here.product(Operator::Hessian, x.as_ref(), y.as_mut()).unwrap();
                here.idle.lock().unwrap().iter().map(Scratch::spare).sum::<usize>()
            };
            let once = all();
            assert!(once > 0);
            assert_eq!(all(), once);
        }
    }
}
