//! Exact first and second derivatives of a network's loss.
//!
//! A network is a [`qn_model::Graph`] of operations, a loss any of [`losses`]. With outputs z(θ) of each sample and
//! J = dz/dθ, the [`Operator`]s of a mean loss L = (1/N) Σ ℓ(z) are
//!
//! - H, the Hessian of L;
//! - G = (1/N) Σ Jᵀ (∇²ℓ) J, the generalised Gauss–Newton matrix;
//! - F = H − G = (1/N) Σ Σ_k (∂ℓ/∂z_k) ∇²z_k, the residual;
//! - the empirical Fisher matrix (1/N) Σ ∇ℓ ∇ℓᵀ.
//!
//! Products with blocks of vectors use the R-operator (Pearlmutter, 1994): each operation knows its `forward`, `jvp`,
//! `vjp` and `vjp_tangent` ([`Operation`]), and the primal pass, which depends on the parameters and the data only, is
//! done once per microbatch and serves all tangents. The Jacobian itself is there, too: [`Curvature::jvp`],
//! [`Curvature::vjp`], [`Curvature::jacobian_rows`] and [`Curvature::sample_gradients`].
//!
//! Values are laid out `[tangent][entry][sample]`, samples fastest: one entry of all samples of a microbatch is
//! contiguous, a patch matrix is made of long copies, and a linear layer is a matrix product without transposition. In which
//! order the axes of a value's entries lie is chosen for the operations that read it; a [`CustomOperation`] has its inputs in
//! the graph's order, row-major.

mod assembly;
mod backward;
mod columns;
mod curvature;
mod custom;
mod derivatives;
mod error;
mod fused;
mod head;
mod jacobian;
mod layout;
mod loss_at;
pub mod losses;
mod lower;
mod microbatches;
mod network;
pub mod operation;
mod ops;
mod options;
mod primal;
mod processes;
mod product;
mod samples;
mod scratch;
mod step;
mod sums;
mod tangent;
mod training;

pub use assembly::{AssemblyPlan, Entries};
pub use curvature::{ClassGradients, Curvature, LossAndGradient};
pub use custom::CustomOperation;
pub use derivatives::Derivatives;
pub use error::CurvatureError;
pub use operation::{At, Cotangents, Keeps, Operation, Saved, Tangents};
pub use options::Options;
pub use processes::{Alone, Processes};
pub use qn_kernels::{Lanes, Packed, Real, norm_l2};
pub use samples::Samples;
pub use scratch::Scratch;
pub use tangent::Operator;
pub use training::{BatchClassGradients, BatchGradient, ChannelStatistics, Statistics, Training};

/// What docs/extending.md shows is compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/extending.md")]
struct Extending;
