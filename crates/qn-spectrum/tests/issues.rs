//! One named test for each fault that use has shown, with the right outcome as its expectation.

use faer::{Mat, MatMut, MatRef};
use qn_spectrum::{
    DenseSymmetric, Eigenpairs, Estimate, FullSpectrum, LanczosOptions, OperatorError, Solver, SpectrumError,
    StopReason, SymmetricOperator, Triangle, Tridiagonal, Which, complete, lanczos, symmetric_eigen,
};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution as _, StandardNormal};

/// Q diag(values) Qᵀ, Q being random orthonormal columns in n dimensions.
fn of_rank(n: usize, values: &[f64], seed: u64) -> DenseSymmetric {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let q = Mat::from_fn(n, values.len(), |_, _| -> f64 { StandardNormal.sample(&mut rng) })
        .qr()
        .compute_thin_Q();
    let scaled = Mat::from_fn(n, values.len(), |i, j| q[(i, j)] * values[j]);
    DenseSymmetric::new(scaled * q.transpose()).unwrap()
}

/// Products rounded to single precision.
struct Single(DenseSymmetric);

impl SymmetricOperator for Single {
    fn dim(&self) -> usize {
        self.0.dim()
    }

    fn apply(&self, x: MatRef<'_, f64>, mut y: MatMut<'_, f64>) -> Result<(), OperatorError> {
        self.0.apply(x, y.as_mut())?;
        for j in 0..y.ncols() {
            y.as_mut().col_mut(j).iter_mut().for_each(|v| *v = f64::from(*v as f32));
        }
        Ok(())
    }
}

fn sorted(which: Which, values: &[f64], k: usize) -> Vec<f64> {
    let mut all = values.to_vec();
    match which {
        Which::Sa => all.sort_by(f64::total_cmp),
        Which::Lm => all.sort_by(|a, b| b.abs().total_cmp(&a.abs())),
        _ => all.sort_by(|a, b| b.total_cmp(a)),
    }
    if which == Which::Be {
        let low = all.split_off(all.len() - k / 2);
        all.truncate(k - k / 2);
        all.extend(low);
    }
    all.truncate(k);
    all
}

fn close(found: &[f64], expected: &[f64], tol: f64, what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (f, e) in found.iter().zip(expected) {
        assert!((f - e).abs() <= tol, "{what}: {found:?}, not {expected:?}");
    }
}

/// A nine-fold eigenvalue, with a block of two: neither one run nor a second from another start can see all copies.
#[test]
fn every_copy_of_a_repeated_eigenvalue_is_found() {
    let mut values = vec![0.586, 0.586, 0.522, 0.522, 0.371, 0.371, 0.2];
    values.extend([3.396; 9]);
    values.extend((0..300).map(|i| 0.1 / (1.0 + f64::from(i))));
    let a = of_rank(600, &values, 1);
    for which in [Which::La, Which::Lm, Which::Be] {
        for block in [2, 3, 4, 10] {
            let options = LanczosOptions { k: 12, which, block, tol: 1e-9, ..LanczosOptions::default() };
            let found = lanczos(&a, &options, |_| ()).unwrap();
            let mut all = values.clone();
            all.resize(600, 0.0);
            let expected = sorted(which, &all, 12);
            close(&found.values, &expected, 1e-8, &format!("{which:?}, block {block}"));
            assert_eq!((found.converged, found.stop_reason), (12, StopReason::Converged));
            let gram = found.vectors.transpose() * &found.vectors - Mat::<f64>::identity(12, 12);
            assert!(gram.norm_max() < 1e-12);
        }
    }
}

/// Pairs with a copy left out, as a single vector's Krylov space finds them, are completed.
#[test]
fn deflation_takes_in_what_was_missed() {
    let mut values: Vec<f64> = (0..100).map(|i| f64::from(i) / 100.0).collect();
    values.extend([5.0; 5]);
    let a = of_rank(160, &values, 2);
    let options = LanczosOptions { k: 6, block: 1, tol: 1e-10, ..LanczosOptions::default() };
    let right = lanczos(&a, &LanczosOptions { block: 8, ..options.clone() }, |_| ()).unwrap();
    let expected = [5.0, 5.0, 5.0, 5.0, 5.0, 0.99];
    close(&right.values, &expected, 1e-8, "block 8");
    let kept = complete(&a, right.clone(), &options, |_| ()).unwrap();
    assert!(kept.agreed && kept.recovered == 0 && kept.pairs.values == right.values);

    // Two of the copies, and the ones that follow in their place.
    let full = a.eigen().unwrap();
    let place = |v: f64, skip: usize| {
        let near = |i: &usize| (full.values[*i] - v).abs() < 1e-9;
        (0..160).filter(near).nth(skip).unwrap()
    };
    let places =
        [place(5.0, 0), place(5.0, 1), place(0.99, 0), place(0.98, 0), place(0.97, 0), place(0.96, 0)];
    let mut wrong = Eigenpairs { solver: Solver::Lanczos, ..right.clone() };
    wrong.values = places.iter().map(|&i| full.values[i]).collect();
    wrong.vectors = Mat::from_fn(160, 6, |i, j| full.vectors[(i, places[j])]);
    let mended = complete(&a, wrong, &options, |_| ()).unwrap();
    assert!(mended.agreed && mended.recovered == 3, "{}", mended.recovered);
    close(&mended.pairs.values, &expected, 1e-8, "completed");
    assert_eq!(mended.pairs.converged, 6);
}

/// The null space of a matrix of low rank, from below.
#[test]
fn a_large_null_space_is_complete() {
    let a = of_rank(300, &[4.0, 3.0, 2.0, 1.0], 3);
    let options = LanczosOptions { k: 8, which: Which::Sa, block: 2, ..LanczosOptions::default() };
    let found = lanczos(&a, &options, |_| ()).unwrap();
    close(&found.values, &[0.0; 8], 1e-12, "null space");
    let checked = complete(&a, found, &options, |_| ()).unwrap();
    assert!(checked.agreed && checked.recovered == 0);
}

/// A Krylov space that is used up in the middle of a block: the operator is symmetric all the same.
#[test]
fn a_krylov_space_used_up_in_mid_block_is_no_asymmetry() {
    let values: Vec<f64> = (1..=9).map(f64::from).collect();
    let a = of_rank(60, &values, 4);
    let options = LanczosOptions { k: 10, block: 2, tol: 1e-10, ..LanczosOptions::default() };
    let found = lanczos(&a, &options, |_| ()).unwrap();
    close(&found.values, &[9.0, 8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0, 0.0], 1e-9, "rank 9");
}

/// Matrices of rank 1 to 40, with blocks of 1 to 9, in both precisions.
#[test]
fn matrices_of_low_rank() {
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    for rank in 1..=40 {
        let values: Vec<f64> = (0..rank).map(|_| rng.random_range(0.1..10.0)).collect();
        let n = 100 + 3 * rank;
        let mut all = values.clone();
        all.resize(n, 0.0);
        for block in 1..=9 {
            let seed = (10 * rank + block) as u64;
            let what = format!("rank {rank}, block {block}");
            let double = of_rank(n, &values, seed);
            let options = LanczosOptions { k: 10, block, tol: 1e-10, seed, ..LanczosOptions::default() };
            let found = lanczos(&double, &options, |_| ()).unwrap_or_else(|e| panic!("{what}: {e}"));
            assert_eq!(found.stop_reason, StopReason::Converged, "{what}");
            close(&found.values, &sorted(Which::La, &all, 10), 1e-8, &what);
            let options = LanczosOptions { tol: 1e-5, ..options };
            let found =
                lanczos(&Single(double), &options, |_| ()).unwrap_or_else(|e| panic!("{what}, single: {e}"));
            close(&found.values, &sorted(Which::La, &all, 10), 1e-3, &what);
        }
    }
}

/// How many eigenvalues of a tridiagonal matrix are below x, by the signs of its pivots.
fn below(t: &Tridiagonal, x: f64) -> usize {
    let (mut count, mut pivot) = (0, 1.0f64);
    for (i, d) in t.diagonal.iter().enumerate() {
        let coupling = if i == 0 { 0.0 } else { t.subdiagonal[i - 1].powi(2) };
        pivot = d - x - if coupling == 0.0 { 0.0 } else { coupling / pivot };
        if pivot.abs() < 1e-200 {
            pivot = -1e-200;
        }
        count += usize::from(pivot < 0.0);
    }
    count
}

fn by_bisection(t: &Tridiagonal) -> Vec<f64> {
    let norm = t.diagonal.iter().chain(&t.subdiagonal).fold(0.0f64, |a, x| a.max(x.abs()));
    let bisect = |k: usize| {
        let (mut low, mut high) = (-4.0 * norm, 4.0 * norm);
        for _ in 0..80 {
            let middle = 0.5 * (low + high);
            if below(t, middle) > k { high = middle } else { low = middle }
        }
        0.5 * (low + high)
    };
    (0..t.diagonal.len()).map(bisect).collect()
}

/// Quotients of subnormal numbers have no right digit.
#[test]
fn tridiagonal_matrices_with_tiny_entries() {
    let t = Tridiagonal { diagonal: vec![1.0, 1.0, 3e-162], subdiagonal: vec![1.0, 0.3f64.sqrt()] };
    close(&t.eigenvalues().unwrap(), &[-0.41953451, 0.34463225, 2.07490226], 5e-9, "3e-162");
    let t = Tridiagonal { diagonal: vec![0.0, 0.5, 2.0, 1e-155], subdiagonal: vec![1e-17, 1.0, 1e-3] };
    close(&t.eigenvalues().unwrap(), &by_bisection(&t), 1e-14, "1e-155");

    let mut rng = ChaCha8Rng::seed_from_u64(6);
    let mut entry = |tiny: f64| {
        let sign = if rng.random::<bool>() { 1.0 } else { -1.0 };
        match rng.random_range(0.0..1.0) {
            x if x < tiny => sign * 10f64.powf(rng.random_range(-320.0..-60.0)),
            x if x < 2.0 * tiny => sign * 10f64.powf(rng.random_range(-60.0..0.0)),
            x if x < 2.5 * tiny => 0.0,
            _ => sign * rng.random_range(0.1..1.0),
        }
    };
    for trial in 0..4000 {
        let n = 2 + trial % 9;
        let tiny = [0.0, 0.15, 0.3][trial % 3];
        let t = Tridiagonal {
            diagonal: (0..n).map(|_| entry(tiny)).collect(),
            subdiagonal: (1..n).map(|_| entry(tiny)).collect(),
        };
        close(&t.eigenvalues().unwrap(), &by_bisection(&t), 1e-14, &format!("{t:?}"));
    }
}

/// Values and vectors have the relative accuracy that they have near 1, at any scale.
#[test]
fn matrices_of_any_scale() {
    let n = 40;
    let values: Vec<f64> = (0..n).map(|i| (f64::from(i) * 0.7).sin()).collect();
    let a = of_rank(n as usize, &values, 7);
    let (n, expected) = (n as usize, sorted(Which::Sa, &values, n as usize));
    for scale in [1e-305, 1e-300, 1e-292, 1e-200, 1e-30, 1.0, 1e30, 1e200, 1e300] {
        let scaled = a.matrix() * faer::Scale(scale);
        let what = format!("{scale:e}");
        let judge = |name: &str, values: &[f64], vectors: &Mat<f64>| {
            let relative: Vec<f64> = values.iter().map(|v| v / scale).collect();
            close(&relative, &expected, 1e-13, &format!("{name} at {what}"));
            let rest = a.matrix() * vectors - Mat::from_fn(n, n, |i, j| vectors[(i, j)] * relative[j]);
            assert!(rest.norm_max() < 1e-13, "{name} at {what}: residual {}", rest.norm_max());
            let gram = vectors.transpose() * vectors - Mat::<f64>::identity(n, n);
            assert!(gram.norm_max() < 1e-13, "{name} at {what}");
        };
        let dense = DenseSymmetric::new(scaled.clone()).unwrap();
        let full = dense.eigen().unwrap();
        judge("dense", &full.values, &full.vectors);
        let triangle = Triangle::<f64>::from_fn(n, 8, |i, j| scaled[(i, j)]);
        assert!((triangle.norm_l2() / scale / a.matrix().norm_l2() - 1.0).abs() < 1e-13, "{what}");
        let found = symmetric_eigen(triangle, (n, 0), |_| Ok(())).unwrap();
        judge("two stages", &found.values, &found.vectors);
        let options = LanczosOptions { k: 3, tol: 1e-10, ncv: Some(15), ..LanczosOptions::default() };
        let top = lanczos(&dense, &options, |_| ()).unwrap();
        for (value, right) in top.values.iter().zip(expected.iter().rev()) {
            assert!((value / scale - right).abs() < 1e-9, "Lanczos at {what}: {:?}", top.values);
        }
        assert_eq!(top.stop_reason, StopReason::Converged, "{what}");
    }
    for scale in [1e-40, 1e-30, 1e30] {
        let triangle = Triangle::<f32>::from_fn(n, 8, |i, j| scale * a.matrix()[(i, j)]);
        // What single precision has kept of so small entries.
        let kept = triangle.to_square() * faer::Scale(1.0 / scale);
        let right = FullSpectrum::of(kept.as_ref()).unwrap().values;
        let found = symmetric_eigen(triangle, (0, 0), |_| Ok(())).unwrap();
        let relative: Vec<f64> = found.values.iter().map(|v| v / scale).collect();
        close(&relative, &right, 1e-5, &format!("single precision at {scale:e}"));
    }
}

/// One rounding of asymmetry, in a matrix whose squares overflow.
#[test]
fn a_rounding_of_asymmetry_is_forgiven_at_any_scale() {
    for scale in [1e-180, 1.0, 1e180] {
        let mut matrix = Mat::from_fn(3, 3, |i, j| scale * (1 + i * j) as f64);
        matrix[(0, 1)] *= 1.0 + f64::EPSILON;
        DenseSymmetric::new(matrix.clone()).unwrap();
        matrix[(0, 1)] *= 2.0;
        assert!(matches!(DenseSymmetric::new(matrix), Err(SpectrumError::Asymmetric { .. })), "{scale:e}");
    }
    let huge = Estimate::from_samples(&[1e200, 3e200]);
    assert!((huge.value / 2e200 - 1.0).abs() < 1e-15 && (huge.standard_error / 1e200 - 1.0).abs() < 1e-15);
}

#[test]
fn numbers_that_are_not_finite_are_refused() {
    for bad in [f64::NAN, f64::INFINITY] {
        for (i, j) in [(0, 0), (2, 1), (1, 2)] {
            let mut matrix = Mat::<f64>::identity(4, 4);
            matrix[(i, j)] = bad;
            assert!(matches!(DenseSymmetric::new(matrix.clone()), Err(SpectrumError::NotFinite)));
            assert!(matches!(FullSpectrum::of(matrix.as_ref()), Err(SpectrumError::NotFinite)));
        }
        let diagonal = Tridiagonal { diagonal: vec![1.0, bad], subdiagonal: vec![1.0] };
        assert!(matches!(diagonal.eigenvalues(), Err(SpectrumError::NotFinite)));
        let subdiagonal = Tridiagonal { diagonal: vec![1.0, 2.0], subdiagonal: vec![bad] };
        assert!(matches!(subdiagonal.eigenvalues(), Err(SpectrumError::NotFinite)));
    }
    let a = of_rank(80, &[1.0], 8);
    for tol in [f64::NAN, f64::INFINITY, -1.0] {
        let options = LanczosOptions { k: 1, tol, ..LanczosOptions::default() };
        assert!(matches!(lanczos(&a, &options, |_| ()), Err(SpectrumError::Tolerance { .. })));
    }
}

/// The small end of a positive semidefinite matrix whose small eigenvalues crowd at zero: n products and a dense solution
/// cost less than hundreds of restarts.
#[test]
fn restarts_that_cost_more_than_a_dense_solution_are_given_up() {
    let values: Vec<f64> = (0..85).map(|i| 10f64.powf(-f64::from(i) / 6.0)).collect();
    let a = of_rank(85, &values, 9);
    let options = LanczosOptions { k: 10, which: Which::Sa, tol: 1e-12, ..LanczosOptions::default() };
    let found = lanczos(&a, &options, |_| ()).unwrap();
    assert_eq!(
        (found.solver, found.stop_reason, found.converged),
        (Solver::Dense, StopReason::Converged, 10)
    );
    assert!(found.matvecs <= 4 * 85, "{}", found.matvecs);
    close(&found.values, &sorted(Which::Sa, &values, 10), 1e-13, "small end");
}
