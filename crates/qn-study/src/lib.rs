//! Studies of a trained network: a request becomes a report.
//!
//! Numbers come from `qn-curvature` and `qn-spectrum`; this crate chooses what is computed, writes it down as reports, and
//! draws them. It prints nothing, reads no command line and catches no signals: an [`Observer`](qn_run::Observer) follows a
//! study and may stop it. What is wrong with a request is told in terms of its fields.
//!
//! # Examples
//! ```no_run
//! use qn_run::Unobserved;
//! use qn_study::{EigenRequest, ProblemRequest, eigen};
//!
//! let problem = ProblemRequest { samples: Some(500), ..ProblemRequest::of_run("runs/lenet") };
//! let found = eigen(&EigenRequest { problem, k: 10, ..EigenRequest::default() }, &Unobserved)?;
//! println!("{:?}", found.report.eigenvalues);
//! # Ok::<(), anyhow::Error>(())
//! ```

#![warn(clippy::print_stdout, clippy::print_stderr)]

mod activations;
mod batches;
mod block_cyclic;
mod chance;
mod checkpoints;
mod class_parts;
mod eigen;
mod eigenvectors;
mod energy;
mod error;
mod estimates;
mod experiment;
mod export;
mod figure;
mod full;
mod hierarchy;
mod layers;
mod masses;
mod memory;
mod operator;
mod output;
mod overlap;
mod page;
mod parts;
mod persistence;
mod power_law;
mod problem;
mod recipe;
mod registry;
mod report;
mod request;
mod series;
mod shape;
mod softmax_parts;
mod solve;
mod source;
mod spectrum_shape;
mod statistics;
mod storage;
mod subspace;
mod surface;
mod target;
mod track;
mod vector_files;

pub use activations::{Activation, ActivationsReport, ActivationsRequest, activations};
pub use batches::{BatchEnds, BatchesReport, BatchesRequest, batches};
pub use block_cyclic::{BlockCyclic, DenseSolver};
pub use chance::RandomAssigned;
pub use checkpoints::is_series;
pub use class_parts::{Hierarchy, HierarchyOptions, HierarchyPart, Labelled, OfClass};
pub use eigen::{EigenFindings, EigenRequest, Vectors, eigen};
pub use energy::{EnergyReport, EnergyRequest, energy};
pub use error::StudyError;
pub use estimates::{DecomposeRequest, DensityRequest, TraceRequest, decompose, density, trace};
pub use experiment::{Comparison, Curve, ExperimentReport, RunSummary, Summary, Validation};
pub use export::{ExportRequest, Exported, export};
pub use figure::{FigureName, FigureRequest, figure};
pub use hierarchy::{HierarchyReport, HierarchyRequest, hierarchy};
pub use layers::{LayerPoint, LayersReport, LayersRequest, layers};
pub use output::{Report, claim, to_json, write};
pub use overlap::{CheckpointsOverlapRequest, Gradients, OverlapRequest, overlap, overlap_of_checkpoints};
pub use page::{PageRequest, claim_page, page, write_page};
pub use persistence::{PersistencePoint, PersistenceReport, PersistenceRequest, persistence};
pub use power_law::PowerLaw;
pub use recipe::{EMBEDDED_NETWORKS, EigenRecipe, PaperNumbers, Recipe, RecipeRun, TrackRecipe};
pub use registry::{AnyReport, KINDS, ReportKind, markdown_table};
pub use report::{
    Blocks, DecomposeReport, DensityReport, EigenReport, FullSpectrumReport, Histogram, OverlapReport,
    SnapshotOverlap, StageSeconds, Subject, TraceReport, read as read_report, read_any,
};
pub use request::{Dtype, Matrix, ProblemRequest};
pub use series::{Asked, Point, SeriesPoint, SeriesReport, SeriesRequest, series};
pub use shape::{ShapeReport, ShapeRequest, SpectrumComparison, SpectrumShape, shape};
pub use spectrum_shape::{EffectiveDimension, Gap, GapAtClasses, Shape, ShapeOptions};
pub use statistics::{Spread, median};
pub use storage::Storage;
pub use subspace::{Assignment, Rank, assign, cosines, max_coherence, numerical_rank, principal_angles};
pub use surface::{Direction, SurfaceDirection, SurfaceReport, SurfaceRequest, surface};
pub use track::{TrackPoint, TrackReport, TrackRequest, track};
pub use vector_files::{AllVectors, SampledVector};
