//! One named test for each fault that use has shown, with the right outcome as its expectation. Each file is a family of
//! faults; the solvers' and the derivatives' own are in `crates/qn-spectrum/tests/issues.rs` and
//! `crates/qn-curvature/tests/issues.rs`.

mod activations;
mod checkpoints;
mod data_files;
mod energy;
mod hierarchy;
mod numbers;
mod outputs;
mod own_data;
mod persistence;
mod runs;
mod series;
mod shape;
mod spectra;
mod streams;
mod subjects;
mod surface;
