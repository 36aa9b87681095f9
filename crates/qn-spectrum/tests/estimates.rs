//! Trace and density estimates against matrices whose answers are known.

use faer::{Mat, MatMut, MatRef};
use qn_spectrum::{
    DenseSymmetric, DensityOptions, Estimate, LanczosOptions, OperatorError, SpectrumError,
    SymmetricOperator, density, hutch_plus_plus, hutchinson, lanczos,
};

/// A matrix with a few dominant eigenvalues and a tail, in a basis that is not the coordinates'.
fn matrix(n: usize) -> (DenseSymmetric, Vec<f64>) {
    let values: Vec<f64> =
        (0..n).map(|i| if i < 5 { 50.0 - 8.0 * i as f64 } else { (i as f64).sin() }).collect();
    let noise = |i: usize, j: usize| (1e4 * ((i * n + j) as f64 * 12.9898).sin()).fract();
    let q = Mat::from_fn(n, n, noise).qr().compute_Q();
    let diagonal = Mat::from_fn(n, n, |i, j| if i == j { values[i] } else { 0.0 });
    (DenseSymmetric::new(&q * diagonal * q.transpose()).unwrap(), values)
}

/// Within four standard errors, which a correct estimate misses once in 16,000 times.
fn covers(estimate: Estimate, truth: f64) {
    let off = (estimate.value - truth).abs();
    assert!(off <= 4.0 * estimate.standard_error, "{estimate:?} {truth}");
}

#[test]
fn traces_and_norms() {
    let (a, values) = matrix(300);
    let trace: f64 = values.iter().sum();
    let square: f64 = values.iter().map(|v| v * v).sum();
    for seed in 0..5 {
        let plain = hutchinson(&a, 60, seed).unwrap();
        covers(plain.trace, trace);
        covers(plain.frobenius_squared.unwrap(), square);
        let better = hutch_plus_plus(&a, 60, seed).unwrap();
        covers(better.trace, trace);
        assert!(better.trace.standard_error < 0.7 * plain.trace.standard_error);
    }
    // Random signs give the trace of a diagonal matrix exactly.
    let diagonal =
        DenseSymmetric::new(Mat::from_fn(40, 40, |i, j| if i == j { i as f64 } else { 0.0 })).unwrap();
    let exact = hutchinson(&diagonal, 3, 0).unwrap().trace;
    assert!((exact.value - 780.0).abs() < 1e-11 && exact.standard_error < 1e-11);
    // A matrix of rank two has nothing left outside the sketch: the error is one of rounding, and not nothing.
    let two = Mat::from_fn(40, 2, |i, j| ((i + 1) * (j + 2)) as f64 % 7.0);
    let low = DenseSymmetric::new(&two * two.transpose()).unwrap();
    let found = hutch_plus_plus(&low, 30, 0).unwrap().trace;
    assert!((found.value / two.squared_norm_l2() - 1.0).abs() < 1e-13, "{found:?}");
    assert!((1e-16..1e-12).contains(&(found.standard_error / found.value)), "{found:?}");
    assert!(hutchinson(&a, 1, 0).is_err() && hutch_plus_plus(&a, 5, 0).is_err());
}

#[test]
fn densities() {
    let n = 300;
    let (a, values) = matrix(n);
    let options = DensityOptions { probes: 40, steps: 80, points: 400, sigma: Some(1.0), seed: 1 };
    let found = density(&a, &options).unwrap();
    let step = found.grid[1] - found.grid[0];
    let mass: f64 = found.density.iter().sum::<f64>() * step;
    assert!((mass - 1.0).abs() < 1e-3, "{mass}");
    let exact = |t: f64| {
        let bump = |v: &f64| (-0.5 * (t - v).powi(2)).exp() / (2.0 * std::f64::consts::PI).sqrt();
        values.iter().map(bump).sum::<f64>() / n as f64
    };
    let mut outside = 0;
    for ((&t, &d), &e) in found.grid.iter().zip(&found.density).zip(&found.standard_error) {
        // Far from all eigenvalues both are zero to rounding.
        outside += usize::from((d - exact(t)).abs() > 4.0 * e + 1e-9);
    }
    assert!(outside <= 4, "{outside} of 400 points");
    assert!(found.nodes.iter().all(|p| (p.iter().map(|x| x.1).sum::<f64>() - 1.0).abs() < 1e-10));

    // The first moments of the quadrature are exact: vᵀ A v for every probe, so their mean is a trace estimate.
    let first: Vec<f64> =
        found.nodes.iter().map(|p| p.iter().map(|(x, w)| x * w).sum::<f64>() * n as f64).collect();
    covers(Estimate::from_samples(&first), values.iter().sum());

    // An operator of three eigenvalues is exhausted after three steps.
    let three =
        DenseSymmetric::new(Mat::from_fn(60, 60, |i, j| if i == j { (i % 3) as f64 } else { 0.0 })).unwrap();
    let found = density(&three, &options).unwrap();
    assert_eq!(found.matvecs, 3 * 40);
    assert!(found.nodes.iter().all(|p| p.len() == 3
        && p.iter().all(|(x, w)| (x - x.round()).abs() < 1e-12 && (w - 1.0 / 3.0).abs() < 1e-12)));
}

/// The identity, but one row's product overflows.
struct Overflowing(usize);

impl SymmetricOperator for Overflowing {
    fn dim(&self) -> usize {
        self.0
    }

    fn apply(&self, x: MatRef<'_, f64>, mut y: MatMut<'_, f64>) -> Result<(), OperatorError> {
        y.copy_from(x);
        y[(3, x.ncols() - 1)] = f64::INFINITY;
        Ok(())
    }
}

#[test]
fn products_that_are_not_finite_are_named() {
    let a = Overflowing(200);
    let pairs = LanczosOptions { k: 4, ..LanczosOptions::default() };
    let points = DensityOptions { probes: 2, steps: 5, points: 50, sigma: None, seed: 1 };
    let found: [Result<(), SpectrumError>; 6] = [
        lanczos(&a, &pairs, |_| ()).map(drop),
        lanczos(&Overflowing(9), &pairs, |_| ()).map(drop),
        DenseSymmetric::assemble(&a, |_| ()).map(drop),
        hutchinson(&a, 10, 0).map(drop),
        hutch_plus_plus(&a, 12, 0).map(drop),
        density(&a, &points).map(drop),
    ];
    for (i, result) in found.into_iter().enumerate() {
        assert!(matches!(result, Err(SpectrumError::Product { row: 3 })), "{i}: {result:?}");
    }
}
