//! What is written down. Field names are stable; see analysis/schemas.

mod estimates;
mod overlap;
mod spectrum;

use std::path::Path;

use anyhow::{Context as _, Result, bail};
use qn_run::{Normalisation, Versions};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::StudyError;
use crate::output::Report;
pub use estimates::{Blocks, DecomposeReport, DensityReport, TraceReport};
pub use overlap::{OverlapReport, SnapshotOverlap};
pub use spectrum::{EigenReport, FullSpectrumReport, Histogram, StageSeconds};

/// Version of the reports' formats. Version 1 had eigenvalues in the order of `which`, all of them ascending, and `kind` only of late.
pub(crate) const SCHEMA_VERSION: u32 = 2;

/// What was analysed, at the head of every report on a curvature matrix.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Subject {
    /// Version of this format.
    pub schema_version: u32,
    /// `hessian`, `ggn`, `residual` or `fisher`.
    pub operator: String,
    /// `cross-entropy`, `mse` or `bce`; cross-entropy in reports that do not say it.
    #[serde(default = "cross_entropy")]
    pub loss_function: String,
    /// Share of each label that is spread over all classes.
    #[serde(default)]
    pub label_smoothing: f64,
    /// λ of the loss's term λ/2 |θ|².
    #[serde(default)]
    pub weight_decay: f64,
    /// The parameters that the matrix belongs to, by name, the others being constants; empty where it is all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub only: Vec<String>,
    /// The architecture's name.
    pub arch: String,
    /// The data set, or the file without its folders.
    pub data: String,
    /// What each channel of the inputs was normalised with, pixels of a data set known by name being divided by 255 (the
    /// digits' by 16) before; absent where a file's numbers were taken as they are, and in reports of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub normalisation: Option<Normalisation>,
    /// How many outputs the network has, C where there are classes; absent in reports of earlier versions, in which it is ten.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outputs: Option<usize>,
    /// `train` or `test`.
    pub split: String,
    /// N: the first so many of the split.
    pub samples: usize,
    /// SHA-256 of those samples.
    pub data_sha256: String,
    /// The parameters' file.
    pub checkpoint: String,
    /// Steps of training, where it is a run's checkpoint.
    pub step: Option<u64>,
    /// P: the number of parameters, of those named in `only` where it is not empty.
    pub params: usize,
    /// Precision of the products: `f64` or `f32`.
    pub dtype: String,
    /// SHA-256 of the parameters and buffers, as little-endian doubles in layout order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parameters_sha256: Option<String>,
    /// Samples in a microbatch.
    pub microbatch: usize,
    /// Hash of the layout of those parameters.
    pub layout_hash: String,
    /// Seed of the random vectors.
    pub seed: u64,
    /// Versions of the program and of the libraries that compute.
    pub versions: Versions,
}

/// What a report that names no loss is about.
fn cross_entropy() -> String {
    "cross-entropy".into()
}

/// How a report that says nothing of it has stored vectors.
fn double() -> String {
    "f64".into()
}

macro_rules! reports {
    ($($report:ty: $kind:literal of $study:literal $(with $field:literal)?;)*) => {
        $(impl Report for $report {
            const KIND: &'static str = $kind;
            const STUDY: &'static str = $study;
            $(const WITH: &'static [&'static str] = &[$field];)?
        })*
    };
}

reports! {
    EigenReport: "eigen" of "eigen";
    FullSpectrumReport: "full_spectrum" of "eigen" with "full";
    DensityReport: "density" of "density";
    TraceReport: "trace" of "trace";
    DecomposeReport: "decompose" of "decompose";
    OverlapReport: "overlap" of "overlap";
}

/// Reads a report back.
///
/// # Errors
/// It is not there, is none, is of another kind, or of another version of the format.
pub fn read<R: Report>(path: &Path) -> Result<R> {
    let value = read_any(path)?;
    let kind = value.get("kind").and_then(Value::as_str).unwrap_or("none");
    let file = path.display();
    if kind != R::KIND && value.get("kind").is_some() {
        bail!(StudyError::Refused(format!("{file} is a report of kind '{kind}', not '{}'", R::KIND)));
    }
    check_version::<R>(&value, path)?;
    R::deserialize(value).with_context(|| format!("{file} is not a valid report"))
}

/// Reads what may be a report.
///
/// # Errors
/// It is not there, or no JSON.
pub fn read_any(path: &Path) -> Result<Value> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is not a valid report", path.display()))
}

/// Refuses another version of the format.
pub(crate) fn check_version<R: Report>(value: &Value, path: &Path) -> Result<()> {
    let found = value.get("schema_version").and_then(Value::as_u64);
    if found == Some(u64::from(SCHEMA_VERSION)) {
        return Ok(());
    }
    let of = found.map_or("of no version".into(), |found| format!("of version {found}"));
    let words = format!(
        "{} is a report {of} of the format, and version {SCHEMA_VERSION} is read here",
        path.display()
    );
    let fields = R::WITH.iter().map(|field| (*field, Some(String::new()))).collect();
    bail!(StudyError::Needs { words, study: R::STUDY, run: None, fields })
}
