//! Spectra with repeated eigenvalues, of low rank, and of networks at odd points.

use crate::common::Sandbox;

const LINEAR: &str = "name = 'one'\ninput = [1, 8, 8]\nclasses = 10\nlayers = [{ type = 'flatten' }, \
    { type = 'linear', name = 'l', out_features = 10 }]";

/// A checkpoint of [`LINEAR`].
fn linear_checkpoint(sandbox: &Sandbox, weight: impl Fn(usize) -> f32, bias: impl Fn(usize) -> f32) {
    let bytes =
        |n: usize, f: &dyn Fn(usize) -> f32| -> Vec<u8> { (0..n).flat_map(|i| f(i).to_le_bytes()).collect() };
    let (w, b) = (bytes(640, &weight), bytes(10, &bias));
    let view = |shape: Vec<usize>, bytes| {
        safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape, bytes).unwrap()
    };
    let views = [("l.weight", view(vec![10, 64], &w)), ("l.bias", view(vec![10], &b))];
    sandbox.write("one.toml", LINEAR);
    sandbox.write("one.safetensors", safetensors::serialize(views, None).unwrap());
}

/// The report of `eigen` on standard output.
fn eigen(sandbox: &Sandbox, of: &[&str], more: &[&str]) -> serde_json::Value {
    let out = sandbox.analyse(&[&["eigen"], of, &["--json", "-"], more].concat());
    assert_eq!(out.code, 0, "{more:?}: {}", out.stderr);
    serde_json::from_str(&out.stdout).unwrap()
}

fn values(report: &serde_json::Value) -> Vec<f64> {
    report["eigenvalues"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
}

const ONE: [&str; 6] = ["--checkpoint", "one.safetensors", "--arch", "one.toml", "--data", "digits"];

/// At zero all classes are alike, so that H = (I − 1/C) ⊗ Σ a aᵀ / N C has every eigenvalue nine times: PyTorch and the
/// dense solver say 3.39637 nine times, then 0.58621.
#[test]
fn nine_equal_eigenvalues_of_a_network_at_zero() {
    let sandbox = Sandbox::new();
    linear_checkpoint(&sandbox, |_| 0.0, |_| 0.0);
    for more in [&["--verify"][..], &[], &["--full"], &["--verify", "--block", "4", "--dtype", "f32"]] {
        let report = eigen(&sandbox, &ONE, &[&["--samples", "100", "--k", "10"], more].concat());
        let found = values(&report);
        assert!(found[..9].iter().all(|v| (v - 3.39637).abs() < 1e-4), "{more:?}: {found:?}");
        assert!((found[9] - 0.58621).abs() < 1e-4, "{more:?}: {found:?}");
        let verified = &report["verified"];
        assert_eq!(verified == &serde_json::Value::Bool(true), more.contains(&"--verify"), "{verified}");
    }
}

/// G has its null space at the bottom, here of more than 500 dimensions.
#[test]
fn the_null_space_of_the_gauss_newton_matrix() {
    let sandbox = Sandbox::new();
    linear_checkpoint(&sandbox, |i| ((i * 37 % 101) as f32 - 50.0) / 200.0, |_| 0.0);
    let ask = ["--samples", "8", "--k", "10", "--operator", "ggn", "--which", "SA", "--verify"];
    let report = eigen(&sandbox, &ONE, &ask);
    assert!(values(&report).iter().all(|v| v.abs() < 1e-9), "{report}");
    assert_eq!(report["verified"], true);
}

/// A sample's G has rank 9: its Krylov space is used up in the middle of a block.
#[test]
fn the_gauss_newton_matrix_of_a_single_sample() {
    let sandbox = Sandbox::new();
    sandbox.train_digits("run");
    for dtype in ["f64", "f32"] {
        let ask = ["--samples", "1", "--operator", "ggn", "--dtype", dtype];
        let found = values(&eigen(&sandbox, &["run"], &ask));
        assert!(found[8] > 0.0 && found[9].abs() < 1e-5 * found[0], "{dtype}: {found:?}");
    }
}

/// Training at a rate that is far too high ends where almost nothing has curvature.
#[test]
fn a_network_that_does_not_train() {
    let sandbox = Sandbox::new();
    let train = ["--arch", "digits", "--data", "digits", "--lr", "1", "--epochs", "3", "--out", "run"];
    let out = sandbox.train(&train);
    assert_eq!(out.code, 0, "{}", out.stderr);
    for more in [&["--dtype", "f64"][..], &["--dtype", "f32"], &["--operator", "ggn"]] {
        let found = values(&eigen(&sandbox, &["run"], more));
        assert!(found.is_sorted_by(|a, b| a >= b), "{more:?}: {found:?}");
    }
}

/// The small end of G at 650 parameters, where restarts do not settle: solved densely, which is said.
#[test]
fn the_smallest_pairs_are_found_densely_where_that_costs_less() {
    let sandbox = Sandbox::new();
    linear_checkpoint(&sandbox, |i| ((i * 37 % 101) as f32 - 50.0) / 20.0, |_| 0.0);
    let ask = ["--operator", "ggn", "--which", "SA", "--k", "10", "--tol", "1e-13"];
    let out = sandbox.analyse(&[&["eigen"], &ONE[..], &["--json", "a.json"], &ask].concat());
    assert!(out.stderr.contains("solved densely"), "{} {}", out.stderr, out.stdout);
    let report: serde_json::Value =
        serde_json::from_slice(&std::fs::read(sandbox.path("a.json")).unwrap()).unwrap();
    assert_eq!(report["method"], "dense");
    assert!(report["matvecs"].as_u64().unwrap() < 4 * 650, "{}", report["matvecs"]);
}

/// A network that is certain of its only sample: H is far below the range of single precision, whose spectra have the
/// relative accuracy of its rounded logits all the same.
#[test]
fn a_loss_below_the_range_of_single_precision() {
    let sandbox = Sandbox::new();
    let right = (0..10).find(|&class| {
        let bias = |k| if k == class { 160.0 } else { k as f32 };
        linear_checkpoint(&sandbox, |i| (i % 7) as f32 / 50.0, bias);
        eigen(&sandbox, &ONE, &["--samples", "1", "--k", "1"])["accuracy"] == 1.0
    });
    assert!(right.is_some());
    let largest = |more: &[&str]| {
        let report = eigen(&sandbox, &ONE, &[&["--samples", "1", "--k", "1"], more].concat());
        values(&report)[0]
    };
    let exact = largest(&[]);
    assert!(0.0 < exact && exact < 1e-50, "{exact}");
    for more in [&["--full"][..], &["--dtype", "f32"], &["--dtype", "f32", "--full"]] {
        let found = largest(more);
        assert!((found / exact - 1.0).abs() < 1e-3, "{more:?}: {found} for {exact}");
    }
}
