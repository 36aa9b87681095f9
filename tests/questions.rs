//! The analyses behind docs/findings.md, on the digits: against each other, and against what must hold.

use crate::common::Sandbox;
use crate::reports::{json, numbers, satisfies_its_schema};
use serde_json::Value;

const RECIPE: &str = r#"
name = "tiny"
description = "a test"
compare = [["sgd", "plain"]]
[track]
tol = 1e-6
[common]
arch = "digits"
data = "digits"
lr = 0.05
epochs = 2
log-every = 1
keep-checkpoints = 0
[runs.sgd]
[runs.plain]
optimizer = "qn"
[paper.sgd]
val-accuracy = 0.88
"#;

fn number(v: &Value) -> f64 {
    v.as_f64().unwrap()
}

#[test]
fn a_run_that_diverges_is_a_result_and_the_other_is_followed() {
    let sandbox = Sandbox::new();
    sandbox.write("tiny.toml", RECIPE);
    let out = sandbox.analyse(&["reproduce", "tiny.toml"]);
    assert_eq!(out.code, 0, "{}", out.stderr);
    let experiment = json(&sandbox.path("runs/tiny/experiment.json"));
    satisfies_its_schema("experiment", "runs", &experiment);
    let [plain, sgd] = [0, 1].map(|i| &experiment["runs"][i]);
    assert!(plain["diverged_at"].as_u64().unwrap() < 24 && sgd["diverged_at"].is_null());
    assert_eq!((&sgd["seed"], &sgd["paper"]["val_accuracy"]), (&0.into(), &0.88.into()));
    assert_eq!(sgd["validation"].as_array().unwrap().len(), 2);
    assert!(experiment["comparisons"][0]["overtaken_at"].is_u64());
    assert!(
        out.stdout.contains("88") && out.stdout.contains("against sgd (1 seed): fails with 1"),
        "{}",
        out.stdout
    );
    assert!(!sandbox.path("runs/tiny/plain/reports/track.json").exists());
    let again = sandbox.analyse(&["reproduce", "tiny.toml"]);
    assert!(again.stderr.contains("diverged already") && again.stderr.contains("trained already"));

    let track = json(&sandbox.path("runs/tiny/sgd/reports/track.json"));
    satisfies_its_schema("track", "points", &track);
    let points = track["points"].as_array().unwrap();
    assert_eq!(points.iter().map(|p| p["step"].as_u64().unwrap()).collect::<Vec<_>>(), [0, 12, 24]);
    assert!((number(&track["threshold"]) - 40.0).abs() < 1e-12);
    for p in points {
        let (values, inside) = (numbers(&p["eigenvalues"]), numbers(&p["inside"]));
        assert_eq!((values.len(), inside.len()), (11, 10));
        // Cauchy: an eigenvalue of a compression to all but C directions lies between λ_1 and λ_(C+1).
        let (slack, outside) = (1e-5 * values[0], number(&p["outside"]));
        assert!(outside <= values[0] + slack && outside >= values[10] - slack, "{outside} {values:?}");
        assert!(inside.iter().zip(&values).all(|(i, v)| *i <= v + slack));
        for share in ["gradient_in_class_span", "gradient_in_top_space", "subspace_overlap", "max_coherence"]
        {
            assert!((0.0..=1.0).contains(&number(&p[share])), "{share}");
        }
        assert!(numbers(&p["lambda"]).iter().all(|l| *l > 0.0));
        // The eigenvalues of the positive semidefinite D^1/2 V G V' D^1/2 are bounded by its diagonal and its trace.
        let pairs = numbers(&p["ggn_curvature"]).into_iter().zip(numbers(&p["lambda"]));
        let ratios: Vec<f64> = pairs.map(|(c, l)| c / l).collect();
        let (rho, largest) = (number(&p["rho"]), ratios.iter().copied().fold(0.0, f64::max));
        assert!(largest <= rho * (1.0 + 1e-9) && rho <= ratios.iter().sum::<f64>() * (1.0 + 1e-9), "{p}");
        assert!((number(&p["rho_limit"]) - 3.8).abs() < 1e-12, "{p}");
        assert!(number(&p["preconditioner_min"]) <= 1.0, "{p}");
    }
    the_last_point_agrees_with_other_commands(&sandbox, points.last().unwrap());
}

fn the_last_point_agrees_with_other_commands(sandbox: &Sandbox, last: &Value) {
    let report = |arguments: &[&str]| {
        let out = sandbox.analyse(arguments);
        assert_eq!(out.code, 0, "{}", out.stderr);
        serde_json::from_str::<Value>(&out.stdout).unwrap()
    };
    let run = "runs/tiny/sgd";
    let eigen = report(&["eigen", run, "--k", "11", "--json", "-"]);
    for (a, b) in numbers(&eigen["eigenvalues"]).iter().zip(numbers(&last["eigenvalues"])) {
        assert!((a - b).abs() < 1e-6 * a.abs().max(1.0), "{a} {b}");
    }
    assert!((number(&eigen["loss"]) - number(&last["loss"])).abs() < 1e-12);
    let first = report(&["eigen", run, "--k", "1", "--step", "0", "--json", "-"]);
    assert!(number(&first["eigenvalues"][0]) < 0.5 * number(&eigen["eigenvalues"][0]));

    let exact = report(&["decompose", run, "--json", "-"]);
    satisfies_its_schema("decompose", "blocks", &exact);
    let ratio = &last["residual_ratio"];
    let error = number(&ratio["value"]) - number(&exact["residual_ratio"]["value"]);
    assert!(error.abs() <= 4.0 * number(&ratio["standard_error"]), "{ratio}");
    let blocks = &exact["blocks"];
    assert_eq!(blocks["layers"], serde_json::json!(["conv1", "conv2", "fc"]));
    let of = |name: &str| blocks[name].as_array().unwrap().iter().map(numbers).collect::<Vec<_>>();
    let (hessian, residual) = (of("hessian"), of("residual"));
    let total = hessian.concat().iter().map(|x| x * x).sum::<f64>().sqrt();
    assert!((total / number(&exact["hessian_norm"]) - 1.0).abs() < 0.1, "ten random vectors a layer");
    for (l, row) in residual.iter().enumerate() {
        assert!(row[l] <= 1e-12 * total, "within a layer of a ReLU network F is zero");
        assert!(row.iter().enumerate().all(|(m, &x)| m == l || x > 1e-3 * total));
    }
}

#[test]
fn a_minibatch_of_all_samples_is_no_minibatch() {
    let sandbox = Sandbox::new();
    sandbox.train_digits("run");
    let out = sandbox.analyse(&["batches", "run", "--sizes", "100,1437", "--draws", "1", "--tol", "1e-8"]);
    assert_eq!(out.code, 0, "{}", out.stderr);
    let report = json(&sandbox.path("run/reports/batches.json"));
    satisfies_its_schema("batches", "sizes", &report);
    let [few, all] = [0, 1].map(|i| &report["sizes"][i]);
    for end in ["largest", "smallest"] {
        let whole = number(&report[end]);
        assert!((number(&all[end][0]) - whole).abs() < 1e-9 * whole.abs());
        assert!((number(&few[end][0]) - whole).abs() > 1e-3 * whole.abs());
    }
    let out = sandbox.analyse(&["batches", "run", "--sizes", "1000", "--draws", "2"]);
    assert!(out.code == 2 && out.stderr.contains("--sizes 1000 --draws 2"), "{}", out.stderr);
    let out = sandbox.analyse(&["eigen", "run", "--step", "7"]);
    assert!(out.code == 2 && out.stderr.contains("--keep-checkpoints"), "{}", out.stderr);
}
