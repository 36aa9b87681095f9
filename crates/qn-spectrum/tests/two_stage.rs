//! The two-stage eigensolver against faer and against spectra known in closed form.

use faer::{Mat, Side};
use qn_spectrum::{Reduction, Scalar, SpectrumError, Triangle, symmetric_eigen};
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution as _, StandardNormal};

fn random(n: usize, seed: u64) -> Mat<f64> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    Mat::from_fn(n, n, |_, _| StandardNormal.sample(&mut rng))
}

/// Q diag(values) Qᵀ with a random orthogonal Q.
fn with_spectrum(values: &[f64]) -> Mat<f64> {
    let n = values.len();
    let q = random(n, 7).qr().compute_Q();
    let scaled = Mat::from_fn(n, n, |i, j| q[(i, j)] * values[j]);
    scaled * q.transpose()
}

/// Eigenvalues against the expected ones, and residuals and orthogonality of some vectors.
fn check<T: Scalar>(name: &str, a: &Mat<f64>, expected: &[f64], width: usize, eps: f64) {
    // Few vectors, from the band matrix, and many, from the tridiagonal one.
    for k in [a.nrows() / 40, (a.nrows() / 3).min(7)] {
        check_vectors::<T>(name, a, expected, (width, k), eps);
    }
}

fn check_vectors<T: Scalar>(
    name: &str,
    a: &Mat<f64>,
    expected: &[f64],
    (width, k): (usize, usize),
    eps: f64,
) {
    let n = a.nrows();
    let triangle = Triangle::<T>::from_fn(n, width, |i, j| 0.5 * (a[(i, j)] + a[(j, i)]));
    let found = symmetric_eigen(triangle, (k, k), |_| Ok(())).unwrap();
    let norm = expected.iter().fold(0.0f64, |m, v| m.max(v.abs())).max(f64::MIN_POSITIVE);
    // Backward errors of orthogonal reductions grow like n at worst; a tenth of that is usual.
    let bound = 4.0 * (n as f64) * eps * norm;
    let mut sorted = expected.to_vec();
    sorted.sort_by(f64::total_cmp);
    for (i, (found, expected)) in found.values.iter().zip(&sorted).enumerate() {
        assert!((found - expected).abs() <= bound, "{name}: value {i} is {found}, not {expected}");
    }
    let v = &found.vectors;
    let products = a * v;
    for (j, &i) in found.chosen.iter().enumerate() {
        let residual = (products.col(j) - faer::Scale(found.values[i]) * v.col(j)).norm_l2();
        assert!(residual <= bound, "{name}: residual {residual} of pair {i}, bound {bound}");
    }
    let gram = v.transpose() * v;
    let error = (&gram - Mat::<f64>::identity(v.ncols(), v.ncols())).norm_max();
    assert!(error <= 4.0 * (n as f64) * eps, "{name}: orthogonality {error}");
}

#[test]
fn hard_spectra() {
    let n = 90;
    let at = |f: &dyn Fn(usize) -> f64| -> Vec<f64> { (0..n).map(f).collect() };
    let spectra: Vec<(&str, Vec<f64>)> = vec![
        ("uniform", at(&|i| i as f64 - 40.0)),
        ("clusters", at(&|i| (i / 30) as f64 + 1e-9 * i as f64)),
        ("repeated", at(&|i| (i % 3) as f64)),
        ("graded", at(&|i| 2f64.powi(-(i as i32)))),
        ("rank deficient", at(&|i| if i < 5 { 10.0 - i as f64 } else { 0.0 })),
        ("identity", at(&|_| 1.0)),
        ("zero", at(&|_| 0.0)),
    ];
    for (name, values) in &spectra {
        let a = with_spectrum(values);
        for width in [1, 2, 8, 32, 64, 90, 200] {
            check::<f64>(name, &a, values, width, f64::EPSILON);
            check::<f32>(name, &a, values, width, f64::from(f32::EPSILON));
        }
    }
}

#[test]
fn sizes_around_the_block() {
    for n in [1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 31, 33, 50, 129] {
        let a = random(n, n as u64);
        let a = &a + a.transpose();
        let expected: Vec<f64> = a.self_adjoint_eigenvalues(Side::Lower).unwrap();
        for width in [1, 2, 3, 8, 16] {
            check::<f64>(&format!("n = {n}, width {width}"), &a, &expected, width, f64::EPSILON);
        }
    }
}

#[test]
fn wilkinson() {
    let n = 101;
    let a = Mat::from_fn(n, n, |i, j| match i.abs_diff(j) {
        0 => (i as f64 - 50.0).abs(),
        1 => 1.0,
        _ => 0.0,
    });
    let expected = a.self_adjoint_eigenvalues(Side::Lower).unwrap();
    check::<f64>("Wilkinson", &a, &expected, 16, f64::EPSILON);
}

#[test]
fn bits_do_not_depend_on_threads() {
    let n = 300;
    let a = random(n, 3);
    let solve = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let triangle = Triangle::<f32>::from_fn(n, 32, |i, j| a[(i, j)]);
            symmetric_eigen(triangle, (2, 3), |_| Ok(())).unwrap()
        })
    };
    let one = solve(1);
    for threads in [2, 4] {
        let found = solve(threads);
        assert_eq!(found.values, one.values);
        assert_eq!(found.vectors, one.vectors);
    }
}

#[test]
fn what_is_not_finite_is_named_and_an_observer_can_stop() {
    let bad = Triangle::<f64>::from_fn(9, 4, |i, j| if (i, j) == (7, 2) { f64::NAN } else { 1.0 });
    assert!(matches!(symmetric_eigen(bad, (0, 1), |_| Ok(())), Err(SpectrumError::NotFinite)));
    let good = Triangle::<f64>::from_fn(9, 4, |i, j| (i + j) as f64);
    let stop = |_| Err(SpectrumError::Operator("stop".into()));
    assert!(symmetric_eigen(good, (0, 1), stop).unwrap_err().to_string().contains("stop"));
}

#[test]
fn a_reduction_taken_up_again_ends_with_the_same_bits() {
    fn solve<T: Scalar>(break_after: Option<usize>) -> (Vec<f64>, Mat<f64>) {
        let n = 150;
        let a = random(n, 5);
        let triangle = Triangle::<T>::from_fn(n, 32, |i, j| a[(i, j)]);
        let mut reduction = Reduction::new(triangle, 16).unwrap();
        if let Some(steps) = break_after {
            for _ in 0..steps {
                reduction.step();
            }
            let mut bytes = Vec::new();
            reduction.write(&mut bytes).unwrap();
            assert!(Reduction::<T>::read(&mut &bytes[..], n + 1).is_err(), "another order");
            assert!(Reduction::<T>::read(&mut &bytes[..bytes.len() - 1], n).is_err(), "cut off");
            let mut rest = &bytes[..];
            let done = reduction.done();
            reduction = Reduction::read(&mut rest, n).unwrap();
            assert!(rest.is_empty() && reduction.done() == done);
        }
        let found = reduction.eigen((2, 3), |_| Ok(())).unwrap();
        (found.values, found.vectors)
    }
    for steps in [0, 1, 4, 9, 20] {
        assert_eq!(solve::<f64>(None), solve::<f64>(Some(steps)));
        assert_eq!(solve::<f32>(None), solve::<f32>(Some(steps)));
    }
    // Sizes that would take all memory are refused before anything is allocated.
    let hostile: Vec<u8> = [150u64, 1 << 40, 16, 3, 90, 16].iter().flat_map(|s| s.to_le_bytes()).collect();
    assert!(Reduction::<f64>::read(&mut &hostile[..], 150).is_err());
}
