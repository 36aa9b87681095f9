//! A power law through the tail of a distribution, in the way of A. Clauset, C. Shalizi and M. Newman, *Power-law
//! distributions in empirical data*, SIAM Review 51, 2009.

use rand::RngExt;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Points in a tail, at least.
const LEAST: usize = 50;
/// Ends of the tail that are tried.
const ENDS: usize = 60;

/// A density proportional to x^-exponent from `from` on.
///
/// The exponent is the most likely one, 1 + n/Σ ln(x/from); `from` is the value at which the law comes nearest to the data.
/// Eigenvalues repel each other and lie more evenly than independent draws do, with which the goodness compares: a small one
/// speaks against the law, a large one not for it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PowerLaw {
    /// The exponent of the density; the j-th largest value is then proportional to j^(-1/(exponent − 1)).
    pub exponent: f64,
    /// (exponent − 1)/√n.
    pub standard_error: f64,
    /// Where the tail begins.
    pub from: f64,
    /// n: how many values are in it.
    pub values: usize,
    /// The largest difference of the distribution functions of law and data above `from`.
    pub distance: f64,
    /// The share of random data by the law, with the data's own values below `from`, that fit their best law no better; absent
    /// where none were drawn.
    pub p_value: Option<f64>,
    /// How many were drawn.
    pub draws: usize,
}

impl PowerLaw {
    /// The law that fits positive, descending values best; none where there are fewer than [`LEAST`], or no spread.
    pub(crate) fn fit(values: &[f64], draws: usize, rng: &mut impl RngExt) -> Option<Self> {
        let found = Self::nearest(values)?;
        let mut worse = 0;
        for _ in 0..draws {
            let mut drawn: Vec<f64> = values.iter().map(|_| found.draw(values, rng)).collect();
            drawn.sort_by(|a, b| b.total_cmp(a));
            worse += usize::from(Self::nearest(&drawn).is_none_or(|other| other.distance >= found.distance));
        }
        Some(Self { p_value: (draws > 0).then(|| worse as f64 / draws as f64), draws, ..found })
    }

    /// The nearest of the laws whose tails begin at some of the values.
    fn nearest(values: &[f64]) -> Option<Self> {
        let n = values.len();
        if n < LEAST {
            return None;
        }
        let ratio = n as f64 / LEAST as f64;
        let count = |i: usize| (LEAST as f64 * ratio.powf(i as f64 / (ENDS - 1) as f64)).round() as usize;
        let mut counts: Vec<usize> = (0..ENDS).map(|i| count(i).min(n)).collect();
        counts.dedup();
        let laws = counts.into_iter().filter_map(|count| Self::through(&values[..count]));
        laws.min_by(|a, b| a.distance.total_cmp(&b.distance))
    }

    /// The most likely law of a tail, descending.
    fn through(tail: &[f64]) -> Option<Self> {
        let (n, from) = (tail.len() as f64, *tail.last()?);
        let logs: f64 = tail.iter().map(|x| (x / from).ln()).sum();
        if !(logs > 0.0 && logs.is_finite()) {
            return None;
        }
        let exponent = 1.0 + n / logs;
        let above = |x: f64| (x / from).powf(1.0 - exponent);
        // The share above a value jumps there from i/n to (i + 1)/n.
        let off = |(i, x): (usize, &f64)| {
            let law = above(*x);
            (law - i as f64 / n).abs().max((law - (i as f64 + 1.0) / n).abs())
        };
        let distance = tail.iter().enumerate().map(off).fold(0.0, f64::max);
        let standard_error = (exponent - 1.0) / n.sqrt();
        Some(Self { exponent, standard_error, from, values: tail.len(), distance, p_value: None, draws: 0 })
    }

    /// A value of the tail by the law, or one below it from the data, as often as there are of each.
    fn draw(&self, values: &[f64], rng: &mut impl RngExt) -> f64 {
        let below = &values[self.values..];
        if below.is_empty() || rng.random_range(0..values.len()) < self.values {
            let u: f64 = 1.0 - rng.random::<f64>();
            return self.from * u.powf(-1.0 / (self.exponent - 1.0));
        }
        below[rng.random_range(0..below.len())]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng as _;
    use rand_chacha::ChaCha8Rng;

    /// Quantiles of the law with exponent `a` from 1 on.
    fn quantiles(a: f64, n: usize) -> Vec<f64> {
        (0..n).map(|i| ((i as f64 + 0.5) / n as f64).powf(-1.0 / (a - 1.0))).collect()
    }

    #[test]
    fn a_power_law_is_recognised() {
        for a in [1.5, 2.0, 3.5] {
            for scale in [1e-200, 1.0] {
                let values: Vec<f64> = quantiles(a, 2000).iter().map(|x| x * scale).collect();
                let law = PowerLaw::fit(&values, 20, &mut ChaCha8Rng::seed_from_u64(1)).unwrap();
                assert!((law.exponent - a).abs() < 4.0 * law.standard_error, "{a} {law:?}");
                assert!(law.p_value.unwrap() > 0.9 && law.distance < 0.02, "{law:?}");
            }
        }
    }

    #[test]
    fn where_the_law_begins_is_found() {
        // Even values below 1, a law above.
        let mut values = quantiles(2.5, 1000);
        values.extend((0..3000).rev().map(|i| (f64::from(i) + 0.5) / 3000.0));
        let law = PowerLaw::fit(&values, 0, &mut ChaCha8Rng::seed_from_u64(1)).unwrap();
        assert!((0.9..1.6).contains(&law.from) && (law.exponent - 2.5).abs() < 0.2, "{law:?}");
        assert_eq!(law.p_value, None);
    }

    #[test]
    fn an_exponential_is_none() {
        let values: Vec<f64> = (0..4000).map(|i| 1.0 - ((f64::from(i) + 0.5) / 4000.0).ln()).collect();
        let law = PowerLaw::through(&values).unwrap();
        assert!(law.distance > 0.05, "{law:?}");
    }

    #[test]
    fn too_few_or_equal_values_have_no_law() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        assert_eq!(PowerLaw::fit(&[1.0; 49], 5, &mut rng), None);
        assert_eq!(PowerLaw::fit(&[1.0; 200], 5, &mut rng), None);
    }
}
