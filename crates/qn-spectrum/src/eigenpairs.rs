use std::str::FromStr;

use faer::{Mat, MatMut, MatRef};
use rayon::prelude::*;

use crate::operator::multiply;
use crate::tall::distance;
use crate::{Scalar, SpectrumError, SymmetricOperator};

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

/// Given pairs with their residuals, from one product with each vector. `scale` is the largest |λ|, to which
/// `tol` is relative.
///
/// # Errors
/// A product fails.
pub fn verified<S: Scalar>(
    operator: &impl SymmetricOperator<S>,
    values: Vec<f64>,
    vectors: Mat<S>,
    tol: f64,
    scale: f64,
) -> Result<Eigenpairs<S>, SpectrumError> {
    let mut products = Mat::zeros(vectors.nrows(), vectors.ncols());
    multiply(operator, vectors.as_ref(), products.as_mut())?;
    Ok(judged(values, vectors, products.as_ref(), tol * scale))
}

/// Pairs whose products with the operator are known, and how many residuals are within a bound.
pub(crate) fn judged<S: Scalar>(
    values: Vec<f64>,
    mut vectors: Mat<S>,
    products: MatRef<'_, S>,
    bound: f64,
) -> Eigenpairs<S> {
    let residuals = residuals(&values, vectors.as_ref(), products);
    fix_signs(vectors.as_mut());
    let converged = residuals.iter().filter(|&&r| r <= bound).count();
    let all = converged == values.len();
    Eigenpairs {
        matvecs: values.len(),
        values,
        vectors,
        residuals,
        converged,
        iterations: 0,
        stop_reason: if all { StopReason::Converged } else { StopReason::PrecisionReached },
        solver: Solver::Lanczos,
    }
}

/// Makes the entry of largest magnitude of every column positive.
pub(crate) fn fix_signs<S: Scalar>(vectors: MatMut<'_, S>) {
    vectors.par_col_chunks_mut(1).for_each(|column| {
        let numbers = column.as_ref().col(0).iter().map(|v| v.f64());
        let largest = numbers.fold(0.0f64, |a, b| if b.abs() > a.abs() { b } else { a });
        if largest < 0.0 {
            column.col_mut(0).iter_mut().for_each(|v| *v = S::of(-v.f64()));
        }
    });
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
