use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use qn_run::{Metric, RunDirectory, Tensor, TensorFile, read_metrics};

use crate::output::Report;
use crate::{StudyError, report};

/// Where a figure's numbers come from: a run directory, or a report.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    path: PathBuf,
    /// What it is called in legends: the run's folder, or the report's.
    pub(crate) label: String,
}

impl Source {
    pub(crate) fn new(path: &Path) -> Self {
        let folder = match path.parent() {
            // runs/NAME/reports/eigen.json is about NAME; results/sgd.eigen.json about sgd.
            Some(reports) if path.is_file() && reports.ends_with("reports") => reports.parent(),
            _ => Some(path),
        };
        let name = folder.and_then(Path::file_name).map_or("run".into(), |n| n.to_string_lossy());
        let label = name.split_once('.').map_or(name.as_ref(), |(stem, _)| stem).to_owned();
        Self { path: path.to_owned(), label }
    }

    pub(crate) fn is_file(&self) -> bool {
        self.path.is_file()
    }

    /// The report itself, or the run's of that kind.
    pub(crate) fn report<R: Report>(&self) -> Result<R> {
        if self.is_file() {
            return report::read(&self.path);
        }
        let path = RunDirectory::open(&self.path)?.report_path(&format!("{}.json", R::KIND));
        if !path.is_file() {
            let words = format!("{} is missing", path.display());
            let fields = R::WITH.iter().map(|field| (*field, Some(String::new()))).collect();
            bail!(StudyError::Needs { words, study: R::STUDY, run: None, fields });
        }
        report::read(&path)
    }

    /// The run's file of that name among its reports, if it is there.
    pub(crate) fn report_file(&self, name: &str) -> Option<PathBuf> {
        let path = RunDirectory::open(&self.path).ok()?.report_path(name);
        path.is_file().then_some(path)
    }

    /// Whether the run's log has averages of the class gradients.
    pub(crate) fn keeps_averages(&self) -> bool {
        self.metrics().is_ok_and(|lines| lines.iter().any(|m| m.lambda.is_some()))
    }

    /// Whether the run's log has the stability of Newton steps.
    pub(crate) fn takes_newton_steps(&self) -> bool {
        self.metrics().is_ok_and(|lines| lines.iter().any(|m| m.preconditioner_min.is_some()))
    }

    /// A file beside the report, if it is there.
    fn beside(&self, report: &str, name: &str) -> Option<PathBuf> {
        let report = match self.is_file() {
            true => self.path.clone(),
            false => RunDirectory::open(&self.path).ok()?.report_path(report),
        };
        let named = report.with_file_name(name);
        let same_stem = report.with_extension("safetensors");
        [named, same_stem].into_iter().find(|path| path.is_file())
    }

    /// The eigenvalues in the file beside a full spectrum's report, descending, if it is there.
    pub(crate) fn all_eigenvalues(&self) -> Result<Option<Vec<f64>>> {
        let Some(path) = self.beside("full_spectrum.json", "full_spectrum.safetensors") else {
            return Ok(None);
        };
        let file = TensorFile::read(&path)?;
        let values = file.tensors.get("eigenvalues").and_then(Tensor::to_f64);
        values.map(Some).with_context(|| format!("{} has no eigenvalues", path.display()))
    }

    /// The run's log.
    pub(crate) fn metrics(&self) -> Result<Vec<Metric>> {
        if self.is_file() {
            bail!(
                "{} is a report: give the run directory, whose metrics.jsonl is drawn",
                self.path.display()
            );
        }
        Ok(read_metrics(&RunDirectory::open(&self.path)?.metrics_path())?)
    }
}
