//! The study of how classes make up G.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Result, bail};
use qn_run::{Invalid, LossKind, Observer};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::class_parts::{Hierarchy, HierarchyOptions, Labelled};
use crate::output::{self, Report};
use crate::problem::Problem;
use crate::report::Subject;
use crate::request::{Matrix, ProblemRequest};

/// Asks how G is made of classes, pairs of classes and samples.
#[derive(Clone, Debug)]
pub struct HierarchyRequest {
    /// Of what; the loss is cross-entropy, the matrix G.
    pub problem: ProblemRequest,
    /// What is asked; the problem's seed is taken.
    pub options: HierarchyOptions,
    /// Where the report goes; nothing is written where absent.
    pub to: Option<PathBuf>,
}

impl Default for HierarchyRequest {
    /// Of G, with the options' defaults.
    fn default() -> Self {
        let problem = ProblemRequest { operator: Matrix::Ggn, ..ProblemRequest::default() };
        Self { problem, options: HierarchyOptions::default(), to: None }
    }
}

/// How G is made of classes, pairs of classes and samples: `hierarchy.json`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct HierarchyReport {
    /// What was analysed; the operator is G.
    #[serde(flatten)]
    pub subject: Subject,
    /// The parts, and where the class gradients lie.
    #[serde(flatten)]
    pub found: Hierarchy,
    /// Wall-clock seconds.
    pub seconds: f64,
}

impl Report for HierarchyReport {
    const KIND: &'static str = "hierarchy";
    const STUDY: &'static str = "hierarchy";
}

/// Takes G apart and writes down what is found.
///
/// # Errors
/// The loss is not cross-entropy of labels, the request makes no sense, something else stands where its answer is to go,
/// or the observer wishes to stop.
pub fn hierarchy(args: &HierarchyRequest, observer: &dyn Observer) -> Result<HierarchyReport> {
    let started = Instant::now();
    output::claim::<HierarchyReport>(args.to.as_deref())?;
    args.options.check()?;
    if args.problem.operator != Matrix::Ggn {
        bail!(Invalid("hierarchy takes G apart: leave `operator` out".into()));
    }
    let problem = Problem::load(&args.problem, observer, |_| Ok(()))?;
    let labels = labels_of(&problem, args)?;
    let of = Labelled {
        derivatives: &problem.derivatives,
        labels,
        classes: problem.target.graph.classes(),
        of_class: &|_, members| Ok(Arc::new(problem.over(members, args.problem.dtype)?)),
    };
    let options = HierarchyOptions { seed: args.problem.seed, ..args.options.clone() };
    let found = Hierarchy::of(&of, &options, observer)?;
    let seconds = started.elapsed().as_secs_f64();
    let report = HierarchyReport { subject: problem.subject(&args.problem), found, seconds };
    output::write(&report, args.to.as_deref())?;
    Ok(report)
}

/// The labels; refuses other losses than plain cross-entropy of one label a sample.
fn labels_of<'a>(problem: &'a Problem, args: &HierarchyRequest) -> Result<&'a [u32]> {
    let plain = problem.loss() == LossKind::CrossEntropy && args.problem.label_smoothing == 0.0;
    match problem.target.data.labels() {
        Some(labels) if plain && args.problem.weight_decay == 0.0 && labels.len() == problem.target.data.len() => Ok(labels),
        _ => bail!(Invalid(
            "hierarchy is about cross-entropy of one label a sample, without `label_smoothing` or `weight_decay`".into()
        )),
    }
}
