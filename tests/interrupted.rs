//! SIGINT and SIGTERM: what was done is saved, and who goes on ends as who was never interrupted.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use qn_run::TensorFile;

use crate::common::{Sandbox, train_program};
use crate::killed::{same_spectrum, spectrum};
use crate::wide;

fn start(sandbox: &Sandbox, program: &str, args: &[&str]) -> Child {
    let mut command = Command::new(program);
    command
        .args(args)
        .current_dir(sandbox.path(""))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn wait_for(running: &mut Child, file: &Path) {
    while std::fs::metadata(file).map_or(0, |m| m.len()) == 0 {
        assert!(running.try_wait().unwrap().is_none(), "it runs until it is stopped");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Sends a signal; gives the exit code and what was said.
fn stop(running: Child, signal: &str) -> (Option<i32>, String) {
    assert!(Command::new("kill").args([signal, &running.id().to_string()]).status().unwrap().success());
    let output = running.wait_with_output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn an_interrupted_run_is_saved_and_goes_on() {
    let sandbox = Sandbox::new();
    let options =
        ["--arch", "digits", "--data", "digits", "--samples", "100", "--batch-size", "50", "--lr", "0.05"];
    let args = |out: &'static str| [&options[..], &["--steps", "300", "--out", out, "--quiet"]].concat();
    assert_eq!(sandbox.train(&args("whole")).code, 0);
    for (signal, code) in [("-INT", 130), ("-TERM", 143)] {
        let mut running = start(&sandbox, &train_program(), &args("broken"));
        // The first line of metrics is written in the first step; the signal comes somewhere after it.
        wait_for(&mut running, &sandbox.path("broken/metrics.jsonl"));
        let second = sandbox.train(&["--resume", "--out", "broken"]);
        assert!(second.code == 1 && second.stderr.contains("in use"), "{}", second.stderr);
        let (found, words) = stop(running, signal);
        assert!(found == Some(code) && words.contains("--resume"), "{found:?} {words}");
        let out = sandbox.train(&["--resume", "--out", "broken", "--quiet"]);
        assert_eq!(out.code, 0, "{}", out.stderr);
        let tensors = |run: &str| {
            let path = sandbox.path(run).join("checkpoints/step-00000300.safetensors");
            TensorFile::read(&path).unwrap().tensors
        };
        assert_eq!(tensors("whole"), tensors("broken"));
        let lines = |run: &str| {
            let text = std::fs::read_to_string(sandbox.path(run).join("metrics.jsonl")).unwrap();
            text.lines().map(|l| l.split(",\"seconds\"").next().unwrap().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(lines("whole"), lines("broken"));
        std::fs::remove_dir_all(sandbox.path("broken")).unwrap();
    }
}

#[test]
fn an_interrupted_spectrum_is_kept_and_goes_on() {
    let sandbox = Sandbox::new();
    sandbox.write("wide.toml", wide::architecture(27));
    let train = "--arch wide.toml --data digits --lr 0.05 --steps 5 --quiet --out run";
    assert_eq!(sandbox.train(&train.split(' ').collect::<Vec<_>>()).code, 0);
    // A save after every part of the work: when there is one, only parts of the matrix are there.
    let args: Vec<&str> = "eigen run --full --vectors 3 --samples 400 --save-every 0".split(' ').collect();
    let reports = sandbox.path("run/reports");
    let mut running = start(&sandbox, env!("CARGO_BIN_EXE_qn-analyse"), &args);
    wait_for(&mut running, &reports.join("full_spectrum.partial"));
    let (code, words) = stop(running, "-INT");
    assert!(code == Some(130) && words.contains("full_spectrum.partial"), "{code:?} {words}");
    assert!(!reports.join("eigen.json").exists());
    let out = sandbox.analyse(&args);
    assert!(out.code == 0 && out.stderr.contains("going on with a matrix"), "{}", out.stderr);
    assert!(!reports.join("full_spectrum.partial").exists());
    let continued = spectrum(&reports);
    std::fs::remove_dir_all(&reports).unwrap();
    assert_eq!(sandbox.analyse(&args).code, 0);
    same_spectrum(&continued, &spectrum(&reports));
}
