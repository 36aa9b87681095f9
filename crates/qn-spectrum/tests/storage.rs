//! Vectors in single precision: eigenvalues, residuals and orthogonality against double precision.

mod common;

use common::Prescribed;
use faer::Mat;
use qn_spectrum::{
    DensityOptions, Eigenpairs, LanczosOptions, Solver, StopReason, SymmetricOperator as _, Which, complete,
    density, lanczos,
};

const N: usize = 5000;

/// Spectra of networks' kind, and the ends at which they have values apart from a bulk.
fn spectra() -> Vec<(&'static str, Vec<f64>, Vec<Which>)> {
    let of = |f: &dyn Fn(f64) -> f64| (0..N).map(|i| f(i as f64)).collect::<Vec<f64>>();
    let (top, all) = (vec![Which::La, Which::Lm], vec![Which::La, Which::Sa, Which::Lm, Which::Be]);
    vec![
        ("outliers", of(&|i| if i < 9.0 { 20.0 / (1.0 + i) } else { 0.3 * (i * 1.7).sin() }), top.clone()),
        ("powers", of(&|i| (1.0 + i).powf(-1.5)), top),
        ("little rank", of(&|i| if i < 25.0 { 25.0 - i } else { 0.0 }), all.clone()),
        ("both signs", of(&|i| 3.0 * ((i + 0.5) * 0.618).cos() / (1.0 + 0.01 * i)), all),
    ]
}

fn wide(x: &Mat<f32>) -> Mat<f64> {
    Mat::from_fn(x.nrows(), x.ncols(), |i, j| f64::from(x[(i, j)]))
}

/// Largest |λ|.
fn largest(operator: &Prescribed) -> f64 {
    operator.values.iter().fold(0.0, |a, v| a.max(v.abs()))
}

/// Residuals are those of the vectors as they are stored, and the vectors are orthonormal.
fn check(name: &str, operator: &Prescribed, pairs: &Eigenpairs<f32>) {
    let (v, scale) = (wide(&pairs.vectors), largest(operator));
    let mut product = Mat::<f64>::zeros(N, v.ncols());
    operator.apply(v.as_ref(), product.as_mut()).unwrap();
    for (j, (value, told)) in pairs.values.iter().zip(&pairs.residuals).enumerate() {
        let residual = (product.col(j) - faer::Scale(*value) * v.col(j)).norm_l2();
        // The product that the solver saw was rounded to single precision.
        assert!((residual - told).abs() <= 1e-7 * scale, "{name}: {residual:e} {told:e}");
        assert!(*told <= 1e-6 * scale, "{name}: {told:e}");
    }
    let gram = v.transpose() * &v;
    let off = (&gram - Mat::<f64>::identity(v.ncols(), v.ncols())).norm_max();
    assert!(off <= 1e-6, "{name}: {off:e} from orthonormal");
}

#[test]
fn eigenvalues_are_those_of_double_precision() {
    for (name, values, ends) in spectra() {
        let operator = Prescribed::new(values);
        for which in ends {
            for block in [1, 2, 4] {
                let options = LanczosOptions { k: 6, which, block, tol: 1e-6, ..LanczosOptions::default() };
                let what = format!("{name}, {which:?} by {block}");
                let single: Eigenpairs<f32> = lanczos(&operator, &options, |_| ()).unwrap();
                let double: Eigenpairs<f64> = lanczos(&operator, &options, |_| ()).unwrap();
                assert_eq!(single.solver, Solver::Lanczos, "{what}");
                assert_eq!(single.stop_reason, StopReason::Converged, "{what}");
                // How many copies of a repeated value a Krylov space holds is a matter of roundings; with a look at
                // the rest none is missed.
                let single = complete(&operator, single, &options, |_| ()).unwrap().pairs;
                let double = complete(&operator, double, &options, |_| ()).unwrap().pairs;
                let scale = largest(&operator);
                for (a, b) in single.values.iter().zip(&double.values) {
                    assert!((a - b).abs() <= 1e-6 * scale, "{what}: {a} {b}");
                }
                check(&what, &operator, &single);
                // Single precision costs no more products but for a restart or two of a basis of 64.
                assert!(
                    single.matvecs <= double.matvecs + 2 * 64,
                    "{what}: {} {}",
                    single.matvecs,
                    double.matvecs
                );
            }
        }
    }
}

#[test]
fn copies_of_a_repeated_eigenvalue_are_found() {
    let values: Vec<f64> = (0..N).map(|i| if i < 5 { 2.0 } else { 1.0 / i as f64 }).collect();
    let operator = Prescribed::new(values);
    let options = LanczosOptions { k: 7, tol: 1e-6, ..LanczosOptions::default() };
    let pairs: Eigenpairs<f32> = lanczos(&operator, &options, |_| ()).unwrap();
    for (value, expected) in pairs.values.iter().zip([2.0, 2.0, 2.0, 2.0, 2.0, 0.2, 1.0 / 6.0]) {
        assert!((value - expected).abs() <= 1e-6, "{value} {expected}");
    }
    check("repeated", &operator, &pairs);
    let looked = complete(&operator, pairs, &options, |_| ()).unwrap();
    assert!(looked.agreed && looked.recovered == 0);
}

#[test]
fn small_operators_are_solved_densely_in_single_precision_too() {
    let operator = Prescribed::new((0..12).map(f64::from).collect());
    let options = LanczosOptions { k: 3, ..LanczosOptions::default() };
    let pairs: Eigenpairs<f32> = lanczos(&operator, &options, |_| ()).unwrap();
    assert_eq!(pairs.solver, Solver::Dense);
    for (value, expected) in pairs.values.iter().zip([11.0, 10.0, 9.0]) {
        assert!((value - expected).abs() <= 1e-5, "{value} {expected}");
    }
}

#[test]
fn densities_are_those_of_double_precision() {
    for (name, values, _) in spectra() {
        let operator = Prescribed::new(values);
        let options = DensityOptions { probes: 4, steps: 30, points: 200, sigma: Some(0.5), seed: 3 };
        let single = density::<f32>(&operator, &options).unwrap();
        let double = density::<f64>(&operator, &options).unwrap();
        for (a, b) in single.density.iter().zip(&double.density) {
            assert!((a - b).abs() <= 1e-5 * (1.0 + b), "{name}: {a} {b}");
        }
    }
}
