//! Spectrum of a trained network's Hessian, and its overlap with the class gradients.
//!
//! Numbers come from `qn-curvature` and `qn-spectrum`; this crate chooses what is computed, writes it
//! down as reports, and prints what a reader wants to know first.

// Both panic when nobody listens: `qn_train::stdout` and `qn_train::ui` are there instead.
#![warn(clippy::print_stdout, clippy::print_stderr)]

mod assembling;
mod batches;
mod chance;
pub mod cli;
mod eigen;
mod estimates;
mod experiment;
mod export;
mod figure;
mod full;
mod inspect;
mod memory;
mod operator;
mod output;
mod overlap;
mod page;
mod partial;
mod problem;
mod recipe;
mod report;
mod reproduce;
mod statistics;
mod storage;
mod subspace;
mod table;
mod target;
mod track;

pub use batches::{BatchEnds, BatchesReport};
pub use experiment::{Comparison, Curve, ExperimentReport, RunSummary, Validation};
pub use recipe::PaperNumbers;
pub use report::{
    Blocks, DecomposeReport, DensityReport, EigenReport, FullSpectrumReport, Histogram, OverlapReport,
    SnapshotOverlap, StageSeconds, Subject, TraceReport,
};
pub use subspace::{Assignment, Rank, assign, cosines, max_coherence, numerical_rank, principal_angles};
pub use track::{TrackPoint, TrackReport};
