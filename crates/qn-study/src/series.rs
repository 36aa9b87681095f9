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
        self.points.iter().all(|point| point.found.converged())
    }
}

impl Point {
    /// Whether all eigenpairs that were asked for are within the tolerance.
    pub(crate) fn converged(&self) -> bool {
        match self {
            Self::Eigen(report) => report.all_converged(),
            Self::Density(_) | Self::Trace(_) => true,
        }
    }
}

impl Asked {
    /// What it is asked about.
    pub(crate) fn problem(&self) -> &ProblemRequest {
        match self {
            Self::Eigen(request) => &request.problem,
            Self::Density(request) => &request.problem,
            Self::Trace(request) => &request.problem,
        }
    }

    /// Whether all eigenvalues are asked for.
    pub(crate) fn is_full(&self) -> bool {
        matches!(self, Self::Eigen(EigenRequest { full: true, .. }))
    }

    /// The study of another problem, with at most so many eigenpairs.
    pub(crate) fn of(
        &self,
        other: &dyn Fn(&ProblemRequest) -> ProblemRequest,
        pairs: usize,
        observer: &dyn Observer,
    ) -> Result<Point> {
        let problem = other(self.problem());
        Ok(match self {
            Self::Eigen(request) => {
                let request = EigenRequest { problem, k: request.k.min(pairs), to: None, ..request.clone() };
                Point::Eigen(eigen(&request, observer)?.report)
            }
            Self::Density(request) => {
                Point::Density(density(&DensityRequest { problem, to: None, ..request.clone() }, observer)?)
            }
            Self::Trace(request) => {
                Point::Trace(trace(&TraceRequest { problem, to: None, ..request.clone() }, observer)?)
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
    if request.asked.is_full() {
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
        let at = |problem: &ProblemRequest| ProblemRequest {
            run: None,
            step: None,
            checkpoint: Some(file.clone()),
            ..problem.clone()
        };
        points.push(SeriesPoint { step, found: request.asked.of(&at, usize::MAX, &stop)? });
        stage.advance(1);
    }
    let seconds = started.elapsed().as_secs_f64();
    let report = SeriesReport { schema_version: SCHEMA_VERSION, points, seconds };
    output::write(&report, request.to.as_deref())?;
    Ok(report)
}
