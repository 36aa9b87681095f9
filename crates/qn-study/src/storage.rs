//! The precision in which solvers keep vectors.

use faer::Mat;
use qn_curvature::Real;
use qn_run::Tensor;
use qn_spectrum::Scalar;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A precision, or what suits the number of parameters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Storage {
    /// Single from 10,000,000 parameters on, where the memory is what counts; double below.
    #[default]
    Auto,
    /// Double precision, 8 bytes a number.
    F64,
    /// Single precision, 4 bytes a number; sums are in double precision all the same.
    F32,
}

/// Parameters from which on vectors are stored in single precision if nothing is said: a basis of 26 takes 1 GB then.
const SINGLE_FROM: usize = 10_000_000;

impl Storage {
    /// Whether vectors of n numbers are kept in single precision.
    pub(crate) fn is_single(self, n: usize) -> bool {
        match self {
            Self::Auto => n >= SINGLE_FROM,
            Self::F64 => false,
            Self::F32 => true,
        }
    }
}

/// A precision in which vectors are stored and written.
pub(crate) trait Stored: Scalar + Real {
    /// A tensor of this shape, row-major.
    fn tensor(shape: &[usize], numbers: &[Self]) -> Tensor;

    /// The columns of a matrix as the rows of a tensor.
    fn rows(columns: &Mat<Self>) -> Tensor {
        let numbers: Vec<Self> = columns.col_iter().flat_map(|column| column.iter().copied()).collect();
        Self::tensor(&[columns.ncols(), columns.nrows()], &numbers)
    }
}

impl Stored for f64 {
    fn tensor(shape: &[usize], numbers: &[Self]) -> Tensor {
        Tensor::f64(shape, numbers)
    }
}

impl Stored for f32 {
    fn tensor(shape: &[usize], numbers: &[Self]) -> Tensor {
        Tensor::f32(shape, numbers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_networks_are_stored_in_single_precision() {
        let cases = [
            (Storage::Auto, SINGLE_FROM - 1, false),
            (Storage::Auto, SINGLE_FROM, true),
            (Storage::F32, 10, true),
            (Storage::F64, SINGLE_FROM, false),
        ];
        cases.iter().for_each(|(storage, n, single)| assert_eq!(storage.is_single(*n), *single));
    }
}
