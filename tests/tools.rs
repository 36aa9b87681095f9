//! What is around the numbers: inspect, export, TensorBoard, completions, man pages, talk.

use crate::common::Sandbox;
use qn_run::{TensorFile, read_metrics};

#[test]
fn inspect_tells_what_each_file_is() {
    let sandbox = Sandbox::new();
    sandbox.train_digits("run");
    assert_eq!(sandbox.analyse(&["eigen", "run", "-k", "3", "-q"]).code, 0);
    let arch = "name = 'a'\ninput = [1, 2, 2]\nclasses = 2\nlayers = [{ type = 'flatten' }, { type = 'linear', name = 'l', out_features = 2 }]";
    sandbox.write("arch.toml", arch);
    sandbox.write("recipe.toml", "name = 'r'\ndescription = 'd'\nseeds = [1, 2]\n[runs.one]");
    for (file, words) in [
        ("run", vec!["1898 parameters", "12 of 12 saved", "eigen.json", "% correct"]),
        ("run/checkpoints/step-00000012.safetensors", vec!["checkpoint, checksum right", "8 x 1 x 3 x 3"]),
        ("run/snapshots/step-00000012.safetensors", vec!["snapshot, checksum right", "class_gradients"]),
        ("run/reports/eigen.json", vec!["eigenvalues", "3 of 3 within"]),
        ("run/manifest.json", vec!["layout_hash", "train_samples"]),
        ("run/metrics.jsonl", vec!["the log of a run", "training loss"]),
        ("run/config.toml", vec!["a run's options", "fc.weight"]),
        ("arch.toml", vec!["the architecture a", "l.weight"]),
        ("recipe.toml", vec!["one-seed2"]),
    ] {
        let out = sandbox.analyse(&["inspect", file]);
        assert_eq!(out.code, 0, "{file}: {}", out.stderr);
        for words in words {
            assert!(out.stdout.contains(words), "{file} lacks {words:?}: {}", out.stdout);
        }
    }
    let mut bytes = std::fs::read(sandbox.path("run/snapshots/step-00000012.safetensors")).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    sandbox.write("bad.safetensors", bytes);
    let out = sandbox.analyse(&["inspect", "bad.safetensors"]);
    assert!(out.code == 1 && out.stderr.contains("checksum"), "{}", out.stderr);
    assert_eq!(sandbox.analyse(&["inspect", "run/.lock"]).code, 2);
}

#[test]
fn deflation_verifies_a_spectrum() {
    let sandbox = Sandbox::new();
    sandbox.train_digits("run");
    let out = sandbox.analyse(&["eigen", "run", "-k", "4", "--samples", "200", "--verify"]);
    assert!(out.code == 0 && out.stdout.contains("verified: nothing better is left"), "{}", out.stdout);
}

#[test]
fn what_is_exported_is_what_was_found() {
    let sandbox = Sandbox::new();
    sandbox.train_digits("run");
    assert_eq!(sandbox.analyse(&["eigen", "run", "-k", "2", "-q"]).code, 0);
    for what in ["parameters", "eigenvectors"] {
        let out = sandbox.analyse(&["export", what, "run", "-o", &format!("{what}.safetensors")]);
        assert_eq!(out.code, 0, "{}", out.stderr);
    }
    let parameters = TensorFile::read(&sandbox.path("parameters.safetensors")).unwrap();
    let names: Vec<_> = parameters.tensors.keys().map(String::as_str).collect();
    assert_eq!(names, ["conv1.bias", "conv1.weight", "conv2.bias", "conv2.weight", "fc.bias", "fc.weight"]);

    // The parameters are another program's now, and give the same eigenvalues.
    let args = "eigen --checkpoint parameters.safetensors --arch digits --data digits --samples 1437 -k 2 --json again.json";
    let out = sandbox.analyse(&args.split(' ').collect::<Vec<_>>());
    assert_eq!(out.code, 0, "{}", out.stderr);
    let eigenvalues = |file: &str| {
        let text = std::fs::read_to_string(sandbox.path(file)).unwrap();
        serde_json::from_str::<serde_json::Value>(&text).unwrap()["eigenvalues"].clone()
    };
    assert_eq!(eigenvalues("again.json"), eigenvalues("run/reports/eigen.json"));

    let together = TensorFile::read(&sandbox.path("run/reports/eigen.safetensors")).unwrap();
    let rows = together.tensors["eigenvectors"].to_f64().unwrap();
    let apart = TensorFile::read(&sandbox.path("eigenvectors.safetensors")).unwrap();
    // conv1.weight comes first in the layout.
    let first = apart.tensors["conv1.weight"].to_f64().unwrap();
    assert_eq!(apart.tensors["conv1.weight"].shape(), [2, 8, 1, 3, 3]);
    assert!(first[..72] == rows[..72] && first[72..] == rows[1898..1898 + 72]);
    assert_eq!(sandbox.analyse(&["export", "parameters", "run", "-o", "x.bin"]).code, 2);
    assert_eq!(
        sandbox.analyse(&["export", "parameters", "run", "--step", "5", "-o", "x.safetensors"]).code,
        2
    );
}

/// Step and values of each record; notebooks/01 reads them with TensorBoard itself.
fn records(bytes: &[u8]) -> Vec<&[u8]> {
    let mut rest = bytes;
    let mut found = Vec::new();
    while let Some((length, after)) = rest.split_first_chunk::<8>() {
        let length = u64::from_le_bytes(*length) as usize;
        found.push(&after[4..4 + length]);
        rest = &after[length + 8..];
    }
    found
}

#[test]
fn a_resumed_run_has_each_event_once() {
    let sandbox = Sandbox::new();
    let args = "--arch digits --data digits --samples 300 --steps 20 --log-every 1 --tensorboard --out run";
    assert_eq!(sandbox.train(&args.split(' ').collect::<Vec<_>>()).code, 0);
    let out = sandbox.train(&["--resume", "--steps", "30", "--out", "run"]);
    assert_eq!(out.code, 0, "{}", out.stderr);
    let lines = read_metrics(&sandbox.path("run/metrics.jsonl")).unwrap().len();
    let bytes = std::fs::read(sandbox.path("run/events.out.tfevents.qn")).unwrap();
    assert_eq!(records(&bytes).len(), lines + 1, "the head, and one event a line");
}

#[test]
fn a_shell_and_man_are_told_of_every_command() {
    let sandbox = Sandbox::new();
    let script = sandbox.analyse(&["completions", "bash"]);
    assert!(script.code == 0 && script.stdout.contains("decompose"));
    assert!(sandbox.train(&["completions", "zsh"]).stdout.contains("snapshot-every"));
    assert_eq!(sandbox.analyse(&["man"]).code + sandbox.train(&["man"]).code, 0);
    for page in ["qn-analyse.1", "qn-analyse-eigen.1", "qn-train.1", "qn-train-fetch.1"] {
        assert!(sandbox.path("man").join(page).is_file(), "{page}");
    }
}

#[test]
fn talk_is_as_much_and_as_colourful_as_was_asked() {
    let sandbox = Sandbox::new();
    sandbox.train_digits("run");
    let eigen = |more: &[&str]| sandbox.analyse(&[&["eigen", "run", "-k", "1"], more].concat()).stderr;
    let (normal, more) = (eigen(&[]), eigen(&["-v"]));
    assert!(more.contains("microbatches") && !normal.contains("microbatches"));
    assert_eq!(eigen(&["--quiet"]), "");
    let error = |color: &str| sandbox.analyse(&["eigen", "nothing", "--color", color]).stderr;
    assert!(error("always").contains("\x1b[") && !error("never").contains("\x1b["));
    assert!(error("auto").starts_with("error: nothing is not a run"), "no colours without a terminal");
}
