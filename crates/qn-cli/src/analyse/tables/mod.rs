//! What a reader wants to know first, on stdout.

mod activations;
mod batches;
mod decimal;
mod eigen;
mod energy;
mod estimates;
mod experiment;
mod hierarchy;
mod overlap;
mod persistence;
mod series;
mod shape;
mod spread;
mod surface;
mod track;

use qn_study::AnyReport;

pub(super) use activations::print_activations;
pub(super) use batches::print_batches;
pub(super) use eigen::{print_eigen, print_findings, print_full_spectrum};
pub(super) use energy::print_energy;
pub(super) use estimates::{print_decompose, print_density, print_trace};
pub(super) use experiment::{print_experiment, print_spectra};
pub(super) use hierarchy::print_hierarchy;
pub(super) use overlap::print_overlap;
pub(super) use persistence::print_persistence;
pub(super) use series::{print_layers, print_series};
pub(super) use shape::print_shape;
pub(super) use surface::print_surface;
pub(super) use track::print_track;

/// A report of any kind.
pub(super) fn print_any(report: &AnyReport) {
    match report {
        AnyReport::Eigen(report) => print_eigen(report),
        AnyReport::FullSpectrum(report) => print_full_spectrum(report),
        AnyReport::Overlap(report) => print_overlap(report),
        AnyReport::Energy(report) => print_energy(report),
        AnyReport::Hierarchy(report) => print_hierarchy(report),
        AnyReport::Surface(report) => print_surface(report),
        AnyReport::Shape(report) => print_shape(report),
        AnyReport::Density(report) => print_density(report),
        AnyReport::Trace(report) => print_trace(report),
        AnyReport::Decompose(report) => print_decompose(report),
        AnyReport::Track(report) => print_track(report),
        AnyReport::Series(report) => print_series(report),
        AnyReport::Layers(report) => print_layers(report),
        AnyReport::Persistence(report) => print_persistence(report),
        AnyReport::Activations(report) => print_activations(report),
        AnyReport::Batches(report) => print_batches(report),
        AnyReport::Experiment(report) => print_experiment(report),
    }
}
