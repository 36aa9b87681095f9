//! Mean and standard deviation of the inputs' channels.

use std::str::FromStr;

use qn_run::Normalisation;

use crate::source::{Source, Values};
use crate::{DataError, Split, cache};

/// How inputs are asked to be normalised: `none`, `auto`, or `MEAN,STD`, each one number for all channels or one for each
/// channel with colons between.
#[derive(Clone, Debug, PartialEq)]
pub enum Normalise {
    /// Not at all.
    None,
    /// By what the training split has.
    Auto,
    /// By these.
    By(Normalisation),
}

impl FromStr for Normalise {
    type Err = DataError;

    fn from_str(asked: &str) -> Result<Self, DataError> {
        let wrong = |reason: &str| DataError::Normalise { asked: asked.into(), reason: reason.into() };
        match asked {
            "none" => return Ok(Self::None),
            "auto" => return Ok(Self::Auto),
            _ => {}
        }
        let numbers =
            |list: &str| list.split(':').map(|n| n.trim().parse::<f64>().ok()).collect::<Option<Vec<_>>>();
        let pair = asked.split_once(',').and_then(|(mean, std)| Some((numbers(mean)?, numbers(std)?)));
        let (mean, std) = pair.ok_or_else(|| {
            wrong("give none, auto, or MEAN,STD, where each is a number, or one for each channel as 0.49:0.48:0.45")
        })?;
        if mean.len() != std.len() {
            return Err(wrong("give as many means as standard deviations"));
        }
        if !mean.iter().all(|m| m.is_finite()) || !std.iter().all(|s| s.is_finite() && *s > 0.0) {
            return Err(wrong("means are finite, and standard deviations are positive"));
        }
        Ok(Self::By(Normalisation { mean, std }))
    }
}

impl Normalise {
    /// The numbers that are meant, for this data.
    ///
    /// # Errors
    /// There are as many of them as neither one nor the channels, or the training split cannot be read.
    pub fn resolve(self, source: &dyn Source) -> Result<Normalisation, DataError> {
        match self {
            Self::None => Ok(Normalisation { mean: vec![0.0], std: vec![1.0] }),
            Self::Auto => measured(source),
            Self::By(given) => check(given, source.form().channels()),
        }
    }
}

/// That numbers are given for all channels.
pub(crate) fn check(given: Normalisation, channels: usize) -> Result<Normalisation, DataError> {
    let (means, stds) = (given.mean.len(), given.std.len());
    if means == stds && (means == 1 || means == channels) {
        return Ok(given);
    }
    let list = |numbers: &[f64]| numbers.iter().map(f64::to_string).collect::<Vec<_>>().join(":");
    let asked = format!("{},{}", list(&given.mean), list(&given.std));
    let reason = format!("there are {channels} channels, so give one number of each kind, or {channels}");
    Err(DataError::Normalise { asked, reason })
}

/// Mean and standard deviation of each channel of the training split, over samples and positions; a channel that is
/// constant has the deviation 1.
fn measured(source: &dyn Source) -> Result<Normalisation, DataError> {
    let form = source.form();
    let contents = cache::read(source, Split::Train, usize::MAX)?;
    let (channels, len) = (form.channels(), form.sample_len());
    let plane = len / channels;
    let values = &contents.values;
    let of_channel = |c: usize| {
        let starts = (0..values.len() / len).map(move |i| i * len + c * plane);
        starts.flat_map(move |start| (start..start + plane).map(|at| values.at(at)))
    };
    let mut found = Normalisation::default();
    for c in 0..channels {
        let n = (values.len() / channels) as f64;
        let (mean, variance) = match values {
            // Sums of bytes are exact.
            Values::Bytes(_) => {
                let (sum, squares) =
                    of_channel(c).fold((0u64, 0u64), |(s, q), x| (s + x as u64, q + (x * x) as u64));
                let mean = sum as f64 / n;
                (mean, squares as f64 / n - mean * mean)
            }
            _ => {
                let mean = of_channel(c).sum::<f64>() / n;
                (mean, of_channel(c).map(|x| (x - mean).powi(2)).sum::<f64>() / n)
            }
        };
        let std = variance.max(0.0).sqrt();
        let constant = std <= 1e-12 * mean.abs() || !std.is_normal();
        found.mean.push(mean / source.divisor());
        found.std.push(if constant { 1.0 } else { std / source.divisor() });
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_numbers_are_understood() {
        let by =
            |mean: &[f64], std: &[f64]| Normalise::By(Normalisation { mean: mean.into(), std: std.into() });
        let parse = |asked: &str| asked.parse::<Normalise>();
        assert_eq!(parse("none").unwrap(), Normalise::None);
        assert_eq!(parse("0.5,2").unwrap(), by(&[0.5], &[2.0]));
        assert_eq!(parse("0:-1:2, 1:1:0.5").unwrap(), by(&[0.0, -1.0, 2.0], &[1.0, 1.0, 0.5]));
        for (asked, words) in [
            ("some", "none, auto"),
            ("1", "none, auto"),
            ("1,x", "none, auto"),
            ("1:2,3", "as many"),
            ("1,0", "positive"),
            ("NaN,1", "finite"),
            ("1,inf", "positive"),
        ] {
            let message = parse(asked).unwrap_err().to_string();
            assert!(message.contains(words) && message.contains(asked), "{message}");
        }
        let three =
            check(Normalisation { mean: vec![0.0; 3], std: vec![1.0; 3] }, 4).unwrap_err().to_string();
        assert!(three.contains("`normalise` 0:0:0,1:1:1") && three.contains("4 channels"), "{three}");
    }
}
