//! Full spectra described.

use crate::common::Sandbox;

#[test]
fn a_full_spectrum_is_described_and_compared() {
    let sandbox = Sandbox::new();
    for (name, steps) in [("a", 4), ("b", 12)] {
        let train = format!(
            "--arch digits --data digits --lr 0.05 --steps {steps} --samples 100 --batch-size 50 --out {name}"
        );
        sandbox.trained(&train);
        sandbox.analysed(&format!("eigen {name} --full --samples 60 -k 2"));
    }
    let table = sandbox.analysed("shape a b --draws 10");
    assert!(table.contains("a and b: distributions"), "{table}");
    let (report, full) = (sandbox.json("a/reports/shape.json"), sandbox.json("a/reports/full_spectrum.json"));
    let values: Vec<f64> =
        full["eigenvalues"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect();
    let close = |found: &serde_json::Value, expected: f64| {
        let found = found.as_f64().unwrap();
        assert!((found / expected - 1.0).abs() < 1e-10, "{found} {expected}");
    };
    let (sum, squares) =
        (values.iter().map(|v| v.abs()).sum::<f64>(), values.iter().map(|v| v * v).sum::<f64>());
    let spectrum = &report["spectra"][0];
    close(&spectrum["participation_ratio"], sum * sum / squares);
    close(&spectrum["stable_rank"], squares / values[0].powi(2).max(values[values.len() - 1].powi(2)));
    let dimension: f64 = values.iter().filter(|v| **v > 0.0).map(|v| v / (v + 0.1)).sum();
    close(&spectrum["effective_dimensions"][2]["dimension"], dimension);
    close(&spectrum["gap_at_classes"]["ratio"], values[9] / values[10]);
    sandbox.analysed("figure shape a b -o shape.svg");
    sandbox.analysed("report a");
    sandbox.analysed("inspect a/reports/shape.json");

    let missing = sandbox.analyse(&["shape", "b", "--alpha", "-1"]);
    assert_eq!(missing.code, 2, "{}", missing.stderr);
    std::fs::remove_file(sandbox.path("b/reports/full_spectrum.json")).unwrap();
    let missing = sandbox.analyse(&["shape", "b"]);
    assert!(missing.code == 1 && missing.stderr.contains("--full"), "{}", missing.stderr);
}
