//! Solvers on matrices whose spectra are known.

mod common;

use common::Prescribed;
use faer::{Mat, MatMut, MatRef};
use qn_spectrum::{
    DenseSymmetric, Eigenpairs, LanczosOptions, OperatorError, SpectrumError, StopReason, SymmetricOperator,
    Which, lanczos,
};

fn solve(values: &[f64], options: &LanczosOptions) -> Eigenpairs {
    lanczos::<f64>(&Prescribed::new(values.to_vec()), options, |_| ()).unwrap()
}

/// Values, residuals and orthonormality are what they should be.
fn check(values: &[f64], options: &LanczosOptions) -> Eigenpairs {
    let pairs = solve(values, options);
    let mut expected = values.to_vec();
    match options.which {
        Which::La => expected.sort_by(|a, b| b.total_cmp(a)),
        Which::Sa => expected.sort_by(f64::total_cmp),
        Which::Lm => expected.sort_by(|a, b| b.abs().total_cmp(&a.abs())),
        Which::Be => {
            expected.sort_by(|a, b| b.total_cmp(a));
            let low = expected.split_off(expected.len() - options.k / 2);
            expected.truncate(options.k.div_ceil(2));
            expected.extend(low);
        }
    }
    let scale = values.iter().fold(0.0f64, |a, v| a.max(v.abs()));
    assert_eq!(pairs.stop_reason, StopReason::Converged, "{options:?}");
    assert_eq!(pairs.converged, options.k);
    for (i, (found, expected)) in pairs.values.iter().zip(&expected).enumerate() {
        // A symmetric matrix has an eigenvalue within a residual of every Ritz value.
        assert!((found - expected).abs() <= options.tol * scale, "{i}: {found} {expected} {options:?}");
    }
    let operator = Prescribed::new(values.to_vec());
    let mut products = Mat::zeros(values.len(), options.k);
    operator.apply(pairs.vectors.as_ref(), products.as_mut()).unwrap();
    for i in 0..options.k {
        let residual = (products.col(i) - faer::Scale(pairs.values[i]) * pairs.vectors.col(i)).norm_l2();
        assert!((residual - pairs.residuals[i]).abs() <= 1e-14 * scale && residual <= options.tol * scale);
    }
    let gram = pairs.vectors.transpose() * &pairs.vectors - Mat::<f64>::identity(options.k, options.k);
    // Each of up to some hundred restarts turns the basis and rounds once more.
    assert!(gram.norm_max() <= 1e-12, "{}", gram.norm_max());
    pairs
}

fn decaying(n: usize) -> Vec<f64> {
    (0..n).map(|i| 10.0 * 0.8f64.powi(i as i32) + 1e-3 * (i as f64).sin()).collect()
}

#[test]
fn every_end_in_every_block() {
    let mut values = decaying(400);
    values.extend((0..40).map(|i| -3.0 * 0.7f64.powi(i)));
    for which in [Which::La, Which::Sa, Which::Lm, Which::Be] {
        for block in [1, 3, 8] {
            for k in [1, 2, 7, 10] {
                check(&values, &LanczosOptions { k, which, block, tol: 1e-9, ..LanczosOptions::default() });
            }
        }
    }
}

#[test]
fn clusters() {
    let mut values = vec![0.0; 500];
    for (i, v) in values.iter_mut().enumerate() {
        *v = match i {
            0..10 => 5.0 + 1e-7 * i as f64,
            10..20 => 4.0 - 1e-4 * i as f64,
            _ => 1.0 / (i as f64),
        };
    }
    check(&values, &LanczosOptions { k: 12, block: 10, tol: 1e-10, ..LanczosOptions::default() });
    check(&values, &LanczosOptions { k: 12, block: 4, tol: 1e-10, ..LanczosOptions::default() });
}

#[test]
fn repeated_values_need_blocks() {
    let mut values = decaying(300);
    values.extend([20.0; 4]);
    values.extend([-30.0; 3]);
    check(&values, &LanczosOptions { k: 6, block: 4, tol: 1e-10, ..LanczosOptions::default() });
    let pairs = check(
        &values,
        &LanczosOptions { k: 8, which: Which::Lm, block: 4, tol: 1e-10, ..LanczosOptions::default() },
    );
    assert!(pairs.values[..3].iter().all(|v| (v + 30.0).abs() < 1e-8));
}

#[test]
fn rank_deficient_and_constant_operators() {
    let mut values = vec![0.0; 200];
    values[..5].copy_from_slice(&[3.0, 2.0, 1.0, -1.0, -2.0]);
    for block in [1, 2, 6] {
        check(&values, &LanczosOptions { k: 10, block, tol: 1e-12, ..LanczosOptions::default() });
        check(
            &values,
            &LanczosOptions { k: 6, which: Which::Be, block, tol: 1e-12, ..LanczosOptions::default() },
        );
        check(&[0.0; 100], &LanczosOptions { k: 3, block, ..LanczosOptions::default() });
        check(&[2.5; 100], &LanczosOptions { k: 3, block, tol: 1e-12, ..LanczosOptions::default() });
    }
}

#[test]
fn small_operators_are_solved_densely() {
    for n in [1usize, 2, 3, 5, 17, 24] {
        let values: Vec<f64> = (0..n).map(|i| (i as f64 * 0.77).cos()).collect();
        for k in [1, n.div_ceil(2), n] {
            for which in [Which::La, Which::Sa, Which::Be] {
                check(&values, &LanczosOptions { k, which, tol: 1e-12, ..LanczosOptions::default() });
            }
        }
    }
}

#[test]
fn lanczos_agrees_with_dense() {
    let operator = Prescribed::new(decaying(150));
    let dense = DenseSymmetric::assemble::<f64>(&operator, |_| ()).unwrap().eigen().unwrap();
    let options = LanczosOptions { k: 10, block: 2, tol: 1e-10, ..LanczosOptions::default() };
    let pairs = lanczos::<f64>(&operator, &options, |_| ()).unwrap();
    let exact = dense.pairs::<f64>(&operator, 10, Which::La, 1e-10).unwrap();
    for i in 0..10 {
        assert!((pairs.values[i] - exact.values[i]).abs() <= 1e-13 * 10.0);
        let cosine: f64 = (pairs.vectors.col(i).transpose() * exact.vectors.col(i)).abs();
        assert!(1.0 - cosine < 1e-10, "{cosine}");
        let largest = pairs.vectors.col(i).iter().fold(0.0f64, |a, &b| if b.abs() > a.abs() { b } else { a });
        assert!(largest > 0.0);
    }
}

#[test]
fn not_converging_is_a_result() {
    let values: Vec<f64> = (0..2000).map(|i| i as f64).collect();
    let options = LanczosOptions { k: 5, maxiter: 1, tol: 1e-12, ..LanczosOptions::default() };
    let pairs = solve(&values, &options);
    assert_eq!(pairs.stop_reason, StopReason::MaxIterations);
    assert!(pairs.converged < 5 && pairs.values.len() == 5 && pairs.iterations == 1);
    assert!(pairs.residuals.iter().any(|&r| r > 1e-12 * 2000.0));
}

/// Products that carry noise of 1e-6, as in single precision.
struct Noisy(Prescribed);

impl SymmetricOperator for Noisy {
    fn dim(&self) -> usize {
        self.0.values.len()
    }

    fn apply(&self, x: MatRef<'_, f64>, mut y: MatMut<'_, f64>) -> Result<(), OperatorError> {
        self.0.apply(x, y.as_mut())?;
        for j in 0..y.ncols() {
            for i in 0..y.nrows() {
                y[(i, j)] += 1e-6 * (x[(i, j)] * 1e7).sin() / (y.nrows() as f64).sqrt();
            }
        }
        Ok(())
    }
}

#[test]
fn precision_that_is_used_up_is_told() {
    let noisy = Noisy(Prescribed::new(decaying(300)));
    let run =
        |tol| lanczos(&noisy, &LanczosOptions { k: 3, tol, ..LanczosOptions::default() }, |_| ()).unwrap();
    assert_eq!(run(1e-5).stop_reason, StopReason::Converged);
    let pairs = run(1e-12);
    assert_eq!(pairs.stop_reason, StopReason::PrecisionReached);
    assert!(pairs.residuals.iter().all(|&r| r < 1e-5));
}

#[test]
fn runs_repeat_and_progress_is_told() {
    let operator = Prescribed::new(decaying(200));
    let options = LanczosOptions { k: 4, block: 2, ..LanczosOptions::default() };
    let mut told = Vec::new();
    let a = lanczos::<f64>(&operator, &options, |p| told.push(p.matvecs)).unwrap();
    let b = lanczos::<f64>(&operator, &options, |_| ()).unwrap();
    assert_eq!((a.values, a.vectors), (b.values, b.vectors));
    assert!(told.windows(2).all(|w| w[1] == w[0] + 2) && a.matvecs == told.last().unwrap() + 4);
}

#[test]
fn bad_requests_are_refused() {
    let operator = Prescribed::new(decaying(100));
    let message = |options: LanczosOptions| match lanczos::<f64>(&operator, &options, |_| ()) {
        Err(e @ (SpectrumError::Count { .. } | SpectrumError::Basis { .. })) => e.to_string(),
        other => panic!("{other:?}"),
    };
    let base = LanczosOptions::default;
    assert!(message(LanczosOptions { k: 0, ..base() }).contains("1 to 100"));
    assert!(message(LanczosOptions { k: 101, ..base() }).contains("k = 101"));
    assert!(message(LanczosOptions { ncv: Some(5), ..base() }).contains("at least 14"));
    let asymmetric = Mat::from_fn(3, 3, |i, j| (i as f64) - (j as f64));
    assert!(matches!(DenseSymmetric::new(asymmetric), Err(SpectrumError::Asymmetric { .. })));
}

/// A diagonal, and what a mistake in a derivative would add: a part that is not symmetric.
struct Skewed(f64);

impl SymmetricOperator for Skewed {
    fn dim(&self) -> usize {
        200
    }

    fn apply(&self, x: MatRef<'_, f64>, mut y: MatMut<'_, f64>) -> Result<(), OperatorError> {
        for j in 0..x.ncols() {
            for i in 0..200 {
                y[(i, j)] = (1.0 + i as f64) * x[(i, j)] + self.0 * x[((i * 7 + 3) % 200, j)];
            }
        }
        Ok(())
    }
}

#[test]
fn an_operator_that_is_not_symmetric_is_refused() {
    let options = LanczosOptions { k: 3, block: 2, ..LanczosOptions::default() };
    let error = lanczos(&Skewed(20.0), &options, |_| ()).unwrap_err();
    assert!(matches!(error, SpectrumError::Asymmetric { .. }), "{error}");
    assert!(lanczos(&Skewed(0.0), &options, |_| ()).is_ok());
}
