//! One merge of the divide and conquer: a tridiagonal matrix's eigensystem from those of its halves.
//!
//! With U = diag(U₁, U₂) the matrix is U (D + ρ z zᵀ) Uᵀ. Columns of U of which z holds nothing, and all but one of any
//! that belong to nearly equal entries of D, are eigenvectors already (deflation: Dongarra & Sorensen, 1987). The
//! others are U S with the eigenvectors S of D + ρ z zᵀ, which are written down by blocks of columns when they are
//! needed, from the zeros of the secular equation.

use std::ops::Range;

use faer::linalg::matmul::matmul;
use faer::prelude::ReborrowMut as _;
use faer::{Accum, Mat, MatMut, MatRef, Par};
use rayon::prelude::*;

use crate::Scalar;
use crate::secular::{Root, Secular};
use crate::update::ROWS;

/// first ← c · first + s · second, second ← c · second − s · first.
#[derive(Clone, Copy, Debug)]
struct Rotation {
    first: usize,
    second: usize,
    c: f64,
    s: f64,
}

/// An entry of D with its entry of z and the column of U that it belongs to.
#[derive(Clone, Copy, Debug)]
struct Entry {
    d: f64,
    z: f64,
    column: usize,
}

/// Where an eigenvector of the whole comes from.
#[derive(Clone, Copy, Debug)]
enum Source {
    /// Zero j of the secular equation.
    Root(usize),
    /// A column of U that takes part only by rotations, given by its row of S.
    Row(usize),
    /// A column of U₁ or of U₂, by its place there.
    Column(usize),
}

/// Entries of D + ρ z zᵀ after deflation.
struct Deflated {
    kept: Vec<Entry>,
    gone: Vec<Entry>,
    rotations: Vec<Rotation>,
}

/// What is needed for any of the eigenvectors, of order n beside the halves.
pub(crate) struct Merge {
    n1: usize,
    /// How many of the first columns of each half take part.
    active: [usize; 2],
    poles: Vec<f64>,
    z: Vec<f64>,
    roots: Vec<Root>,
    /// 1 / |column of S|.
    scales: Vec<f64>,
    /// The row of S that belongs to each pole.
    rows: Vec<usize>,
    /// Of rows of S.
    rotations: Vec<Rotation>,
    /// All eigenvalues, ascending.
    outputs: Vec<(f64, Source)>,
}

impl Merge {
    /// From the vectors of both halves, whose columns are rotated and put in order here, their values, ascending in each
    /// half, and what the halves are coupled by.
    pub(crate) fn new<T: Scalar>(
        [mut first, mut second]: [MatMut<'_, T>; 2],
        values: &[f64],
        coupling: f64,
    ) -> Self {
        let (n1, n) = (first.nrows(), values.len());
        let (rho, half) = (2.0 * coupling.abs(), 0.5f64.sqrt());
        let z = |i: usize| match i < n1 {
            true => half * first[(n1 - 1, i)].f64(),
            false => (half * second[(0, i - n1)].f64()).copysign(second[(0, i - n1)].f64() * coupling),
        };
        let entries: Vec<Entry> = (0..n).map(|i| Entry { d: values[i], z: z(i), column: i }).collect();
        let largest = entries.iter().fold(0.0f64, |a, e| a.max(e.d.abs()).max(e.z.abs()));
        let tolerance = 4.0 * T::EPS * largest;
        // Within each half first, so that columns of both are mixed as seldom as can be.
        let (of_first, of_second) = entries.split_at(n1);
        let halves = [of_first, of_second].map(|half| deflate(half, rho, tolerance));
        let mut mixed: Vec<Entry> = halves.iter().flat_map(|half| half.kept.iter().copied()).collect();
        mixed.sort_by(|a, b| a.d.total_cmp(&b.d));
        // From here on columns are those of U with the active ones in front, and rows of S.
        let active = [halves[0].kept.len(), halves[1].kept.len()];
        let mut outputs = Vec::with_capacity(n);
        for (half, (u, start)) in halves.iter().zip([(first.rb_mut(), 0), (second.rb_mut(), n1)]) {
            let order: Vec<usize> = half.kept.iter().chain(&half.gone).map(|e| e.column - start).collect();
            rotate_and_order(u, &half.rotations, start, &order);
            let place = half.kept.len();
            outputs
                .extend(half.gone.iter().enumerate().map(|(i, e)| (e.d, Source::Column(start + place + i))));
        }
        let mut row_of = vec![0; n];
        for (row, entry) in halves.iter().flat_map(|half| &half.kept).enumerate() {
            row_of[entry.column] = row;
        }
        mixed.iter_mut().for_each(|entry| entry.column = row_of[entry.column]);
        let Deflated { kept, gone, rotations } = deflate(&mixed, rho, tolerance);
        outputs.extend(gone.iter().map(|e| (e.d, Source::Row(e.column))));
        let mut merge = Self {
            n1,
            active,
            poles: kept.iter().map(|e| e.d).collect(),
            z: kept.iter().map(|e| e.z).collect(),
            rows: kept.iter().map(|e| e.column).collect(),
            roots: Vec::new(),
            scales: Vec::new(),
            rotations,
            outputs,
        };
        merge.solve(rho);
        merge
    }

    fn solve(&mut self, rho: f64) {
        let k = self.poles.len();
        if k > 0 {
            let secular = Secular { poles: &self.poles, z: &self.z, rho };
            self.roots = secular.roots();
            self.z = secular.exact_z(&self.roots);
        }
        let scale = |j: usize| {
            let column = self.column(j, 1.0);
            1.0 / pulp::Arch::new().dispatch(|| sum_of_squares(&column)).sqrt()
        };
        self.scales = (0..k).into_par_iter().map(scale).collect();
        let value = |root: &Root| self.poles[root.pole] + root.offset;
        self.outputs.extend(self.roots.iter().enumerate().map(|(j, root)| (value(root), Source::Root(j))));
        self.outputs.sort_by(|a, b| a.0.total_cmp(&b.0));
    }

    /// Eigenvalues, ascending.
    pub(crate) fn values(&self) -> impl Iterator<Item = f64> + '_ {
        self.outputs.iter().map(|output| output.0)
    }

    /// Column j of S, in the order of the poles, times a factor.
    fn column(&self, j: usize, factor: f64) -> Vec<f64> {
        let Root { pole, offset } = self.roots[j];
        let (base, mut column) = (self.poles[pole], self.z.clone());
        pulp::Arch::new().dispatch(|| {
            for (x, d) in column.iter_mut().zip(&self.poles) {
                *x = factor * *x / ((d - base) - offset);
            }
        });
        column
    }

    /// The part of S that eigenvectors in a range need: rows of the active columns of U₁, then of U₂, and a column for each
    /// eigenvector that is not one of U's columns.
    pub(crate) fn block<T: Scalar>(&self, range: Range<usize>) -> Mat<T> {
        let wanted: Vec<Source> = self.outputs[range]
            .iter()
            .map(|output| output.1)
            .filter(|source| !matches!(source, Source::Column(_)))
            .collect();
        let mut block = Mat::zeros(self.active[0] + self.active[1], wanted.len());
        for (j, source) in wanted.into_iter().enumerate() {
            let column = block.col_as_slice_mut(j);
            match source {
                Source::Root(root) => {
                    for (x, &row) in self.column(root, self.scales[root]).into_iter().zip(&self.rows) {
                        column[row] = T::of(x);
                    }
                }
                Source::Row(row) => column[row] = T::of(1.0),
                Source::Column(_) => unreachable!("filtered out"),
            }
            for &Rotation { first, second, c, s } in self.rotations.iter().rev() {
                let (x, y) = (column[first].f64(), column[second].f64());
                column[first] = T::of(c * x - s * y);
                column[second] = T::of(s * x + c * y);
            }
        }
        block
    }

    /// Eigenvectors in a range, from their [`Self::block`]: some of their rows in the first half and some in the second, from
    /// these rows of U₁ and U₂.
    pub(crate) fn multiply<T: Scalar>(
        &self,
        range: Range<usize>,
        block: &Mat<T>,
        halves: [MatRef<'_, T>; 2],
        into: [MatMut<'_, T>; 2],
    ) {
        let (above, below) = block.as_ref().split_at_row(self.active[0]);
        let columns = [0..self.n1, self.n1..self.outputs.len()];
        for (half, (mut to, s)) in into.into_iter().zip([above, below]).enumerate() {
            let u = halves[half].subcols(0, self.active[half]);
            if block.ncols() == range.len() {
                matmul(to, Accum::Replace, u, s, T::of(1.0), Par::Seq);
                continue;
            }
            let mut products = Mat::zeros(to.nrows(), block.ncols());
            matmul(products.as_mut(), Accum::Replace, u, s, T::of(1.0), Par::Seq);
            let mut next = 0;
            for (j, (_, source)) in self.outputs[range.clone()].iter().enumerate() {
                match source {
                    Source::Column(c) if columns[half].contains(c) => {
                        to.rb_mut().col_mut(j).copy_from(halves[half].col(c - columns[half].start));
                    }
                    Source::Column(_) => to.rb_mut().col_mut(j).fill(T::of(0.0)),
                    _ => {
                        to.rb_mut().col_mut(j).copy_from(products.col(next));
                        next += 1;
                    }
                }
            }
        }
    }
}

#[inline(always)]
fn sum_of_squares(x: &[f64]) -> f64 {
    let (chunks, rest) = x.as_chunks::<8>();
    let mut sums = [0.0; 8];
    for chunk in chunks {
        sums.iter_mut().zip(chunk).for_each(|(sum, x)| *sum += x * x);
    }
    sums.iter().sum::<f64>() + rest.iter().map(|x| x * x).sum::<f64>()
}

/// Takes entries out, which come with ascending d: those with a negligible z, and one of two neighbours that become
/// negligible by a rotation which hardly changes D (LAPACK's dlaed2).
fn deflate(entries: &[Entry], rho: f64, tolerance: f64) -> Deflated {
    let mut found = Deflated { kept: Vec::new(), gone: Vec::new(), rotations: Vec::new() };
    let mut last: Option<Entry> = None;
    for &entry in entries {
        let mut entry = entry;
        if rho * entry.z.abs() <= tolerance {
            found.gone.push(entry);
            continue;
        }
        if let Some(mut before) = last.take() {
            let length = before.z.hypot(entry.z);
            let (c, s) = (entry.z / length, -before.z / length);
            if ((entry.d - before.d) * c * s).abs() <= tolerance {
                let (low, high) = (before.d, entry.d);
                before.d = low * (c * c) + high * (s * s);
                entry.d = (low * (s * s) + high * (c * c)).clamp(low, high);
                entry.z = length;
                found.rotations.push(Rotation { first: before.column, second: entry.column, c, s });
                found.gone.push(before);
            } else {
                found.kept.push(before);
            }
        }
        last = Some(entry);
    }
    found.kept.extend(last);
    found
}

/// Rotates columns, whose numbers begin with `start`, and puts column `order[i]` in place i.
fn rotate_and_order<T: Scalar>(u: MatMut<'_, T>, rotations: &[Rotation], start: usize, order: &[usize]) {
    let cycles = cycles(order);
    u.par_row_chunks_mut(ROWS).for_each(|mut u| {
        for rotation in rotations {
            let (c, s) = (T::of(rotation.c), T::of(rotation.s));
            let (first, second) = u.rb_mut().two_cols_mut(rotation.first - start, rotation.second - start);
            if let (Some(first), Some(second)) = (first.try_as_col_major_mut(), second.try_as_col_major_mut())
            {
                for (x, y) in first.as_slice_mut().iter_mut().zip(second.as_slice_mut()) {
                    (*x, *y) = (c * *x + s * *y, c * *y - s * *x);
                }
            }
        }
        for cycle in &cycles {
            for pair in cycle.windows(2) {
                let (to, from) = u.rb_mut().two_cols_mut(pair[0], pair[1]);
                faer::zip!(to, from).for_each(|faer::unzip!(to, from)| std::mem::swap(to, from));
            }
        }
    });
}

/// The cycles of a permutation: place c₀ gets what is in place c₁, c₁ what is in c₂, and the last what was in c₀.
fn cycles(order: &[usize]) -> Vec<Vec<usize>> {
    let mut seen = vec![false; order.len()];
    let mut cycles = Vec::new();
    for start in 0..order.len() {
        let (mut cycle, mut at) = (Vec::new(), start);
        while !seen[at] {
            seen[at] = true;
            cycle.push(at);
            at = order[at];
        }
        if cycle.len() > 1 {
            cycles.push(cycle);
        }
    }
    cycles
}
