//! The programs `qn-train` and `qn-analyse`: arguments become requests of qn-train and qn-study, reports become tables.
//!
//! Here alone is a user: progress bars, colours, signals, exit codes, completions, man pages. Libraries speak of the fields of
//! their requests, between backticks; [`errors`] makes options of them and adds what to do.

// Both panic when nobody listens: `stdout` and `talk` are there instead.
#![warn(clippy::print_stdout, clippy::print_stderr)]

pub mod analyse;
#[cfg(feature = "elpa")]
mod elpa;
mod errors;
mod interrupt;
mod options;
mod processes;
mod shell;
mod stdout;
mod talk;
mod terminal;
pub mod train;

pub use interrupt::Interrupt;
pub use shell::run_program;
