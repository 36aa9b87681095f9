//! No disk, no memory, no permission: a clear error, and what was there before is there still.

use std::process::{Command, Output};

use qn_run::TensorFile;

use crate::common::{Sandbox, train_program};

const TRAINING: &str =
    "--arch digits --data digits --samples 200 --lr 0.05 --steps 40 --snapshot-every 1 --quiet";

/// Runs the program by bash after `limit`, in the sandbox.
fn limited(sandbox: &Sandbox, limit: &str, program: &str, args: &str) -> Output {
    let line = format!("{limit}; exec {program} {args}");
    Command::new("bash").args(["-c", &line]).current_dir(sandbox.path("")).output().unwrap()
}

fn message(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn files_that_may_not_grow() {
    let sandbox = Sandbox::new();
    sandbox.train_digits("run");
    let before = std::fs::read(sandbox.path("run/metrics.jsonl")).unwrap();
    // A snapshot takes 80 KiB; bash counts in KiB. The signal is ignored, as under nohup.
    let out =
        limited(&sandbox, "trap '' XFSZ; ulimit -f 40", &train_program(), &format!("{TRAINING} --out new"));
    assert_eq!(out.status.code(), Some(1), "{}", message(&out));
    assert!(
        message(&out).contains("new/snapshots/step-00000000.safetensors: File too large"),
        "{}",
        message(&out)
    );
    assert!(!sandbox.path("new/snapshots/step-00000000.safetensors").exists(), "absent, not half");

    assert_eq!(sandbox.analyse(&["eigen", "run", "-k", "2", "-q"]).code, 0);
    let report = std::fs::read(sandbox.path("run/reports/eigen.json")).unwrap();
    let program = env!("CARGO_BIN_EXE_qn-analyse");
    let out = limited(&sandbox, "trap '' XFSZ; ulimit -f 1", program, "eigen run -k 30 -q");
    assert!(out.status.code() == Some(1) && message(&out).contains("too large"), "{}", message(&out));
    assert_eq!(
        report,
        std::fs::read(sandbox.path("run/reports/eigen.json")).unwrap(),
        "the old report stays"
    );
    TensorFile::read(&sandbox.path("run/reports/eigen.safetensors")).unwrap();
    assert_eq!(before, std::fs::read(sandbox.path("run/metrics.jsonl")).unwrap());
}

#[test]
fn a_folder_that_cannot_be_written() {
    let sandbox = Sandbox::new();
    sandbox.write("file", "");
    let out = sandbox.train(&[&TRAINING.split(' ').collect::<Vec<_>>()[..], &["--out", "file/run"]].concat());
    assert!(out.code == 1 && out.stderr.contains("file/run"), "{}", out.stderr);
    sandbox.train_digits("run");
    let out = sandbox.analyse(&["eigen", "run", "-k", "1", "-q", "--json", "file/eigen.json"]);
    assert!(out.code == 1 && out.stderr.contains("file/eigen"), "{}", out.stderr);
}

#[test]
fn too_few_open_files() {
    let sandbox = Sandbox::new();
    // Enough for the program's libraries, too few for its folder: 3 are open already.
    let out = limited(&sandbox, "ulimit -n 4", &train_program(), &format!("{TRAINING} --out run"));
    assert_eq!(out.status.code(), Some(1), "{}", message(&out));
    assert!(message(&out).contains("Too many open files"), "{}", message(&out));
}

/// Memory that runs out unforeseen, wherever that is: a message and exit code 1, and files are whole.
#[test]
fn memory_that_runs_out() {
    let sandbox = Sandbox::new();
    sandbox.train_digits("run");
    assert_eq!(sandbox.analyse(&["eigen", "run", "-k", "2", "-q"]).code, 0);
    let report = sandbox.path("run/reports/eigen.json");
    let commands = [
        (env!("CARGO_BIN_EXE_qn-analyse").to_owned(), "eigen run -k 30 -q".to_owned()),
        (train_program(), format!("{TRAINING} --overwrite --out new")),
    ];
    for (program, args) in commands {
        let (mut failed, before) = (0, std::fs::read(&report).unwrap());
        // In KiB; less than the first the system's loader needs for itself, the last suffices.
        for limit in (60_000..=300_000).step_by(20_000).chain([8_000_000]) {
            let out = limited(&sandbox, &format!("ulimit -v {limit}"), &program, &args);
            let words = message(&out);
            match out.status.code() {
                Some(0) => {}
                Some(1) => {
                    assert!(words.contains("error:") && words.contains("memory"), "{limit}: {words}");
                    assert!(before == std::fs::read(&report).unwrap(), "{limit}: {words}");
                    failed += 1;
                }
                // Libraries that features bring take more.
                Some(127) if words.contains("error while loading shared libraries") => {}
                other => panic!("{limit}: {other:?} {words}"),
            }
            TensorFile::read(&sandbox.path("run/reports/eigen.safetensors")).unwrap();
            if out.status.success() {
                break;
            }
        }
        println!("{args}: {failed} limits were too low");
        assert!(failed > 0);
    }
}

#[test]
fn a_matrix_that_memory_cannot_hold_is_refused_unbuilt() {
    let sandbox = Sandbox::new();
    let arch = "name = 'big'\ninput = [1, 8, 8]\nclasses = 10\nlayers = [{ type = 'flatten' }, \
        { type = 'linear', name = 'a', out_features = 20000 }, { type = 'linear', name = 'b', out_features = 10 }]";
    sandbox.write("big.toml", arch);
    let train = "--arch big.toml --data digits --samples 20 --steps 1 --snapshot-every 0 --quiet --out big";
    assert_eq!(sandbox.train(&train.split(' ').collect::<Vec<_>>()).code, 0);
    let out = sandbox.analyse(&["eigen", "big", "--full", "--samples", "10"]);
    assert!(out.code == 1 && (out.stderr.contains("GiB") || out.stderr.contains("TiB")), "{}", out.stderr);
    // What no disk holds is refused too, and no size makes the arithmetic fail.
    for more in ["--epochs 18446744073709551615", "--steps 18446744073709551615 --snapshot-every 1"] {
        let args = format!("--arch big.toml --data digits {more} --quiet --out larger");
        let out = sandbox.train(&args.split(' ').collect::<Vec<_>>());
        assert!(out.code == 1 && out.stderr.contains("need"), "{}", out.stderr);
    }
}

/// A disk that is full after some snapshots.
#[test]
#[cfg_attr(not(feature = "hostile"), ignore = "mounts a disk, as root: --features qn-cli/hostile")]
fn a_full_disk() {
    let sandbox = Sandbox::new();
    let disk = sandbox.path("disk");
    std::fs::create_dir(&disk).unwrap();
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=1m", "none"]).arg(&disk).output();
    assert!(mounted.is_ok_and(|o| o.status.success()), "no disk can be mounted here");
    let train = |out: &str, steps: &str| {
        let args = ["--steps", steps, "--snapshot-every", "1", "--log-every", "1", "--quiet", "--out", out];
        let base = ["--arch", "digits", "--data", "digits", "--samples", "200", "--lr", "0.05"];
        sandbox.train(&[&base[..], &args].concat())
    };
    // What will not fit is refused before it begins.
    let refused = train("disk/large", "100");
    // What fits at first is filled up by another while it runs.
    let first = train("disk/run", "4");
    std::fs::write(disk.join("others"), vec![0; 200 << 10]).unwrap();
    let resumed = sandbox.train(&["--resume", "--steps", "30", "--quiet", "--out", "disk/run"]);
    let snapshots: Vec<_> =
        std::fs::read_dir(disk.join("run/snapshots")).unwrap().map(|e| e.unwrap().path()).collect();
    let torn: Vec<_> = snapshots
        .iter()
        .filter(|p| !p.file_name().unwrap().to_string_lossy().starts_with('.'))
        .filter(|p| TensorFile::read(p).is_err())
        .collect();
    let readable = qn_run::RunDirectory::open(&disk.join("run")).unwrap().read_config().is_ok();
    std::fs::remove_file(disk.join("others")).unwrap();
    let space = sandbox.train(&["--resume", "--steps", "5", "--quiet", "--out", "disk/run"]);
    assert!(Command::new("umount").arg(&disk).status().unwrap().success());
    assert!(refused.code == 1 && refused.stderr.contains("need"), "{}", refused.stderr);
    assert_eq!(first.code, 0, "{}", first.stderr);
    assert!(resumed.code == 1 && resumed.stderr.contains("No space left"), "{}", resumed.stderr);
    assert!(torn.is_empty() && readable, "{torn:?}");
    assert_eq!(space.code, 0, "with room again it goes on: {}", space.stderr);
}
