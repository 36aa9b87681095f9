use std::str::FromStr;

use faer::{Mat, MatRef};

use crate::tall::distance;
use crate::{OperatorError, Scalar};

/// Which end of the spectrum, in ARPACK's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Which {
    /// Largest algebraic, in descending order.
    La,
    /// Smallest algebraic, in ascending order.
    Sa,
    /// Largest magnitude, in descending order of magnitude.
    Lm,
    /// Both ends, one more from the high end where k is odd, in descending order.
    Be,
}

impl FromStr for Which {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name.to_ascii_uppercase().as_str() {
            "LA" => Ok(Self::La),
            "SA" => Ok(Self::Sa),
            "LM" => Ok(Self::Lm),
            "BE" => Ok(Self::Be),
            _ => Err(format!("'{name}' is none of LA, SA, LM, BE")),
        }
    }
}

impl Which {
    /// The name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::La => "LA",
            Self::Sa => "SA",
            Self::Lm => "LM",
            Self::Be => "BE",
        }
    }

    /// Positions of `ascending` values, most wanted first.
    pub(crate) fn order(self, ascending: &[f64]) -> Vec<usize> {
        let n = ascending.len();
        let mut order: Vec<usize> = (0..n).collect();
        match self {
            Self::La => order.reverse(),
            Self::Sa => {}
            Self::Lm => order.sort_by(|&i, &j| ascending[j].abs().total_cmp(&ascending[i].abs())),
            Self::Be => {
                let from_ends = |i: usize| if i.is_multiple_of(2) { n - 1 - i / 2 } else { i / 2 };
                order = (0..n).map(from_ends).collect();
            }
        }
        order
    }

    /// Positions of the k wanted ones of `ascending` values, in the order in which they are reported.
    pub fn choose(self, ascending: &[f64], k: usize) -> Vec<usize> {
        let mut chosen = self.order(ascending);
        chosen.truncate(k);
        if self == Self::Be {
            chosen.sort_by(|i, j| j.cmp(i));
        }
        chosen
    }
}

impl Which {
    /// The ends that k pairs are taken from, and how many from each.
    pub(crate) fn ends(self, k: usize) -> Vec<(Self, usize)> {
        match self {
            Self::Be if k > 1 => vec![(Self::La, k.div_ceil(2)), (Self::Sa, k / 2)],
            Self::Be => vec![(Self::La, 1)],
            end => vec![(end, k)],
        }
    }

    /// The k most wanted of some values, most wanted first; for a single end.
    pub(crate) fn choose_values(self, values: &[f64], k: usize) -> Vec<f64> {
        let mut ascending = values.to_vec();
        ascending.sort_by(f64::total_cmp);
        self.order(&ascending)[..k].iter().map(|&i| ascending[i]).collect()
    }

    /// By how much one value is more wanted than another; for a single end.
    pub(crate) fn gain(self, value: f64, other: f64) -> f64 {
        match self {
            Self::La | Self::Be => value - other,
            Self::Sa => other - value,
            Self::Lm => value.abs() - other.abs(),
        }
    }
}

/// Who has found eigenpairs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Solver {
    /// Products and Lanczos.
    Lanczos,
    /// The matrix, from a product with each unit vector, and the dense solver.
    Dense,
}

/// Why a solver ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StopReason {
    /// Every residual is within the tolerance.
    Converged,
    /// The number of restarts was used up first.
    MaxIterations,
    /// The recurrence says converged, the products do not: their precision is used up.
    PrecisionReached,
}

/// Some eigenpairs of an operator and how good they are.
#[derive(Clone, Debug)]
pub struct Eigenpairs<S = f64> {
    /// λ_i, ordered as [`Which`] says.
    pub values: Vec<f64>,
    /// Unit vectors v_i, n × k; the entry of largest magnitude is positive.
    pub vectors: Mat<S>,
    /// True residuals |A v_i − λ_i v_i|, from products with the operator.
    pub residuals: Vec<f64>,
    /// How many residuals are within `tol` times the largest |λ| seen.
    pub converged: usize,
    /// Products with single vectors, residual checks included.
    pub matvecs: usize,
    /// Number of restarts.
    pub iterations: usize,
    /// Why it ended.
    pub stop_reason: StopReason,
    /// How they were found.
    pub solver: Solver,
}

/// What can go wrong in a solver.
#[derive(Debug, thiserror::Error)]
pub enum SpectrumError {
    /// A product failed.
    #[error("{0}")]
    Operator(#[from] OperatorError),
    /// k is not between 1 and n.
    #[error("k = {k} eigenpairs of an operator of dimension {n}: k must be 1 to {n}")]
    Count {
        /// Number of pairs that was asked for.
        k: usize,
        /// The operator's dimension.
        n: usize,
    },
    /// The basis is too small.
    #[error("ncv = {ncv} is too small: with k = {k} and block = {block} it must be at least {least}")]
    Basis {
        /// Number of basis vectors that was asked for.
        ncv: usize,
        /// Pairs wanted.
        k: usize,
        /// Vectors multiplied at a time.
        block: usize,
        /// The smallest that works.
        least: usize,
    },
    /// The tolerance is negative or not finite.
    #[error("tol = {tol}: it must be a finite number of at least 0")]
    Tolerance {
        /// Tolerance that was asked for.
        tol: f64,
    },
    /// The operator is not symmetric.
    #[error(
        "the operator is not symmetric: |A - A^T| is {asymmetry:.1e} of |A|, rounding explains {bound:.1e}"
    )]
    Asymmetric {
        /// Relative asymmetry.
        asymmetry: f64,
        /// What is tolerated.
        bound: f64,
    },
    /// Too few random vectors, steps or points.
    #[error("{found} is too few: give at least {least}")]
    Probes {
        /// Number that was given.
        found: usize,
        /// The fewest that work.
        least: usize,
    },
    /// The grid of a density cannot show Gaussians so narrow.
    #[error(
        "sigma = {sigma:e} is below the distance of the {points} points, so that the density would not show: give at least {least:e}, or more points"
    )]
    Sigma {
        /// Width that was asked for.
        sigma: f64,
        /// Points of the grid.
        points: usize,
        /// The smallest that they show.
        least: f64,
    },
    /// A preconditioner of another size.
    #[error("a diagonal of {found} entries for an operator of dimension {n}")]
    DiagonalLength {
        /// Number of entries of the diagonal.
        found: usize,
        /// The operator's dimension.
        n: usize,
    },
    /// A preconditioner that has no inverse square root.
    #[error("entry {row} of the diagonal is {value}: all must be positive numbers")]
    Diagonal {
        /// The first such entry, from 0.
        row: usize,
        /// The entry itself.
        value: f64,
    },
    /// The matrix has an entry that is infinite or not a number.
    #[error("the matrix has entries that are not finite")]
    NotFinite,
    /// A product has an entry that is infinite or not a number.
    #[error("a product with the operator is not finite, first in row {row}")]
    Product {
        /// The first such row, from 0.
        row: usize,
    },
    /// The dense solver gave up.
    #[error("the dense eigensolver did not converge")]
    Dense,
}

/// |A v_i − λ_i v_i| for given products A v_i.
pub(crate) fn residuals<S: Scalar>(
    values: &[f64],
    vectors: MatRef<'_, S>,
    products: MatRef<'_, S>,
) -> Vec<f64> {
    let residual =
        |(i, &value): (usize, &f64)| distance(products.subcols(i, 1), value, vectors.subcols(i, 1));
    values.iter().enumerate().map(residual).collect()
}

/// Makes the entry of largest magnitude of every column positive.
pub(crate) fn fix_signs<S: Scalar>(vectors: &mut Mat<S>) {
    for column in vectors.col_iter_mut() {
        let numbers = column.as_ref().iter().map(|v| v.f64());
        let largest = numbers.fold(0.0f64, |a, b| if b.abs() > a.abs() { b } else { a });
        if largest < 0.0 {
            column.iter_mut().for_each(|v| *v = S::of(-v.f64()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders() {
        let values = [-5.0, -1.0, 0.0, 2.0, 4.0];
        let chosen = |w: Which, k| w.choose(&values, k).iter().map(|&i| values[i]).collect::<Vec<_>>();
        assert_eq!(chosen(Which::La, 2), [4.0, 2.0]);
        assert_eq!(chosen(Which::Sa, 2), [-5.0, -1.0]);
        assert_eq!(chosen(Which::Lm, 3), [-5.0, 4.0, 2.0]);
        assert_eq!(chosen(Which::Be, 3), [4.0, 2.0, -5.0]);
        assert_eq!(chosen(Which::Be, 5), [4.0, 2.0, 0.0, -1.0, -5.0]);
    }
}
