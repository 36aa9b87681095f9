//! Losses, a file each.
//!
//! A loss is a sum or a mean of terms, each a function of one sample's outputs and of its target. Everything is in
//! double precision whatever the network's is: some outputs a sample cost nothing.

mod binary_cross_entropy;
mod cross_entropy;
mod mean_squared_error;
#[cfg(test)]
mod testing;

use std::fmt::Debug;

use qn_model::Shape;

pub use binary_cross_entropy::BinaryCrossEntropy;
pub use cross_entropy::{ClassAxis, CrossEntropy};
pub use mean_squared_error::MeanSquaredError;

/// What the samples' outputs ought to be.
#[derive(Clone, Debug, PartialEq)]
pub enum Targets {
    /// Classes, `[sample][position]`, one or several labels a sample; [`IGNORED`] where there is none.
    Classes(Vec<u32>),
    /// Numbers, `[sample][output]`: values to be met, or probabilities of classes (soft labels).
    Values(Vec<f64>),
}

/// A label that takes no part, as PyTorch's `ignore_index`.
pub const IGNORED: u32 = u32::MAX;

/// The targets of one sample.
#[derive(Clone, Copy, Debug)]
pub enum Target<'a> {
    /// A class for each position.
    Classes(&'a [u32]),
    /// A number for each output.
    Values(&'a [f64]),
}

impl Targets {
    /// Numbers of all samples together.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Classes(all) => all.len(),
            Self::Values(all) => all.len(),
        }
    }

    /// Those of one of n samples.
    pub(crate) fn of(&self, sample: usize, n: usize) -> Target<'_> {
        let each = self.len() / n;
        let range = sample * each..(sample + 1) * each;
        match self {
            Self::Classes(all) => Target::Classes(&all[range]),
            Self::Values(all) => Target::Values(&all[range]),
        }
    }
}

/// How the terms are put together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Averaging {
    /// Their mean, by what PyTorch's loss of this name divides.
    #[default]
    Mean,
    /// Their sum.
    Sum,
}

/// What a loss says of one sample, besides what it writes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Term {
    /// ℓ, the sample's part of the sum.
    pub loss: f64,
    /// Positions where the largest output is the target's class.
    pub hits: usize,
    /// Positions of which that can be said.
    pub positions: usize,
}

impl std::ops::AddAssign for Term {
    fn add_assign(&mut self, other: Self) {
        self.loss += other.loss;
        self.hits += other.hits;
        self.positions += other.positions;
    }
}

impl std::iter::Sum for Term {
    fn sum<I: Iterator<Item = Self>>(terms: I) -> Self {
        terms.fold(Self::default(), |mut sum, term| {
            sum += term;
            sum
        })
    }
}

/// That targets are numbers.
fn finite(values: &[f64]) -> Result<(), String> {
    match values.iter().position(|v| !v.is_finite()) {
        Some(i) => Err(format!("number {i} is {}", values[i])),
        None => Ok(()),
    }
}

/// Where the largest is; the first of several.
fn largest(values: impl Iterator<Item = f64>) -> usize {
    let step = |best: (usize, f64), (k, x)| if x > best.1 { (k, x) } else { best };
    values.enumerate().fold((0, f64::NEG_INFINITY), step).0
}

/// A loss of one sample's outputs z, as a part of a sum.
pub trait Loss: Debug + Send + Sync {
    /// That outputs of this shape and these targets of n samples fit.
    ///
    /// # Errors
    /// They do not: why, in a sentence's end that follows "the targets do not fit: ".
    fn check(&self, outputs: &Shape, targets: &Targets, n: usize) -> Result<(), String>;

    /// What the sum over samples is divided by; 1 for a sum.
    fn terms(&self, outputs: &Shape, targets: &Targets) -> f64;

    /// How many numbers of a sample [`Self::evaluate`] keeps for the second derivatives.
    fn kept(&self, outputs: &Shape) -> usize;

    /// ℓ and dℓ/dz of one sample; keeps what the second derivatives need.
    fn evaluate(&self, z: &[f64], target: Target<'_>, gradient: &mut [f64], kept: &mut [f64]) -> Term;

    /// d²ℓ/dz² ż of one sample.
    fn hessian_product(&self, kept: &[f64], zdot: &[f64], out: &mut [f64]);

    /// How many terms [`Self::hessian_factor`] has.
    fn rank(&self, outputs: &Shape) -> usize;

    /// Term r of d²ℓ/dz² = Σ_r w_r q_r q_rᵀ: writes q_r and gives w_r.
    fn hessian_factor(&self, kept: &[f64], r: usize, q: &mut [f64]) -> f64;
}
