//! What can be said of a spectrum of which every eigenvalue is known.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use qn_run::{Invalid, Observer, Versions};
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::output::{self, Report};
use crate::power_law::PowerLaw;
use crate::report::{FullSpectrumReport, SCHEMA_VERSION, Subject};
use crate::source::Source;

/// Asks for effective dimensions, gaps and the tail of spectra that [`eigen`](crate::eigen()) has found in full.
#[derive(Clone, Debug)]
pub struct ShapeRequest {
    /// Run directories in which there is full_spectrum.json, or such reports; the first one is compared with the others.
    pub spectra: Vec<PathBuf>,
    /// The α of effective dimensions, positive.
    pub alpha: Vec<f64>,
    /// Random spectra that the goodness of a power law is judged by; none where 0.
    pub draws: usize,
    /// Their seed.
    pub seed: u64,
    /// Where the report goes; nothing is written where absent.
    pub to: Option<PathBuf>,
}

impl Default for ShapeRequest {
    /// Four α from 0.001 to 1, a hundred random spectra.
    fn default() -> Self {
        Self { spectra: Vec::new(), alpha: vec![1e-3, 1e-2, 0.1, 1.0], draws: 100, seed: 0, to: None }
    }
}

/// The shape of spectra: `shape.json`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ShapeReport {
    /// Version of this format.
    pub schema_version: u32,
    /// Each of them.
    pub spectra: Vec<SpectrumShape>,
    /// The first one beside each of the others.
    pub comparisons: Vec<SpectrumComparison>,
    /// Seed of the random spectra.
    pub seed: u64,
    /// Versions of the program and of the libraries that compute.
    pub versions: Versions,
}

/// One spectrum. Numbers of dimensions are those of a matrix with so many equal eigenvalues and zeros otherwise.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct SpectrumShape {
    /// The run's or the report's name.
    pub name: String,
    /// What was analysed.
    pub subject: Subject,
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

/// Two spectra side by side.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct SpectrumComparison {
    /// The first.
    pub first: String,
    /// The other.
    pub other: String,
    /// The largest difference of their distribution functions (Kolmogorov and Smirnov's distance), from 0 to 1.
    pub distance: f64,
    /// The mean of |log10 λ − log10 μ| at equal quantiles of the positive eigenvalues above both thresholds: how many decades
    /// they are apart. Absent where one has none.
    pub decades: Option<f64>,
}

impl Report for ShapeReport {
    const KIND: &'static str = "shape";
    const STUDY: &'static str = "shape";
}

/// Describes the spectra and writes down what is found.
///
/// # Errors
/// A spectrum is not there, the request makes no sense, or something else stands where its answer is to go.
pub fn shape(args: &ShapeRequest, observer: &dyn Observer) -> Result<ShapeReport> {
    output::claim::<ShapeReport>(args.to.as_deref())?;
    if args.spectra.is_empty() {
        bail!(Invalid("`spectra`: give a run or a report".into()));
    }
    if let Some(alpha) = args.alpha.iter().find(|a| !(a.is_finite() && **a > 0.0)) {
        bail!(Invalid(format!("`alpha` {alpha}: give a positive number")));
    }
    let mut found = Vec::with_capacity(args.spectra.len());
    for path in &args.spectra {
        if observer.should_stop() {
            bail!(crate::StudyError::Stopped);
        }
        let source = Source::new(path);
        let (report, values) = full_spectrum(&source)?;
        found.push((describe(args, &source.label, &report, &values), values));
    }
    let comparisons = found.iter().skip(1).map(|other| compare(&found[0], other)).collect();
    let report = ShapeReport {
        schema_version: SCHEMA_VERSION,
        comparisons,
        spectra: found.into_iter().map(|(shape, _)| shape).collect(),
        seed: args.seed,
        versions: Versions::current(),
    };
    output::write(&report, args.to.as_deref())?;
    Ok(report)
}

/// A report of a full spectrum and its eigenvalues, descending.
pub(crate) fn full_spectrum(source: &Source) -> Result<(FullSpectrumReport, Vec<f64>)> {
    let mut report: FullSpectrumReport = source.report()?;
    let listed = std::mem::take(&mut report.eigenvalues);
    if !listed.is_empty() {
        return Ok((report, listed));
    }
    let values = source.all_eigenvalues()?;
    let values =
        values.with_context(|| format!("{}: the file of all eigenvalues is missing", source.label))?;
    Ok((report, values))
}

fn describe(args: &ShapeRequest, name: &str, report: &FullSpectrumReport, values: &[f64]) -> SpectrumShape {
    let largest = values.iter().fold(0.0_f64, |a, v| a.max(v.abs()));
    // Relative to the largest, so that no square leaves the range.
    let sizes: Vec<f64> =
        values.iter().map(|v| if largest > 0.0 { v.abs() / largest } else { 0.0 }).collect();
    let (sum, squares): (f64, f64) = (sizes.iter().sum(), sizes.iter().map(|s| s * s).sum());
    let negative: f64 = sizes.iter().zip(values).filter(|(_, v)| **v < 0.0).map(|(s, _)| s).sum();
    let over = |x: f64, y: f64| if y > 0.0 { x / y } else { 0.0 };
    let entropy: f64 = sizes.iter().filter(|s| **s > 0.0).map(|s| s / sum).map(|q| -q * q.ln()).sum();
    let positive: Vec<f64> = values.iter().copied().filter(|v| *v > report.threshold).collect();
    let dimension = |alpha: f64| values.iter().filter(|v| **v > 0.0).map(|v| v / (v + alpha)).sum();
    let classes = report.subject.outputs.unwrap_or(10);
    let mut gaps = gaps(&positive, 10 * classes);
    let gap_at_classes = gaps.iter().position(|gap| gap.index == classes);
    let gap_at_classes = gap_at_classes.map(|wider| GapAtClasses { gap: gaps[wider], wider, of: gaps.len() });
    gaps.truncate(5);
    let mut rng = ChaCha8Rng::seed_from_u64(args.seed);
    SpectrumShape {
        name: name.to_owned(),
        subject: report.subject.clone(),
        threshold: report.threshold,
        effective_dimensions: args
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
        tail: PowerLaw::fit(&positive, args.draws, &mut rng),
    }
}

/// The gaps among the first eigenvalues, positive and descending; the widest first.
fn gaps(positive: &[f64], among: usize) -> Vec<Gap> {
    let gap = |(j, pair): (usize, &[f64])| Gap { index: j + 1, ratio: pair[0] / pair[1] };
    let mut gaps: Vec<Gap> = positive.windows(2).take(among).enumerate().map(gap).collect();
    gaps.sort_by(|a, b| b.ratio.total_cmp(&a.ratio));
    gaps
}

fn compare(first: &(SpectrumShape, Vec<f64>), other: &(SpectrumShape, Vec<f64>)) -> SpectrumComparison {
    let threshold = first.0.threshold.max(other.0.threshold);
    let above = |values: &[f64]| values.iter().copied().filter(|v| *v > threshold).collect::<Vec<_>>();
    let (x, y) = (above(&first.1), above(&other.1));
    /// Quantiles that are compared.
    const QUANTILES: usize = 1000;
    let at =
        |values: &[f64], u: f64| values[((u * values.len() as f64) as usize).min(values.len() - 1)].log10();
    let apart = |i: usize| {
        let u = (i as f64 + 0.5) / QUANTILES as f64;
        (at(&x, u) - at(&y, u)).abs()
    };
    let known = !x.is_empty() && !y.is_empty();
    SpectrumComparison {
        first: first.0.name.clone(),
        other: other.0.name.clone(),
        distance: distance(&first.1, &other.1),
        decades: known.then(|| (0..QUANTILES).map(apart).sum::<f64>() / QUANTILES as f64),
    }
}

/// Kolmogorov and Smirnov's distance of two descending lists.
fn distance(x: &[f64], y: &[f64]) -> f64 {
    let (mut i, mut j, mut largest) = (0, 0, 0.0_f64);
    while i < x.len() && j < y.len() {
        let value = x[i].max(y[j]);
        while i < x.len() && x[i] >= value {
            i += 1;
        }
        while j < y.len() && y[j] >= value {
            j += 1;
        }
        largest = largest.max((i as f64 / x.len() as f64 - j as f64 / y.len() as f64).abs());
    }
    largest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_of_distributions() {
        assert_eq!(distance(&[3.0, 2.0, 1.0], &[3.0, 2.0, 1.0]), 0.0);
        assert_eq!(distance(&[3.0, 2.0], &[1.0, 0.0]), 1.0);
        assert_eq!(distance(&[4.0, 3.0, 1.0, 0.0], &[3.0, 1.0]), 0.25);
    }

    #[test]
    fn gaps_by_hand() {
        let found = gaps(&[100.0, 50.0, 5.0, 4.0], 3);
        assert_eq!(found.iter().map(|gap| gap.index).collect::<Vec<_>>(), [2, 1, 3]);
        assert_eq!(found[0].ratio, 10.0);
        assert!(gaps(&[1.0], 10).is_empty());
    }
}
