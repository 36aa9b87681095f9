//! `qn-analyse`: see `qn-analyse --help`.

use std::process::ExitCode;

fn main() -> ExitCode {
    qn_cli::run_program(qn_cli::analyse::Cli::run)
}
