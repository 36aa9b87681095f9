use std::ops::Range;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use qn_kernels::{Tree, norm_l2, ordered_reduce};
use qn_model::{Graph, ParamLayout};

use crate::error::check_finite;
use crate::loss_at::scale_of;
use crate::losses::Targets;
use crate::microbatches::Microbatches;
use crate::network::Network;
use crate::primal::Primal;
use crate::processes::{Counted, Processes};
use crate::scratch::{Borrowed, Pool, Scratch};
use crate::tangent::Operator;
use crate::{CurvatureError, Options, Real, Samples};

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

/// What to do about a derivative that is not finite.
pub(crate) const TOO_LARGE: &str = "the parameters are too large for this precision; try --dtype f64";
/// A network at one point, its data, and the derivatives of the loss there.
pub struct Curvature<T: Real> {
    network: Network<T>,
    pub(crate) samples: Samples<T>,
    /// What the sum over samples is divided by.
    terms: f64,
    weight_decay: f64,
    threads: usize,
    processes: Arc<dyn Processes>,
    /// How the samples are cut for products, and the primal passes where they are kept.
    pub(crate) microbatches: Microbatches,
    pub(crate) cache: Vec<OnceLock<Primal<T>>>,
    /// See [`Self::scale`].
    scale: OnceLock<f64>,
    /// Buffers of threads that have finished, for the next product.
    idle: Pool<T>,
    /// Buffers of the sums over all tasks.
    pub(crate) totals: Totals,
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
        let terms = network.terms(&samples)?;
        let microbatches = Microbatches::new(
            samples.len(),
            options.microbatch.unwrap_or_else(|| network.default_microbatch()),
            network.work(),
        );
        let processes = Arc::clone(&options.processes);
        let own = Tree::new(microbatches.tasks()).part(processes.rank(), processes.size());
        let own: usize = own.map(|task| microbatches.batches_of(task).len()).sum();
        let bytes = own.saturating_mul(Primal::bytes(&network, microbatches.microbatch));
        let kept = if bytes <= options.memory { microbatches.batches() } else { 0 };
        let cache = (0..kept).map(|_| OnceLock::new()).collect();
        Ok(Self {
            network,
            samples,
            terms,
            weight_decay: options.weight_decay,
            threads: options.threads,
            processes,
            microbatches,
            cache,
            scale: OnceLock::new(),
            idle: Pool::new(),
            totals: Totals::default(),
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

    /// Number of samples N.
    pub fn samples(&self) -> usize {
        self.samples.len()
    }

    /// Samples in a microbatch.
    pub fn microbatch(&self) -> usize {
        self.microbatches.microbatch
    }

    pub(crate) fn threads(&self) -> usize {
        self.threads
    }

    pub(crate) fn processes(&self) -> &dyn Processes {
        self.processes.as_ref()
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
            let microbatches = self.microbatches;
            let largest = ordered_reduce(
                microbatches.batches(),
                self.threads,
                0.0,
                || (self.task(0), 0.0),
                |batch, (state, largest): &mut (Task<'_, T>, f64)| {
                    let primal = self.forward(microbatches.samples_of(batch), &mut state.work);
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
        self.loss_and_gradient_unless(&|| false)
    }

    /// [`Self::loss_and_gradient`], which asks before every task of some microbatches whether it should stop, on each of
    /// its threads.
    ///
    /// # Errors
    /// It was stopped; or those of [`Self::loss_and_gradient`].
    pub fn loss_and_gradient_unless(
        &self,
        should_stop: &(dyn Fn() -> bool + Sync),
    ) -> Result<LossAndGradient, CurvatureError> {
        let (microbatches, weight, scale) = (self.microbatches, self.weight(), self.scale());
        let (mut gradient, Counted { term, .. }) =
            self.sum([microbatches.tasks(), self.dim()], should_stop, |task, state| {
                for batch in microbatches.batches_of(task) {
                    let mut primal = self.forward(microbatches.samples_of(batch), &mut state.work);
                    primal.gradient(&self.network, weight, &mut state.work, &mut state.sums);
                    state.counted.term += primal.loss.sum;
                    primal.recycle(&mut state.work);
                }
            })?;
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
        self.class_gradients_unless(&|| false)
    }

    /// [`Self::class_gradients`], which asks before every microbatch whether it should stop, on each of its threads.
    ///
    /// # Errors
    /// It was stopped; or those of [`Self::class_gradients`].
    pub fn class_gradients_unless(
        &self,
        should_stop: &(dyn Fn() -> bool + Sync),
    ) -> Result<ClassGradients, CurvatureError> {
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
            let weight = 1.0 / members.len().max(1) as f64;
            let batches: Vec<&[usize]> = members.chunks(self.microbatch()).collect();
            let (row, Counted { curvature, .. }) =
                self.sum([batches.len(), p], should_stop, |task, state| {
                    let mut primal =
                        Primal::forward(&self.network, &self.samples, batches[task], &mut state.work);
                    let seed = primal.seed_of(class, weight);
                    state.counted.curvature += primal.loss.curvature(self.network.loss.as_ref(), class);
                    primal.backward_from(&self.network, &seed, &mut state.work, Some(&mut state.sums));
                    primal.recycle(&mut state.work);
                })?;
            let norm = norm_l2(&row);
            lambda.push(curvature / self.samples() as f64 * norm * norm);
            rows.extend_from_slice(&row);
            self.totals.give(row);
        }
        check_finite("a class gradient", TOO_LARGE, rows.iter().copied())?;
        check_finite("a class gradient's curvature", TOO_LARGE, lambda.iter().copied())?;
        Ok(ClassGradients { rows, lambda })
    }

    pub(crate) fn differentiated(&self, batch: usize, weight: f64, work: &mut Scratch<T>) -> Primal<T> {
        let mut primal = self.forward(self.microbatches.samples_of(batch), work);
        primal.backward(&self.network, weight, work);
        primal
    }

    /// A thread's state, with sums whose contents are unspecified.
    pub(crate) fn task(&self, len: usize) -> Task<'_, T> {
        let mut work = self.idle.borrow();
        Task { sums: work.take(len), work, counted: Counted::default() }
    }

    /// A buffer; its contents are unspecified.
    pub(crate) fn buffer(&self, len: usize) -> Vec<T> {
        self.task(0).work.take(len)
    }

    /// Takes a buffer back.
    pub(crate) fn give_buffer(&self, buffer: Vec<T>) {
        self.task(0).work.give([buffer]);
    }

    pub(crate) fn forward(&self, samples: Range<usize>, work: &mut Scratch<T>) -> Primal<T> {
        let indices: Vec<usize> = samples.collect();
        Primal::forward(&self.network, &self.samples, &indices, work)
    }
}

/// A thread's state: buffers, and sums that wait to be added to the total.
pub(crate) struct Task<'a, T: Real> {
    pub(crate) work: Borrowed<'a, T>,
    pub(crate) sums: Vec<T>,
    pub(crate) counted: Counted,
}

impl<T: Real> Drop for Task<'_, T> {
    fn drop(&mut self) {
        self.work.give([std::mem::take(&mut self.sums)]);
    }
}

/// Vectors in double precision that nothing uses at the moment.
#[derive(Default)]
pub(crate) struct Totals(Mutex<Vec<Vec<f64>>>);

impl Totals {
    /// A vector; its contents are unspecified.
    pub(crate) fn take(&self, len: usize) -> Vec<f64> {
        let mut total = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default();
        if total.capacity() < len {
            total = vec![0.0; len];
        }
        total.resize(len, 0.0);
        total
    }

    pub(crate) fn give(&self, total: Vec<f64>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(total);
    }
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
                here.idle.spare()
            };
            let once = all();
            assert!(once > 0);
            assert_eq!(all(), once);
        }
    }
}
