//! Times the two-stage eigensolver on a random symmetric matrix; for analysis/bench/dense.py.
//!
//!     cargo run --release -p qn-spectrum --example dense -- N f32|f64 [WIDTH] [--faer] [--vectors]
//!
//! `--faer` compares with faer's eigenvalues, `--vectors` times all eigenvectors as well.

use std::time::Instant;

use faer::{Mat, Side};
use qn_spectrum::{DenseSymmetric, Scalar, SpectrumError, Stage, Triangle, symmetric_eigen};

/// A reproducible number in [-1, 1).
fn noise(i: usize, j: usize) -> f64 {
    let mut x = ((i as u64) << 32 | j as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    x = (x ^ x >> 32).wrapping_mul(0xD6E8_FEB8_6659_FD93);
    x ^= x >> 32;
    (x >> 11) as f64 / (1u64 << 52) as f64 - 1.0
}

fn solve<T: Scalar>(n: usize, width: usize) -> Result<(Vec<f64>, serde_json::Value), SpectrumError> {
    let triangle = Triangle::<T>::from_fn(n, width, noise);
    let start = Instant::now();
    let mut marks = Vec::new();
    let mut mark = |name: &str| marks.push((name.to_owned(), start.elapsed().as_secs_f64()));
    let mut in_band = true;
    let found = symmetric_eigen(triangle, (0, 0), |stage| {
        match stage {
            Stage::Band(_) => {}
            Stage::Tridiagonal(_) if in_band => {
                mark("band");
                in_band = false;
            }
            Stage::Tridiagonal(_) => {}
            Stage::Eigenvalues => mark("tridiagonal"),
            Stage::Eigenvectors => mark("eigenvalues"),
        }
        Ok(())
    })?;
    Ok((found.values, serde_json::json!({"seconds": start.elapsed().as_secs_f64(), "marks": marks})))
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let n: usize = args[1].parse().expect("N");
    let width = args.get(3).and_then(|w| w.parse().ok()).unwrap_or(256);
    let (values, mut times) = match args[2].as_str() {
        "f32" => solve::<f32>(n, width),
        _ => solve::<f64>(n, width),
    }
    .expect("the matrix is finite");
    if args.iter().any(|a| a == "--faer") {
        let matrix = Mat::from_fn(n, n, |i, j| noise(i.max(j), i.min(j)));
        let start = Instant::now();
        let exact = matrix.self_adjoint_eigenvalues(Side::Lower).expect("finite");
        times["faer_f64"] = start.elapsed().as_secs_f64().into();
        let error = values.iter().zip(&exact).fold(0.0f64, |e, (a, b)| e.max((a - b).abs()));
        times["error"] = (error / exact[n - 1].abs()).into();
    }
    if args.iter().any(|a| a == "--vectors") {
        let matrix = Mat::from_fn(n, n, |i, j| noise(i.max(j), i.min(j)));
        let start = Instant::now();
        DenseSymmetric::new(matrix).and_then(|a| a.eigen()).expect("finite");
        times["vectors_f64"] = start.elapsed().as_secs_f64().into();
    }
    println!("{times}");
}
