//! Gradients and layers among the eigenvectors.

use crate::common::Sandbox;
use crate::reports::numbers;

#[test]
fn all_eigenvectors_hold_all_of_a_gradient() {
    let sandbox = Sandbox::new();
    sandbox.small_network("net.toml");
    let train = "--arch net.toml --data digits --lr 0.05 --steps 6 --samples 100 --batch-size 50 --out run";
    sandbox.trained(train);
    sandbox.analysed("eigen run --full --vectors all --samples 60");
    let table = sandbox.analysed("energy run");
    assert!(
        table.lines().any(|line| line.split_whitespace().collect::<Vec<_>>()
            == ["235", "100.000", "%", "100.000", "%", "100.000", "%"]),
        "{table}"
    );
    let report = sandbox.json("run/reports/energy.json");
    assert_eq!(report["samples"], 60);
    let sums_to_one = |shares: &[f64]| (shares.iter().sum::<f64>() - 1.0).abs() < 1e-9;
    let gradient = numbers(&report["gradient"]);
    assert!(gradient.len() == 235 && sums_to_one(&gradient));
    for class in report["class_gradients"].as_array().unwrap() {
        assert!(sums_to_one(&numbers(class)));
    }
    for (masses, spread) in
        report["layer_masses"].as_array().unwrap().iter().zip(numbers(&report["participation"]))
    {
        assert!(sums_to_one(&numbers(masses)) && (1.0..=235.0).contains(&spread));
    }
    assert_eq!(numbers(&report["layer_sizes"]), [195.0 / 235.0, 40.0 / 235.0]);
    sandbox.analysed("figure energy run -o energy.svg");
    sandbox.analysed("report run");
    sandbox.analysed("inspect run/reports/energy.json");

    // Eigenvectors over other samples, or at another point, are no basis for these gradients.
    let other = sandbox.analyse(&["energy", "run", "--samples", "50"]);
    assert!(other.code == 1 && other.stderr.contains("about other samples"), "{}", other.stderr);
}

#[test]
fn eigenvectors_must_be_there_first() {
    let sandbox = Sandbox::new();
    let train = "--arch digits --data digits --lr 0.05 --steps 2 --samples 100 --batch-size 50 --out run";
    sandbox.trained(train);
    let out = sandbox.analyse(&["energy", "run"]);
    assert!(out.code == 1 && out.stderr.contains("qn-analyse eigen run"), "{}", out.stderr);
}
