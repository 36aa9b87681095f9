//! `qn-analyse`: see `qn-analyse --help`.

use std::process::ExitCode;

fn main() -> ExitCode {
    qn_train::shell::run_program(qn_analyse::cli::Cli::run)
}
