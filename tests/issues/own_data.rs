//! Data of one's own: labels, vectors and soft labels in .npz and .safetensors files, and data sets as torchvision leaves them.

use std::path::Path;

use serde_json::Value;

use crate::common::{Output, Sandbox};

/// A network of 20 features with three outputs, or more.
fn perceptron(input: &str, classes: usize) -> String {
    format!(
        "name = 'mine'
input = {input}
classes = {classes}
layers = [
  {{ type = 'flatten' }},
  {{ type = 'linear', name = 'hidden', out_features = 6 }},
  {{ type = 'tanh' }},
  {{ type = 'linear', name = 'out', out_features = {classes} }},
]
"
    )
}

/// A sandbox with some of the files of tests/golden/make_data.py.
fn with(files: &[(&str, &str)]) -> Sandbox {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/data");
    let sandbox = Sandbox::new();
    for (from, to) in files {
        sandbox.write(to, std::fs::read(golden.join(from)).unwrap());
    }
    sandbox
}

fn good(out: &Output) -> Value {
    assert_eq!(out.code, 0, "{}", out.stderr);
    serde_json::from_str(&out.stdout).unwrap_or_default()
}

fn refused(out: &Output, code: i32, words: &[&str]) {
    assert_eq!(out.code, code, "{}", out.stderr);
    for word in words {
        assert!(out.stderr.contains(word), "{word}: {}", out.stderr);
    }
    assert!(out.stdout.is_empty() && !out.stderr.contains("panicked"), "{}", out.stderr);
}

const BLOBS: [&str; 10] =
    ["--arch", "net.toml", "--data", "mine.npz", "--lr", "0.1", "--epochs", "30", "--out", "run"];

#[test]
fn three_classes_and_twenty_features_are_trained_and_analysed_without_a_flag() {
    let sandbox = with(&[("blobs.npz", "mine.npz")]);
    sandbox.write("net.toml", perceptron("[20]", 3));
    let out = sandbox.train(&[&BLOBS[..], &["--normalise", "auto"]].concat());
    good(&out);
    let manifest = sandbox.json("run/manifest.json");
    assert_eq!(manifest["normalisation"]["mean"].as_array().unwrap().len(), 20);
    let eigen = good(&sandbox.analyse(&["eigen", "run", "-k", "4", "--json", "-", "--quiet"]));
    assert_eq!((&eigen["outputs"], &eigen["data"]), (&3.into(), &"mine.npz".into()));
    assert_eq!(eigen["normalisation"], manifest["normalisation"]);
    assert_eq!(eigen["loss_function"], "cross-entropy");
    assert!(eigen["accuracy"].as_f64().unwrap() > 0.9, "{}", eigen["accuracy"]);
    good(&sandbox.analyse(&["eigen", "run", "-k", "4"]));
    let overlap = good(&sandbox.analyse(&["overlap", "run", "--json", "-", "--quiet"]));
    assert_eq!((&overlap["classes"], &overlap["snapshots"][0]["classes_present"]), (&3.into(), &3.into()));
    for command in ["density", "trace", "decompose", "track", "inspect", "report"] {
        let out = sandbox.analyse(&[command, "run"]);
        assert_eq!(out.code, 0, "{command}: {}", out.stderr);
    }
    let title = sandbox.analyse(&["figure", "eigenvalues", "run", "-o", "figure.svg"]);
    assert_eq!(title.code, 0, "{}", title.stderr);
    let figure = std::fs::read_to_string(sandbox.path("figure.svg")).unwrap();
    assert!(figure.contains("C = 3 classes") && figure.contains("mine.npz"));

    // As a file of parameters: the same with the same numbers, another without.
    let export = ["export", "parameters", "run", "-o", "net.safetensors"];
    assert_eq!(sandbox.analyse(&export).code, 0);
    let eigen_of = |more: &[&str]| {
        let args = "eigen --checkpoint net.safetensors --arch net.toml --data mine.npz -k 4 --json - --quiet";
        good(&sandbox.analyse(&[&args.split(' ').collect::<Vec<_>>()[..], more].concat()))
    };
    assert_eq!(eigen_of(&["--normalise", "auto"])["eigenvalues"], eigen["eigenvalues"]);
    assert_ne!(eigen_of(&[])["eigenvalues"], eigen["eigenvalues"]);
    assert!(eigen_of(&[]).get("normalisation").is_none());
}

#[test]
fn a_run_finds_its_data_or_is_told_where_they_are() {
    let sandbox = with(&[("blobs.npz", "mine.npz")]);
    sandbox.write("net.toml", perceptron("[20]", 3));
    good(&sandbox.train(&BLOBS));
    std::fs::rename(sandbox.path("mine.npz"), sandbox.path("there.npz")).unwrap();
    let eigen = |more: &[&str]| sandbox.analyse(&[&["eigen", "run", "-k", "1"][..], more].concat());
    refused(&eigen(&[]), 1, &["mine.npz is missing", "--data"]);
    good(&eigen(&["--data", "there.npz"]));
    // Other data are refused.
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/data");
    std::fs::copy(golden.join("vectors.npz"), sandbox.path("mine.npz")).unwrap();
    refused(&eigen(&[]), 2, &["mine.npz", "shape [2, 3]"]);
    refused(&sandbox.train(&["--resume", "--steps", "700", "--out", "run"]), 2, &["--loss"]);
}

#[test]
fn vectors_are_trained_by_mean_squared_error() {
    let sandbox = with(&[("vectors.npz", "mine.npz")]);
    sandbox.write("net.toml", perceptron("[2, 3]", 2));
    let train = ["--arch", "net.toml", "--data", "mine.npz", "--lr", "0.02", "--steps", "40", "--out", "run"];
    let out = sandbox.train(&[&train[..], &["--batch-size", "full", "--log-every", "1"]].concat());
    good(&out);
    assert!(!out.stderr.contains("accuracy") && !out.stderr.contains("test loss"), "{}", out.stderr);
    let log = std::fs::read_to_string(sandbox.path("run/metrics.jsonl")).unwrap();
    let losses: Vec<f64> = log
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).unwrap()["loss"].as_f64())
        .collect();
    assert!(losses[39] < 0.5 * losses[0], "{losses:?}");
    let eigen = good(&sandbox.analyse(&["eigen", "run", "-k", "2", "--json", "-", "--quiet"]));
    assert_eq!(eigen["loss_function"], "mse");
    assert!(eigen.get("accuracy").is_none());
    // The loss behind the last step is the next one of a run that goes on.
    good(&sandbox.train(&["--resume", "--steps", "41", "--out", "run"]));
    let log = std::fs::read_to_string(sandbox.path("run/metrics.jsonl")).unwrap();
    let next = log.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let next = next.filter(|line| line["step"] == 40).find_map(|line| line["loss"].as_f64()).unwrap();
    let loss = eigen["loss"].as_f64().unwrap();
    assert!((next / loss - 1.0).abs() < 1e-5, "{next} {loss}");

    refused(&sandbox.analyse(&["overlap", "run"]), 1, &["eigen"]);
    good(&sandbox.analyse(&["eigen", "run", "-k", "2"]));
    refused(&sandbox.analyse(&["overlap", "run"]), 1, &["no snapshots", "labels"]);
    refused(&sandbox.analyse(&["track", "run"]), 1, &["class gradients need labels"]);
    let other = |more: &[&str]| sandbox.train(&[&train[..], &["--overwrite"], more].concat());
    refused(&other(&["--optimizer", "qn"]), 2, &["one label a sample"]);
    refused(&other(&["--loss", "cross-entropy"]), 2, &["--loss mse or bce"]);
    refused(&sandbox.analyse(&["eigen", "run", "--loss", "cross-entropy"]), 2, &["--loss mse or bce"]);
    refused(&sandbox.analyse(&["eigen", "run", "--split", "test"]), 1, &["no test split", "x_test"]);
    sandbox.write("net.toml", perceptron("[2, 3]", 3));
    refused(&other(&[]), 2, &["vectors of 2 numbers"]);
}

#[test]
fn soft_labels_are_trained_by_cross_entropy() {
    let sandbox = with(&[("soft.safetensors", "mine.safetensors")]);
    sandbox.write("net.toml", perceptron("[5]", 3));
    let train = ["--arch", "net.toml", "--data", "mine.safetensors", "--steps", "20", "--out", "run"];
    for loss in ["cross-entropy", "bce", "mse"] {
        good(&sandbox.train(&[&train[..], &["--overwrite", "--loss", loss]].concat()));
        let eigen = good(&sandbox.analyse(&["eigen", "run", "-k", "2", "--json", "-", "--quiet"]));
        assert_eq!((&eigen["loss_function"], &eigen["outputs"]), (&loss.into(), &3.into()));
        assert_eq!(eigen.get("accuracy").is_some(), loss == "cross-entropy");
    }
}

#[test]
fn classes_without_samples_are_said_and_not_averaged() {
    let sandbox = with(&[("blobs.npz", "mine.npz")]);
    sandbox.write("net.toml", perceptron("[20]", 5));
    let out = sandbox.train(&[&BLOBS[..], &["--optimizer", "qn", "--damping", "10"]].concat());
    good(&out);
    assert!(out.stderr.contains("2 of 5 classes have no training samples: 3, 4"), "{}", out.stderr);
    good(&sandbox.analyse(&["eigen", "run", "-k", "5"]));
    let out = sandbox.analyse(&["overlap", "run"]);
    assert!(out.stdout.contains("of 5 classes 3 have samples"), "{}{}", out.stdout, out.stderr);
    let overlap = sandbox.json("run/reports/overlap.json");
    let last = overlap["snapshots"].as_array().unwrap().last().unwrap().clone();
    assert_eq!(last["classes_present"], 3);
    assert_eq!((&last["assignment"][3], &last["assignment"][4]), (&Value::Null, &Value::Null));
    let assigned =
        |k: usize| last["cosines"][k][last["assignment"][k].as_u64().unwrap() as usize].as_f64().unwrap();
    let mean = (0..3).map(assigned).sum::<f64>() / 3.0;
    assert!((mean - last["mean_assigned_cosine"].as_f64().unwrap()).abs() < 1e-12);
    assert_eq!(last["principal_angles"].as_array().unwrap().len(), 3);
    let track = good(&sandbox.analyse(&["track", "run", "--json", "-", "--quiet"]));
    let point = track["points"].as_array().unwrap().last().unwrap();
    assert_eq!((&point["classes_present"], &point["lambda"][4]), (&3.into(), &0.0.into()));
    assert!(point["rho"].as_f64().unwrap() > 0.0);
    for figure in ["cosines", "overlap"] {
        let out = sandbox.analyse(&["figure", figure, "run", "-o", &format!("{figure}.svg")]);
        assert_eq!(out.code, 0, "{}", out.stderr);
    }
}

/// Pictures of MNIST's format, whose pixels are their label's times 20.
fn idx(labels: &[u8]) -> [Vec<u8>; 2] {
    let n = (labels.len() as u32).to_be_bytes();
    let side = 28u32.to_be_bytes();
    let pixels =
        labels.iter().flat_map(|&l| (0..784).map(move |i| 20 * l + (i % 7) as u8)).collect::<Vec<_>>();
    [[&[0, 0, 8, 3][..], &n, &side, &side, &pixels].concat(), [&[0, 0, 8, 1][..], &n, labels].concat()]
}

#[test]
fn torchvision_s_folders_are_read_where_they_are() {
    let sandbox = with(&[("train", "data/cifar-100-python/train"), ("train", "data/cifar-100-python/test")]);
    let labels: Vec<u8> = (0..40).map(|i| i % 10).collect();
    for (name, count) in [("train", 40), ("t10k", 20)] {
        let [images, numbers] = idx(&labels[..count]);
        sandbox.write(&format!("data/FashionMNIST/raw/{name}-images-idx3-ubyte"), images);
        sandbox.write(&format!("data/FashionMNIST/raw/{name}-labels-idx1-ubyte"), numbers);
    }
    for (data, mean) in [("fashion-mnist", 0.286), ("cifar100", 0.5071)] {
        let out = sandbox
            .train(&["--arch", "lenet", "--data", data, "--lr", "0.01", "--steps", "3", "--out", data]);
        good(&out);
        let eigen = good(&sandbox.analyse(&["eigen", data, "-k", "1", "--json", "-", "--quiet"]));
        assert_eq!(eigen["normalisation"]["mean"][0], mean);
        assert_eq!(eigen["data"], data);
    }
    let manifest = sandbox.json("cifar100/manifest.json");
    assert_eq!(manifest["train_samples"], 2);
}

#[test]
fn normalisation_is_checked() {
    let sandbox = with(&[("blobs.npz", "mine.npz"), ("pictures.npz", "pictures.npz")]);
    sandbox.write("net.toml", perceptron("[20]", 3));
    for (by, words) in [("some", "none, auto"), ("1:2,1:1", "20 channels"), ("0,0", "positive")] {
        refused(&sandbox.train(&[&BLOBS[..], &["--normalise", by]].concat()), 2, &[words, "--normalise"]);
    }
    assert!(!sandbox.path("run").exists());
    sandbox.write("few.toml", perceptron("[20]", 2));
    let few = ["--arch", "few.toml", "--data", "mine.npz", "--out", "run"];
    refused(&sandbox.train(&few), 2, &["2 classes", "[20] and 3"]);
    refused(&sandbox.train(&["--arch", "lenet", "--data", "mine.npz"]), 2, &["takes pictures", "[20]"]);
    refused(&sandbox.train(&["--arch", "net.toml", "--data", "none.npz"]), 1, &["none.npz is missing"]);
    // Bytes as they are: a warning.
    sandbox.write("picture.toml", perceptron("[2, 3, 3]", 301));
    let bytes =
        ["--arch", "picture.toml", "--data", "pictures.npz", "--lr", "1e-6", "--steps", "1", "--out", "run"];
    let out = sandbox.train(&bytes);
    assert!(out.code == 0 && out.stderr.contains("bytes from 0 to 255"), "{}", out.stderr);
    let out = sandbox.train(&[&bytes[..], &["--overwrite", "--normalise", "127,64"]].concat());
    assert!(out.code == 0 && !out.stderr.contains("bytes from 0"), "{}", out.stderr);
}
