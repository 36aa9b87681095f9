//! What operations are computed with: vector lanes, matrix products, convolutions, sums in a fixed order.
//!
//! A value of m samples is laid out `[entry][sample]`, samples fastest. Kernels put the samples of one entry into the
//! vector lanes, so that every weight is one number for all of them and nothing is transposed.

mod correlation;
pub mod elementary;
mod gemm;
mod im2col;
mod lanes;
mod ordered_reduce;
mod ordered_sum;
mod packed;
mod precision;
mod real;
mod register;
mod tree;
mod winograd;

pub use correlation::Correlation;
pub use elementary::{Loop, wide};
pub use gemm::{gemm, product, strided, strided_mut, view};
pub use im2col::Im2col;
pub use lanes::{Group, Kernel, LANES, Registers, run};
pub use ordered_reduce::ordered_reduce;
pub use ordered_sum::OrderedSum;
pub use packed::Packed;
pub use real::{Real, dot, norm_l2, sum};
pub use register::Lanes;
pub use tree::{Node, Tree};
pub use winograd::{POINTS, Tiles, Winograd};
