//! Loss, gradient and class gradients of minibatches, for training: the point moves from step to step, and a batch
//! normalisation takes the batch's own statistics.

mod by_itself;
mod job;
mod together;

use qn_kernels::ordered_reduce;
use qn_model::{Graph, Op};

use crate::error::check_len;
use crate::losses::{Targets, Term};
use crate::network::{Network, check_buffers};
use crate::ops::BatchNorm;
use crate::primal::Primal;
use crate::scratch::{Pool, Scratch};
use crate::{CurvatureError, Options, Real, Samples};
use job::Job;

/// What a batch normalisation has seen of a batch, channel by channel.
#[derive(Clone, Debug)]
pub struct ChannelStatistics {
    /// The place of its running mean among the layout's buffers; that of the variance is the next.
    pub buffer: usize,
    /// Means over samples and positions.
    pub mean: Vec<f64>,
    /// Variances over samples and positions, divided by their number (biased).
    pub variance: Vec<f64>,
    /// Entries of a channel in the whole batch.
    pub count: f64,
}

/// Loss and gradient of a minibatch.
#[derive(Clone, Debug)]
pub struct BatchGradient {
    /// The loss, without an L2 term.
    pub loss: f64,
    /// Labels whose output is the largest.
    pub hits: usize,
    /// dL/dθ, [P].
    pub gradient: Vec<f64>,
    /// What batch normalisations have seen, in the network's order.
    pub statistics: Vec<ChannelStatistics>,
}

/// Loss, gradient and class gradients of a minibatch.
#[derive(Clone, Debug)]
pub struct BatchClassGradients {
    /// Loss and gradient.
    pub whole: BatchGradient,
    /// c_k, [C][P]: means over the batch's samples of class k of the gradient of logit k; zero for classes that the batch
    /// does not have.
    pub rows: Vec<Vec<f64>>,
    /// The logits of every sample, [N, C] row-major, in the order of [`Self::labels`].
    pub logits: Vec<f64>,
    /// The label of each of the rows of the logits: samples are ordered by class.
    pub labels: Vec<u32>,
}

/// What class gradients take a batch's means and variances for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Statistics {
    /// Functions of the parameters, through which a logit of one sample depends on all samples.
    Exact,
    /// Constants, so that each logit depends on its own sample only.
    Frozen,
}

/// A network whose parameters move.
///
/// # Examples
/// One step along the gradient of the cross-entropy of z = W x:
/// ```
/// use qn_curvature::{Options, Samples, Training};
/// use qn_model::{Graph, Op, ParamKind, Shape};
///
/// let mut graph = Graph::empty("z = W x", Shape::new([1]));
/// let weight = graph.parameter("weight", vec![2, 1], ParamKind::Affine { fan_in: 1 });
/// graph.push(Op::Linear { weight, bias: None }, vec![0])?;
/// let mut network = Training::<f64>::new(&graph, &[0.0, 0.0], &[], &Options::default())?;
/// let batch = Samples::new(1, [1.0, -1.0].into_iter(), vec![0, 1])?;
/// let before = network.gradient(&batch)?;
/// assert!((before.loss - 2f64.ln()).abs() < 1e-15 && before.gradient == [-0.5, 0.5]);
/// network.set_theta(&[0.5, -0.5])?;
/// assert!(network.loss(&batch)? < before.loss);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Training<T: Real> {
    network: Network<T>,
    /// The batch normalisations, in order.
    norms: Vec<Norm>,
    threads: usize,
    microbatch: usize,
    /// Buffers of threads that have finished, for the next pass.
    idle: Pool<T>,
}

/// A step that normalises by a batch's statistics.
#[derive(Clone, Debug)]
struct Norm {
    /// Its place among the network's steps.
    step: usize,
    /// First of its two buffers.
    stats: usize,
    eps: f64,
    channels: usize,
    positions: usize,
    layer: String,
}

impl<T: Real> Training<T> {
    /// A network at parameters `theta` (layout order, [P]) with running statistics `buffers`. Of the options, threads,
    /// microbatch, fusion, loss and the parameters that take part count.
    ///
    /// # Errors
    /// Sizes do not agree, a number is not finite, or an operation is not known.
    pub fn new(
        graph: &Graph,
        theta: &[f64],
        buffers: &[Vec<f64>],
        options: &Options,
    ) -> Result<Self, CurvatureError> {
        let network = Network::new(graph, theta, buffers, options)?;
        let norm = |(i, step): (usize, &crate::step::Step<T>)| {
            let node = &graph.nodes()[step.node?];
            let Op::BatchNorm { stats, eps, .. } = node.op else { return None };
            let image = node.shape.image();
            let layer = graph.batch_norm_name(node).unwrap_or_default().to_owned();
            let (channels, positions) = (image.channels, image.positions());
            Some(Norm { step: i, stats, eps, channels, positions, layer })
        };
        let norms = network.steps.iter().enumerate().filter_map(norm).collect();
        let microbatch = options.microbatch.unwrap_or_else(|| network.default_microbatch());
        Ok(Self { network, norms, threads: options.threads, microbatch, idle: Pool::new() })
    }

    /// Moves to other parameters, in layout order.
    ///
    /// # Errors
    /// Their number is another.
    pub fn set_theta(&mut self, theta: &[T]) -> Result<(), CurvatureError> {
        check_len("the parameter vector", theta.len(), self.network.theta.len())?;
        self.network.set_theta(theta);
        Ok(())
    }

    /// The parameters, in layout order.
    pub fn theta(&self) -> &[T] {
        &self.network.theta
    }

    /// Sets the running statistics, which [`Self::evaluate`] uses.
    ///
    /// # Errors
    /// Their sizes are others.
    pub fn set_buffers(&mut self, buffers: &[Vec<f64>]) -> Result<(), CurvatureError> {
        check_buffers(self.network.graph.layout(), buffers)?;
        for norm in &self.norms {
            let [mean, variance] = [&buffers[norm.stats], &buffers[norm.stats + 1]];
            self.network.steps[norm.step].operation =
                Box::new(BatchNorm::new(norm.positions, mean, variance, norm.eps));
        }
        Ok(())
    }

    /// Loss, without an L2 term, and hits with the running statistics.
    ///
    /// # Errors
    /// The samples do not fit the network or the loss.
    pub fn evaluate(&self, samples: &Samples<T>) -> Result<(f64, usize), CurvatureError> {
        let terms = self.network.terms(samples)?;
        let batches = Job::in_order(samples.len(), self.microbatch, f64::INFINITY);
        let terms_of = |job: &Job, work: &mut Scratch<T>| -> Term {
            let each = |batch: &Vec<usize>| {
                let primal = Primal::forward(&self.network, samples, batch, work);
                let term = primal.loss.sum;
                primal.recycle(work);
                term
            };
            job.batches.iter().map(each).sum()
        };
        let found = self.all(batches.len(), |i, work| terms_of(&batches[i], work));
        let term: Term = found.into_iter().sum();
        Ok((term.loss / terms, term.hits))
    }

    /// The loss of a batch, with its own statistics.
    ///
    /// # Errors
    /// The samples do not fit the network or the loss, or a channel has one entry and so no variance.
    pub fn loss(&self, samples: &Samples<T>) -> Result<f64, CurvatureError> {
        if self.norms.is_empty() {
            return Ok(self.evaluate(samples)?.0);
        }
        let terms = self.network.terms(samples)?;
        let jobs = self.together_in_order(samples.len());
        Ok(self.forward_together(samples, &jobs)?.term.loss / terms)
    }

    /// Loss and gradient of a batch, with its own statistics.
    ///
    /// # Errors
    /// The samples do not fit the network or the loss, or a channel has one entry and so no variance.
    pub fn gradient(&self, samples: &Samples<T>) -> Result<BatchGradient, CurvatureError> {
        let terms = self.network.terms(samples)?;
        if self.norms.is_empty() {
            let jobs = Job::in_order(samples.len(), self.microbatch, self.network.work());
            return Ok(self.by_itself(samples, &jobs, (terms, None)).whole);
        }
        let jobs = self.together_in_order(samples.len());
        let together = self.forward_together(samples, &jobs)?;
        let gradient = self.loss_gradient(&together, terms);
        Ok(together.finish(self, terms, gradient))
    }

    /// Loss, gradient and class gradients, for losses of one label a sample. Each logit is differentiated over its own
    /// class only, so that there are one forward and two backward passes; with exact batch statistics, through which
    /// samples depend on each other, there are C + 1 backward passes.
    ///
    /// # Errors
    /// The samples have no labels or do not fit the network, or a channel has one entry and so no variance.
    pub fn class_gradients(
        &self,
        samples: &Samples<T>,
        statistics: Statistics,
    ) -> Result<BatchClassGradients, CurvatureError> {
        let terms = self.network.terms(samples)?;
        let classes = self.network.graph.classes();
        let labels = match samples.targets() {
            Targets::Classes(labels)
                if labels.len() == samples.len() && labels.iter().all(|&l| (l as usize) < classes) =>
            {
                labels
            }
            _ => {
                let reason = "class gradients need one label a sample".into();
                return Err(CurvatureError::Targets { reason });
            }
        };
        if self.norms.is_empty() {
            let jobs = Job::by_class(labels, classes, (self.microbatch, self.network.work()));
            return Ok(self.by_itself(samples, &jobs, (terms, Some(classes))));
        }
        let jobs = Job::by_class(labels, classes, (self.together_microbatch(samples.len()), 0.0));
        let together = self.forward_together(samples, &jobs)?;
        let gradient = self.loss_gradient(&together, terms);
        let rows = self.class_rows(&together, classes, statistics);
        let (logits, labels) = together.logits(&self.network);
        Ok(BatchClassGradients { whole: together.finish(self, terms, gradient), rows, logits, labels })
    }

    /// What `work` gives for each of n jobs, in their order.
    fn all<R: Send>(&self, n: usize, work: impl Fn(usize, &mut Scratch<T>) -> R + Sync) -> Vec<R> {
        ordered_reduce(
            n,
            self.threads,
            Vec::with_capacity(n),
            || (self.idle.borrow(), None),
            |i, (buffers, found)| *found = Some(work(i, buffers)),
            |all, (_, found)| all.extend(found.take()),
        )
    }
}

#[cfg(test)]
mod tests;
