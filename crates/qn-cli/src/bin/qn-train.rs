//! `qn-train`: see `qn-train --help`.

use std::process::ExitCode;

fn main() -> ExitCode {
    qn_cli::run_program(qn_cli::train::Cli::run)
}
