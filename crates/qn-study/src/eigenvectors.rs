//! The eigenpairs that [`eigen`](crate::eigen()) has written, read back.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use qn_model::ParamLayout;
use qn_run::{Invalid, RunDirectory, RunError, Tensor, TensorFile};

use crate::StudyError;
use crate::output::beside;
use crate::report::{EigenReport, Subject};
use crate::vector_files::{Rows, VectorFiles};

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

/// The eigenvectors that belong to a report: those of the pairs that it lists, or all, in files.
pub(crate) enum Eigenvectors {
    Listed(Rows),
    InFiles(VectorFiles),
}

impl Eigenvectors {
    /// As many as there are.
    pub(crate) fn of(
        path: &Path,
        run: Option<&RunDirectory>,
        layout: &ParamLayout,
        eigen: EigenReport,
    ) -> Result<Self> {
        Ok(match &eigen.all_vectors {
            Some(key) => Self::InFiles(VectorFiles::new(vector_folder(path), key.clone(), layout.len())),
            None => {
                let vectors = read_vectors(path, run, layout, &eigen)?;
                Self::Listed(Rows { first: 0, values: eigen.eigenvalues, vectors })
            }
        })
    }

    pub(crate) fn count(&self) -> usize {
        match self {
            Self::Listed(rows) => rows.values.len(),
            Self::InFiles(files) => files.order(),
        }
    }

    /// Eigenvalues in these places of the order, from 0, and the vectors one after the other.
    pub(crate) fn at(self, places: &[usize]) -> Result<(Vec<f64>, Vec<f64>)> {
        if let Some(place) = places.iter().find(|place| **place >= self.count()) {
            let last = self.count() - 1;
            bail!(Invalid(format!("`index` {place}: there are eigenvectors from 0 to {last}")));
        }
        match self {
            Self::Listed(rows) => {
                let p = rows.vectors.len() / rows.values.len();
                let vector = |&place: &usize| &rows.vectors[place * p..(place + 1) * p];
                let values = places.iter().map(|&place| rows.values[place]).collect();
                Ok((values, places.iter().flat_map(vector).copied().collect()))
            }
            Self::InFiles(files) => files.gather(places),
        }
    }

    /// Shows them, some at a time, eigenvalues descending.
    pub(crate) fn for_each(self, mut see: impl FnMut(Rows) -> Result<()>) -> Result<()> {
        match self {
            Self::Listed(rows) => see(rows),
            Self::InFiles(files) => files.for_each(see),
        }
    }
}

/// The folder of all eigenvectors that belong to a report.
pub(crate) fn vector_folder(report: &Path) -> PathBuf {
    beside(report, "eigenvectors")
}

/// The eigenvectors of the pairs that a report lists, of P entries each, one after the other.
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
