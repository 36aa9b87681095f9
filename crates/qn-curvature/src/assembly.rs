//! The whole matrix, entry by entry.
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

use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, MatRef, Par};

use crate::curvature::MAX_BLOCK;
use crate::tail::{LayerAt, TailLayer};
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

impl<T: Real> Curvature<T> {
    /// What [`Self::assemble`] will do.
    pub fn assembly_plan(&self, operator: Operator) -> AssemblyPlan {
        let (p, layers) = (self.dim(), self.tail(operator));
        let samples = CHUNK.min(self.samples());
        let (mut products, mut block_products, mut scratch) = (p, 0.0, 0);
        for (m, second) in layers.iter().enumerate() {
            products -= second.out * second.inputs();
            scratch += samples * (3 * second.inputs() + 2 * (self.network().classes + 2) * second.out);
            for first in &layers[..=m] {
                let pairs = columns_of(first.out, second.out, std::ptr::eq(first, second)).len();
                let inputs = columns_of(first.inputs(), second.inputs(), std::ptr::eq(first, second)).len();
                block_products += pairs as f64 * inputs as f64 * self.samples() as f64;
                scratch = scratch.max(pairs * samples + self.threads() * COLUMNS * (pairs + samples));
            }
        }
        let bytes = 4 * p * MAX_BLOCK * size_of::<f64>() + scratch * size_of::<T>();
        AssemblyPlan { products, block_products, bytes }
    }

    /// Calls `add(i, j, x)` with contributions to the entries of the lower triangle, i ≥ j, which start at
    /// zero. `observe` hears the shares of the products and of the blocks that are done, and may stop it.
    ///
    /// # Errors
    /// A product is not finite, or `observe` says so.
    pub fn assemble<E: From<CurvatureError>>(
        &self,
        operator: Operator,
        mut add: impl FnMut(usize, usize, f64),
        mut observe: impl FnMut(f64, f64) -> Result<(), E>,
    ) -> Result<(), E> {
        let (p, layers) = (self.dim(), self.tail(operator));
        let mut in_block = vec![false; p];
        layers.iter().flat_map(TailLayer::params).for_each(|r| in_block[r].fill(true));
        let others: Vec<usize> = (0..p).filter(|&i| !in_block[i]).collect();
        let mut done = 0;
        for columns in others.chunks(MAX_BLOCK) {
            let units = Mat::from_fn(p, columns.len(), |i, j| f64::from(u8::from(i == columns[j])));
            let mut products = Mat::zeros(p, columns.len());
            // By symmetry only the rows from the first column on are wanted, and no earlier layer is gone through.
            self.product_from(operator, self.start_at(columns[0]), units.as_ref(), products.as_mut())?;
            for (j, &column) in columns.iter().enumerate() {
                for (i, &x) in products.col_as_slice(j).iter().enumerate() {
                    if i >= column {
                        add(i, column, x);
                    } else if in_block[i] {
                        add(column, i, x);
                    }
                }
            }
            done += columns.len();
            observe(done as f64 / others.len() as f64, 0.0)?;
        }
        let chunks = if layers.is_empty() { 0 } else { self.samples().div_ceil(CHUNK) };
        for chunk in 0..chunks {
            let samples = chunk * CHUNK..self.samples().min((chunk + 1) * CHUNK);
            let at = self.tail_at(&layers, samples);
            let share =
                |layers_done| (chunk as f64 + layers_done as f64 / layers.len() as f64) / chunks as f64;
            for m in 0..layers.len() {
                for l in 0..=m {
                    let pair = Pair { layers: [&layers[l], &layers[m]], at: [&at[l], &at[m]], same: l == m };
                    if operator != Operator::Residual {
                        pair.gauss_newton(self.network().classes, self.threads(), &mut add, || {
                            observe(1.0, share(m))
                        })?;
                    }
                    if operator != Operator::Ggn && l < m {
                        let path = self.path(&layers[l..=m], &at[l..=m]);
                        pair.residual(&path, &mut add);
                    }
                }
                observe(1.0, share(m + 1))?;
            }
        }
        Ok(())
    }

    /// Φ = d a_m / d s_l from the first of the layers to the last: a column for each (q, j), of those that are
    /// not zero everywhere.
    fn path(&self, layers: &[TailLayer], at: &[LayerAt<T>]) -> Vec<((usize, usize), Vec<T>)> {
        let gate = |layer: usize, q: usize| at[layer].gate.col_as_slice(q);
        let mut path: Vec<((usize, usize), Vec<T>)> =
            (0..layers[1].inner).map(|j| ((j, j), gate(1, j).to_vec())).collect();
        for next in 2..layers.len() {
            let weight = &self.network().theta[layers[next - 1].weight.clone()];
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
    layers: [&'a TailLayer; 2],
    at: [&'a LayerAt<T>; 2],
    same: bool,
}

impl<T: Real> Pair<'_, T> {
    fn gauss_newton<E>(
        &self,
        classes: usize,
        threads: usize,
        add: &mut impl FnMut(usize, usize, f64),
        mut check: impl FnMut() -> Result<(), E>,
    ) -> Result<(), E> {
        let ([first, second], [at_first, at_second]) = (self.layers, self.at);
        let outputs = columns_of(first.out, second.out, self.same);
        let n = at_first.a.nrows();
        let mut s = Mat::<T>::zeros(n, outputs.len());
        for (column, &(j, k)) in outputs.iter().enumerate() {
            let sum = s.col_as_slice_mut(column);
            for class in 0..=classes {
                let left = at_first.weighted.col_as_slice(class * first.out + j);
                let right = at_second.b.col_as_slice(class * second.out + k);
                for ((sum, &l), &r) in sum.iter_mut().zip(left).zip(right) {
                    *sum += l * r;
                }
            }
        }
        let inputs = columns_of(first.inputs(), second.inputs(), self.same);
        for columns in inputs.chunks(COLUMNS * threads) {
            let found = multiply(s.as_ref(), [at_first.a.as_ref(), at_second.a.as_ref()], columns);
            for (column, &(p, q)) in columns.iter().enumerate() {
                for (&(j, k), x) in outputs.iter().zip(found.col_as_slice(column)) {
                    let x = x.f64();
                    add_ordered(add, second.row(k, q), first.row(j, p), x);
                    if self.same && j != k && p != q {
                        add_ordered(add, second.row(k, p), first.row(j, q), x);
                    }
                }
            }
            check()?;
        }
        Ok(())
    }

    fn residual(&self, path: &[((usize, usize), Vec<T>)], add: &mut impl FnMut(usize, usize, f64)) {
        let ([first, second], [at_first, at_second]) = (self.layers, self.at);
        let delta = &at_second.delta;
        for ((q, j), phi) in path {
            let scaled = Mat::from_fn(delta.nrows(), delta.ncols(), |i, k| delta[(i, k)] * phi[i]);
            let found = scaled.transpose() * &at_first.a;
            for p in 0..first.inputs() {
                for (k, x) in found.col_as_slice(p).iter().enumerate() {
                    add_ordered(add, second.row(k, *q), first.row(*j, p), x.f64());
                }
            }
        }
    }
}

/// Pairs of indices below `first` and `second`; order aside where the two layers are the same.
fn columns_of(first: usize, second: usize, same: bool) -> Vec<(usize, usize)> {
    (0..first).flat_map(|i| (0..if same { i + 1 } else { second }).map(move |j| (i, j))).collect()
}

/// Σ over samples of S ã_l[p] ã_m[q], a row for each column of S and a column for each (p, q); a thread for
/// every [`COLUMNS`] of them.
fn multiply<T: Real>(s: MatRef<'_, T>, [a, b]: [MatRef<'_, T>; 2], columns: &[(usize, usize)]) -> Mat<T> {
    let mut found = Mat::zeros(s.ncols(), columns.len());
    let mut parts = Vec::new();
    let mut rest = found.as_mut();
    for columns in columns.chunks(COLUMNS) {
        let (part, after) = rest.split_at_col_mut(columns.len());
        rest = after;
        parts.push((part, columns));
    }
    std::thread::scope(|scope| {
        for (part, columns) in parts {
            scope.spawn(move || {
                let products = Mat::from_fn(s.nrows(), columns.len(), |sample, c| {
                    let (p, q) = columns[c];
                    a[(sample, p)] * b[(sample, q)]
                });
                matmul(part, Accum::Replace, s.transpose(), products.as_ref(), T::of(1.0), Par::Seq);
            });
        }
    });
    found
}

fn add_ordered(add: &mut impl FnMut(usize, usize, f64), i: usize, j: usize, x: f64) {
    add(i.max(j), i.min(j), x);
}
