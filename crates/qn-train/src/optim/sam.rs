use anyhow::Result;
use candle_core::{DType, Tensor};

/// θ + ρ g/|g|, where sharpness-aware minimisation takes the gradient that its step goes along (P. Foret et al., arXiv
/// 2010.01412); θ where g is zero.
pub(crate) fn uphill(theta: &Tensor, gradient: &Tensor, rho: f64) -> Result<Tensor> {
    let norm = gradient.to_dtype(DType::F64)?.sqr()?.sum_all()?.to_scalar::<f64>()?.sqrt();
    Ok(if norm > 0.0 { (theta + (gradient * (rho / norm))?)?.detach() } else { theta.clone() })
}
