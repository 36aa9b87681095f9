//! The eigenpairs that [`eigen`](crate::eigen()) has written, read back.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use qn_model::ParamLayout;
use qn_run::{RunDirectory, RunError, Tensor, TensorFile};

use crate::StudyError;
use crate::output::beside;
use crate::report::{EigenReport, Subject};

/// That the spectrum is to be found first, or in another way, because of what `words` say.
pub(crate) fn needs_eigen(
    words: String,
    run: Option<&RunDirectory>,
    fields: Vec<(&'static str, Option<String>)>,
) -> StudyError {
    StudyError::Needs { words, study: "eigen", run: run.map(|run| run.path().to_owned()), fields }
}

/// Where the report of a run's eigenpairs is.
pub(crate) fn report_path(run: &RunDirectory) -> Result<PathBuf> {
    let path = run.report_path("eigen.json");
    if !path.is_file() {
        bail!(needs_eigen(format!("{} is missing", path.display()), Some(run), Vec::new()));
    }
    Ok(path)
}

/// All eigenvectors of a report, of P entries each, one after the other.
pub(crate) fn read_vectors(
    report: &Path,
    run: Option<&RunDirectory>,
    layout: &ParamLayout,
    eigen: &EigenReport,
) -> Result<Vec<f64>> {
    let path = beside(report, "eigenvectors.safetensors");
    let file = TensorFile::read(&path)?;
    let found = file.meta.get("layout_hash").and_then(|v| v.as_str()).unwrap_or("none").to_owned();
    if found != layout.hash() {
        return Err(RunError::Layout { path, found, expected: layout.hash() }.into());
    }
    let tensor = file
        .tensors
        .get("eigenvectors")
        .with_context(|| format!("{} has no eigenvectors", path.display()))?;
    let values = file.tensors.get("eigenvalues").and_then(Tensor::to_f64);
    if tensor.shape() != [eigen.eigenvalues.len(), layout.len()]
        || values.as_deref() != Some(&eigen.eigenvalues[..])
    {
        let name = report.file_name().unwrap_or_default().display();
        let words = format!("{} does not belong to the {name} beside it", path.display());
        bail!(needs_eigen(words, run, Vec::new()));
    }
    tensor.to_f64().with_context(|| format!("{} holds other numbers than floats", path.display()))
}

/// Refuses eigenvectors at another point, over other samples or of other parameters.
pub(crate) fn check_subject(path: &Path, found: &Subject, asked: &Subject) -> Result<()> {
    let differs = [
        (found.layout_hash != asked.layout_hash, "other parameters"),
        (found.parameters_sha256 != asked.parameters_sha256, "the network at another point"),
        (found.data_sha256 != asked.data_sha256, "other samples"),
    ];
    match differs.iter().find(|(differs, _)| *differs) {
        None => Ok(()),
        Some((_, what)) => {
            let path = path.display();
            bail!(StudyError::Refused(format!(
                "the eigenvectors of {path} are about {what} than this request"
            )))
        }
    }
}
