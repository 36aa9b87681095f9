//! Eigenvalues of symmetric operators.
//!
//! An operator is anything that can multiply a block of vectors ([`SymmetricOperator`]), in double or in single
//! precision; nothing here knows about networks. [`lanczos`] finds a few extremal pairs and says how good they are;
//! [`DenseSymmetric`] finds all of them of small matrices, [`eigh`](eigh()) and [`symmetric_eigen`] of those that fill the memory; [`density`], [`hutchinson`]
//! and [`hutch_plus_plus`] estimate what all of them together are like.

mod back;
mod band;
mod band_reduction;
mod block;
mod bulge;
mod chased;
mod conquer;
mod deflation;
mod dense;
mod density;
mod eigenpairs;
mod eigh;
mod error;
mod factorisation;
mod lanczos;
mod lanes;
mod merge;
mod operator;
mod orthogonal;
mod preconditioned;
mod scalar;
mod scaling;
mod search;
mod secular;
mod stability;
mod stage;
mod stored;
mod tall;
mod trace;
mod triangle;
mod tridiagonal;
mod two_stage;
mod update;

pub use band_reduction::Reduction;
pub use chased::Chased;
pub use conquer::Halves;
pub use deflation::Completed;
pub use dense::{DenseSymmetric, FullSpectrum, wants_library};
pub use density::{Density, DensityOptions, density};
pub use eigenpairs::{Eigenpairs, Solver, StopReason, Which, verified};
pub use eigh::{Columns, Eigensystem, Panels, Vectors, eigh};
pub use error::{OperatorError, SpectrumError};
pub use lanczos::{complete, lanczos};
pub use operator::SymmetricOperator;
pub use preconditioned::Preconditioned;
pub use scalar::Scalar;
pub use search::{LanczosOptions, Progress};
pub use stability::{Preconditioner, Stability};
pub use stage::{BAND, Stage};
pub use trace::{Estimate, TraceEstimate, hutch_plus_plus, hutchinson, random_signs};
pub use triangle::{STORAGE_WIDTH, Triangle};
pub use tridiagonal::Tridiagonal;
pub use two_stage::{PartialSpectrum, symmetric_eigen, workspace_bytes};
