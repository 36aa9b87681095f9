//! Means, deviations and medians of a few numbers.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Mean and standard deviation of one draw, over independent draws.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Spread {
    /// Mean over the draws.
    pub mean: f64,
    /// Standard deviation of one, with n − 1 in the denominator; absent where there is only one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub std: Option<f64>,
    /// Number of draws.
    pub n: usize,
}

impl Spread {
    /// `None` of nothing.
    pub fn of(values: &[f64]) -> Option<Self> {
        let n = values.len();
        if n == 0 {
            return None;
        }
        let mean = values.iter().sum::<f64>() / n as f64;
        let squares = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>();
        let std = (n > 1).then(|| (squares / (n - 1) as f64).sqrt());
        Some(Self { mean, std, n })
    }

    /// In words, with so many decimals; `signed` shows the sign of a positive mean.
    pub fn words(&self, decimals: usize, signed: bool) -> String {
        let mean = match signed {
            true => format!("{:+.decimals$}", self.mean),
            false => format!("{:.decimals$}", self.mean),
        };
        self.std.map_or(mean.clone(), |std| format!("{mean} ± {std:.decimals$}"))
    }
}

/// The upper median; not a number of nothing.
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_few_numbers() {
        assert_eq!(Spread::of(&[]), None);
        let one = Spread::of(&[2.5]).unwrap();
        assert_eq!((one.words(1, false), one.words(1, true)), ("2.5".into(), "+2.5".into()));
        let three = Spread::of(&[1.0, 2.0, 6.0]).unwrap();
        assert_eq!((three.mean, three.n), (3.0, 3));
        assert!((three.std.unwrap() - 7f64.sqrt()).abs() < 1e-15);
        assert_eq!(three.words(2, true), "+3.00 ± 2.65");
        assert_eq!(median([3.0, 1.0, 2.0]), 2.0);
        assert!(median([]).is_nan());
    }
}
