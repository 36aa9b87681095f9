//! Band to tridiagonal: the second stage.
//!
//! Sweep s makes column s tridiagonal with one Householder reflection and chases the bulge that it leaves
//! down the band, a block of `width` columns at a time (Murata & Horikoshi, 1975; Lang, 1993). Step (s, t),
//! the t-th of sweep s, touches columns s + 1 + t·w to s + (t + 1)·w only, and must follow (s, t − 1) and
//! (s − 1, t + 1). Steps are done in tiles of several sweeps by several steps, skewed so that tiles far
//! enough apart are of disjoint columns and can go on at the same time.

use rayon::prelude::*;

use crate::band::Band;
use crate::tridiagonal::Tridiagonal;

/// Sweeps of a tile.
const SWEEPS: usize = 8;
/// Steps of a tile in each sweep: with at least 2 · SWEEPS + 4, tile (S + 1, T − 2) needs no column of
/// tile (S, T).
const STEPS: usize = 2 * SWEEPS + 4;

/// Reduces a band matrix; `observe` hears the share of the work that is done and may stop it.
pub(crate) fn tridiagonalise<E>(
    mut band: Band,
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
            run_wave(&mut band, &mut reflections, &live);
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
fn run_wave(band: &mut Band, reflections: &mut [Reflection], tiles: &[(usize, usize)]) {
    let (n, w, stride) = (band.n, band.width, band.stride);
    let mut parts = Vec::with_capacity(tiles.len());
    let (mut data, mut kept) = (band.data.as_mut_slice(), reflections);
    // Sweeps ascend while columns descend: take data from the end, reflections from the start.
    let mut taken = 0;
    for &(s, t) in tiles {
        let sweep = s * SWEEPS;
        let start = (sweep + 1 + (t * STEPS).saturating_sub(2 * (SWEEPS - 1)) * w).min(n)
            - usize::from(t * STEPS < 2 * SWEEPS);
        let start = start.min(data.len() / stride);
        let (rest, part) = data.split_at_mut(start * stride);
        data = rest;
        let (skipped, rest) = kept.split_at_mut(sweep - taken);
        let _ = skipped;
        let count = SWEEPS.min(rest.len());
        let (own, rest) = rest.split_at_mut(count);
        kept = rest;
        taken = sweep + count;
        parts.push((sweep, t, start, part, own));
    }
    parts.into_par_iter().with_max_len(1).for_each(|(sweep, t, start, data, reflections)| {
        pulp::Arch::new().dispatch(Tile { n, w, stride, start, data, sweep, t, reflections });
    });
}

/// Some columns of the band.
struct Tile<'a> {
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
}

impl pulp::WithSimd for Tile<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(mut self, _: S) {
        let reflections = std::mem::take(&mut self.reflections);
        for (i, reflection) in reflections.iter_mut().enumerate() {
            let s = self.sweep + i;
            if s + 2 >= self.n {
                break;
            }
            let steps = (self.t * STEPS).saturating_sub(2 * i)..((self.t + 1) * STEPS).saturating_sub(2 * i);
            for step in steps {
                if s + 1 + step * self.w >= self.n {
                    break;
                }
                self.step(s, step, reflection);
            }
        }
    }
}

impl Tile<'_> {
    /// Entries (from, j), (from + 1, j), ...
    #[inline(always)]
    fn column(&mut self, from: usize, j: usize, len: usize) -> &mut [f64] {
        let at = (j - self.start) * self.stride + from - j;
        &mut self.data[at..at + len]
    }

    #[inline(always)]
    fn step(&mut self, s: usize, t: usize, reflection: &mut Reflection) {
        let (n, w) = (self.n, self.w);
        let first = s + 1 + t * w;
        let m = w.min(n - first);
        if t == 0 {
            let column = self.column(first, s, m);
            *reflection = reflect(column);
        }
        let Reflection { v, tau } = reflection;
        let tau_v = *tau;
        if tau_v != 0.0 {
            self.two_sided(first, v, tau_v);
        }
        let next = first + m;
        let below = w.min(n - next);
        if below == 0 {
            return;
        }
        // B ← B (I − τ v vᵀ), and a reflection that makes B's first column zero below its head.
        let mut y = vec![0.0; below];
        if tau_v != 0.0 {
            for (j, &vj) in v.iter().enumerate() {
                axpy(vj, self.column(next, first + j, below), &mut y);
            }
            y.iter_mut().for_each(|y| *y *= -tau_v);
        }
        let head = self.column(next, first, below);
        axpy(v[0], &y, head);
        let new = reflect(head);
        for (j, &vj) in v.iter().enumerate().skip(1) {
            let column = self.column(next, first + j, below);
            axpy(vj, &y, column);
            let along = dot(&new.v, column);
            axpy(-new.tau * along, &new.v, column);
        }
        *reflection = new;
    }

    /// D ← (I − τ v vᵀ) D (I − τ v vᵀ) for the diagonal block from `first`, in its lower triangle.
    #[inline(always)]
    fn two_sided(&mut self, first: usize, v: &[f64], tau: f64) {
        let m = v.len();
        let mut p = vec![0.0; m];
        for j in 0..m {
            let column = self.column(first + j, first + j, m - j);
            let (head, tail) = p[j..].split_at_mut(1);
            head[0] += column[0] * v[j] + dot(&column[1..], &v[j + 1..]);
            axpy(v[j], &column[1..], tail);
        }
        let half = 0.5 * tau * tau * dot(&p, v);
        for (p, &v) in p.iter_mut().zip(v) {
            *p = tau * *p - half * v;
        }
        for j in 0..m {
            let column = self.column(first + j, first + j, m - j);
            axpy2(-v[j], &p[j..], -p[j], &v[j..], column);
        }
    }
}

/// Makes a vector a multiple of the first unit vector, and gives the reflection that does.
#[inline(always)]
fn reflect(x: &mut [f64]) -> Reflection {
    let mut v = x.to_vec();
    let largest = x[1..].iter().fold(0.0f64, |a, x| a.max(x.abs()));
    v[0] = 1.0;
    if largest == 0.0 {
        return Reflection { v, tau: 0.0 };
    }
    let scale = largest.max(x[0].abs());
    let norm = scale * x.iter().map(|x| (x / scale).powi(2)).sum::<f64>().sqrt();
    let beta = -norm.copysign(x[0]);
    let tau = (beta - x[0]) / beta;
    let inverse = 1.0 / (x[0] - beta);
    v[1..].iter_mut().for_each(|v| *v *= inverse);
    x.fill(0.0);
    x[0] = beta;
    Reflection { v, tau }
}

const LANES: usize = 8;

/// y += a x.
#[inline(always)]
fn axpy(a: f64, x: &[f64], y: &mut [f64]) {
    let ((xs, x_rest), (ys, y_rest)) = (x.as_chunks::<LANES>(), y.as_chunks_mut::<LANES>());
    for (x, y) in xs.iter().zip(ys) {
        for k in 0..LANES {
            y[k] = a.mul_add(x[k], y[k]);
        }
    }
    for (&x, y) in x_rest.iter().zip(y_rest) {
        *y = a.mul_add(x, *y);
    }
}

/// y += a x + b z.
#[inline(always)]
fn axpy2(a: f64, x: &[f64], b: f64, z: &[f64], y: &mut [f64]) {
    let n = y.len();
    let (x, z) = (&x[..n], &z[..n]);
    let ((xs, x_rest), (zs, z_rest)) = (x.as_chunks::<LANES>(), z.as_chunks::<LANES>());
    let (ys, y_rest) = y.as_chunks_mut::<LANES>();
    for ((x, z), y) in xs.iter().zip(zs).zip(ys) {
        for k in 0..LANES {
            y[k] = a.mul_add(x[k], b.mul_add(z[k], y[k]));
        }
    }
    for ((&x, &z), y) in x_rest.iter().zip(z_rest).zip(y_rest) {
        *y = a.mul_add(x, b.mul_add(z, *y));
    }
}

/// Σ x y, in eight partial sums.
#[inline(always)]
fn dot(x: &[f64], y: &[f64]) -> f64 {
    let ((xs, x_rest), (ys, y_rest)) = (x.as_chunks::<LANES>(), y.as_chunks::<LANES>());
    let mut sums = [0.0; LANES];
    for (x, y) in xs.iter().zip(ys) {
        for k in 0..LANES {
            sums[k] = x[k].mul_add(y[k], sums[k]);
        }
    }
    let rest: f64 = x_rest.iter().zip(y_rest).map(|(x, y)| x * y).sum();
    sums.iter().sum::<f64>() + rest
}
