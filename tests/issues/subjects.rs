//! Reports and tensors that do not belong together are told apart.

use crate::common::Sandbox;

/// Changes the hash of a split in the manifest, as if the run had been begun with other data.
fn begun_with_other_data(sandbox: &Sandbox, field: &str) {
    let path = sandbox.path("run/manifest.json");
    let mut manifest: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    manifest[field] = "0".repeat(64).into();
    std::fs::write(path, serde_json::to_vec(&manifest).unwrap()).unwrap();
}

#[test]
fn a_run_whose_data_have_changed_is_not_gone_on_with() {
    let sandbox = Sandbox::new();
    sandbox.train_digits("run");
    begun_with_other_data(&sandbox, "train_sha256");
    let resume = ["--resume", "--steps", "13", "--out", "run"];
    let out = sandbox.train(&resume);
    assert!(out.code == 1 && out.stderr.contains("--changed-data"), "{}", out.stderr);
    assert!(!sandbox.path("run/checkpoints/step-00000013.safetensors").exists());
    let out = sandbox.train(&[&resume[..], &["--changed-data"]].concat());
    assert_eq!(out.code, 0, "{}", out.stderr);
}

#[test]
fn a_run_whose_data_have_changed_is_not_analysed() {
    let sandbox = Sandbox::new();
    sandbox.train_digits("run");
    // All samples, and fewer than the run was trained on, are checked by what it was trained on.
    for samples in ["1437", "30"] {
        assert_eq!(sandbox.analyse(&["eigen", "run", "-k", "1", "--samples", samples]).code, 0);
    }
    assert_eq!(sandbox.analyse(&["eigen", "run", "-k", "1", "--split", "test"]).code, 0);
    begun_with_other_data(&sandbox, "train_sha256");
    for command in ["eigen", "trace", "track"] {
        let out = sandbox.analyse(&[command, "run", "--samples", "30"]);
        assert!(out.code == 1 && out.stderr.contains("has changed"), "{command}: {}", out.stderr);
    }
    assert_eq!(sandbox.analyse(&["eigen", "run", "-k", "1", "--split", "test"]).code, 0);
    let insist = ["eigen", "run", "-k", "1", "--samples", "30", "--changed-data"];
    assert_eq!(sandbox.analyse(&insist).code, 0);
    begun_with_other_data(&sandbox, "test_sha256");
    assert_eq!(sandbox.analyse(&["eigen", "run", "-k", "1", "--split", "test"]).code, 1);
}

#[test]
fn overlap_refuses_eigenvectors_of_another_network() {
    let sandbox = Sandbox::new();
    sandbox.train_digits("run");
    let other = ["--arch", "digits", "--data", "digits", "--lr", "0.05", "--steps", "12", "--samples", "400"];
    assert_eq!(sandbox.train(&[&other[..], &["--seed", "5", "--out", "other"]].concat()).code, 0);
    for run in ["run", "other"] {
        assert_eq!(sandbox.analyse(&["eigen", run, "--samples", "200"]).code, 0);
    }
    assert_eq!(sandbox.analyse(&["overlap", "run"]).code, 0);
    let copy = |file: &str| {
        std::fs::copy(sandbox.path("other/reports").join(file), sandbox.path("run/reports").join(file))
            .unwrap();
    };
    // One file of the pair.
    copy("eigen.safetensors");
    let out = sandbox.analyse(&["overlap", "run"]);
    assert!(out.code == 1 && out.stderr.contains("does not belong"), "{}", out.stderr);
    // Both, of a network with the same layout.
    copy("eigen.json");
    let out = sandbox.analyse(&["overlap", "run"]);
    assert!(out.code == 1 && out.stderr.contains("other parameters"), "{}", out.stderr);
}

#[test]
fn a_file_in_the_place_of_a_run_is_told_where_it_belongs() {
    let sandbox = Sandbox::new();
    sandbox.write("net.pth", "x");
    let out = sandbox.analyse(&["eigen", "net.pth"]);
    assert!(out.code == 1 && out.stderr.contains("--checkpoint"), "{}", out.stderr);
    let help = sandbox.analyse(&["eigen", "--help"]);
    let words: Vec<&str> = help.stdout.split_whitespace().collect();
    assert!(words.join(" ").contains("needed with --checkpoint"), "{}", help.stdout);
}
