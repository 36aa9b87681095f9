//! What the comparison of class gradients with eigenvectors gives for directions that have nothing to do with each
//! other.

use nalgebra::DMatrix;
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;
use rand_distr::{ChiSquared, Distribution as _, StandardNormal};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::statistics::Spread;
use crate::subspace::assign;

/// The mean |v_k · e_j| over the best assignment, for C independent random directions v_k in R^P and k orthonormal e_j.
///
/// It is larger than the mean √(2/(πP)) of a single |cosine|, since the assignment looks for large ones. For a
/// random v the cosines are (g_1, ..., g_k)/√(g_1² + ... + g_k² + χ²), g_j standard normal and χ² of P − k degrees of
/// freedom, so that nothing of dimension P is drawn.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RandomAssigned {
    /// Mean over the draws.
    pub mean: f64,
    /// Standard deviation of a draw.
    pub std: f64,
    /// What 95 % of the draws are below.
    pub quantile_95: f64,
    /// How many were made, with a fixed seed.
    pub draws: usize,
}

/// Draws for few classes: the mean is then known to half a per cent.
const DRAWS: usize = 2000;
/// Steps of the Hungarian algorithm, of which a draw takes C k².
const STEPS: usize = 50_000_000;

impl RandomAssigned {
    /// For R^`params`, C = `classes`, and `k` vectors e_j, C ≤ k ≤ P.
    pub(crate) fn new(params: usize, classes: usize, k: usize) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(0);
        let rest = ChiSquared::new(params.saturating_sub(k) as f64).ok();
        let draws = (STEPS / (classes * k * k).max(1)).clamp(100, DRAWS);
        let mut means: Vec<f64> = (0..draws)
            .map(|_| {
                let mut scores: DMatrix<f64> =
                    DMatrix::from_fn(classes, k, |_, _| StandardNormal.sample(&mut rng));
                for mut row in scores.row_iter_mut() {
                    let rest = rest.map_or(0.0, |rest| rest.sample(&mut rng));
                    let length = (row.norm_squared() + rest).sqrt();
                    row.iter_mut().for_each(|x| *x = x.abs() / length);
                }
                assign(&scores).mean
            })
            .collect();
        means.sort_by(f64::total_cmp);
        let quantile_95 = means[draws * 95 / 100];
        let (mean, std) = Spread::of(&means).map_or((0.0, 0.0), |s| (s.mean, s.std.unwrap_or(0.0)));
        Self { mean, std, quantile_95, draws }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::subspace::{cosines, unit_columns};

    /// The values of an independent simulation, which are known to a per cent.
    #[test]
    fn ten_classes() {
        for (p, expected) in [(1898, 0.0393), (62_006, 0.0068)] {
            let found = RandomAssigned::new(p, 10, 10);
            assert!((found.mean / expected - 1.0).abs() < 0.015, "{found:?} at {p}");
            assert!(found.std > 0.05 * found.mean && found.std < 0.2 * found.mean, "{found:?}");
            assert!(found.quantile_95 > found.mean + found.std);
        }
    }

    /// Directions of R^P drawn as such.
    #[test]
    fn small_spaces() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        for (p, classes, k) in [(12, 3, 4), (5, 5, 5), (40, 1, 1), (2, 2, 2)] {
            let mut noise = |n: usize| DMatrix::<f64>::from_fn(p, n, |_, _| StandardNormal.sample(&mut rng));
            let draws = 4000;
            let means: Vec<f64> = (0..draws)
                .map(|_| {
                    let v = noise(classes);
                    let e = unit_columns(&noise(k).qr().q());
                    assign(&cosines(&v, &e)).mean
                })
                .collect();
            let mean = means.iter().sum::<f64>() / draws as f64;
            let found = RandomAssigned::new(p, classes, k);
            let error = found.std * (1.0 / draws as f64 + 1.0 / found.draws as f64).sqrt();
            assert!((found.mean - mean).abs() < 4.0 * error, "{found:?}, {mean} at {p}, {classes}, {k}");
        }
    }
}
