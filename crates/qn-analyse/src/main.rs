//! `qn-analyse`: see `qn-analyse --help`.

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    qn_train::cli::keep_candle_on_one_thread();
    qn_analyse::cli::Cli::parse().run()
}
