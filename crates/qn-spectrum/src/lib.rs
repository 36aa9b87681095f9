//! Eigenvalues of symmetric operators.
//!
//! An operator is anything that can multiply a block of vectors ([`SymmetricOperator`]); nothing here
//! knows about networks. [`lanczos`] finds a few extremal pairs and says how good they are;
//! [`DenseSymmetric`] finds all of them where the matrix fits in memory.

mod dense;
mod lanczos;
mod operator;
mod orthogonal;
mod pairs;

pub use dense::{DenseSymmetric, FullSpectrum};
pub use lanczos::{LanczosOptions, Progress, lanczos};
pub use operator::{OperatorError, SymmetricOperator};
pub use pairs::{Eigenpairs, SpectrumError, StopReason, Which};
