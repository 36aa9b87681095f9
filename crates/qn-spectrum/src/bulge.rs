//! Band to tridiagonal: the second stage.
//!
//! Sweep s makes column s tridiagonal with one Householder reflection and chases the bulge that it leaves
//! down the band, a block of `width` columns at a time (Murata & Horikoshi, 1975; Lang, 1993). Step (s, t),
//! the t-th of sweep s, touches columns s + 1 + t·w to s + (t + 1)·w only, and must follow (s, t − 1) and
//! (s − 1, t + 1). Steps are done in tiles of several sweeps by several steps, skewed so that tiles far
//! enough apart are of disjoint columns and can go on at the same time.

use pulp::Simd;
use rayon::prelude::*;

use crate::Scalar;
use crate::band::Band;
use crate::chased::Chased;
use crate::tridiagonal::Tridiagonal;

/// Sweeps of a tile.
const SWEEPS: usize = 8;
/// Steps of a tile in each sweep: with at least 2 · SWEEPS + 4, tile (S + 1, T − 2) needs no column of
/// tile (S, T).
const STEPS: usize = 2 * SWEEPS + 4;

/// Registers that a column of the block below the diagonal one may fill, so that two vectors and a column fit.
const IN_REGISTERS: usize = 8;

/// Reduces a band matrix, and keeps the reflections where there is room for them; `observe` hears the share of the work
/// that is done and may stop it.
pub(crate) fn tridiagonalise<T: Scalar, E>(
    mut band: Band,
    mut chased: Option<&mut Chased<T>>,
    mut observe: impl FnMut(f64) -> Result<(), E>,
) -> Result<Tridiagonal, E> {
    let (n, w) = (band.n, band.width);
    if w > 1 && n > 2 {
        let sweeps = (n - 2).div_ceil(SWEEPS);
        // Steps of the longest sweep, and the skew of a tile's last one.
        let tiles = (n.div_ceil(w) + 2 * SWEEPS).div_ceil(STEPS) + 1;
        let mut reflections = vec![Reflection::default(); n];
        let waves = tiles + 2 * (sweeps - 1);
        for wave in 0..waves {
            // Tiles (S, wave − 2 S), the last columns first.
            let first = (wave + 1).saturating_sub(tiles).div_ceil(2);
            let live: Vec<(usize, usize)> =
                (first..=(wave / 2).min(sweeps - 1)).map(|s| (s, wave - 2 * s)).collect();
            let kept = chased.as_mut().map_or(&mut [][..], |chased| chased.sweeps_mut());
            run_wave(&mut band, &mut reflections, kept, &live);
            let done = (wave + 1) as f64 / waves as f64;
            observe(1.0 - (1.0 - done).powi(2))?;
        }
    }
    let diagonal = (0..n).map(|j| band.data[band.at(j, j)]).collect();
    let subdiagonal = (1..n).map(|i| if w > 0 { band.data[band.at(i, i - 1)] } else { 0.0 }).collect();
    Ok(Tridiagonal { diagonal, subdiagonal })
}

/// I − τ v vᵀ, v₀ = 1: what a sweep's last step has left for the next one.
#[derive(Clone, Debug, Default)]
struct Reflection {
    v: Vec<f64>,
    tau: f64,
}

/// Does tiles of disjoint columns, which come in descending order of columns.
fn run_wave<T: Scalar>(
    band: &mut Band,
    mut reflections: &mut [Reflection],
    mut kept: &mut [Vec<T>],
    tiles: &[(usize, usize)],
) {
    let (n, w, stride) = (band.n, band.width, band.stride);
    let mut parts = Vec::with_capacity(tiles.len());
    let mut data = band.data.as_mut_slice();
    // Sweeps ascend while columns descend: take data from the end, reflections from the start.
    let mut taken = 0;
    for &(s, t) in tiles {
        let sweep = s * SWEEPS;
        let start = (sweep + 1 + (t * STEPS).saturating_sub(2 * (SWEEPS - 1)) * w).min(n)
            - usize::from(t * STEPS < 2 * SWEEPS);
        let start = start.min(data.len() / stride);
        let (rest, part) = data.split_at_mut(start * stride);
        data = rest;
        let own = take(&mut reflections, sweep - taken, SWEEPS);
        let kept = take(&mut kept, sweep - taken, SWEEPS);
        taken = sweep + own.len();
        parts.push(Tile { n, w, stride, start, data: part, sweep, t, reflections: own, kept });
    }
    parts.into_par_iter().with_max_len(1).for_each(|tile| pulp::Arch::new().dispatch(tile));
}

/// Some of a slice's elements, after some that are left out; what follows stays. Fewer where it ends.
fn take<'a, T>(from: &mut &'a mut [T], skip: usize, count: usize) -> &'a mut [T] {
    let all = std::mem::take(from);
    let (_, rest) = all.split_at_mut(skip.min(all.len()));
    let (taken, rest) = rest.split_at_mut(count.min(rest.len()));
    *from = rest;
    taken
}

/// Some columns of the band.
struct Tile<'a, T> {
    n: usize,
    w: usize,
    stride: usize,
    /// The first of them.
    start: usize,
    data: &'a mut [f64],
    /// The first sweep.
    sweep: usize,
    t: usize,
    reflections: &'a mut [Reflection],
    /// The vectors of its sweeps, as far as they are there; empty where they are not wanted.
    kept: &'a mut [Vec<T>],
}

impl<T: Scalar> pulp::WithSimd for Tile<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let reflections = std::mem::take(&mut self.reflections);
        for (i, reflection) in reflections.iter_mut().enumerate() {
            let s = self.sweep + i;
            if s + 2 >= self.n {
                break;
            }
            let steps = (self.t * STEPS).saturating_sub(2 * i)..((self.t + 1) * STEPS).saturating_sub(2 * i);
            for step in steps {
                let first = s + 1 + step * self.w;
                if first >= self.n {
                    break;
                }
                if step == 0 {
                    let column = self.column(first, s, self.w.min(self.n - first));
                    *reflection = reflect(simd, column);
                }
                if let Some(kept) = self.kept.get_mut(i) {
                    let shown = if reflection.tau == 0.0 { 0.0 } else { 1.0 };
                    kept.extend(reflection.v.iter().map(|&v| T::of(shown * v)));
                }
                self.step(simd, first, reflection);
            }
        }
    }
}

impl<T> Tile<'_, T> {
    /// Entries (from, j), (from + 1, j), ...
    #[inline(always)]
    fn column(&mut self, from: usize, j: usize, len: usize) -> &mut [f64] {
        let at = (j - self.start) * self.stride + from - j;
        &mut self.data[at..at + len]
    }

    #[inline(always)]
    fn step<S: Simd>(&mut self, simd: S, first: usize, reflection: &mut Reflection) {
        let (n, w) = (self.n, self.w);
        let m = w.min(n - first);
        if reflection.tau != 0.0 {
            self.two_sided(simd, first, reflection);
        }
        let next = first + m;
        let below = w.min(n - next);
        if below == IN_REGISTERS * S::F64_LANES {
            self.one_sided_in_registers(simd, (next, first), reflection);
        } else if below > 0 {
            self.one_sided(simd, (next, first), below, reflection);
        }
    }

    /// B ← B (I − τ v vᵀ), then B ← (I − τ' u uᵀ) B with the reflection that makes B's first column zero below
    /// its head. B, `below` rows from row `next` and column `first` on, is the block below the diagonal one.
    #[inline(always)]
    fn one_sided<S: Simd>(
        &mut self,
        simd: S,
        (next, first): (usize, usize),
        below: usize,
        reflection: &mut Reflection,
    ) {
        let Reflection { v, tau } = &*reflection;
        let mut y = vec![0.0; below];
        for (j, &vj) in v.iter().enumerate() {
            axpy(simd, -tau * vj, self.column(next, first + j, below), &mut y);
        }
        let head = self.column(next, first, below);
        axpy(simd, v[0], &y, head);
        let new = reflect(simd, head);
        for (j, &vj) in v.iter().enumerate().skip(1) {
            let column = self.column(next, first + j, below);
            axpy(simd, vj, &y, column);
            let along = dot(simd, &new.v, column);
            axpy(simd, -new.tau * along, &new.v, column);
        }
        *reflection = new;
    }

    /// [`Self::one_sided`] for columns of B that fit in registers.
    #[inline(always)]
    fn one_sided_in_registers<S: Simd>(
        &mut self,
        simd: S,
        (next, first): (usize, usize),
        reflection: &mut Reflection,
    ) {
        let below = IN_REGISTERS * S::F64_LANES;
        let Reflection { v, tau } = &*reflection;
        let mut y = [simd.splat_f64s(0.0); IN_REGISTERS];
        for (j, &vj) in v.iter().enumerate() {
            let weight = simd.splat_f64s(-tau * vj);
            let (column, _) = S::as_simd_f64s(self.column(next, first + j, below));
            for k in 0..IN_REGISTERS {
                y[k] = simd.mul_add_f64s(weight, column[k], y[k]);
            }
        }
        let head = self.column(next, first, below);
        for (x, y) in S::as_mut_simd_f64s(head).0.iter_mut().zip(y) {
            *x = simd.mul_add_f64s(simd.splat_f64s(v[0]), y, *x);
        }
        let new = reflect(simd, head);
        let u: [S::f64s; IN_REGISTERS] = std::array::from_fn(|k| S::as_simd_f64s(&new.v).0[k]);
        for (j, &vj) in v.iter().enumerate().skip(1) {
            let (column, _) = S::as_mut_simd_f64s(self.column(next, first + j, below));
            let weight = simd.splat_f64s(vj);
            let mut c: [S::f64s; IN_REGISTERS] = std::array::from_fn(|k| column[k]);
            let mut along = [simd.splat_f64s(0.0); 2];
            for k in 0..IN_REGISTERS {
                c[k] = simd.mul_add_f64s(weight, y[k], c[k]);
                along[k % 2] = simd.mul_add_f64s(c[k], u[k], along[k % 2]);
            }
            let along = simd.reduce_sum_f64s(simd.add_f64s(along[0], along[1]));
            let weight = simd.splat_f64s(-new.tau * along);
            for k in 0..IN_REGISTERS {
                column[k] = simd.mul_add_f64s(weight, u[k], c[k]);
            }
        }
        *reflection = new;
    }

    /// D ← (I − τ v vᵀ) D (I − τ v vᵀ) for the diagonal block from `first`, in its lower triangle.
    #[inline(always)]
    fn two_sided<S: Simd>(&mut self, simd: S, first: usize, reflection: &Reflection) {
        let Reflection { v, tau } = reflection;
        let m = v.len();
        let mut p = vec![0.0; m];
        for j in 0..m {
            let column = self.column(first + j, first + j, m - j);
            let below = multiply_add(simd, v[j], column, &v[j..], &mut p[j..]);
            p[j] += below - column[0] * v[j];
        }
        let half = 0.5 * tau * tau * dot(simd, &p, v);
        for (p, &v) in p.iter_mut().zip(v) {
            *p = tau * *p - half * v;
        }
        for j in 0..m {
            let column = self.column(first + j, first + j, m - j);
            axpy2(simd, -v[j], &p[j..], -p[j], &v[j..], column);
        }
    }
}

/// Makes a vector a multiple of the first unit vector, and gives the reflection that does.
#[inline(always)]
fn reflect<S: Simd>(simd: S, x: &mut [f64]) -> Reflection {
    let mut v = x.to_vec();
    v[0] = 0.0;
    let mut below = dot(simd, &v, &v);
    // Squares of numbers that are far from 1 must not leave the range of doubles.
    let mut scale = 1.0;
    if !(1e-250..1e250).contains(&below) || x[0].abs() > 1e120 {
        let largest = x[1..].iter().fold(0.0f64, |a, x| a.max(x.abs()));
        if largest == 0.0 {
            v[0] = 1.0;
            return Reflection { v, tau: 0.0 };
        }
        scale = largest.max(x[0].abs());
        below = x[1..].iter().map(|x| (x / scale).powi(2)).sum();
    }
    let norm = scale * ((x[0] / scale).powi(2) + below).sqrt();
    let beta = -norm.copysign(x[0]);
    let tau = (beta - x[0]) / beta;
    let inverse = 1.0 / (x[0] - beta);
    v.iter_mut().for_each(|v| *v *= inverse);
    v[0] = 1.0;
    x.fill(0.0);
    x[0] = beta;
    Reflection { v, tau }
}

/// y += a x.
#[inline(always)]
fn axpy<S: Simd>(simd: S, a: f64, x: &[f64], y: &mut [f64]) {
    let a = simd.splat_f64s(a);
    let ((xs, x_rest), (ys, y_rest)) = (S::as_simd_f64s(x), S::as_mut_simd_f64s(y));
    for (&x, y) in xs.iter().zip(ys) {
        *y = simd.mul_add_f64s(a, x, *y);
    }
    let (x, rest) = (simd.partial_load_f64s(x_rest), simd.partial_load_f64s(y_rest));
    simd.partial_store_f64s(y_rest, simd.mul_add_f64s(a, x, rest));
}

/// y += a x + b z.
#[inline(always)]
fn axpy2<S: Simd>(simd: S, a: f64, x: &[f64], b: f64, z: &[f64], y: &mut [f64]) {
    let (a, b) = (simd.splat_f64s(a), simd.splat_f64s(b));
    let ((xs, x_rest), (zs, z_rest)) = (S::as_simd_f64s(x), S::as_simd_f64s(z));
    let (ys, y_rest) = S::as_mut_simd_f64s(y);
    let sum = |x, z, y| simd.mul_add_f64s(a, x, simd.mul_add_f64s(b, z, y));
    for ((&x, &z), y) in xs.iter().zip(zs).zip(ys) {
        *y = sum(x, z, *y);
    }
    let (x, z) = (simd.partial_load_f64s(x_rest), simd.partial_load_f64s(z_rest));
    let rest = sum(x, z, simd.partial_load_f64s(y_rest));
    simd.partial_store_f64s(y_rest, rest);
}

/// y += a x, and Σ x z.
#[inline(always)]
fn multiply_add<S: Simd>(simd: S, a: f64, x: &[f64], z: &[f64], y: &mut [f64]) -> f64 {
    let (a, mut along) = (simd.splat_f64s(a), simd.splat_f64s(0.0));
    let ((xs, x_rest), (zs, z_rest)) = (S::as_simd_f64s(x), S::as_simd_f64s(z));
    let (ys, y_rest) = S::as_mut_simd_f64s(y);
    for ((&x, &z), y) in xs.iter().zip(zs).zip(ys) {
        *y = simd.mul_add_f64s(a, x, *y);
        along = simd.mul_add_f64s(x, z, along);
    }
    let (x, z) = (simd.partial_load_f64s(x_rest), simd.partial_load_f64s(z_rest));
    let rest = simd.mul_add_f64s(a, x, simd.partial_load_f64s(y_rest));
    simd.partial_store_f64s(y_rest, rest);
    simd.reduce_sum_f64s(simd.mul_add_f64s(x, z, along))
}

/// Σ x y.
#[inline(always)]
fn dot<S: Simd>(simd: S, x: &[f64], y: &[f64]) -> f64 {
    let ((xs, x_rest), (ys, y_rest)) = (S::as_simd_f64s(x), S::as_simd_f64s(y));
    let mut sums = [simd.splat_f64s(0.0); 2];
    for (k, (&x, &y)) in xs.iter().zip(ys).enumerate() {
        sums[k % 2] = simd.mul_add_f64s(x, y, sums[k % 2]);
    }
    let (x, y) = (simd.partial_load_f64s(x_rest), simd.partial_load_f64s(y_rest));
    simd.reduce_sum_f64s(simd.mul_add_f64s(x, y, simd.add_f64s(sums[0], sums[1])))
}
