//! The whole matrix, in runs of entries.
//!
//! Column by column it takes P products. Between two of the linear layers at a network's end, l before m, there
//! is a shorter way. With B_l = dz/ds_l and the samples' S = B_lᵀ (diag p − p pᵀ) B_m,
//!
//! ```text
//! G[(j, p), (k, q)] = (1/N) Σ_μ S_μ[j, k] ã_l[p] ã_m[q],
//! F[(j, p), (k, q)] = Σ_μ δ_m[k] Φ_μ[q, j] ã_l[p],   Φ = d a_m / d s_l,   zero where l = m:
//! ```
//!
//! matrix products over the samples, the class sum being done on the small factor. What is left are the products
//! with the other parameters' unit vectors: of LeNet's 62,006 those of its 2,872 convolution weights.

use std::ops::Range;

use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, MatRef, Par};

use crate::head::{HeadLayer, LayerAt};
use crate::product::MAX_BLOCK;
use crate::tangent::Operator;
use crate::{Curvature, CurvatureError, Real};

/// Samples whose S is held at a time: a third of a GiB for LeNet in f32.
const CHUNK: usize = 8192;
/// Columns of a matrix product; more do not make it faster.
const COLUMNS: usize = 512;

/// How the matrix will be made, in units of cost that do not depend on the machine.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AssemblyPlan {
    /// Products with single vectors.
    pub products: usize,
    /// Multiply-adds of the linear layers' blocks of G.
    pub block_products: f64,
    /// Bytes needed besides the matrix.
    pub bytes: usize,
}

/// Who receives a matrix's entries as they are found.
pub trait Entries<E> {
    /// Adds numbers to the entries in those rows of column j of the symmetric matrix, where a row above the diagonal
    /// means its mirror image below. Off the diagonal an entry is added once, not with its mirror image.
    fn add(&mut self, rows: Range<usize>, j: usize, x: impl Iterator<Item = f64>);

    /// So many parts of the assembly are done now, which are about that share of it. May stop it.
    ///
    /// # Errors
    /// Whatever is to stop it.
    fn reached(&mut self, parts: usize, share: f64) -> Result<(), E>;
}

/// How far an assembly is.
struct Parts {
    /// Parts that an earlier one has done.
    skip: usize,
    /// Parts done, those of the earlier one included.
    done: usize,
    share: f64,
}

impl Parts {
    /// How many of the next `count` parts are done already.
    fn skip(&mut self, count: usize) -> usize {
        let skipped = count.min(self.skip.saturating_sub(self.done));
        self.done += skipped;
        skipped
    }

    fn reached<E>(&mut self, more: usize, into: &mut impl Entries<E>) -> Result<(), E> {
        self.done += more;
        into.reached(self.done, self.share)
    }
}

impl<T: Real> Curvature<T> {
    /// What [`Self::assemble`] will do.
    pub fn assembly_plan(&self, operator: Operator) -> AssemblyPlan {
        let (p, layers) = (self.dim(), self.head(operator));
        let samples = CHUNK.min(self.samples());
        let (mut products, mut block_products, mut scratch) = (p, 0.0, 0);
        for (m, second) in layers.iter().enumerate().filter(|(_, layer)| layer.taken) {
            products -= second.out * second.inputs();
            scratch += samples * (3 * second.inputs() + 2 * (self.rank() + 1) * second.out);
            for first in layers[..=m].iter().filter(|layer| layer.taken) {
                let pairs = columns_of(first.out, second.out, std::ptr::eq(first, second)).len();
                let inputs = columns_of(first.inputs(), second.inputs(), std::ptr::eq(first, second)).len();
                block_products += pairs as f64 * inputs as f64 * self.samples() as f64;
                scratch = scratch.max(pairs * samples + self.threads() * COLUMNS * (pairs + samples));
            }
        }
        let bytes = 4 * p * MAX_BLOCK * size_of::<f64>() + scratch * size_of::<T>();
        AssemblyPlan { products, block_products, bytes }
    }

    /// Gives `into` contributions to the entries of the lower triangle, which start at zero. The work is divided into
    /// parts that do not depend on the number of threads; of an assembly that was broken off after so many
    /// `done` parts only the others are done.
    ///
    /// # Errors
    /// A product is not finite, or `into` says so.
    pub fn assemble<E: From<CurvatureError>>(
        &self,
        operator: Operator,
        done: usize,
        into: &mut impl Entries<E>,
    ) -> Result<(), E> {
        let (p, layers) = (self.dim(), self.head(operator));
        let mut parts = Parts { skip: done, done: 0, share: 0.0 };
        let mut in_block = vec![false; p];
        let taken: Vec<usize> = (0..layers.len()).filter(|&i| layers[i].taken).collect();
        taken.iter().flat_map(|&i| layers[i].params()).for_each(|r| in_block[r].fill(true));
        let others: Vec<usize> = (0..p).filter(|&i| !in_block[i]).collect();
        if self.decay(operator) != 0.0 && parts.skip(1) == 0 {
            (0..p).for_each(|i| into.add(i..i + 1, i, std::iter::once(self.decay(operator))));
            parts.reached(1, into)?;
        }
        let blocks = others.chunks(MAX_BLOCK);
        let count = blocks.len();
        for (block, columns) in blocks.enumerate().skip(parts.skip(count)) {
            let units = Mat::from_fn(p, columns.len(), |i, j| f64::from(u8::from(i == columns[j])));
            let mut products = Mat::zeros(p, columns.len());
            // By symmetry only the rows from the first column on are wanted, and no earlier layer is gone through.
            self.product_of(operator, &self.tensors_from(columns[0]), units.as_ref(), products.as_mut())?;
            for (j, &column) in columns.iter().enumerate() {
                products[(column, j)] -= self.decay(operator);
                let product = products.col_as_slice(j);
                let before = taken.iter().flat_map(|&i| layers[i].params()).filter(|rows| rows.end <= column);
                for rows in before.chain(std::iter::once(column..p)) {
                    into.add(rows.clone(), column, product[rows].iter().copied());
                }
            }
            parts.share = 0.5 * (block + 1) as f64 / count as f64;
            parts.reached(1, into)?;
        }
        let chunks = if taken.is_empty() { 0 } else { self.samples().div_ceil(CHUNK) };
        for chunk in 0..chunks {
            let samples = chunk * CHUNK..self.samples().min((chunk + 1) * CHUNK);
            let at = self.head_at(&layers, samples);
            for (before, &m) in taken.iter().enumerate() {
                for &l in &taken[..=before] {
                    let scale = self.scale();
                    let pair =
                        Pair { layers: [&layers[l], &layers[m]], at: [&at[l], &at[m]], same: l == m, scale };
                    if operator.has_output_term() {
                        pair.gauss_newton(self.rank(), self.threads(), &mut parts, into)?;
                    }
                    if operator.is_second_order() && l < m && parts.skip(1) == 0 {
                        pair.residual(&self.path(&layers[l..=m], &at[l..=m]), into);
                        parts.reached(1, into)?;
                    }
                }
                let layers_done = chunk as f64 + (before + 1) as f64 / taken.len() as f64;
                parts.share = 0.5 + 0.5 * layers_done / chunks as f64;
            }
        }
        Ok(())
    }

    /// Φ = d a_m / d s_l from the first of the layers to the last: a column for each (q, j), of those that are
    /// not zero everywhere.
    fn path(&self, layers: &[HeadLayer], at: &[LayerAt<T>]) -> Vec<((usize, usize), Vec<T>)> {
        let gate = |layer: usize, q: usize| at[layer].gate.col_as_slice(q);
        let mut path: Vec<((usize, usize), Vec<T>)> =
            (0..layers[1].inner).map(|j| ((j, j), gate(1, j).to_vec())).collect();
        for next in 2..layers.len() {
            let weight = &self.network().theta[layers[next - 1].theta.clone()];
            let mut columns = Vec::new();
            for q in 0..layers[next].inner {
                for j in 0..layers[0].out {
                    let mut column = vec![T::of(0.0); at[0].a.nrows()];
                    for ((r, _), before) in path.iter().filter(|((_, i), _)| *i == j) {
                        let w = weight[q * layers[next - 1].inner + r];
                        for ((x, &y), &g) in column.iter_mut().zip(before).zip(gate(next, q)) {
                            *x += w * y * g;
                        }
                    }
                    columns.push(((q, j), column));
                }
            }
            path = columns;
        }
        path
    }
}

/// Two linear layers, the first not behind the second, at some samples.
struct Pair<'a, T> {
    layers: [&'a HeadLayer; 2],
    at: [&'a LayerAt<T>; 2],
    same: bool,
    /// By which what is found is too large; see [`Curvature::scale`].
    scale: f64,
}

impl<T: Real> Pair<'_, T> {
    fn gauss_newton<E>(
        &self,
        rank: usize,
        threads: usize,
        parts: &mut Parts,
        into: &mut impl Entries<E>,
    ) -> Result<(), E> {
        let ([first, second], [at_first, at_second]) = (self.layers, self.at);
        let inputs = columns_of(first.inputs(), second.inputs(), self.same);
        let count = inputs.len().div_ceil(COLUMNS);
        let done = parts.skip(count);
        if done == count {
            return Ok(());
        }
        let outputs = columns_of(first.out, second.out, self.same);
        let n = at_first.a.nrows();
        let mut s = Mat::<T>::zeros(n, outputs.len());
        for (column, &(j, k)) in outputs.iter().enumerate() {
            let sum = s.col_as_slice_mut(column);
            for r in 0..rank {
                let left = at_first.weighted.col_as_slice(r * first.out + j);
                let right = at_second.b.col_as_slice(r * second.out + k);
                for ((sum, &l), &r) in sum.iter_mut().zip(left).zip(right) {
                    *sum += l * r;
                }
            }
        }
        for pairs in inputs[done * COLUMNS..].chunks(COLUMNS * threads) {
            let found = multiply(s.as_ref(), [at_first.a.as_ref(), at_second.a.as_ref()], pairs);
            for (&(j, k), found) in outputs.iter().zip(found.col_iter()) {
                let mut found = found.iter().map(|x| x.f64() / self.scale);
                for run in pairs.chunk_by(|a, b| a.0 == b.0) {
                    let (p, inputs) = (run[0].0, run[0].1..run[0].1 + run.len());
                    let x: Vec<f64> = found.by_ref().take(run.len()).collect();
                    second.add(into, (k, inputs.clone()), first.row(j, p), &x);
                    if self.same && j != k {
                        // The pair (p, p) has been added.
                        let others = inputs.start..inputs.end.min(p);
                        first.add(into, (j, others), second.row(k, p), &x);
                    }
                }
            }
            parts.reached(pairs.len().div_ceil(COLUMNS), into)?;
        }
        Ok(())
    }

    fn residual<E>(&self, path: &[((usize, usize), Vec<T>)], into: &mut impl Entries<E>) {
        let ([first, second], [at_first, at_second]) = (self.layers, self.at);
        let delta = &at_second.delta;
        for ((q, j), phi) in path {
            let scaled = Mat::from_fn(delta.nrows(), delta.ncols(), |i, k| delta[(i, k)] * phi[i]);
            let found = scaled.transpose() * &at_first.a;
            for p in 0..first.inputs() {
                for (k, x) in found.col_as_slice(p).iter().enumerate() {
                    let row = second.row(k, *q);
                    into.add(row..row + 1, first.row(*j, p), std::iter::once(x.f64() / self.scale));
                }
            }
        }
    }
}

impl HeadLayer {
    /// Adds numbers to column `column`, in the rows of the parameters by which these inputs go into output i.
    fn add<E>(
        &self,
        into: &mut impl Entries<E>,
        (i, inputs): (usize, Range<usize>),
        column: usize,
        x: &[f64],
    ) {
        let weights = inputs.start..inputs.end.min(self.inner);
        let first = self.row(i, weights.start);
        into.add(first..first + weights.len(), column, x.iter().copied());
        for (input, &x) in inputs.zip(x).skip(weights.len()) {
            let bias = self.row(i, input);
            into.add(bias..bias + 1, column, std::iter::once(x));
        }
    }
}

/// Pairs of indices below `first` and `second`; order aside where the two layers are the same.
fn columns_of(first: usize, second: usize, same: bool) -> Vec<(usize, usize)> {
    (0..first).flat_map(|i| (0..if same { i + 1 } else { second }).map(move |j| (i, j))).collect()
}

/// Σ over samples of ã_l[p] ã_m[q] S, a row for each (p, q) and a column for each column of S; a thread for every
/// [`COLUMNS`] of the rows.
fn multiply<T: Real>(s: MatRef<'_, T>, [a, b]: [MatRef<'_, T>; 2], pairs: &[(usize, usize)]) -> Mat<T> {
    let mut found = Mat::zeros(pairs.len(), s.ncols());
    let mut parts = Vec::new();
    let mut rest = found.as_mut();
    for pairs in pairs.chunks(COLUMNS) {
        let (part, after) = rest.split_at_row_mut(pairs.len());
        rest = after;
        parts.push((part, pairs));
    }
    std::thread::scope(|scope| {
        for (part, pairs) in parts {
            scope.spawn(move || {
                let products = Mat::from_fn(s.nrows(), pairs.len(), |sample, c| {
                    let (p, q) = pairs[c];
                    a[(sample, p)] * b[(sample, q)]
                });
                matmul(part, Accum::Replace, products.transpose(), s, T::of(1.0), Par::Seq);
            });
        }
    });
    found
}
