//! Times the two-stage eigensolver on a random symmetric matrix; for analysis/bench/dense.py.
//!
//!     cargo run --release --workspace --example dense -- N f32|f64 [WIDTH [BAND]] [--vectors] [--faer]
//!
//! Prints the seconds of each stage and its share of what a matrix product of the library reaches; with `--vectors` of
//! all eigenvectors, without of the eigenvalues alone. `--faer` times faer in double precision, too.

use std::time::Instant;

use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, Par, Side};
use qn_spectrum::{BAND, Reduction, STORAGE_WIDTH, Scalar, SpectrumError, Stage, Triangle, Vectors};
use serde_json::{Map, Value, json};

/// A reproducible number in [-1, 1).
fn noise(i: usize, j: usize) -> f64 {
    let mut x = ((i as u64) << 32 | j as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    x = (x ^ x >> 32).wrapping_mul(0xD6E8_FEB8_6659_FD93);
    x ^= x >> 32;
    (x >> 11) as f64 / (1u64 << 52) as f64 - 1.0
}

/// Floating-point operations a second of a product of square matrices, the best of some.
fn peak<T: Scalar>() -> f64 {
    let k = 1536;
    let a = Mat::from_fn(k, k, |i, j| T::of(noise(i, j)));
    let mut product = Mat::<T>::zeros(k, k);
    let seconds = (0..5).map(|_| {
        let start = Instant::now();
        matmul(product.as_mut(), Accum::Replace, a.as_ref(), a.as_ref(), T::of(1.0), Par::rayon(0));
        start.elapsed().as_secs_f64()
    });
    2.0 * (k as f64).powi(3) / seconds.fold(f64::INFINITY, f64::min)
}

/// What each stage is called once it is over, and its operations where these count.
fn stages(n: f64, band: f64, vectors: bool) -> Vec<(&'static str, f64)> {
    let mut stages = vec![("band", 4.0 / 3.0 * n.powi(3)), ("tridiagonal", 6.0 * n * n * band)];
    if vectors {
        // Without deflation, which random matrices have little of.
        stages.push(("divide and conquer", 4.0 / 3.0 * n.powi(3)));
        stages.extend([("vectors to band", 2.0 * n.powi(3)), ("vectors to full", 2.0 * n.powi(3))]);
    } else {
        stages.push(("eigenvalues", 0.0));
    }
    stages
}

fn solve<T: Scalar>(
    n: usize,
    (width, band): (usize, usize),
    vectors: bool,
) -> Result<(Vec<f64>, Value), SpectrumError> {
    let peak = peak::<T>();
    let triangle = Triangle::<T>::from_fn(n, width, noise);
    let start = Instant::now();
    let mut reduction = Reduction::new(triangle, band)?;
    while reduction.step() {}
    let mut ends = vec![start.elapsed().as_secs_f64()];
    let wanted = if vectors { Vectors::All } else { Vectors::None };
    let found = reduction.eigh(wanted, |stage| {
        if matches!(stage, Stage::Eigenvalues | Stage::Eigenvectors | Stage::BandToFull) {
            ends.push(start.elapsed().as_secs_f64());
        }
        Ok(())
    })?;
    ends.push(start.elapsed().as_secs_f64());
    let mut rows = Map::new();
    let starts = std::iter::once(&0.0).chain(&ends);
    for (((name, operations), end), begin) in
        stages(n as f64, band as f64, vectors).into_iter().zip(&ends).zip(starts)
    {
        let seconds = end - begin;
        rows.insert(name.into(), json!({"seconds": seconds, "share_of_peak": operations / seconds / peak}));
    }
    let seconds = ends.last();
    Ok((found.values, json!({"seconds": seconds, "peak_gflops": peak / 1e9, "stages": rows})))
}

fn main() {
    let (flags, args): (Vec<String>, Vec<String>) =
        std::env::args().skip(1).partition(|a| a.starts_with("--"));
    let flag = |name: &str| flags.iter().any(|flag| flag == name);
    let n: usize = args[0].parse().expect("N");
    let number = |i: usize, otherwise: usize| args.get(i).map_or(otherwise, |x| x.parse().expect("a number"));
    let sizes = (number(2, STORAGE_WIDTH), number(3, BAND));
    let (values, mut times) = match args[1].as_str() {
        "f32" => solve::<f32>(n, sizes, flag("--vectors")),
        _ => solve::<f64>(n, sizes, flag("--vectors")),
    }
    .expect("the matrix is finite");
    if flag("--faer") {
        let matrix = Mat::from_fn(n, n, |i, j| noise(i.max(j), i.min(j)));
        let start = Instant::now();
        let exact = match flag("--vectors") {
            true => matrix
                .self_adjoint_eigen(Side::Lower)
                .expect("finite")
                .S()
                .column_vector()
                .iter()
                .copied()
                .collect(),
            false => matrix.self_adjoint_eigenvalues(Side::Lower).expect("finite"),
        };
        times["faer_f64"] = start.elapsed().as_secs_f64().into();
        let error = values.iter().zip(&exact).fold(0.0f64, |e, (a, b)| e.max((a - b).abs()));
        times["error"] = (error / exact[n - 1].abs()).into();
    }
    println!("{times}");
}
