//! The loss's Hessian in the values between layers.

use qn_run::TensorFile;

use crate::common::Sandbox;

/// The largest eigenvalue of WᵀW, W of 10 rows.
fn largest(w: &[f64]) -> f64 {
    let d = w.len() / 10;
    let mut v = vec![1.0; d];
    let mut norm = 0.0;
    for _ in 0..2000 {
        let wv: Vec<f64> = w.chunks(d).map(|row| row.iter().zip(&v).map(|(w, v)| w * v).sum()).collect();
        let next: Vec<f64> = (0..d).map(|j| (0..10).map(|i| w[i * d + j] * wv[i]).sum()).collect();
        norm = next.iter().map(|x: &f64| x * x).sum::<f64>().sqrt();
        v = next.iter().map(|x| x / norm).collect();
    }
    norm
}

/// With the mean squared error of ten outputs the matrix is 2/10 I in the output of each sample, and 2/10 WᵀW before the last
/// layer.
#[test]
fn of_squares_they_are_the_last_layers_gram_matrix() {
    let sandbox = Sandbox::new();
    sandbox.small_network("net.toml");
    sandbox.trained("--arch net.toml --data digits --loss mse --lr 0.1 --steps 30 --samples 100 --out run");
    let table = sandbox.analysed("activations run --samples 60 --each 3 --tol 1e-9");
    assert_eq!(table.lines().count(), 5, "{table}");
    let report = sandbox.json("run/reports/activations.json");
    let found = report["activations"].as_array().unwrap();
    let names: Vec<&str> = found.iter().map(|at| at["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["input", "b.input", "output"]);
    assert_eq!(found[0]["shape"], serde_json::json!([1, 8, 8]));

    sandbox.analysed("export parameters run -o theta.safetensors");
    let theta = TensorFile::read(&sandbox.path("theta.safetensors")).unwrap();
    let w = theta.tensors["b.weight"].to_f64().unwrap();
    let squares: f64 = w.iter().map(|w| w * w).sum();
    for (at, trace, value) in [(1, 0.2 * squares, 0.2 * largest(&w)), (2, 2.0, 0.2)] {
        let number = |key: &str| found[at][key].as_f64().unwrap();
        assert!((found[at]["trace"]["value"].as_f64().unwrap() / trace - 1.0).abs() < 1e-12, "{found:?}");
        assert_eq!(found[at]["trace"]["standard_error"], 0.0);
        assert!((number("eigenvalue") / value - 1.0).abs() < 1e-9, "{} {value}", number("eigenvalue"));
        // Every sample has this matrix.
        assert!((found[at]["own"]["mean"].as_f64().unwrap() / value - 1.0).abs() < 1e-9);
        assert!(found[at]["own"]["std"].as_f64().unwrap() < 1e-9 * value);
    }
    // In the input it is another one for each sample, and the mean of the largest eigenvalues is above that of the mean.
    assert!(found[0]["own"]["std"].as_f64().unwrap() > 0.0);

    sandbox.analysed("figure activations run -o figure.svg");
    sandbox.analysed("report run");
    sandbox.analysed("inspect run/reports/activations.json");
    let one = sandbox.analysed("activations run --samples 60 --at b.* --each 0 --json one.json");
    assert_eq!(one.lines().count(), 3, "{one}");
    let refused = sandbox.analyse(&["activations", "run", "--at", "conv1.input"]);
    assert!(refused.code == 2 && refused.stderr.contains("input, b.input, output"), "{}", refused.stderr);
    let refused = sandbox.analyse(&["activations", "run", "--only", "b.*"]);
    assert!(refused.code == 2 && refused.stderr.contains("constants"), "{}", refused.stderr);
}

/// Hutch++ and Lanczos against the matrix that is built.
#[test]
fn estimates_agree_with_the_whole_matrix() {
    let sandbox = Sandbox::new();
    sandbox.small_network("net.toml");
    sandbox.trained("--arch net.toml --data digits --lr 0.5 --steps 30 --samples 100 --out run");
    sandbox.analysed("activations run --at input --samples 80 --each 0 --json exact.json --quiet");
    sandbox.analysed(
        "activations run --at input --samples 80 --each 0 --probes 40 --json estimate.json --quiet",
    );
    let [exact, estimate] =
        ["exact.json", "estimate.json"].map(|f| sandbox.json(f)["activations"][0].clone());
    assert_eq!(exact["trace"]["standard_error"], 0.0);
    let difference = exact["trace"]["value"].as_f64().unwrap() - estimate["trace"]["value"].as_f64().unwrap();
    let error = estimate["trace"]["standard_error"].as_f64().unwrap();
    assert!(difference.abs() < 5.0 * error + 1e-12 && error < 0.1, "{difference} {error}");
    let values = [&exact, &estimate].map(|at| at["eigenvalue"].as_f64().unwrap());
    assert!((values[0] / values[1] - 1.0).abs() < 1e-6, "{values:?}");
}
