//! What can be said of a spectrum of which every eigenvalue is known.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use qn_run::{Invalid, Observer, Versions};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::output::{self, Report};
use crate::report::{FullSpectrumReport, SCHEMA_VERSION, Subject};
use crate::source::Source;
use crate::spectrum_shape::{Shape, ShapeOptions};

/// Asks for effective dimensions, gaps and the tail of spectra that [`eigen`](crate::eigen()) has found in full.
#[derive(Clone, Debug, Default)]
pub struct ShapeRequest {
    /// Run directories in which there is full_spectrum.json, or such reports; the first one is compared with the others.
    pub spectra: Vec<PathBuf>,
    /// What is asked of each.
    pub options: ShapeOptions,
    /// Where the report goes; nothing is written where absent.
    pub to: Option<PathBuf>,
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

/// One spectrum.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct SpectrumShape {
    /// The run's or the report's name.
    pub name: String,
    /// What was analysed.
    pub subject: Subject,
    /// The numbers.
    #[serde(flatten)]
    pub shape: Shape,
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
    let mut found = Vec::with_capacity(args.spectra.len());
    for path in &args.spectra {
        if observer.should_stop() {
            bail!(crate::StudyError::Stopped);
        }
        let source = Source::new(path);
        let (report, values) = full_spectrum(&source)?;
        let classes = report.subject.outputs.unwrap_or(10);
        let shape = Shape::of(&values, report.threshold, classes, &args.options)?;
        found.push((SpectrumShape { name: source.label.clone(), subject: report.subject, shape }, values));
    }
    let comparisons = found.iter().skip(1).map(|other| compare(&found[0], other)).collect();
    let report = ShapeReport {
        schema_version: SCHEMA_VERSION,
        comparisons,
        spectra: found.into_iter().map(|(shape, _)| shape).collect(),
        seed: args.options.seed,
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

fn compare(first: &(SpectrumShape, Vec<f64>), other: &(SpectrumShape, Vec<f64>)) -> SpectrumComparison {
    let threshold = first.0.shape.threshold.max(other.0.shape.threshold);
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
}
