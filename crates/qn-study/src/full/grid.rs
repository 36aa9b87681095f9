//! All eigenvalues of a matrix that several processes hold together, by a solver of that world.

use std::ops::Range;

use anyhow::{Result, anyhow};
use faer::{Mat, MatMut, MatRef};
use qn_curvature::{Entries, Processes};
use qn_run::{Observer, Stage as Progress, StopOnly, bytes};
use qn_spectrum::{Eigenpairs, OperatorError, SymmetricOperator, Which, verified};

use super::assembling::disagreement;
use super::state::Assembled;
use super::{Clock, Full};
use crate::StudyError;
use crate::block_cyclic::{BlockCyclic, DenseSolver};
use crate::operator::{CurvatureOperator, Watched, explain};
use crate::report::{FullSpectrumReport, StageSeconds};
use crate::storage::Stored;

/// One process's part of a matrix.
struct Part<'a> {
    layout: BlockCyclic,
    entries: Vec<f64>,
    processes: &'a dyn Processes,
    observer: &'a dyn Observer,
}

/// Gives all processes the sum of their numbers, added in their order.
fn sum_over(processes: &dyn Processes, x: &mut [f64]) {
    if processes.rank() > 0 {
        processes.send(0, x);
    } else {
        let mut other = vec![0.0; x.len()];
        for rank in 1..processes.size() {
            processes.receive(rank, &mut other);
            x.iter_mut().zip(&other).for_each(|(sum, x)| *sum += x);
        }
    }
    processes.broadcast(x);
}

impl Part<'_> {
    /// Entries of the part, with the row and column of each.
    fn entries(&self) -> impl Iterator<Item = (usize, usize, f64)> {
        let rows: Vec<usize> = self.layout.own(0).collect();
        let columns = self.entries.chunks_exact(self.layout.len[0].max(1)).zip(self.layout.own(1));
        columns.flat_map(move |(column, j)| {
            rows.iter().zip(column).map(|(&i, &x)| (i, j, x)).collect::<Vec<_>>()
        })
    }

    fn add_at(&mut self, i: usize, j: usize, x: f64) {
        if let (Some(row), Some(column)) = (self.layout.place(0, i), self.layout.place(1, j)) {
            self.entries[column * self.layout.len[0] + row] += x;
        }
    }
}

impl Entries<anyhow::Error> for Part<'_> {
    fn add(&mut self, rows: Range<usize>, j: usize, x: impl Iterator<Item = f64>) {
        for (i, x) in rows.zip(x) {
            self.add_at(i, j, x);
            if i != j {
                self.add_at(j, i, x);
            }
        }
    }

    fn reached(&mut self, _: usize, share: f64) -> Result<()> {
        self.observer.progress("assembly", (1000.0 * share) as u64, 1000);
        if self.observer.should_stop() { Err(StudyError::Stopped.into()) } else { Ok(()) }
    }
}

impl SymmetricOperator for Part<'_> {
    fn dim(&self) -> usize {
        self.layout.n
    }

    fn apply(&self, x: MatRef<'_, f64>, mut y: MatMut<'_, f64>) -> Result<(), OperatorError> {
        let (n, b) = (x.nrows(), x.ncols());
        let mut products = vec![0.0; n * b];
        for (i, j, a) in self.entries() {
            (0..b).for_each(|t| products[t * n + i] += a * x[(j, t)]);
        }
        sum_over(self.processes, &mut products);
        y.copy_from(MatRef::from_column_major_slice(&products, n, b));
        Ok(())
    }
}

impl<T: Stored> Full<'_, T> {
    /// All eigenvalues by another solver, each process assembling and holding its part of the matrix. Nothing is kept on the
    /// way.
    pub(super) fn on_grid(&self, solver: &dyn DenseSolver) -> Result<(Eigenpairs, FullSpectrumReport)> {
        let (args, p, processes) = (self.args, self.curvature.dim(), self.problem.processes());
        let layout = BlockCyclic::new(p, processes.rank(), processes.size());
        let which = args.problem.operator.operator();
        let plan = self.curvature.assembly_plan(which);
        self.note(format_args!(
            "assembling {p} x {p} on a grid of {} x {} processes, {} for each",
            layout.grid[0],
            layout.grid[1],
            bytes((layout.len[0] * layout.len[1] * size_of::<f64>()) as u64),
        ));
        let mut clock = Clock::start();
        let mut part = Part {
            layout,
            entries: vec![0.0; layout.len[0] * layout.len[1]],
            processes,
            observer: self.observer,
        };
        self.curvature.assemble(which, 0, &mut part)?;
        let mut seconds = StageSeconds::default();
        clock.lap(&mut seconds.assembly);
        let stop = StopOnly(self.observer);
        let unseen = Progress::begin(&stop, "products", 0);
        let operator =
            Watched::new(CurvatureOperator { derivatives: &self.problem.derivatives, which }, &unseen);
        let error = disagreement(&operator, &part, args.problem.seed)?;
        self.refuse_disagreement(error)?;
        let mut norms = [0.0; 2];
        for (i, j, a) in part.entries() {
            norms[0] += if i == j { a } else { 0.0 };
            norms[1] += a * a;
        }
        sum_over(processes, &mut norms);
        clock.lap(&mut seconds.check);
        self.note(format_args!("{} finds {p} eigenvalues", solver.name()));
        let (values, vectors) = self.solve_on_grid(solver, &mut part)?;
        clock.lap(&mut seconds.eigenvalues);
        let scale = values.iter().fold(0.0f64, |a, v| a.max(v.abs()));
        let wanted = args.which.choose(&values, args.k).into_iter().map(|i| values[i]).collect();
        let mut pairs = verified(&operator, wanted, vectors, self.tol, scale).map_err(explain)?;
        clock.lap(&mut seconds.vectors);
        let (products, block_multiply_adds) = (plan.products, plan.block_products);
        let (trace, frobenius) = (norms[0], norms[1].sqrt());
        let assembled = Assembled { products, block_multiply_adds, error, trace, frobenius, seconds };
        pairs.matvecs = products + operator.products();
        Ok((pairs, self.report(solver.name(), values, assembled)))
    }

    /// All eigenvalues, ascending, and the vectors that were asked for.
    fn solve_on_grid(&self, solver: &dyn DenseSolver, part: &mut Part<'_>) -> Result<(Vec<f64>, Mat<f64>)> {
        let (k, which, layout) = (self.args.k, self.args.which, part.layout);
        // Solvers find the vectors of the smallest ones first.
        let negated = which == Which::La;
        let vectors = if matches!(which, Which::La | Which::Sa) { k } else { layout.n };
        if negated {
            part.entries.iter_mut().for_each(|x| *x = -*x);
        }
        let mut q = vec![0.0; part.entries.len()];
        let mut values = solver
            .eigen(&layout, &mut part.entries, &mut q, vectors)
            .map_err(|words| anyhow!("{}: {words}", solver.name()))?;
        if negated {
            values.iter_mut().for_each(|v| *v = -*v);
            values.reverse();
        }
        let chosen = which.choose(&values, k);
        let column = |i: usize| if negated { layout.n - 1 - i } else { i };
        let mut found = vec![0.0; layout.n * k];
        for (j, &i) in chosen.iter().enumerate() {
            let Some(at) = layout.place(1, column(i)) else { continue };
            let own = &q[at * layout.len[0]..(at + 1) * layout.len[0]];
            layout.own(0).zip(own).for_each(|(row, x)| found[j * layout.n + row] = *x);
        }
        sum_over(part.processes, &mut found);
        Ok((values, MatRef::from_column_major_slice(&found, layout.n, k).to_owned()))
    }
}
