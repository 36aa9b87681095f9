//! SIGKILL at random moments: every file is absent or whole, and who goes on ends with the bits of who was never killed.
//!
//! `QN_KILLS=100` kills each of the two programs so often; by default a few times.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use qn_run::{TensorFile, read_metrics};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use serde_json::Value;

use crate::common::{Sandbox, train_program};
use crate::wide;

fn kills() -> usize {
    std::env::var("QN_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(12)
}

/// Everything in the folder that can be read is whole.
fn nothing_is_torn(folder: &Path) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let text = || std::fs::read_to_string(&path).unwrap();
        match path.extension().and_then(|e| e.to_str()) {
            // What was being written beside its place when the process died; nobody reads it.
            _ if name.starts_with('.') => {}
            _ if path.is_dir() => nothing_is_torn(&path),
            Some("safetensors") => drop(TensorFile::read(&path).unwrap_or_else(|e| panic!("{e}"))),
            Some("json") => {
                drop(serde_json::from_str::<Value>(&text()).unwrap_or_else(|e| panic!("{name}: {e}")))
            }
            Some("toml") => drop(text().parse::<toml::Table>().unwrap_or_else(|e| panic!("{name}: {e}"))),
            // Appended to: all lines but the last are whole.
            Some("jsonl") => assert!(read_metrics(&path).unwrap().len() + 1 >= text().lines().count()),
            _ => {}
        }
    }
}

/// Starts the program again and again, killing it each time within `longest`, until it has been killed so often;
/// when it ends by itself before that, `again` makes a new start.
fn kill_often(
    seed: u64,
    longest: Duration,
    mut command: impl FnMut() -> Command,
    check: impl Fn(),
    mut ended: impl FnMut(),
) -> usize {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let (mut killed, mut finished) = (0, 0);
    while killed < kills() {
        let mut child = command().stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let deadline = Instant::now() + longest.mul_f64(random.random::<f64>());
        while Instant::now() < deadline && child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(1));
        }
        let by_itself = child.try_wait().unwrap();
        child.kill().unwrap();
        let output = child.wait_with_output().unwrap();
        check();
        match by_itself {
            None => killed += 1,
            Some(status) => {
                assert!(status.success(), "{}", String::from_utf8_lossy(&output.stderr));
                finished += 1;
                ended();
            }
        }
    }
    finished
}

const TRAINING: &str = "--arch digits --data digits --samples 200 --batch-size 50 --lr 0.05 --optimizer qn --damping 10 \
    --steps 120 --snapshot-every 5 --checkpoint-every 3 --log-every 1 --tensorboard --quiet --out";

/// Metrics without their times, the last checkpoint's tensors, every snapshot's bytes.
fn results(run: &Path) -> (Vec<String>, TensorFile, Vec<Vec<u8>>) {
    let text = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let lines = text.lines().map(|l| l.split(",\"seconds\"").next().unwrap().to_owned()).collect();
    let mut checkpoint = TensorFile::read(&run.join("checkpoints/step-00000120.safetensors")).unwrap();
    checkpoint.meta["seconds"] = Value::Null;
    let mut snapshots: Vec<_> =
        std::fs::read_dir(run.join("snapshots")).unwrap().map(|e| e.unwrap().path()).collect();
    snapshots.retain(|p| !p.file_name().unwrap().to_string_lossy().starts_with('.'));
    snapshots.sort();
    assert_eq!(snapshots.len(), 25);
    (lines, checkpoint, snapshots.iter().map(|p| std::fs::read(p).unwrap()).collect())
}

#[test]
fn a_killed_training_run_ends_as_an_unbroken_one() {
    let sandbox = Sandbox::new();
    let started = Instant::now();
    let whole: Vec<&str> = TRAINING.split_whitespace().chain(["whole"]).collect();
    assert_eq!(sandbox.train(&whole).code, 0);
    let unbroken = results(&sandbox.path("whole"));
    let took = started.elapsed();
    let run = sandbox.path("run");
    let command = || {
        let mut command = Command::new(train_program());
        command.current_dir(sandbox.path(""));
        if run.join("config.toml").is_file() {
            command.args(["--resume", "--quiet", "--out", "run"]);
        } else {
            command.args(TRAINING.split_whitespace()).arg("run");
        }
        command
    };
    let finished = kill_often(
        1,
        took,
        command,
        || nothing_is_torn(&run),
        || {
            assert!(results(&run) == unbroken, "the run differs from one that was never killed");
            std::fs::remove_dir_all(&run).unwrap();
        },
    );
    let out = command().output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    assert!(results(&run) == unbroken, "the run differs from one that was never killed");
    println!("training: {} kills, {} runs compared", kills(), finished + 1);
}

/// The two reports of a full spectrum without what takes time, and all tensors.
type Spectrum = (Value, Value, Vec<TensorFile>);

pub(crate) fn spectrum(reports: &Path) -> Spectrum {
    let timeless = |name: &str| {
        let text = std::fs::read(reports.join(name)).unwrap();
        let mut report: Value = serde_json::from_slice(&text).unwrap();
        report
            .as_object_mut()
            .unwrap()
            .retain(|k, _| k != "seconds" && k != "peak_memory" && k != "checkpoint");
        report
    };
    let mut paths = vec![reports.join("eigen.safetensors"), reports.join("full_spectrum.safetensors")];
    if let Ok(entries) = std::fs::read_dir(reports.join("eigenvectors")) {
        paths.extend(entries.map(|entry| entry.unwrap().path()));
    }
    // What was being written beside its place when the process died.
    paths.retain(|path| !path.file_name().unwrap().to_string_lossy().starts_with('.'));
    paths.sort();
    let tensors = paths.iter().map(|path| {
        let mut file = TensorFile::read(path).unwrap();
        file.meta["seconds"] = Value::Null;
        file
    });
    (timeless("eigen.json"), timeless("full_spectrum.json"), tensors.collect())
}

pub(crate) fn same_spectrum(a: &Spectrum, b: &Spectrum) {
    for (a, b) in [(&a.0, &b.0), (&a.1, &b.1)] {
        for (field, value) in a.as_object().unwrap() {
            assert!(value == &b[field], "{field} differs from that of an unbroken one");
        }
    }
    assert!(a.2 == b.2, "the vectors and values differ from those of an unbroken one");
}

#[test]
fn a_run_killed_before_its_log_was_begun_resumes() {
    let sandbox = Sandbox::new();
    let arguments: Vec<&str> = TRAINING.split_whitespace().chain(["run"]).collect();
    assert_eq!(sandbox.train(&arguments).code, 0);
    let run = sandbox.path("run");
    let unbroken = results(&run);
    for folder in ["snapshots", "checkpoints"] {
        std::fs::remove_dir_all(run.join(folder)).unwrap();
    }
    for file in ["metrics.jsonl", "events.out.tfevents.qn"] {
        std::fs::remove_file(run.join(file)).unwrap();
    }
    let out = sandbox.train(&["--resume", "--quiet", "--out", "run"]);
    assert_eq!(out.code, 0, "{}", out.stderr);
    assert!(results(&run) == unbroken, "the run differs from one that was never killed");
}

#[test]
fn a_killed_spectrum_ends_as_an_unbroken_one() {
    let sandbox = Sandbox::new();
    sandbox.write("wide.toml", wide::architecture(19));
    sandbox.trained("--arch wide.toml --data digits --lr 0.05 --steps 5 --quiet --out run");
    let ask = "eigen run --full --vectors all --samples 40 --save-every 0 --quiet";
    let started = Instant::now();
    sandbox.analysed(ask);
    let reports = sandbox.path("run/reports");
    let unbroken = spectrum(&reports);
    assert_eq!(unbroken.2.len(), 4, "two files of all 2,103 vectors, the pairs and the values");
    std::fs::remove_dir_all(&reports).unwrap();
    let took = started.elapsed();
    let command = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_qn-analyse"));
        command.args(ask.split(' ')).current_dir(sandbox.path(""));
        command
    };
    let finished = kill_often(
        2,
        took,
        command,
        || nothing_is_torn(&reports),
        || {
            same_spectrum(&spectrum(&reports), &unbroken);
            std::fs::remove_dir_all(&reports).unwrap();
        },
    );
    let out = command().output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    same_spectrum(&spectrum(&reports), &unbroken);
    println!("spectrum: {} kills, {} spectra compared", kills(), finished + 1);
}
