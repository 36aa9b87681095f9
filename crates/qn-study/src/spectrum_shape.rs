//! Numbers that say what shape a spectrum has, all of it being known.

use qn_run::Invalid;
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::power_law::PowerLaw;

/// What is asked of a spectrum.
#[derive(Clone, Debug)]
pub struct ShapeOptions {
    /// The α of effective dimensions, positive.
    pub alpha: Vec<f64>,
    /// Random spectra that the goodness of a power law is judged by; none where 0.
    pub draws: usize,
    /// Their seed.
    pub seed: u64,
}

impl Default for ShapeOptions {
    /// Four α from 0.001 to 1, a hundred random spectra.
    fn default() -> Self {
        Self { alpha: vec![1e-3, 1e-2, 0.1, 1.0], draws: 100, seed: 0 }
    }
}

/// The shape of a spectrum. Numbers of dimensions are those of a matrix with so many equal eigenvalues and zeros otherwise.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Shape {
    /// Eigenvalues of smaller size have no sign: the report's threshold.
    pub threshold: f64,
    /// Σ λ/(λ + α) over the positive eigenvalues, for each α.
    pub effective_dimensions: Vec<EffectiveDimension>,
    /// Σ λ²/max λ².
    pub stable_rank: f64,
    /// (Σ |λ|)²/Σ λ².
    pub participation_ratio: f64,
    /// The exponential of the entropy of |λ|/Σ |λ|.
    pub effective_rank: f64,
    /// Σ |λ| of the negative eigenvalues over Σ |λ| of all.
    pub negative_share: f64,
    /// The widest gaps λ_j/λ_(j+1) among the first 10 C eigenvalues, the widest first.
    pub gaps: Vec<Gap>,
    /// The gap behind λ_C, C being the number of outputs, and how many of the first 10 C are wider.
    pub gap_at_classes: Option<GapAtClasses>,
    /// The power law that fits the positive eigenvalues best; absent where there are too few.
    pub tail: Option<PowerLaw>,
}

/// An effective dimension.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, JsonSchema)]
pub struct EffectiveDimension {
    /// The positive number α.
    pub alpha: f64,
    /// Σ λ/(λ + α) over the positive eigenvalues.
    pub dimension: f64,
}

/// A gap between neighbouring eigenvalues.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Gap {
    /// j: the gap is behind the j-th largest eigenvalue.
    pub index: usize,
    /// Their ratio λ_j/λ_(j+1).
    pub ratio: f64,
}

/// The gap behind λ_C among others.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, JsonSchema)]
pub struct GapAtClasses {
    /// The gap.
    #[serde(flatten)]
    pub gap: Gap,
    /// How many of the gaps among the first 10 C eigenvalues are wider.
    pub wider: usize,
    /// How many gaps these are.
    pub of: usize,
}

impl Shape {
    /// Of eigenvalues in descending order, those up to `threshold` in size having no sign, of a network with so many outputs.
    ///
    /// # Errors
    /// An α is not positive.
    ///
    /// # Examples
    /// ```
    /// use qn_study::{Shape, ShapeOptions};
    ///
    /// let shape = Shape::of(&[2.0, 2.0, 0.0], 1e-12, 2, &ShapeOptions::default())?;
    /// assert_eq!((shape.stable_rank, shape.participation_ratio, shape.negative_share), (2.0, 2.0, 0.0));
    /// # Ok::<(), qn_run::Invalid>(())
    /// ```
    pub fn of(
        values: &[f64],
        threshold: f64,
        classes: usize,
        options: &ShapeOptions,
    ) -> Result<Self, Invalid> {
        if let Some(alpha) = options.alpha.iter().find(|a| !(a.is_finite() && **a > 0.0)) {
            return Err(Invalid(format!("`alpha` {alpha}: give a positive number")));
        }
        let largest = values.iter().fold(0.0_f64, |a, v| a.max(v.abs()));
        // Relative to the largest, so that no square leaves the range.
        let sizes: Vec<f64> =
            values.iter().map(|v| if largest > 0.0 { v.abs() / largest } else { 0.0 }).collect();
        let (sum, squares): (f64, f64) = (sizes.iter().sum(), sizes.iter().map(|s| s * s).sum());
        let negative: f64 = sizes.iter().zip(values).filter(|(_, v)| **v < 0.0).map(|(s, _)| s).sum();
        let over = |x: f64, y: f64| if y > 0.0 { x / y } else { 0.0 };
        let entropy: f64 = sizes.iter().filter(|s| **s > 0.0).map(|s| s / sum).map(|q| -q * q.ln()).sum();
        let positive: Vec<f64> = values.iter().copied().filter(|v| *v > threshold).collect();
        let dimension = |alpha: f64| values.iter().filter(|v| **v > 0.0).map(|v| v / (v + alpha)).sum();
        let mut gaps = gaps(&positive, 10 * classes);
        let gap_at_classes = gaps.iter().position(|gap| gap.index == classes);
        let gap_at_classes =
            gap_at_classes.map(|wider| GapAtClasses { gap: gaps[wider], wider, of: gaps.len() });
        gaps.truncate(5);
        let mut rng = ChaCha8Rng::seed_from_u64(options.seed);
        Ok(Self {
            threshold,
            effective_dimensions: options
                .alpha
                .iter()
                .map(|&alpha| EffectiveDimension { alpha, dimension: dimension(alpha) })
                .collect(),
            stable_rank: squares,
            participation_ratio: over(sum * sum, squares),
            effective_rank: if sum > 0.0 { entropy.exp() } else { 0.0 },
            negative_share: over(negative, sum),
            gaps,
            gap_at_classes,
            tail: PowerLaw::fit(&positive, options.draws, &mut rng),
        })
    }
}

/// The gaps among the first eigenvalues, positive and descending; the widest first.
fn gaps(positive: &[f64], among: usize) -> Vec<Gap> {
    let gap = |(j, pair): (usize, &[f64])| Gap { index: j + 1, ratio: pair[0] / pair[1] };
    let mut gaps: Vec<Gap> = positive.windows(2).take(among).enumerate().map(gap).collect();
    gaps.sort_by(|a, b| b.ratio.total_cmp(&a.ratio));
    gaps
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_by_hand() {
        let found = gaps(&[100.0, 50.0, 5.0, 4.0], 3);
        assert_eq!(found.iter().map(|gap| gap.index).collect::<Vec<_>>(), [2, 1, 3]);
        assert_eq!(found[0].ratio, 10.0);
        assert!(gaps(&[1.0], 10).is_empty());
    }
}
