//! `qn-train`: see `qn-train --help`.

use std::process::ExitCode;

fn main() -> ExitCode {
    qn_train::shell::run_program(qn_train::cli::Cli::run)
}
