use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use qn_study::{EnergyReport, EnergyRequest, energy};

use super::problem::{ProblemArgs, show};
use super::tables;
use crate::interrupt::Interrupt;
use crate::terminal::Terminal;

/// Where the gradient, the class gradients and the layers lie among the eigenvectors that `eigen` found.
#[derive(Args, Clone, Debug)]
pub(super) struct EnergyArgs {
    #[command(flatten)]
    problem: ProblemArgs,
    /// The report of `eigen`, with its vectors beside it [default: reports/eigen.json in the run]. Samples, parameters and
    /// step that are not given are those of the eigenvectors.
    #[arg(long, value_name = "FILE")]
    eigen: Option<PathBuf>,
}

pub(super) fn run(args: &EnergyArgs, interrupt: &Interrupt) -> Result<()> {
    let terminal = Terminal::new(&args.problem.talk, interrupt);
    let request = EnergyRequest {
        to: args.problem.place::<EnergyReport>()?,
        problem: args.problem.request(&terminal)?,
        eigen: args.eigen.clone(),
    };
    let report = energy(&request, &terminal)?;
    show(&report, request.to.as_deref(), &terminal, || tables::print_energy(&report))
}
