//! `qn-analyse`: see `qn-analyse --help`.

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    qn_analyse::cli::Cli::parse().run()
}
