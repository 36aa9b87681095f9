//! Files that were not ours, or that are being read, are never replaced.

use crate::common::Sandbox;

/// A checkpoint of the digits network as another program leaves it, at `name`.
fn foreign_checkpoint(sandbox: &Sandbox, name: &str) -> Vec<u8> {
    sandbox.train_digits("trained");
    let out = sandbox.analyse(&["export", "parameters", "trained", "-o", "exported.safetensors"]);
    assert_eq!(out.code, 0, "{}", out.stderr);
    let bytes = std::fs::read(sandbox.path("exported.safetensors")).unwrap();
    // Without our metadata it is anybody's.
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let views: Vec<_> = tensors.tensors();
    let bytes = safetensors::serialize(views, None).unwrap();
    sandbox.write(name, &bytes);
    bytes
}

const NETWORK: [&str; 8] = ["--arch", "digits", "--data", "digits", "--samples", "50", "-k", "2"];

#[test]
fn a_checkpoint_is_not_replaced_by_eigenvectors() {
    let sandbox = Sandbox::new();
    let mine = foreign_checkpoint(&sandbox, "runs/mine.safetensors");
    let eigen = |json: &str| {
        let of = ["eigen", "--checkpoint", "runs/mine.safetensors", "--json", json];
        sandbox.analyse(&[&of[..], &NETWORK].concat())
    };
    let out = eigen("runs/mine.json");
    assert_eq!(out.code, 0, "{}", out.stderr);
    assert_eq!(std::fs::read(sandbox.path("runs/mine.safetensors")).unwrap(), mine);
    assert!(sandbox.path("runs/mine.eigenvectors.safetensors").is_file());
    // Once more: an older output of ours may be replaced.
    assert_eq!(eigen("runs/mine.json").code, 0);

    // Through a link to it, onto itself, and where somebody's file has the name.
    std::os::unix::fs::symlink("mine.safetensors", sandbox.path("runs/l.eigenvectors.safetensors")).unwrap();
    for json in ["runs/l.json", "runs/mine.safetensors"] {
        let out = eigen(json);
        assert_eq!(out.code, 1, "{json}: {}", out.stderr);
        assert!(out.stderr.contains("not replaced"), "{json}: {}", out.stderr);
        assert_eq!(std::fs::read(sandbox.path("runs/mine.safetensors")).unwrap(), mine);
        assert!(!sandbox.path("runs/l.json").exists(), "it is refused before anything is computed");
    }
}

#[test]
fn a_full_spectrum_replaces_nobody_elses() {
    let sandbox = Sandbox::new();
    sandbox.train_digits("run");
    let full = |json: &str| {
        sandbox.analyse(&["eigen", "run", "--full", "--vectors", "2", "--samples", "50", "--json", json])
    };
    sandbox.write("a/full_spectrum.safetensors", "mine");
    sandbox.write("a/full_spectrum.json", "{\"mine\": true}");
    assert_eq!(full("a/b.json").code, 0);
    assert!(sandbox.path("a/b.full_spectrum.json").is_file());
    assert!(sandbox.path("a/b.full_spectrum.safetensors").is_file());
    let out = full("a/eigen.json");
    assert!(out.code == 1 && out.stderr.contains("a/full_spectrum.json"), "{}", out.stderr);
    assert_eq!(std::fs::read(sandbox.path("a/full_spectrum.safetensors")).unwrap(), b"mine");
    assert_eq!(std::fs::read(sandbox.path("a/full_spectrum.json")).unwrap(), b"{\"mine\": true}");
}

#[test]
fn what_a_command_reads_is_not_replaced() {
    let sandbox = Sandbox::new();
    sandbox.train_digits("run");
    assert_eq!(sandbox.analyse(&["eigen", "run", "--samples", "50"]).code, 0);
    let arch = "name = 'a'\ninput = [1, 8, 8]\nclasses = 10\nlayers = [{ type = 'flatten' }, \
        { type = 'linear', name = 'fc', out_features = 10 }]";
    sandbox.write("net.toml", arch);
    let run = |file: &str| sandbox.path("run").join(file).display().to_string();
    for (command, target) in [
        (vec!["eigen", "run", "--samples", "50", "--json"], run("config.toml")),
        (vec!["eigen", "run", "--samples", "50", "--json"], "net.toml".into()),
        (vec!["eigen", "run", "--samples", "50", "--json"], run("checkpoints/step-00000012.safetensors")),
        (vec!["overlap", "run", "--json"], run("reports/eigen.json")),
        (vec!["trace", "run", "--samples", "50", "--json"], run("reports/eigen.json")),
        (vec!["density", "run", "--samples", "50", "--json"], run("metrics.jsonl")),
        (vec!["export", "parameters", "run", "-o"], run("checkpoints/step-00000012.safetensors")),
        (vec!["export", "eigenvectors", "run", "-o"], run("reports/eigen.safetensors")),
        (vec!["figure", "eigenvalues", "run", "-o"], "picture.svg".into()),
        (vec!["figure", "eigenvalues", "run", "-o"], "picture.png".into()),
        (vec!["report", "run", "-o"], run("config.toml")),
    ] {
        let path = sandbox.path(&target);
        if !path.exists() {
            sandbox.write(&target, "a picture of mine");
        }
        let before = std::fs::read(&path).unwrap();
        let out = sandbox.analyse(&[&command[..], &[&target]].concat());
        assert_eq!(out.code, 1, "{command:?} {target}: {}", out.stderr);
        assert!(out.stderr.contains("not replaced"), "{command:?} {target}: {}", out.stderr);
        assert_eq!(std::fs::read(&path).unwrap(), before, "{command:?} {target}");
    }
}

#[test]
fn figures_and_pages_of_ours_are_replaced() {
    let sandbox = Sandbox::new();
    sandbox.train_digits("run");
    assert_eq!(sandbox.analyse(&["eigen", "run", "--samples", "50"]).code, 0);
    for command in [
        ["figure", "eigenvalues", "run", "-o", "a.svg"],
        ["figure", "eigenvalues", "run", "-o", "a.png"],
        ["report", "run", "-q", "-o", "a.html"],
    ] {
        for time in ["first", "second"] {
            let out = sandbox.analyse(&command);
            // A picture needs a font, which a machine may lack.
            if out.code == 1 && out.stderr.contains("no font") {
                break;
            }
            assert_eq!(out.code, 0, "{command:?}, the {time} time: {}", out.stderr);
        }
    }
}

#[test]
fn a_run_takes_no_folder_that_holds_another_programs_log() {
    let sandbox = Sandbox::new();
    sandbox.write("mine/metrics.jsonl", "{\"of\": \"another program\"}\n");
    let args = ["--arch", "digits", "--data", "digits", "--steps", "1", "--out", "mine", "--overwrite"];
    let out = sandbox.train(&args);
    assert!(out.code == 1 && out.stderr.contains("metrics.jsonl"), "{}", out.stderr);
    assert_eq!(
        std::fs::read(sandbox.path("mine/metrics.jsonl")).unwrap(),
        b"{\"of\": \"another program\"}\n"
    );
}
