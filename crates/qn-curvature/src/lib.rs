//! Exact first and second derivatives of a network's mean cross-entropy.
//!
//! Hessian-vector products are computed with the R-operator (Pearlmutter, 1994): the primal pass and
//! its backward deltas depend on the parameters and the data only, so they are computed once per
//! microbatch and used for a whole block of tangents. Three operators share the same pass, with
//! J = dz/dθ, p = softmax(z) and N samples:
//!
//! - H, the Hessian of the mean cross-entropy;
//! - G = (1/N) Σ Jᵀ (diag p − p pᵀ) J, the generalised Gauss–Newton matrix;
//! - F = H − G = (1/N) Σ Σ_k (p_k − y_k) ∇²z_k, the residual.
//!
//! The Jacobian itself is there, too: [`Curvature::jvp`], [`Curvature::vjp`], [`Curvature::jacobian_rows`] and
//! [`Curvature::sample_gradients`].
//!
//! Planes are laid out `[tangent][feature][sample]`, samples fastest: one feature of all samples of a
//! microbatch is contiguous, a patch matrix is made of long copies, and every layer is a matrix
//! product without transposition.

mod assembly;
mod backward;
mod curvature;
mod custom;
mod cut;
mod direct;
mod error;
mod jacobian;
mod loss_at;
pub mod losses;
mod network;
pub mod operation;
mod ops;
mod options;
mod pooled_convs;
mod primal;
mod product;
mod samples;
mod scratch;
mod tail;
mod tangent;
mod window_rows;

pub use assembly::{AssemblyPlan, Entries};
pub use curvature::{ClassGradients, Curvature, LossAndGradient};
pub use custom::CustomOperation;
pub use error::CurvatureError;
pub use operation::{At, Cotangents, Keeps, Operation, Saved, Tangents};
pub use options::Options;
pub use qn_kernels::{Convolution, Lanes, Packed, Real, norm_l2};
pub use samples::Samples;
pub use scratch::Scratch;
pub use tangent::Operator;

/// What docs/extending.md shows is compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/extending.md")]
struct Extending;
