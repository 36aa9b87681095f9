use anyhow::Result;
use clap::Args;
use qn_study::{Direction, SurfaceReport, SurfaceRequest, surface};

use super::problem::{ProblemArgs, show};
use super::tables;
use crate::interrupt::Interrupt;
use crate::terminal::Terminal;

/// The loss along one or two directions, beside its quadratic model.
#[derive(Args, Clone, Debug)]
pub(super) struct SurfaceArgs {
    #[command(flatten)]
    problem: ProblemArgs,
    /// A direction, or two of them: the number of an eigenvector that `eigen` found in this run, "gradient", "random"
    /// (filter by filter of the network's norms), or a file of parameters, which is at 1. Eigenvectors and the gradient have
    /// norm 1.
    #[arg(long, value_name = "N|gradient|random|FILE", num_args = 1..=2, required = true)]
    along: Vec<Direction>,
    /// From minus so many times the direction to so many times.
    #[arg(long, value_name = "T", default_value_t = 1.0, allow_negative_numbers = true)]
    range: f64,
    /// Points along each direction, an odd number [default: 51 along one, 21 along two].
    #[arg(long)]
    points: Option<usize>,
}

pub(super) fn run(args: &SurfaceArgs, interrupt: &Interrupt) -> Result<()> {
    let terminal = Terminal::new(&args.problem.talk, interrupt);
    let request = SurfaceRequest {
        to: args.problem.place::<SurfaceReport>()?,
        problem: args.problem.request(&terminal)?,
        along: args.along.clone(),
        range: args.range,
        points: args.points,
    };
    let report = surface(&request, &terminal)?;
    show(&report, request.to.as_deref(), &terminal, || tables::print_surface(&report))
}
