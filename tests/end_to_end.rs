//! The programs as a user runs them: train, eigen, overlap, and what they leave.

use std::path::Path;

use crate::common::Sandbox;
use crate::reports::{json, numbers, satisfies_its_schema};
use serde_json::Value;

const RECIPE: &str = r#"
name = "tiny"
description = "a test"
[eigen]
k = 11
samples = 200
[runs.sgd]
arch = "digits"
data = "digits"
lr = 0.05
epochs = 1
samples = 300
snapshot-every = 2
[runs.qn]
arch = "digits"
data = "digits"
optimizer = "qn"
damping = 10.0
lr = 0.05
epochs = 1
samples = 300
snapshot-every = 2
"#;

#[test]
fn committed_reference_and_schemas_are_fresh() {
    for (name, text) in qn_cli::analyse::reference().unwrap() {
        let committed = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(&name);
        let words = "run `cargo run --bin qn-analyse -- reference` and commit";
        assert!(std::fs::read_to_string(committed).unwrap_or_default() == text, "{name}: {words}");
    }
    let formats = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/formats.md");
    let table = qn_study::markdown_table();
    assert!(std::fs::read_to_string(formats).unwrap().contains(&table), "docs/formats.md: run it as well");
}

/// Everything but times: what must repeat bit for bit.
fn timeless(run: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files = Vec::new();
    for folder in ["snapshots", "reports"] {
        for entry in std::fs::read_dir(run.join(folder)).unwrap() {
            let path = entry.unwrap().path();
            files.push((
                path.file_name().unwrap().to_string_lossy().into_owned(),
                std::fs::read(&path).unwrap(),
            ));
        }
    }
    files.retain(|(name, _)| name != "eigen.json");
    files.sort();
    let mut eigen = json(&run.join("reports/eigen.json"));
    eigen.as_object_mut().unwrap().retain(|key, _| key != "seconds" && key != "checkpoint");
    files.push(("eigen".into(), eigen.to_string().into_bytes()));
    let metrics = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let cut: Vec<&str> = metrics.lines().map(|l| l.split(",\"seconds\"").next().unwrap()).collect();
    files.push(("metrics".into(), cut.join("\n").into_bytes()));
    let checkpoint = std::fs::read_dir(run.join("checkpoints")).unwrap().next().unwrap().unwrap().path();
    let tensors = qn_run::TensorFile::read(&checkpoint).unwrap().tensors;
    files.push(("checkpoint".into(), format!("{tensors:?}").into_bytes()));
    files
}

#[test]
fn a_recipe_runs_repeats_and_satisfies_the_schemas() {
    let sandbox = Sandbox::new();
    sandbox.write("tiny.toml", RECIPE);
    let out = sandbox.analyse(&["reproduce", "tiny.toml", "--threads", "1"]);
    assert_eq!(out.code, 0, "{}", out.stderr);
    assert!(out.stdout.contains("lambda_1") && out.stdout.contains("runs/tiny/qn/reports"), "{}", out.stdout);
    assert!(!out.stderr.contains('\r'), "no progress bar where there is no terminal");

    for run in ["sgd", "qn"] {
        for name in ["eigen", "overlap"] {
            let report = json(&sandbox.path(&format!("runs/tiny/{run}/reports/{name}.json")));
            satisfies_its_schema(name, "params", &report);
        }
    }

    let eigen = json(&sandbox.path("runs/tiny/sgd/reports/eigen.json"));
    let (values, residuals) = (numbers(&eigen["eigenvalues"]), numbers(&eigen["residuals"]));
    assert!(values.len() == 11 && values.windows(2).all(|w| w[0] >= w[1]));
    assert!(residuals.iter().all(|&r| r <= 1e-6 * values[0]));
    let overlap = json(&sandbox.path("runs/tiny/qn/reports/overlap.json"));
    assert_eq!(overlap["class_gradients"], "averaged");
    let steps: Vec<_> =
        overlap["snapshots"].as_array().unwrap().iter().map(|s| s["step"].as_u64().unwrap()).collect();
    assert_eq!(steps, [0, 2, 3]);
    for s in overlap["snapshots"].as_array().unwrap() {
        let cosine = s["mean_assigned_cosine"].as_f64().unwrap();
        assert!(cosine > 0.0 && cosine <= 1.0);
        assert!(numbers(&s["principal_angles"]).len() == 10 && numbers(&s["singular_values"]).len() == 20);
    }

    // The same again with two threads, elsewhere: the same bits.
    let out = sandbox.analyse(&["reproduce", "tiny.toml", "--threads", "2", "--out", "again"]);
    assert_eq!(out.code, 0, "{}", out.stderr);
    for run in ["sgd", "qn"] {
        let (a, b) =
            (timeless(&sandbox.path("runs/tiny").join(run)), timeless(&sandbox.path("again/tiny").join(run)));
        assert_eq!(a.len(), b.len());
        for ((name, first), (_, second)) in a.into_iter().zip(b) {
            assert!(first == second, "{run}: {name} differs");
        }
    }

    // What is done is not done again.
    let before =
        std::fs::metadata(sandbox.path("runs/tiny/sgd/reports/eigen.json")).unwrap().modified().unwrap();
    let out = sandbox.analyse(&["reproduce", "tiny.toml"]);
    assert!(out.code == 0 && out.stderr.contains("trained already"), "{}", out.stderr);
    let after =
        std::fs::metadata(sandbox.path("runs/tiny/sgd/reports/eigen.json")).unwrap().modified().unwrap();
    assert_eq!(before, after);
}

#[test]
fn a_resumed_run_equals_an_unbroken_one() {
    let sandbox = Sandbox::new();
    let options = [
        "--arch",
        "digits",
        "--data",
        "digits",
        "--samples",
        "200",
        "--batch-size",
        "50",
        "--log-every",
        "1",
        "--lr",
        "0.05",
        "--optimizer",
        "qn",
        "--damping",
        "10",
        "--snapshot-every",
        "3",
        "--checkpoint-every",
        "2",
    ];
    let train = |more: &[&str]| {
        let out = sandbox.train(&[&options[..], more].concat());
        assert_eq!(out.code, 0, "{}", out.stderr);
    };
    train(&["--steps", "10", "--out", "whole"]);
    train(&["--steps", "6", "--out", "broken"]);
    let out = sandbox.train(&["--resume", "--out", "broken", "--steps", "10"]);
    assert_eq!(out.code, 0, "{}", out.stderr);
    let metrics = |run: &str| {
        let text = std::fs::read_to_string(sandbox.path(run).join("metrics.jsonl")).unwrap();
        // The shorter run was validated at its end, in the middle of an epoch.
        let lines = text.lines().filter(|l| !(l.contains("\"step\":6,") && l.contains("val_loss")));
        lines.map(|l| l.split(",\"seconds\"").next().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(metrics("whole"), metrics("broken"));
    let tensors = |run: &str| {
        let path = sandbox.path(run).join("checkpoints/step-00000010.safetensors");
        qn_run::TensorFile::read(&path).unwrap().tensors
    };
    assert_eq!(tensors("whole"), tensors("broken"));
    let last =
        |run: &str| std::fs::read(sandbox.path(run).join("snapshots/step-00000010.safetensors")).unwrap();
    assert_eq!(last("whole"), last("broken"));
    let kept = std::fs::read_dir(sandbox.path("whole/checkpoints")).unwrap().count();
    assert_eq!(kept, 2);
}

#[test]
fn parameters_of_another_program_are_read() {
    let sandbox = Sandbox::new();
    sandbox.train_digits("run");
    let checkpoint =
        std::fs::read_dir(sandbox.path("run/checkpoints")).unwrap().next().unwrap().unwrap().path();
    // As PyTorch would save it: parameters only, no metadata of ours.
    let ours = qn_run::TensorFile::read(&checkpoint).unwrap();
    let views: Vec<(String, Vec<usize>, Vec<u8>)> = ours
        .tensors
        .iter()
        .filter(|(name, _)| !name.starts_with("optimizer."))
        .map(|(name, t)| {
            let bytes = t.to_f32().unwrap().iter().flat_map(|v| v.to_le_bytes()).collect();
            (name.clone(), t.shape().to_vec(), bytes)
        })
        .collect();
    let views = views.iter().map(|(name, shape, bytes)| {
        let dtype = safetensors::Dtype::F32;
        (name.as_str(), safetensors::tensor::TensorView::new(dtype, shape.clone(), bytes).unwrap())
    });
    std::fs::write(sandbox.path("state.safetensors"), safetensors::serialize(views, None).unwrap()).unwrap();
    let run = |args: &[&str]| {
        let out =
            sandbox.analyse(&[args, &["--k", "3", "--samples", "100", "--json", "-", "-q"][..]].concat());
        assert_eq!(out.code, 0, "{}", out.stderr);
        serde_json::from_str::<Value>(&out.stdout).unwrap()["eigenvalues"].clone()
    };
    let foreign =
        run(&["eigen", "--checkpoint", "state.safetensors", "--arch", "digits", "--data", "digits"]);
    assert_eq!(foreign, run(&["eigen", "run"]));
}

#[test]
fn not_converging_is_told_and_written() {
    let sandbox = Sandbox::new();
    sandbox.train_digits("run");
    let out = sandbox.analyse(&["eigen", "run", "--samples", "50", "--tol", "1e-30", "--maxiter", "1"]);
    assert_eq!(out.code, 3, "{}", out.stderr);
    assert!(out.stdout.contains("NOT CONVERGED"), "{}", out.stdout);
    assert_ne!(json(&sandbox.path("run/reports/eigen.json"))["stop_reason"], "converged");
}

/// On the real data set, fetched into `QN_DATA`, or data/ in the repository.
#[test]
#[cfg_attr(not(feature = "slow"), ignore = "takes CIFAR-10, fetched: --features qn-cli/slow")]
fn real_data() {
    let default = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../data");
    let dir = std::env::var_os("QN_DATA").map_or(default, Into::into);
    assert!(dir.join("cifar10/test_batch.bin").is_file(), "run `qn-train fetch cifar10` first");
    let sandbox = Sandbox::new();
    let dir = dir.canonicalize().unwrap();
    let dir = dir.to_str().unwrap();
    let base = [
        "--arch",
        "lenet",
        "--data",
        "cifar10",
        "--data-dir",
        dir,
        "--samples",
        "256",
        "--steps",
        "1",
        "--out",
        "run",
    ];
    let out = sandbox.train(&base);
    assert_eq!(out.code, 0, "{}", out.stderr);
    let out = sandbox.analyse(&[
        "eigen",
        "run",
        "--samples",
        "64",
        "--k",
        "10",
        "--dtype",
        "f32",
        "--data-dir",
        dir,
    ]);
    assert_eq!(out.code, 0, "{}", out.stderr);
    assert_eq!(sandbox.analyse(&["overlap", "run"]).code, 0);
}
