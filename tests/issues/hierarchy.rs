//! G by classes.

use crate::common::Sandbox;
use crate::reports::numbers;

fn trained(sandbox: &Sandbox) {
    sandbox.small_network("net.toml");
    let train = "--arch net.toml --data digits --lr 0.05 --steps 20 --samples 100 --batch-size 50 --out run";
    sandbox.trained(train);
}

#[test]
fn parts_make_up_the_whole() {
    let sandbox = Sandbox::new();
    trained(&sandbox);
    sandbox.analysed("hierarchy run --samples 80 -k 235");
    let report = sandbox.json("run/reports/hierarchy.json");
    let trace = |part: &str| report[part]["trace"]["value"].as_f64().unwrap();
    let whole = trace("whole");
    let parts: f64 = ["own_class", "class", "cross_class", "within_class"].map(trace).iter().sum();
    assert!((parts / whole - 1.0).abs() < 1e-10, "{parts} {whole}");
    for part in ["whole", "own_class", "class", "cross_class", "within_class"] {
        let values = numbers(&report[part]["eigenvalues"]);
        // Positive semidefinite, and the eigenvalues sum to the trace.
        assert!(values.iter().all(|v| *v > -1e-10 * whole), "{part}");
        assert!((values.iter().sum::<f64>() - trace(part)).abs() < 1e-10 * whole, "{part}");
    }
    let rank =
        |part: &str| numbers(&report[part]["eigenvalues"]).iter().filter(|v| **v > 1e-12 * whole).count();
    assert!(rank("class") <= 10 && rank("cross_class") <= 80);
    let weights: f64 = report["weights"].as_array().unwrap().iter().flat_map(numbers).sum();
    assert!((weights - 1.0).abs() < 1e-12);

    // The same by products.
    sandbox.analysed(
        "hierarchy run --samples 80 -k 12 --dense-up-to 0 --tol 1e-9 --probes 120 --json products.json",
    );
    let products = sandbox.json("products.json");
    for part in ["whole", "own_class", "within_class"] {
        let (found, expected) =
            (numbers(&products[part]["eigenvalues"]), numbers(&report[part]["eigenvalues"]));
        for (a, b) in found.iter().zip(&expected) {
            assert!((a - b).abs() < 1e-7 * expected[0], "{part} {a} {b}");
        }
        let estimate = &products[part]["trace"];
        let off = (estimate["value"].as_f64().unwrap() - trace(part)).abs();
        assert!(off < 5.0 * estimate["standard_error"].as_f64().unwrap() + 1e-9 * whole, "{part} {off}");
    }
    sandbox.analysed("figure hierarchy run -o hierarchy.svg");
    sandbox.analysed("report run");
    sandbox.analysed("inspect products.json");
}

#[test]
fn only_cross_entropy_of_labels_has_a_hierarchy() {
    let sandbox = Sandbox::new();
    trained(&sandbox);
    for (words, said) in [
        ("--loss mse", "cross-entropy"),
        ("--label-smoothing 0.1", "label-smoothing"),
        ("--operator fisher", "--operator"),
    ] {
        let command = format!("hierarchy run {words}");
        let out = sandbox.analyse(&command.split(' ').collect::<Vec<_>>());
        assert!(out.code == 2 && out.stderr.contains(said), "{words}: {} {}", out.code, out.stderr);
    }
}
