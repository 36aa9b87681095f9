//! Where the entries of a unit vector lie: in which layers, and over how many parameters.

use crate::parts::Part;

/// The share of all P parameters that belongs to each layer.
pub(crate) fn layer_sizes(layers: &[Part], p: usize) -> Vec<f64> {
    layers.iter().map(|part| part.len() as f64 / p as f64).collect()
}

/// Squares of a unit vector's entries, layer by layer.
pub(crate) fn masses(v: &[f64], layers: &[Part]) -> Vec<f64> {
    layers.iter().map(|part| part.squares(v)).collect()
}

/// 1/Σ v⁴ of a unit vector.
pub(crate) fn participation(v: &[f64]) -> f64 {
    1.0 / v.iter().map(|x| x.powi(4)).sum::<f64>()
}

/// 1/E Σ v⁴ of a random direction among P parameters: (P + 2)/3.
pub(crate) fn random_participation(p: usize) -> f64 {
    (p as f64 + 2.0) / 3.0
}
