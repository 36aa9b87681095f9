//! End to end, over the programs: one binary, a file a subject. They are a test target of qn-cli, which owns the programs.
//!
//! What a machine may lack is a feature of qn-cli, and ignored without it: `browser` takes Chromium, `slow` takes CIFAR-10
//! (fetched into data/, or `QN_DATA`), `mpi` takes mpirun, `elpa` that library, `hostile` takes a system that lets a disk be mounted.

mod bad_input;
mod browser;
mod cmd;
mod common;
mod corrupted;
mod end_to_end;
mod everywhere;
mod interrupted;
mod issues;
mod killed;
mod pictures;
mod processes;
mod questions;
mod reports;
mod spectra;
mod starved;
mod tools;
mod wide;
