use rand::RngExt as _;
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;

use crate::{ParamKind, ParamLayout};

/// A number of the standard normal distribution, by Box and Muller's formula.
fn normal(rng: &mut ChaCha8Rng) -> f32 {
    let (u, v): (f64, f64) = (rng.random_range(f64::EPSILON..1.0), rng.random_range(0.0..1.0));
    ((-2.0 * u.ln()).sqrt() * (2.0 * std::f64::consts::PI * v).cos()) as f32
}

/// PyTorch's default initialisation, drawn in layout order from a ChaCha8 stream of `seed`:
/// weights kaiming-uniform with a = √5, which is U(−1/√fan_in, 1/√fan_in), biases the same;
/// normalisation scales one, shifts zero; embeddings normal. Length P.
pub fn initial_parameters(layout: &ParamLayout, seed: u64) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut theta = Vec::with_capacity(layout.len());
    for p in layout.params() {
        match p.kind {
            ParamKind::Affine { fan_in } => {
                let bound = 1.0 / (fan_in as f32).sqrt();
                theta.extend((0..p.len()).map(|_| rng.random_range(-bound..bound)));
            }
            ParamKind::Normal { std } => theta.extend((0..p.len()).map(|_| std * normal(&mut rng))),
            ParamKind::NormScale => theta.resize(theta.len() + p.len(), 1.0),
            ParamKind::NormShift => theta.resize(theta.len() + p.len(), 0.0),
        }
    }
    theta
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Graph, Preset};

    #[test]
    fn bounds_follow_fan_in_and_seeds_differ() {
        let graph = Graph::new(&Preset::Lenet.architecture([3, 32, 32], 10)).unwrap();
        let layout = graph.layout();
        let theta = initial_parameters(layout, 7);
        assert_eq!(theta, initial_parameters(layout, 7));
        assert_ne!(theta, initial_parameters(layout, 8));
        let fc1 = &layout.params()[4];
        assert_eq!(fc1.name, "fc1.weight");
        let values = &theta[fc1.range()];
        let bound = 1.0 / 400f32.sqrt();
        assert!(values.iter().all(|v| v.abs() <= bound));
        // U(-b, b) has variance b^2/3; 48,000 draws give it to about 1 %.
        let variance = values.iter().map(|v| v * v).sum::<f32>() / values.len() as f32;
        assert!((variance * 3.0 / (bound * bound) - 1.0).abs() < 0.03);
    }
}
