//! Readers that go away, disks that are full, terminals that are closed.

use std::fs::File;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use crate::common::{Sandbox, train_program};

const ANALYSE: &str = env!("CARGO_BIN_EXE_qn-analyse");

/// Commands of both programs whose results go to stdout, for a sandbox with a run that has eigenvalues.
fn talkative() -> Vec<(String, &'static str)> {
    let train = ["--help", "-h", "--version", "completions zsh"].map(|args| (train_program(), args));
    let analyse = [
        "--help",
        "eigen --help",
        "--version",
        "completions bash",
        "inspect run run/reports/eigen.json",
        "eigen run -k 1 --samples 20 -q",
        "eigen run -k 1 --samples 20 -q --json -",
        "trace run --samples 20 -q",
        "overlap run -q",
    ];
    train.into_iter().chain(analyse.map(|args| (ANALYSE.to_owned(), args))).collect()
}

fn analysed() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.train_digits("run");
    assert_eq!(sandbox.analyse(&["eigen", "run", "-q", "--samples", "50", "--tol", "1e-2"]).code, 0);
    sandbox
}

/// Runs a program with this as its stdout.
fn printing(sandbox: &Sandbox, program: &str, args: &str, stdout: impl Into<Stdio>) -> Output {
    let mut command = Command::new(program);
    command.args(args.split(' ')).current_dir(sandbox.path("")).stdout(stdout).output().unwrap()
}

fn words(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_reader_that_has_gone_is_no_failure() {
    let sandbox = analysed();
    for (program, args) in talkative() {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let out = printing(&sandbox, &program, args, writer);
        assert_eq!(out.status.code(), Some(0), "{args}: {}", words(&out));
        assert!(out.stderr.is_empty(), "{args}: {}", words(&out));
        // The eigenvectors that `overlap` needs are those of the last `eigen`.
        if args.starts_with("eigen run") {
            let again = ["eigen", "run", "-q", "--samples", "50", "--tol", "1e-2"];
            assert_eq!(sandbox.analyse(&again).code, 0);
        }
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_device_is_a_failure() {
    let sandbox = analysed();
    let full = || File::options().write(true).open("/dev/full").unwrap();
    for (program, args) in talkative().into_iter().filter(|(_, args)| !args.starts_with("overlap")) {
        let out = printing(&sandbox, &program, args, full());
        let words = words(&out);
        assert_eq!(out.status.code(), Some(1), "{args}: {words}");
        assert!(words.contains("error: cannot write to stdout: No space left"), "{args}: {words}");
    }
    // Wrong usage is what it was.
    assert_eq!(printing(&sandbox, ANALYSE, "eigen run -k 0", full()).status.code(), Some(2));
}

#[cfg(target_os = "linux")]
#[test]
fn talk_that_nobody_hears_ends_nothing() {
    let sandbox = Sandbox::new();
    let (reader, gone) = std::io::pipe().unwrap();
    drop(reader);
    let full = File::options().write(true).open("/dev/full").unwrap();
    for (run, stderr) in [("a", Stdio::from(gone)), ("b", Stdio::from(full))] {
        let args = ["--arch", "digits", "--data", "digits", "--steps", "2", "--out", run];
        let mut command = Command::new(train_program());
        let status = command.args(args).current_dir(sandbox.path("")).stderr(stderr).status().unwrap();
        assert_eq!(status.code(), Some(0));
        assert!(sandbox.path(run).join("checkpoints/step-00000002.safetensors").is_file());
    }
}

#[test]
fn a_file_size_limit_is_told_of() {
    let sandbox = Sandbox::new();
    // A snapshot takes 80 KiB; bash counts in KiB. Nothing keeps the signal from ending the process but itself.
    let line = format!(
        "ulimit -f 40; exec {} --arch digits --data digits --samples 200 --steps 4 --snapshot-every 1 -q --out run",
        train_program()
    );
    let out = Command::new("bash").args(["-c", &line]).current_dir(sandbox.path("")).output().unwrap();
    assert_eq!(out.status.code(), Some(1), "{:?} {}", out.status, words(&out));
    assert!(words(&out).contains("step-00000000.safetensors: File too large"), "{}", words(&out));
}

#[test]
fn a_closed_terminal_saves_and_nohup_goes_on() {
    let sandbox = Sandbox::new();
    let program = train_program();
    let start = |prepare: &str, out: &str| {
        let line = format!(
            "{prepare} exec env {signal} {program} --arch digits --data digits --steps 100000 -q --out {out}",
            // Whoever runs the tests may ignore SIGHUP, and a shell cannot take that back.
            signal = if prepare.is_empty() { "--default-signal=HUP" } else { "" },
        );
        let mut command = Command::new("bash");
        command.args(["-c", &line]).current_dir(sandbox.path("")).stderr(Stdio::piped());
        let running = command.spawn().unwrap();
        // The first line of metrics is written in the first step.
        let log = sandbox.path(out).join("metrics.jsonl");
        while std::fs::metadata(&log).map_or(0, |m| m.len()) == 0 {
            std::thread::sleep(Duration::from_millis(2));
        }
        running
    };
    let send = |signal: &str, id: u32| {
        assert!(Command::new("kill").args([signal, &id.to_string()]).status().unwrap().success());
    };
    let running = start("", "closed");
    send("-HUP", running.id());
    let out = running.wait_with_output().unwrap();
    assert_eq!(out.status.code(), Some(129), "{}", words(&out));
    assert!(words(&out).contains("--resume --out closed"), "{}", words(&out));
    // One checkpoint at least, more if epochs have ended meanwhile, and nothing that is half written.
    let saved: Vec<_> = std::fs::read_dir(sandbox.path("closed/checkpoints")).unwrap().collect();
    let whole = |f: &std::fs::DirEntry| f.path().extension().is_some_and(|e| e == "safetensors");
    assert!(!saved.is_empty() && saved.iter().all(|f| whole(f.as_ref().unwrap())), "{saved:?}");

    let mut running = start("trap '' HUP;", "nohup");
    send("-HUP", running.id());
    std::thread::sleep(Duration::from_millis(100));
    assert!(running.try_wait().unwrap().is_none(), "it goes on");
    send("-TERM", running.id());
    assert_eq!(running.wait().unwrap().code(), Some(143));
}
