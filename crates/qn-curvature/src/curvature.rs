use std::ops::Range;
use std::sync::OnceLock;

use faer::prelude::ReborrowMut as _;
use faer::{MatMut, MatRef};
use qn_model::{Graph, ParamLayout};

use crate::error::{check_finite, check_len};
use crate::network::Network;
use crate::primal::Primal;
use crate::sweep::sweep;
use crate::tangent::{Operator, Workspace, product};
use crate::{CurvatureError, Real, Samples};

/// How the work is cut.
#[derive(Clone, Debug)]
pub struct Options {
    /// Threads. Results do not depend on it.
    pub threads: usize,
    /// Samples in a microbatch; chosen from the network's size where `None`. Results depend on it
    /// in the last bits.
    pub microbatch: Option<usize>,
    /// Bytes that may be spent on keeping primal passes between products.
    pub memory: usize,
}

impl Default for Options {
    /// All processors, a chosen microbatch, 1 GiB.
    fn default() -> Self {
        let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
        Self { threads, microbatch: None, memory: 1 << 30 }
    }
}

/// L, its gradient, and the share of samples classified correctly.
#[derive(Clone, Debug)]
pub struct LossAndGradient {
    /// Mean cross-entropy, in nats.
    pub loss: f64,
    /// Share of samples whose largest logit is the label's.
    pub accuracy: f64,
    /// dL/dθ, [P].
    pub gradient: Vec<f64>,
}

/// Tangents that go through a microbatch together. More do not make the matrix products better.
const MAX_BLOCK: usize = 16;
/// Samples whose derivatives are summed in the product's own precision before they are added to
/// the f64 total. Rounding then grows with 256 terms, not with N.
const TASK_SAMPLES: usize = 256;

/// A network at one point, its data, and the derivatives of the mean cross-entropy there.
pub struct Curvature<T: Real> {
    network: Network<T>,
    layout: ParamLayout,
    samples: Samples<T>,
    microbatch: usize,
    threads: usize,
    cache: Vec<OnceLock<Primal<T>>>,
}

impl<T: Real> Curvature<T> {
    /// Prepares a network with parameters `theta` (layout order, [P]) and running statistics
    /// `buffers` over `samples`.
    ///
    /// # Errors
    /// Sizes do not agree, a label is not a class, or a number is not finite.
    pub fn new(
        graph: &Graph,
        theta: &[f64],
        buffers: &[Vec<f64>],
        samples: Samples<T>,
        options: &Options,
    ) -> Result<Self, CurvatureError> {
        let network = Network::new(graph, theta, buffers)?;
        check_len("a sample", samples.features(), graph.input().len())?;
        let classes = network.classes;
        if let Some(sample) = samples.labels().iter().position(|&l| usize::from(l) >= classes) {
            return Err(CurvatureError::Label { sample, label: samples.labels()[sample], classes });
        }
        let chosen = options.microbatch.unwrap_or_else(|| default_microbatch(&network));
        let microbatch = chosen.clamp(1, samples.len());
        let batches = samples.len().div_ceil(microbatch);
        let fits = batches.saturating_mul(Primal::bytes(&network, microbatch)) <= options.memory;
        let cache = if fits { (0..batches).map(|_| OnceLock::new()).collect() } else { Vec::new() };
        Ok(Self {
            network,
            layout: graph.layout().clone(),
            samples,
            microbatch,
            threads: options.threads,
            cache,
        })
    }

    /// P.
    pub fn dim(&self) -> usize {
        self.layout.len()
    }

    /// N.
    pub fn samples(&self) -> usize {
        self.samples.len()
    }

    /// Samples in a microbatch.
    pub fn microbatch(&self) -> usize {
        self.microbatch
    }

    /// Whether primal passes are kept between products.
    pub fn keeps_primal(&self) -> bool {
        !self.cache.is_empty()
    }

    /// Loss, accuracy and gradient.
    ///
    /// # Errors
    /// The loss is not finite.
    pub fn loss_and_gradient(&self) -> Result<LossAndGradient, CurvatureError> {
        let p = self.dim();
        let weight = 1.0 / self.samples() as f64;
        let (loss, correct, gradient) = sweep(
            self.tasks(),
            self.threads,
            (0.0, 0, vec![0.0; p]),
            || Task::new(&self.network, p),
            |task, state| {
                for batch in self.batches_of(task) {
                    let mut primal = self.forward(batch, &mut state.work);
                    primal.backward(&self.network, weight, &mut state.work, &mut state.sums);
                    state.loss += primal.softmax.loss_sum;
                    state.correct += primal.softmax.correct;
                }
            },
            |(loss, correct, gradient), state| {
                *loss += std::mem::take(&mut state.loss);
                *correct += std::mem::take(&mut state.correct);
                state.move_sums_to(gradient);
            },
        );
        let loss = loss * weight;
        check_finite("the loss", "the parameters have diverged", std::iter::once(loss))?;
        Ok(LossAndGradient { loss, accuracy: correct as f64 * weight, gradient })
    }

    /// Class gradients, eq. (8), over all samples: row k is the mean over the samples of class k of
    /// the gradient of logit k; zero where there are none. [C, P] row-major. Each logit is
    /// differentiated over its own class only, so the cost is that of one gradient.
    ///
    /// # Errors
    /// A derivative is not finite.
    pub fn class_gradients(&self) -> Result<Vec<f64>, CurvatureError> {
        let (p, classes) = (self.dim(), self.network.classes);
        let mut all = Vec::with_capacity(classes * p);
        for class in 0..classes {
            let labels = self.samples.labels().iter();
            let members: Vec<usize> =
                labels.enumerate().filter(|(_, l)| usize::from(**l) == class).map(|(i, _)| i).collect();
            let weight = T::of(1.0 / members.len().max(1) as f64);
            let batches: Vec<&[usize]> = members.chunks(self.microbatch).collect();
            all.extend(sweep(
                batches.len(),
                self.threads,
                vec![0.0; p],
                || Task::new(&self.network, p),
                |task, state| {
                    let m = batches[task].len();
                    state.work.prepare(&self.network, m, 1);
                    let gathered = self.samples.gather(batches[task]);
                    let primal = Primal::forward(&self.network, gathered, &mut state.work.scratch);
                    let mut seed = vec![T::of(0.0); classes * m];
                    seed[class * m..(class + 1) * m].fill(weight);
                    primal.pull_back_seed(&self.network, &seed, &mut state.work, &mut state.sums);
                },
                |total, state| state.move_sums_to(total),
            ));
        }
        check_finite("a class gradient", "the parameters have diverged", all.iter().copied())?;
        Ok(all)
    }

    /// y = A x for a block of vectors, x and y being P × b.
    ///
    /// # Errors
    /// Sizes do not agree, or a number in x or in the result is not finite.
    pub fn product(
        &self,
        operator: Operator,
        x: MatRef<'_, f64>,
        mut y: MatMut<'_, f64>,
    ) -> Result<(), CurvatureError> {
        check_len("a tangent", x.nrows(), self.dim())?;
        check_len("a product", y.nrows(), self.dim())?;
        check_len("the block of products", y.ncols(), x.ncols())?;
        for column in x.col_iter() {
            check_finite("a tangent", "this is a fault of the solver", column.iter().copied())?;
        }
        for start in (0..x.ncols()).step_by(MAX_BLOCK) {
            let b = MAX_BLOCK.min(x.ncols() - start);
            let total = self.block_product(operator, x.subcols(start, b));
            for p in self.layout.params() {
                let part = &total[p.offset * b..(p.offset + p.len()) * b];
                for (t, values) in part.chunks_exact(p.len()).enumerate() {
                    for (row, &value) in p.range().zip(values) {
                        y[(row, start + t)] = value;
                    }
                }
            }
        }
        for column in y.rb_mut().col_iter_mut() {
            let remedy = "the parameters are too large for this precision; try --dtype f64";
            check_finite("a Hessian-vector product", remedy, column.iter().copied())?;
        }
        Ok(())
    }

    /// The product with at most [`MAX_BLOCK`] vectors, tensor by tensor as `[tangent][entry]`.
    fn block_product(&self, operator: Operator, x: MatRef<'_, f64>) -> Vec<f64> {
        let b = x.ncols();
        let mut tangents = Vec::with_capacity(self.dim() * b);
        for p in self.layout.params() {
            for column in x.col_iter() {
                tangents.extend(p.range().map(|row| T::of(column[row])));
            }
        }
        let weight = 1.0 / self.samples() as f64;
        sweep(
            self.tasks(),
            self.threads,
            vec![0.0; self.dim() * b],
            || Task::new(&self.network, self.dim() * b),
            |task, state| {
                for batch in self.batches_of(task) {
                    let fresh;
                    let primal = match self.cache.get(batch) {
                        Some(slot) => {
                            slot.get_or_init(|| self.differentiated(batch, weight, &mut state.work))
                        }
                        None => {
                            fresh = self.differentiated(batch, weight, &mut state.work);
                            &fresh
                        }
                    };
                    let (work, sums) = (&mut state.work, &mut state.sums);
                    product(&self.network, primal, work, operator, (&tangents, b), weight, sums);
                }
            },
            |total, state| state.move_sums_to(total),
        )
    }

    fn differentiated(&self, batch: usize, weight: f64, work: &mut Workspace<T>) -> Primal<T> {
        let mut primal = self.forward(batch, work);
        let mut gradient = vec![T::of(0.0); self.dim()];
        primal.backward(&self.network, weight, work, &mut gradient);
        primal
    }

    fn forward(&self, batch: usize, work: &mut Workspace<T>) -> Primal<T> {
        let start = batch * self.microbatch;
        let indices: Vec<usize> = (start..self.samples().min(start + self.microbatch)).collect();
        work.prepare(&self.network, indices.len(), 1);
        Primal::forward(&self.network, self.samples.gather(&indices), &mut work.scratch)
    }

    fn batches_per_task(&self) -> usize {
        (TASK_SAMPLES / self.microbatch).max(1)
    }

    fn tasks(&self) -> usize {
        self.samples().div_ceil(self.microbatch).div_ceil(self.batches_per_task())
    }

    fn batches_of(&self, task: usize) -> Range<usize> {
        let n = self.batches_per_task();
        task * n..self.samples().div_ceil(self.microbatch).min((task + 1) * n)
    }
}

/// A thread's state: buffers, and sums that wait to be added to the total.
struct Task<T> {
    work: Workspace<T>,
    sums: Vec<T>,
    loss: f64,
    correct: usize,
}

impl<T: Real> Task<T> {
    fn new(network: &Network<T>, len: usize) -> Self {
        let mut work = Workspace::new();
        work.prepare(network, 1, 1);
        Self { work, sums: vec![T::of(0.0); len], loss: 0.0, correct: 0 }
    }

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
