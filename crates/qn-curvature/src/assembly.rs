//! The whole matrix, entry by entry.
//!
//! Column by column it takes P products. For the largest linear layer s = W ã, ã = (a, 1), there is a
//! shorter way: with B = dz/ds and the samples' S = Bᵀ (diag p − p pᵀ) B its own block of G is
//!
//! ```text
//! G[(i, p), (j, q)] = (1/N) Σ_μ S_μ[i, j] ã_μ[p] ã_μ[q],
//! ```
//!
//! one matrix product over the samples between all pairs (i ≥ j) and all pairs (p ≥ q); and F has no such
//! block if the network is piecewise linear. What is left are the products with the other parameters' unit
//! vectors: of LeNet's 62,006 those of 13,886.

use std::ops::Range;

use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, MatRef, Par};
use qn_model::Activation;

use crate::affine::Affine;
use crate::curvature::MAX_BLOCK;
use crate::network::{Kernel, Network, Step};
use crate::sweep::sweep;
use crate::tangent::{Operator, Sums, Workspace};
use crate::{Curvature, CurvatureError, Real};

/// Samples whose S is held at a time: 1/4 GiB for LeNet in f32.
const CHUNK: usize = 8192;
/// Columns of a matrix product; more do not make it faster.
const COLUMNS: usize = 512;

/// How the matrix will be made, in units of cost that do not depend on the machine.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AssemblyPlan {
    /// Products with single vectors.
    pub products: usize,
    /// Multiply-adds of the largest linear layer's block.
    pub block_products: f64,
    /// Bytes needed besides the matrix.
    pub bytes: usize,
}

impl<T: Real> Curvature<T> {
    /// What [`Self::assemble`] will do.
    pub fn assembly_plan(&self, operator: Operator) -> AssemblyPlan {
        let p = self.dim();
        let vectors = 4 * p * MAX_BLOCK * size_of::<f64>();
        match self.largest_linear(operator) {
            Some(layer) => {
                let inputs = layer.inner + usize::from(layer.bias.is_some());
                let (outer, inner) = (pairs(layer.out), pairs(inputs));
                let samples = CHUNK.min(self.samples());
                let scratch = outer * samples + self.threads() * COLUMNS * (outer + samples);
                AssemblyPlan {
                    products: p - layer.out * inputs,
                    block_products: outer as f64 * inner as f64 * self.samples() as f64,
                    bytes: vectors + scratch * size_of::<T>(),
                }
            }
            None => AssemblyPlan { products: p, block_products: 0.0, bytes: vectors },
        }
    }

    /// Calls `add(i, j, x)` with contributions to the entries of the lower triangle, i ≥ j, which start at
    /// zero. `observe` hears the shares of the products and of the block that are done, and may stop it.
    ///
    /// # Errors
    /// A product is not finite, or `observe` says so.
    pub fn assemble<E: From<CurvatureError>>(
        &self,
        operator: Operator,
        mut add: impl FnMut(usize, usize, f64),
        mut observe: impl FnMut(f64, f64) -> Result<(), E>,
    ) -> Result<(), E> {
        let p = self.dim();
        let layer = self.largest_linear(operator);
        let own: Vec<Range<usize>> =
            layer.iter().flat_map(|l| std::iter::once(l.weight.clone()).chain(l.bias.clone())).collect();
        let in_block = |i: usize| own.iter().any(|r| r.contains(&i));
        let others: Vec<usize> = (0..p).filter(|&i| !in_block(i)).collect();
        let mut done = 0;
        for columns in others.chunks(MAX_BLOCK) {
            let units = Mat::from_fn(p, columns.len(), |i, j| f64::from(u8::from(i == columns[j])));
            let mut products = Mat::zeros(p, columns.len());
            self.product(operator, units.as_ref(), products.as_mut())?;
            for (j, &column) in columns.iter().enumerate() {
                for (i, &x) in products.col_as_slice(j).iter().enumerate() {
                    if i >= column {
                        add(i, column, x);
                    } else if in_block(i) {
                        add(column, i, x);
                    }
                }
            }
            done += columns.len();
            observe(done as f64 / others.len() as f64, 0.0)?;
        }
        if let (Some(layer), true) = (layer, operator != Operator::Residual) {
            self.linear_block(layer, &mut add, &mut observe)?;
        }
        Ok(())
    }

    /// The linear layer with the most parameters, if its block of the operator is that of G.
    fn largest_linear(&self, operator: Operator) -> Option<&Affine> {
        let linear = |step: &&Step<T>| matches!(&step.kernel, Kernel::Affine(a) if a.patches.is_none());
        let smooth =
            |step: &Step<T>| matches!(step.kernel, Kernel::Pointwise(Activation::Tanh | Activation::Gelu));
        if operator != Operator::Ggn && self.network().steps.iter().any(smooth) {
            return None;
        }
        let layers = self.network().steps.iter().filter(linear).filter_map(|step| match &step.kernel {
            Kernel::Affine(affine) => Some(affine),
            _ => None,
        });
        layers.max_by_key(|layer| layer.weight.len())
    }

    fn linear_block<E: From<CurvatureError>>(
        &self,
        layer: &Affine,
        add: &mut impl FnMut(usize, usize, f64),
        observe: &mut impl FnMut(f64, f64) -> Result<(), E>,
    ) -> Result<(), E> {
        let inputs = layer.inner + usize::from(layer.bias.is_some());
        let row = |i: usize, p: usize| match &layer.bias {
            Some(bias) if p == layer.inner => bias.start + i,
            _ => layer.weight.start + i * layer.inner + p,
        };
        let columns: Vec<(usize, usize)> =
            (0..inputs).flat_map(|q| (q..inputs).map(move |p| (p, q))).collect();
        let chunks = self.samples().div_ceil(CHUNK);
        for chunk in 0..chunks {
            let samples = chunk * CHUNK..self.samples().min((chunk + 1) * CHUNK);
            let (s, a) = self.layer_factors(layer, samples);
            for (group, columns) in columns.chunks(COLUMNS * self.threads()).enumerate() {
                let mut found = Mat::zeros(s.ncols(), columns.len());
                multiply(s.as_ref(), a.as_ref(), columns, &mut found);
                for (column, &(p, q)) in columns.iter().enumerate() {
                    let found = found.col_as_slice(column);
                    let places = (0..layer.out).flat_map(|i| (0..=i).map(move |j| (i, j)));
                    for ((i, j), x) in places.zip(found) {
                        let x = x.f64();
                        add_ordered(add, row(i, p), row(j, q), x);
                        if i != j && p != q {
                            add_ordered(add, row(i, q), row(j, p), x);
                        }
                    }
                }
                let in_chunk = ((group + 1) * COLUMNS * self.threads()) as f64 / (pairs(inputs)) as f64;
                observe(1.0, (chunk as f64 + in_chunk.min(1.0)) / chunks as f64)?;
            }
        }
        Ok(())
    }

    /// S / N of some samples, one column for each pair (i ≥ j), and their ã.
    fn layer_factors(&self, layer: &Affine, samples: Range<usize>) -> (Mat<T>, Mat<T>) {
        let inputs = layer.inner + usize::from(layer.bias.is_some());
        let (n, first) = (samples.len(), samples.start);
        let s = Mat::zeros(n, pairs(layer.out));
        let a = Mat::from_fn(n, inputs, |_, _| T::of(1.0));
        let batches: Vec<Range<usize>> = samples
            .clone()
            .step_by(self.microbatch())
            .map(|at| at..samples.end.min(at + self.microbatch()))
            .collect();
        sweep(
            batches.len(),
            self.threads(),
            (s, a),
            || (Workspace::new(), None),
            |batch, (work, found)| {
                *found = Some((batch, self.microbatch_factors(layer, batches[batch].clone(), work)));
            },
            |(s, a), (_, found)| {
                let Some((batch, (values, pairs))) = found.take() else { return };
                let (at, m) = (batches[batch].start - first, batches[batch].len());
                for (whole, columns) in [(a, values), (s, pairs)] {
                    for (j, column) in columns.chunks_exact(m).enumerate() {
                        whole.col_as_slice_mut(j)[at..at + m].copy_from_slice(column);
                    }
                }
            },
        )
    }

    /// The same of a microbatch: a as `[entry][sample]` and S / N as `[pair][sample]`.
    fn microbatch_factors(
        &self,
        layer: &Affine,
        samples: Range<usize>,
        work: &mut Workspace<T>,
    ) -> (Vec<T>, Vec<T>) {
        let network: &Network<T> = self.network();
        let m = samples.len();
        let primal = self.forward(samples, work);
        let (input, output) = network
            .steps
            .iter()
            .find(|step| matches!(&step.kernel, Kernel::Affine(a) if a.weight == layer.weight))
            .map_or((0, 0), |step| (step.input, step.output));
        let mut sums = Sums { planes: vec![T::of(0.0); self.dim()], groups: Vec::new() };
        let probabilities = &primal.softmax.probabilities;
        let mut s = vec![T::of(0.0); pairs(layer.out) * m];
        let mut mean = vec![T::of(0.0); layer.out * m];
        let weight = T::of(1.0 / self.samples() as f64);
        for class in 0..network.classes {
            let mut seed = vec![T::of(0.0); network.classes * m];
            seed[class * m..(class + 1) * m].fill(T::of(1.0));
            primal.pull_back_seed(network, &seed, work, &mut sums);
            let b = &work.deltas[output];
            let p = &probabilities[class * m..(class + 1) * m];
            for (mean, b) in mean.chunks_exact_mut(m).zip(b.chunks_exact(m)) {
                mean.iter_mut().zip(b).zip(p).for_each(|((mean, &b), &p)| *mean += p * b);
            }
            let weights: Vec<T> = p.iter().map(|&p| p * weight).collect();
            add_outer(&mut s, b, &weights, m);
        }
        add_outer(&mut s, &mean, &vec![-weight; m], m);
        (primal.values[input].clone(), s)
    }
}

/// S += weight b bᵀ for every sample, over the pairs (i ≥ j).
fn add_outer<T: Real>(s: &mut [T], b: &[T], weights: &[T], m: usize) {
    let mut rest = s;
    for (i, left) in b.chunks_exact(m).enumerate() {
        for right in b.chunks_exact(m).take(i + 1) {
            let (pair, after) = rest.split_at_mut(m);
            rest = after;
            for (((s, &l), &r), &w) in pair.iter_mut().zip(left).zip(right).zip(weights) {
                *s += w * l * r;
            }
        }
    }
}

/// found[·, column] = Σ over samples of S ã[p] ã[q], (p, q) being the column's pair; a thread for every
/// [`COLUMNS`] of them.
fn multiply<T: Real>(s: MatRef<'_, T>, a: MatRef<'_, T>, columns: &[(usize, usize)], found: &mut Mat<T>) {
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
                    a[(sample, p)] * a[(sample, q)]
                });
                matmul(part, Accum::Replace, s.transpose(), products.as_ref(), T::of(1.0), Par::Seq);
            });
        }
    });
}

fn add_ordered(add: &mut impl FnMut(usize, usize, f64), i: usize, j: usize, x: f64) {
    add(i.max(j), i.min(j), x);
}

/// Pairs of n things, order aside, each with itself too.
fn pairs(n: usize) -> usize {
    n * (n + 1) / 2
}
