//! Training runs that go wrong, and going on with them.

use std::path::Path;
use std::process::Command;

use qn_run::{RunDirectory, TensorFile, read_metrics};
use serde_json::Value;

use crate::common::{Output, Sandbox, train_program};

const DIGITS: [&str; 6] = ["--arch", "digits", "--data", "digits", "--out", "run"];

fn train(sandbox: &Sandbox, more: &[&str]) -> Output {
    sandbox.train(&[&DIGITS[..], more].concat())
}

/// Changes a number of a run's config.toml, which no option of `--resume` does.
fn set(run: &Path, key: &str, value: &str) {
    let path = run.join("config.toml");
    let mut config: toml::Table = std::fs::read_to_string(&path).unwrap().parse().unwrap();
    assert!(config.insert(key.into(), value.parse::<f64>().unwrap().into()).is_some());
    std::fs::write(path, config.to_string()).unwrap();
}

fn all_finite(file: &Path) -> bool {
    let tensors = TensorFile::read(file).unwrap().tensors;
    tensors.values().all(|t| t.to_f64().unwrap().iter().all(|v| v.is_finite()))
}

#[test]
fn a_run_that_diverges_in_its_last_step_has_failed() {
    let sandbox = Sandbox::new();
    let out = train(&sandbox, &["--lr", "1e30", "--steps", "1"]);
    assert_eq!(out.code, 1, "{}", out.stderr);
    assert!(out.stderr.contains("diverged. There is no checkpoint yet"), "{}", out.stderr);
    let run = RunDirectory::open(&sandbox.path("run")).unwrap();
    assert!(run.checkpoint_steps().unwrap().is_empty());
    assert!(read_metrics(&run.metrics_path()).unwrap().last().unwrap().diverged);

    // A good checkpoint, and then steps that lead astray: each would be saved, the last one is the end of the run.
    let save = ["--overwrite", "--checkpoint-every", "1", "--snapshot-every", "1", "--keep-checkpoints", "0"];
    assert_eq!(train(&sandbox, &[&save[..], &["--lr", "0.05", "--steps", "2"]].concat()).code, 0);
    set(run.path(), "lr", "1e30");
    for steps in ["3", "9"] {
        let out = sandbox.train(&["--resume", "--steps", steps, "--out", "run"]);
        assert_eq!(out.code, 1, "{}", out.stderr);
        let named = "The last checkpoint is run/checkpoints/step-00000002.safetensors";
        assert!(out.stderr.contains(named), "{}", out.stderr);
        assert_eq!(run.checkpoint_steps().unwrap(), [0, 1, 2]);
        for step in run.snapshot_steps().unwrap() {
            assert!(all_finite(&run.snapshot_path(step)), "snapshot {step}");
        }
        let diverged = read_metrics(&run.metrics_path()).unwrap();
        assert_eq!(diverged.iter().filter(|m| m.diverged).count(), 1);
        assert!(diverged.iter().all(|m| m.diverged || m.loss.is_some() || m.val_loss.is_some()), "no NaN");
    }
}

/// The state's numbers are finite still, its loss is not: what is saved must be fit to go on from.
#[test]
fn a_state_with_an_infinite_loss_or_memory_is_not_gone_on_from() {
    let sandbox = Sandbox::new();
    let save = ["--lr", "0.05", "--steps", "3", "--checkpoint-every", "1"];
    assert_eq!(train(&sandbox, &save).code, 0);
    let run = RunDirectory::open(&sandbox.path("run")).unwrap();
    let path = run.checkpoint_path(3);
    let mut file = TensorFile::read(&path).unwrap();
    let momentum = file.tensors["optimizer.momentum"].to_f32().unwrap();
    let broken: Vec<f32> = momentum.iter().map(|_| f32::INFINITY).collect();
    file.tensors.insert("optimizer.momentum".into(), qn_run::Tensor::f32(&[broken.len()], &broken));
    file.write(&path).unwrap();
    // As an older version has saved it: the one before is taken.
    let out = sandbox.train(&["--resume", "--steps", "4", "--out", "run"]);
    assert_eq!(out.code, 0, "{}", out.stderr);
    assert!(
        out.stderr.contains("the momentum is inf") && out.stderr.contains("from step 2"),
        "{}",
        out.stderr
    );
    assert!(all_finite(&run.checkpoint_path(4)));

    // One step to parameters that are finite, some 1e21, and that overflow in the layers' products.
    set(run.path(), "lr", "1e22");
    let out = sandbox.train(&["--resume", "--steps", "5", "--out", "run"]);
    assert_eq!(out.code, 1, "{}", out.stderr);
    assert!(out.stderr.contains("loss is") && out.stderr.contains("step-00000004"), "{}", out.stderr);
    assert_eq!(run.checkpoint_steps().unwrap().last(), Some(&4));
}

#[test]
fn reproduce_goes_on_after_a_run_that_diverges() {
    let sandbox = Sandbox::new();
    let recipe = "name = 'mine'\ndescription = 'one goes astray'\n\
        [common]\narch = 'digits'\ndata = 'digits'\nsamples = 200\nsteps = 1\n\
        [eigen]\nk = 10\nsamples = 20\ntol = 1e-2\n\
        [runs.astray]\nlr = 1e30\n[runs.good]\nlr = 0.05\n";
    sandbox.write("mine.toml", recipe);
    for _ in 0..2 {
        let out = sandbox.analyse(&["reproduce", "mine.toml"]);
        assert_eq!(out.code, 0, "{}", out.stderr);
        assert!(out.stdout.contains("astray       diverged at step 1"), "{}", out.stdout);
        assert!(out.stdout.lines().any(|l| l.starts_with("good") && l.contains('%')), "{}", out.stdout);
        let text = std::fs::read(sandbox.path("runs/mine/experiment.json")).unwrap();
        let report: Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(report["runs"][0]["diverged_at"], 1);
        assert!(report["runs"][1]["diverged_at"].is_null());
    }
}

#[test]
fn a_huge_loss_is_warned_of() {
    let sandbox = Sandbox::new();
    let warned = |lr: &str| {
        let out = train(&sandbox, &["--lr", lr, "--steps", "2", "--overwrite"]);
        assert_eq!(out.code, 0, "{}", out.stderr);
        out.stderr.lines().filter(|l| l.starts_with("warning: ") && l.contains("far above 2.3026")).count()
    };
    assert_eq!((warned("30"), warned("0.05")), (1, 0));
}

#[test]
fn a_line_that_is_none_is_not_passed_over_in_silence() {
    let sandbox = Sandbox::new();
    assert_eq!(
        train(&sandbox, &["--lr", "0.05", "--steps", "6", "--log-every", "1", "--tensorboard"]).code,
        0
    );
    let files = ["metrics.jsonl", "config.toml", "events.out.tfevents.qn"];
    let read = || files.map(|file| std::fs::read(sandbox.path("run").join(file)).unwrap());
    let whole = String::from_utf8(read()[0].clone()).unwrap();
    let lines: Vec<&str> = whole.lines().collect();
    let resume = |steps: &str| sandbox.train(&["--resume", "--steps", steps, "--out", "run"]);
    sandbox.write("run/metrics.jsonl", whole.replace(lines[2], "<<<<<<< mine"));
    let before = read();
    let out = resume("8");
    assert_eq!(out.code, 1, "{}", out.stderr);
    assert!(out.stderr.contains("run/metrics.jsonl:3 "), "{}", out.stderr);
    assert!(read() == before, "everything is as it was");
    assert!(sandbox.analyse(&["inspect", "run"]).stdout.contains("metrics.jsonl:3 "));

    // The last line, cut short by a power failure, is another matter.
    sandbox.write("run/metrics.jsonl", &whole[..whole.len() - 9]);
    assert_eq!(resume("8").code, 0);
    let steps: Vec<u64> = read_metrics(&sandbox.path("run/metrics.jsonl"))
        .unwrap()
        .iter()
        .filter(|m| m.loss.is_some())
        .map(|m| m.step)
        .collect();
    assert_eq!(steps, [0, 1, 2, 3, 4, 5, 6, 7]);
}

#[test]
fn an_architecture_is_no_path() {
    let sandbox = Sandbox::new();
    let arch = "name = '../../evil'\ninput = [1, 8, 8]\nclasses = 10\n\
        layers = [{ type = 'flatten' }, { type = 'linear', name = 'fc', out_features = 10 }]";
    sandbox.write("a/b/mine.toml", arch);
    let mut command = Command::new(train_program());
    command.args(["--arch", "mine.toml", "--data", "digits", "--steps", "1"]);
    let out = command.current_dir(sandbox.path("a/b")).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    assert!(sandbox.path("a/b/runs/-..-evil-digits-sgd/config.toml").is_file());
    for (folder, expected) in [("", "a"), ("a", "b")] {
        let names: Vec<_> =
            std::fs::read_dir(sandbox.path(folder)).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, [expected]);
    }
}

#[test]
fn links_to_another_disk_stay_links() {
    let sandbox = Sandbox::new();
    std::fs::create_dir_all(sandbox.path("disk/checkpoints")).unwrap();
    std::fs::create_dir_all(sandbox.path("run")).unwrap();
    for name in ["metrics.jsonl", "checkpoints"] {
        std::os::unix::fs::symlink(Path::new("../disk").join(name), sandbox.path("run").join(name)).unwrap();
    }
    let steps = ["--lr", "0.05", "--checkpoint-every", "1", "--steps"];
    assert_eq!(train(&sandbox, &[&steps[..], &["2"]].concat()).code, 0);
    assert_eq!(sandbox.train(&["--resume", "--steps", "3", "--out", "run"]).code, 0);
    let check = |saved: &[u64]| {
        assert!(
            sandbox.path("run/metrics.jsonl").is_symlink() && sandbox.path("run/checkpoints").is_symlink()
        );
        assert_eq!(RunDirectory::open(&sandbox.path("run")).unwrap().checkpoint_steps().unwrap(), saved);
        assert_eq!(std::fs::read_dir(sandbox.path("disk/checkpoints")).unwrap().count(), saved.len());
        let logged = read_metrics(&sandbox.path("disk/metrics.jsonl")).unwrap();
        assert_eq!(logged.last().unwrap().step, *saved.last().unwrap());
    };
    check(&[2, 3]);
    let again = train(&sandbox, &[&steps[..], &["1", "--overwrite"]].concat());
    assert_eq!(again.code, 0, "{}", again.stderr);
    check(&[1]);
}

#[test]
fn what_a_killed_run_left_half_written_is_cleared_away() {
    let sandbox = Sandbox::new();
    sandbox.train_digits("run");
    let stale = [
        "run/checkpoints/.step-00000012.safetensors.a1B2c3",
        "run/snapshots/.step-00000000.safetensors.ZZZZZZ",
        "run/.metrics.jsonl.000000",
        "run/.config.toml.abcdef",
    ];
    let others = ["run/.notes.txt.abcdef", "run/checkpoints/.step-12.swp", "run/checkpoints/.step-x.abcdef"];
    stale.iter().chain(&others).for_each(|name| sandbox.write(name, "half"));
    assert_eq!(sandbox.train(&["--resume", "--steps", "13", "--out", "run"]).code, 0);
    assert_eq!(stale.map(|name| sandbox.path(name).exists()), [false; 4]);
    assert_eq!(others.map(|name| sandbox.path(name).exists()), [true; 3]);
}

#[test]
fn an_empty_variable_counts_as_unset() {
    let sandbox = Sandbox::new();
    for (program, args) in [
        (train_program(), "--arch digits --data digits --steps 1 --out run"),
        (env!("CARGO_BIN_EXE_qn-analyse").to_owned(), "eigen run -k 1 --samples 20"),
    ] {
        let mut command = Command::new(program);
        command.args(args.split(' ')).env("QN_DATA", "").current_dir(sandbox.path(""));
        let out = command.output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    }
}

#[test]
fn more_threads_than_processors_can_use_are_not_started() {
    let sandbox = Sandbox::new();
    let started = std::time::Instant::now();
    let out = train(&sandbox, &["--lr", "0.05", "--steps", "2", "--threads", "100000"]);
    assert_eq!(out.code, 0, "{}", out.stderr);
    assert!(out.stderr.contains("warning: --threads 100000: "), "{}", out.stderr);
    assert_eq!(
        train(&sandbox, &["--lr", "0.05", "--steps", "2", "--overwrite"]).stderr.matches("--threads").count(),
        0
    );
    assert!(started.elapsed().as_secs() < 30);
}

/// Adam's second moments are in its checkpoints, and its limit is one of the preconditioned curvature.
#[test]
fn a_run_with_adam_is_resumed_and_followed() {
    let sandbox = Sandbox::new();
    let options = "--arch digits --data digits --samples 200 --batch-size 50 --optimizer adam --lr 0.01 \
                   --checkpoint-every 4 --keep-checkpoints 0";
    sandbox.trained(&format!("{options} --steps 8 --out whole"));
    sandbox.trained(&format!("{options} --steps 4 --out broken"));
    sandbox.trained("--resume --steps 8 --out broken");
    let file = |run: &str| {
        TensorFile::read(&sandbox.path(run).join("checkpoints/step-00000008.safetensors")).unwrap().tensors
    };
    let tensors = file("whole");
    assert_eq!(tensors, file("broken"));

    sandbox.analysed("track whole --samples 200 --probes 4");
    let report = sandbox.json("whole/reports/track.json");
    assert!(report["threshold"].is_null() && report["points"][0]["preconditioned"].is_null());
    assert!((report["preconditioned_threshold"].as_f64().unwrap() - 3800.0).abs() < 1e-9);
    // The largest eigenvalue of D^-1/2 H D^-1/2 is between those of H divided by the largest and the smallest of D.
    let squares = tensors["optimizer.second_moments"].to_f64().unwrap();
    let lengths = squares.iter().map(|v| (v / (1.0 - 0.999f64.powi(8))).sqrt() + 1e-8);
    let [low, high] = lengths.fold([f64::INFINITY, 0.0], |[low, high], d| [low.min(d), high.max(d)]);
    let last = &report["points"][2];
    let (found, sharpness) =
        (last["preconditioned"].as_f64().unwrap(), last["eigenvalues"][0].as_f64().unwrap());
    assert!(found > sharpness / high && found < sharpness / low, "{found} {sharpness} {low} {high}");
    sandbox.analysed("figure track whole -o track.svg");

    let out = train(&sandbox, &["--optimizer", "adamw", "--nesterov"]);
    assert!(out.code == 2 && out.stderr.contains("--nesterov and --dampening are for"), "{}", out.stderr);
}

/// With ρ = 0 SAM is SGD to the bit; with another one it is not, it is resumed exactly, and `track` has its limit.
#[test]
fn a_run_with_sam_is_resumed_and_followed() {
    let sandbox = Sandbox::new();
    let options = "--arch digits --data digits --samples 200 --batch-size 50 --lr 0.05 --checkpoint-every 4 --keep-checkpoints 0 \
                   --snapshot-every 0";
    let sam = format!("{options} --optimizer sam");
    sandbox.trained(&format!("{options} --steps 8 --out sgd"));
    sandbox.trained(&format!("{sam} --sam-rho 0 --steps 8 --out none"));
    sandbox.trained(&format!("{sam} --sam-rho 0.2 --steps 8 --out whole"));
    sandbox.trained(&format!("{sam} --sam-rho 0.2 --steps 4 --out broken"));
    sandbox.trained("--resume --steps 8 --out broken");
    let file = |run: &str| {
        TensorFile::read(&sandbox.path(run).join("checkpoints/step-00000008.safetensors")).unwrap().tensors
    };
    assert_eq!(file("whole"), file("broken"));
    assert_eq!(file("sgd"), file("none"));
    assert_ne!(file("sgd"), file("whole"));

    let table = sandbox.analysed("track whole --samples 200 --probes 4");
    assert!(table.contains("that SAM's steps bear"), "{table}");
    let report = sandbox.json("whole/reports/track.json");
    for point in report["points"].as_array().unwrap() {
        let [a, g] = ["sam_limit", "gradient_norm"].map(|key| point[key].as_f64().unwrap());
        // t = 2 (1 + 0.9)/0.05.
        assert!((0.2 * a * a + g * a - 76.0 * g).abs() < 1e-9 * g, "{a} {g}");
    }
    // By half a cosine the learning rate is zero in the end.
    sandbox.trained(&format!("{sam} --schedule cosine --steps 4 --out cosine"));
    let table = sandbox.analysed("track cosine --samples 200 --probes 4");
    let points = sandbox.json("cosine/reports/track.json")["points"].as_array().unwrap().clone();
    assert!(points[0]["sam_limit"].is_number() && points[1].get("sam_limit").is_none(), "{points:?}");
    assert!(!table.contains("bear: NaN"), "{table}");
    sandbox.analysed("track sgd --samples 200 --probes 4");
    assert!(sandbox.json("sgd/reports/track.json")["points"][0]["sam_limit"].is_null());
    sandbox.analysed("figure track whole -o track.svg");
    let out = train(&sandbox, &["--optimizer", "sam", "--sam-rho", "-1"]);
    assert!(out.code == 2 && out.stderr.contains("--sam-rho -1"), "{}", out.stderr);
}
