//! All eigenvectors from the two-stage solver: residuals and orthogonality, in both precisions.

use faer::Mat;
use qn_spectrum::{
    BAND, Chased, Columns, Eigensystem, FullSpectrum, Halves, Reduction, Scalar, SpectrumError, Triangle,
    Vectors, eigh,
};
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution as _, StandardNormal};

fn random(n: usize, seed: u64) -> Mat<f64> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let a: Mat<f64> = Mat::from_fn(n, n, |_, _| StandardNormal.sample(&mut rng));
    &a + a.transpose()
}

/// Q diag(values) Qᵀ with a random orthogonal Q.
fn with_spectrum(values: &[f64]) -> Mat<f64> {
    let n = values.len();
    let q = random(n, 7).qr().compute_Q();
    Mat::from_fn(n, n, |i, j| q[(i, j)] * values[j]) * q.transpose()
}

fn triangle<T: Scalar>(a: &Mat<f64>, width: usize) -> Triangle<T> {
    Triangle::from_fn(a.nrows(), width, |i, j| a[(i, j)])
}

fn wide<T: Scalar>(x: &Columns<T>) -> Mat<f64> {
    let x = x.as_ref();
    Mat::from_fn(x.nrows(), x.ncols(), |i, j| x[(i, j)].f64())
}

/// Whether |A v − λ v| and |VᵀV − 1| are at the level of n · eps.
fn check<T: Scalar>(name: &str, a: &Mat<f64>, width: usize) -> Eigensystem<T> {
    let n = a.nrows();
    let found = eigh(triangle::<T>(a, width), Vectors::All, |_| Ok(())).unwrap();
    let (name, v) = (format!("{name}, n = {n}, width {width}, {}", T::NAME), wide(&found.vectors));
    let norm = found.values.iter().fold(f64::MIN_POSITIVE, |m, v| m.max(v.abs()));
    let bound = 2.0 * n.max(10) as f64 * T::EPS;
    assert!(found.values.is_sorted(), "{name}");
    let gram = v.transpose() * &v - Mat::<f64>::identity(n, n);
    assert!(gram.norm_max() <= bound, "{name}: orthogonality, {} of the bound", gram.norm_max() / bound);
    // Beside the norm, so that no scale leaves the range of numbers.
    let products = Mat::from_fn(n, n, |i, j| a[(i.max(j), i.min(j))] / norm) * &v;
    for (j, &value) in found.values.iter().enumerate() {
        let residual = (products.col(j) - faer::Scale(value / norm) * v.col(j)).norm_l2();
        assert!(residual <= bound, "{name}: residual of pair {j}, {} of the bound", residual / bound);
    }
    found
}

fn both(name: &str, a: &Mat<f64>, width: usize) {
    check::<f64>(name, a, width);
    check::<f32>(name, a, width);
}

#[test]
fn hard_spectra() {
    for n in [90, 330] {
        let at = |f: &dyn Fn(usize) -> f64| -> Vec<f64> { (0..n).map(f).collect() };
        let spectra = [
            ("uniform", at(&|i| i as f64 - 40.0)),
            ("clusters", at(&|i| (i / 30) as f64 + 1e-9 * i as f64)),
            ("repeated", at(&|i| (i % 3) as f64)),
            ("graded", at(&|i| 2f64.powi(-(i as i32)))),
            ("rank deficient", at(&|i| if i < 5 { 10.0 - i as f64 } else { 0.0 })),
            ("identity", at(&|_| 1.0)),
            ("zero", at(&|_| 0.0)),
        ];
        for (name, values) in &spectra {
            both(name, &with_spectrum(values), if n < 100 { 32 } else { 256 });
        }
    }
}

#[test]
fn sizes_around_the_blocks() {
    for n in [1, 2, 3, 4, 31, 33, 63, 64, 65, 66, 96, 127, 129, 191, 193, 255, 257, 321] {
        both("random", &random(n, n as u64), 256);
    }
    for width in [1, 2, 3, 8, 16, 64, 128, 200] {
        both("random", &random(150, 1), width);
    }
    let empty = eigh(Triangle::<f64>::zeros(0, 256), Vectors::All, |_| Ok(())).unwrap();
    assert_eq!((empty.values.len(), empty.vectors.as_ref().ncols()), (0, 0));
}

#[test]
fn scales() {
    let a = random(130, 2);
    for scale in [1e-300, 1e-160, 1e160, 1e300] {
        check::<f64>("scaled", &(&a * faer::Scale(scale)), 64);
    }
    for scale in [1e-30, 1e30] {
        both("scaled", &(&a * faer::Scale(scale)), 64);
    }
    let diagonal = Mat::from_fn(140, 140, |i, j| if i == j { (7.0 * i as f64).sin() } else { 0.0 });
    both("diagonal", &diagonal, 64);
}

/// Stages one by one, what they need being written and read in between, give the bits of all at once.
#[test]
fn stage_by_stage() {
    fn check<T: Scalar>(n: usize) {
        let a = random(n, 5);
        let reduced = || {
            let mut reduction = Reduction::new(triangle::<T>(&a, 64), BAND).unwrap();
            while reduction.step() {}
            reduction
        };
        let (range, whole) = (n / 5..n / 2, reduced().panels(|_| Ok(())).unwrap());
        let (tridiagonal, chased) = reduced().chase(|_| Ok(())).unwrap();
        let mut bytes = Vec::new();
        chased.write(&mut bytes).unwrap();
        let chased = Chased::<T>::read(&mut bytes.as_slice(), n).unwrap();
        assert!(Chased::<T>::read(&mut bytes.as_slice(), n + 1).is_err());
        assert!(n < 10 || Chased::<T>::read(&mut &bytes[..bytes.len() / 2], n).is_err());
        let mut numbers = Halves::<T>::new(&tridiagonal).unwrap().columns(range.clone());
        chased.apply(&mut numbers);
        reduced().transform(&mut numbers);
        let expected = whole.vectors(range).into_vec();
        assert!(
            numbers.len() == expected.len() && numbers.iter().zip(&expected).all(|(a, b)| a.f64() == b.f64())
        );
        assert_eq!(tridiagonal.eigenvalues().unwrap(), whole.values());
    }
    for n in [1, 2, 65, 200] {
        check::<f64>(n);
        check::<f32>(n);
    }
}

/// A Gram matrix of 9 vectors: all but 9 eigenvalues are zero.
#[test]
fn rank_9_of_order_2110() {
    let (n, rank) = (2110, 9);
    let mut rng = ChaCha8Rng::seed_from_u64(9);
    let x: Mat<f64> = Mat::from_fn(n, rank, |_, _| StandardNormal.sample(&mut rng));
    let a = &x * x.transpose();
    check::<f32>("rank 9", &a, 256);
    let found = check::<f64>("rank 9", &a, 256);
    let bound = n as f64 * f64::EPSILON * found.values[n - 1];
    assert!(found.values[..n - rank].iter().all(|v| v.abs() < bound) && found.values[n - rank] > 1.0);
    // At this order the two stages are behind the full spectrum of a matrix, too.
    let full = FullSpectrum::of(a.as_ref()).unwrap();
    assert_eq!(full.values, found.values);
    assert_eq!(full.vectors.as_ref(), found.vectors.as_ref());
}

/// Vectors sin(i k π / (n + 1)) of the second difference matrix.
#[test]
fn closed_form() {
    let n = 333;
    let a = Mat::from_fn(n, n, |i, j| match i.abs_diff(j) {
        0 => 2.0,
        1 => -1.0,
        _ => 0.0,
    });
    let found = check::<f64>("1-2-1", &a, 256);
    let angle = std::f64::consts::PI / (n + 1) as f64;
    for k in 0..n {
        let exact = |i: usize| (angle * ((i + 1) * (k + 1)) as f64).sin() * (2.0 / (n + 1) as f64).sqrt();
        let along: f64 = (0..n).map(|i| exact(i) * found.vectors.as_ref()[(i, k)]).sum();
        assert!((along.abs() - 1.0).abs() < 1e-12, "vector {k}: {along}");
        assert!((found.values[k] - 4.0 * (0.5 * angle * (k + 1) as f64).sin().powi(2)).abs() < 1e-13);
    }
}

#[test]
fn against_the_librarys_dense_solver() {
    let n = 280;
    let a = random(n, 4);
    let (found, exact) = (check::<f64>("random", &a, 256), a.self_adjoint_eigen(faer::Side::Lower).unwrap());
    for j in 0..n {
        assert!((found.values[j] - exact.S()[j]).abs() < 1e-12 * n as f64);
        let along = found.vectors.as_ref().col(j).transpose() * exact.U().col(j);
        assert!((along.abs() - 1.0).abs() < 1e-9, "vector {j}: {along}");
    }
}

/// A range is the same vectors, up to roundings, and the values are the same bits whatever is asked for.
#[test]
fn a_range_of_the_vectors() {
    let n = 300;
    let a = random(n, 5);
    let all = check::<f64>("random", &a, 256);
    let none = eigh(triangle::<f64>(&a, 256), Vectors::None, |_| Ok(())).unwrap();
    assert_eq!((none.values, none.vectors.as_ref().ncols()), (all.values.clone(), 0));
    for range in [0..1, 7..200, 299..300, 0..300, 20..20] {
        let some = eigh(triangle::<f64>(&a, 256), Vectors::Range(range.clone()), |_| Ok(())).unwrap();
        assert_eq!(some.values, all.values);
        assert_eq!(some.vectors.as_ref().ncols(), range.len());
        for j in range.clone() {
            let distance =
                (some.vectors.as_ref().col(j - range.start) - all.vectors.as_ref().col(j)).norm_l2();
            assert!(distance < 1e-9, "vector {j}: {distance}");
        }
    }
}

#[test]
fn bits_do_not_depend_on_threads() {
    let a = random(420, 3);
    let solve = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let single = eigh(triangle::<f32>(&a, 128), Vectors::All, |_| Ok(())).unwrap();
            let double = eigh(triangle::<f64>(&a, 128), Vectors::All, |_| Ok(())).unwrap();
            (single.values, single.vectors, double.values, double.vectors)
        })
    };
    let one = solve(1);
    for threads in [2, 3] {
        assert!(solve(threads) == one, "{threads} threads");
    }
}

#[test]
fn what_is_not_finite_is_named_and_an_observer_can_stop() {
    for bad in [f64::NAN, f64::INFINITY] {
        let bad = Triangle::<f64>::from_fn(9, 4, |i, j| if (i, j) == (7, 2) { bad } else { 1.0 });
        assert!(matches!(eigh(bad, Vectors::All, |_| Ok(())), Err(SpectrumError::NotFinite)));
    }
    let good = Triangle::<f64>::from_fn(9, 4, |i, j| (i + j) as f64);
    let stop = |_| Err(SpectrumError::Operator("stop".into()));
    assert!(eigh(good, Vectors::All, stop).unwrap_err().to_string().contains("stop"));
}
