use std::ops::Range;
use std::sync::Arc;

use qn_model::{Graph, ParamLayout};

use crate::error::{check_finite, check_len};
use crate::losses::Loss;
use crate::lower::Lowered;
use crate::step::Step;
use crate::{CurvatureError, Options, Real, Samples};

/// Samples in a microbatch of the direct kernels: enough to shape the matrix products of the layers behind them. Measured
/// with LeNet.
const DIRECT_MICROBATCH: usize = 32;

/// A network at one point θ of its parameter space.
#[derive(Debug)]
pub(crate) struct Network<T> {
    pub(crate) graph: Graph,
    pub(crate) theta: Vec<T>,
    /// Where each tensor lies in θ.
    pub(crate) ranges: Vec<Range<usize>>,
    /// The parameters by which there are derivatives.
    pub(crate) layout: ParamLayout,
    /// Where each tensor lies in that layout; an empty range for those that are constants.
    pub(crate) places: Vec<Range<usize>>,
    pub(crate) steps: Vec<Step<T>>,
    /// Which value each of the graph's values is.
    pub(crate) value_of: Vec<usize>,
    /// Entries of each value for one sample.
    pub(crate) value_len: Vec<usize>,
    pub(crate) loss: Arc<dyn Loss>,
    /// The tensors of the layout, and the values that depend on any: what takes part in a primal pass.
    pub(crate) everything: (Vec<bool>, Vec<bool>),
    /// Of every value, whether products need it, and whether they need its cotangent.
    pub(crate) keeps: Vec<[bool; 2]>,
    /// Whether some steps are several of the graph's nodes done at once.
    pub(crate) fused: bool,
}

impl<T: Real> Network<T> {
    pub(crate) fn new(
        graph: &Graph,
        theta: &[f64],
        buffers: &[Vec<f64>],
        options: &Options,
    ) -> Result<Self, CurvatureError> {
        let layout = graph.layout();
        check_len("the parameter vector", theta.len(), layout.len())?;
        check_finite("the parameter vector", "train again with a smaller --lr", theta.iter().copied())?;
        check_buffers(layout, buffers)?;
        let theta: Vec<T> = theta.iter().map(|&x| T::of(x)).collect();
        let Lowered { steps, value_len, value_of, fused } = Lowered::new(graph, buffers, options.fuse)?;
        let steps = needed(steps, value_len.len());
        let (part, places) = part(layout, &options.only)?;
        let active: Vec<bool> = places.iter().map(|place| !place.is_empty()).collect();
        let mut keeps = vec![[false; 2]; value_len.len()];
        let reached = reached(&steps, keeps.len(), &active);
        for step in steps.iter().filter(|step| reached[step.output]) {
            let kept = step.operation.keeps();
            step.inputs.iter().for_each(|&v| keeps[v][0] |= kept.inputs);
            keeps[step.output][1] |= kept.cotangent;
        }
        let mut network = Self {
            graph: graph.clone(),
            theta,
            ranges: layout.params().iter().map(|p| p.range()).collect(),
            layout: part,
            places,
            steps,
            value_of,
            value_len,
            loss: Arc::clone(&options.loss),
            everything: (active, reached),
            keeps,
            fused,
        };
        network.pack();
        Ok(network)
    }

    /// Moves to other parameters.
    pub(crate) fn set_theta(&mut self, theta: &[T]) {
        self.theta.copy_from_slice(theta);
        self.pack();
    }

    /// Puts the parameters in the order in which kernels read them.
    fn pack(&mut self) {
        for step in &mut self.steps {
            let own: Vec<Option<&[T]>> =
                step.params.iter().map(|&p| Some(&self.theta[self.ranges[p].clone()])).collect();
            step.packed = step.operation.pack(&own, 1);
        }
    }

    /// Samples in a microbatch: as many, a power of two from 16 to 256, as keep one tangent's values within about 1 MiB,
    /// measured with LeNet (analysis/bench/products.py), where 8 to 16 are best in both precisions. Of the direct kernels,
    /// which go from sample to sample, [`DIRECT_MICROBATCH`].
    pub(crate) fn default_microbatch(&self) -> usize {
        if self.fused {
            return DIRECT_MICROBATCH;
        }
        let sample = self.total_len() * size_of::<T>();
        ((1 << 20) / sample).next_power_of_two().clamp(16, 256)
    }

    /// What the sum over samples is divided by.
    ///
    /// # Errors
    /// The samples do not fit the network, or the targets the loss.
    pub(crate) fn terms(&self, samples: &Samples<T>) -> Result<f64, CurvatureError> {
        check_len("a sample", samples.features(), self.graph.input().len())?;
        let fits = self.loss.check(self.graph.output(), samples.targets(), samples.len());
        fits.map_err(|reason| CurvatureError::Targets { reason })?;
        Ok(self.loss.terms(self.graph.output(), samples.targets()))
    }

    /// Multiply-adds of a forward pass for each parameter.
    pub(crate) fn work(&self) -> f64 {
        self.graph.multiply_adds() as f64 / self.theta.len() as f64
    }

    /// The parameters of a step.
    pub(crate) fn theta_of(&self, step: &Step<T>) -> Vec<&[T]> {
        step.params.iter().map(|&p| &self.theta[self.ranges[p].clone()]).collect()
    }

    /// Entries of all values together, for one sample.
    pub(crate) fn total_len(&self) -> usize {
        self.value_len.iter().sum()
    }

    /// The steps that take part in a primal pass, with their numbers.
    pub(crate) fn reached_steps(&self) -> impl Iterator<Item = (usize, &Step<T>)> {
        self.steps.iter().enumerate().filter(|(_, step)| self.everything.1[step.output])
    }

    /// Which values depend on the tensors that take part.
    pub(crate) fn reached(&self, active: &[bool]) -> Vec<bool> {
        reached(&self.steps, self.value_len.len(), active)
    }
}

/// That running statistics are as many as the layout has.
pub(crate) fn check_buffers(layout: &ParamLayout, buffers: &[Vec<f64>]) -> Result<(), CurvatureError> {
    check_len("the list of running statistics", buffers.len(), layout.buffers().len())?;
    let mut pairs = buffers.iter().zip(layout.buffers());
    pairs.try_for_each(|(found, expected)| check_len("a running statistic", found.len(), expected.len))
}

/// The layout of the parameters that are called so, all where no names are given, and where each tensor lies in it.
fn part(layout: &ParamLayout, only: &[String]) -> Result<(ParamLayout, Vec<Range<usize>>), CurvatureError> {
    let part = if only.is_empty() { layout.clone() } else { layout.only(only)? };
    let mut end = 0;
    let place = |p: &qn_model::Parameter| {
        let taken = part.params().iter().any(|q| q.name == p.name);
        let start = end;
        end += if taken { p.len() } else { 0 };
        start..end
    };
    let places = layout.params().iter().map(place).collect();
    Ok((part, places))
}

/// Which of so many values depend on the tensors that take part.
fn reached<T>(steps: &[Step<T>], values: usize, active: &[bool]) -> Vec<bool> {
    let mut reached = vec![false; values];
    for step in steps {
        reached[step.output] =
            step.params.iter().any(|&p| active[p]) || step.inputs.iter().any(|&v| reached[v]);
    }
    reached
}

/// The steps that the output, the last of so many values, depends on.
fn needed<T>(steps: Vec<Step<T>>, values: usize) -> Vec<Step<T>> {
    let mut read = vec![false; values];
    read[values - 1] = true;
    let mut kept: Vec<Step<T>> = Vec::with_capacity(steps.len());
    for step in steps.into_iter().rev() {
        if read[step.output] {
            step.inputs.iter().for_each(|&v| read[v] = true);
            kept.push(step);
        }
    }
    kept.reverse();
    kept
}
