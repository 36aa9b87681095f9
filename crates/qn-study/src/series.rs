//! One study of several checkpoints of a network, in the order of their steps.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Result, bail};
use qn_run::{Invalid, Observer, Stage, StopOnly};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::checkpoints::{Checkpoint, in_order};
use crate::eigen::{EigenRequest, eigen};
use crate::estimates::{DensityRequest, TraceRequest, density, trace};
use crate::output::{self, Report};
use crate::report::{DensityReport, EigenReport, SCHEMA_VERSION, TraceReport};
use crate::request::ProblemRequest;

/// What is asked at every checkpoint.
#[derive(Clone, Debug)]
pub enum Asked {
    /// Eigenpairs; their vectors are not written.
    Eigen(EigenRequest),
    /// The smoothed density of all eigenvalues.
    Density(DensityRequest),
    /// Trace and Frobenius norm.
    Trace(TraceRequest),
}

/// Asks for one study at several checkpoints.
#[derive(Clone, Debug)]
pub struct SeriesRequest {
    /// The study. Run, checkpoint and place of its own request are not looked at.
    pub asked: Asked,
    /// Files of parameters, folders of them, or patterns as `runs/mine/epoch_*.pt`. The last number in a file's name is its
    /// step.
    pub checkpoints: Vec<PathBuf>,
    /// Where the report goes; nothing is written where absent.
    pub to: Option<PathBuf>,
}

/// One study along training: `series.json`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct SeriesReport {
    /// Of this format.
    pub schema_version: u32,
    /// One entry a checkpoint, by step.
    pub points: Vec<SeriesPoint>,
    /// Wall-clock seconds.
    pub seconds: f64,
}

/// What was found at one checkpoint.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct SeriesPoint {
    /// The last number in the file's name; the file's place in the order, from 0, where some name has none.
    pub step: u64,
    /// The study's report.
    #[serde(flatten)]
    pub found: Point,
}

/// The report of one checkpoint.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[allow(clippy::large_enum_variant)]
pub enum Point {
    /// Of `eigen`.
    Eigen(EigenReport),
    /// Of `density`.
    Density(DensityReport),
    /// Of `trace`.
    Trace(TraceReport),
}

impl Report for SeriesReport {
    const KIND: &'static str = "series";
    const STUDY: &'static str = "eigen, density, trace";
}

impl SeriesReport {
    /// Whether all eigenpairs that were asked for are within the tolerance.
    pub fn converged(&self) -> bool {
        self.points.iter().all(|point| match &point.found {
            Point::Eigen(report) => report.all_converged(),
            Point::Density(_) | Point::Trace(_) => true,
        })
    }
}

impl Asked {
    /// The study at one checkpoint.
    fn at(&self, file: PathBuf, observer: &dyn Observer) -> Result<Point> {
        let of = |problem: &ProblemRequest| ProblemRequest {
            run: None,
            step: None,
            checkpoint: Some(file),
            ..problem.clone()
        };
        Ok(match self {
            Self::Eigen(request) => {
                let request = EigenRequest { problem: of(&request.problem), to: None, ..request.clone() };
                Point::Eigen(eigen(&request, observer)?.report)
            }
            Self::Density(request) => {
                let request = DensityRequest { problem: of(&request.problem), to: None, ..request.clone() };
                Point::Density(density(&request, observer)?)
            }
            Self::Trace(request) => {
                let request = TraceRequest { problem: of(&request.problem), to: None, ..request.clone() };
                Point::Trace(trace(&request, observer)?)
            }
        })
    }
}

/// Asks at every checkpoint and writes down what is found.
///
/// # Errors
/// The request makes no sense, something else stands where its answer is to go, or the observer wishes to stop.
pub fn series(request: &SeriesRequest, observer: &dyn Observer) -> Result<SeriesReport> {
    let started = Instant::now();
    if matches!(&request.asked, Asked::Eigen(EigenRequest { full: true, .. })) {
        bail!(Invalid(
            "`full` is for one checkpoint at a time: give one, and its own place for the report".into()
        ));
    }
    output::claim::<SeriesReport>(request.to.as_deref())?;
    let checkpoints = in_order(&request.checkpoints)?;
    let stage = Stage::begin(observer, "checkpoints", checkpoints.len() as u64);
    let stop = StopOnly(observer);
    let mut points = Vec::with_capacity(checkpoints.len());
    for Checkpoint { step, file } in checkpoints {
        points.push(SeriesPoint { step, found: request.asked.at(file, &stop)? });
        stage.advance(1);
    }
    let seconds = started.elapsed().as_secs_f64();
    let report = SeriesReport { schema_version: SCHEMA_VERSION, points, seconds };
    output::write(&report, request.to.as_deref())?;
    Ok(report)
}
