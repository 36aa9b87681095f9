//! Several processes that share the products: with `mpi`.

use serde_json::Value;

use crate::common::{Output, Sandbox};
use crate::reports::numbers;

/// qn-analyse, started so many times by mpirun.
fn started(sandbox: &Sandbox, processes: usize, command: &str) -> Output {
    let n = processes.to_string();
    // On this machine alone, so that Open MPI does not look for ssh; without reading other processes' memory, which a
    // container may forbid.
    let here = ["--mca", "plm", "isolated", "--mca", "btl_vader_single_copy_mechanism", "none"];
    let here = here.into_iter().chain(["--allow-run-as-root", "--oversubscribe", "-n", &n]);
    let mpirun = here.chain([env!("CARGO_BIN_EXE_qn-analyse")]);
    let args: Vec<&str> = mpirun.chain(command.split(' ')).collect();
    sandbox.run("mpirun", &args)
}

/// What a report says but for time and machine.
fn said(sandbox: &Sandbox, name: &str) -> Value {
    let mut report = sandbox.json(name);
    let fields = report.as_object_mut().unwrap();
    fields.retain(|name, _| !["seconds", "versions"].contains(&name.as_str()));
    report
}

#[test]
#[cfg_attr(not(feature = "mpi"), ignore = "takes MPI: --features qn-cli/mpi")]
fn reports_have_the_same_bits_in_any_number_of_processes() {
    let sandbox = Sandbox::new();
    sandbox.trained(
        "--arch digits --data digits --lr 0.05 --steps 12 --samples 400 --out run --snapshot-every 6",
    );
    for study in
        ["eigen run -k 10", "density run --probes 2 --steps 20", "trace run --dtype f32", "overlap run"]
    {
        let name = study.split(' ').next().unwrap();
        let report = format!("run/reports/{name}.json");
        sandbox.analysed(study);
        let alone = said(&sandbox, &report);
        let vectors = std::fs::read(sandbox.path("run/reports/eigen.safetensors")).unwrap();
        for processes in 1..=3 {
            std::fs::remove_file(sandbox.path(&report)).unwrap();
            let out = started(&sandbox, processes, study);
            assert_eq!(out.code, 0, "{}", out.stderr);
            assert_eq!(said(&sandbox, &report), alone, "{study} in {processes} processes");
            assert_eq!(out.stderr.matches("report: ").count(), 1, "{}", out.stderr);
        }
        assert!(std::fs::read(sandbox.path("run/reports/eigen.safetensors")).unwrap() == vectors);
    }
}

#[test]
#[cfg_attr(not(feature = "mpi"), ignore = "takes MPI: --features qn-cli/mpi")]
fn an_error_ends_all_processes() {
    let sandbox = Sandbox::new();
    sandbox.train_digits("run");
    for (command, code, words) in [
        ("eigen nowhere", 1, "nowhere is not a run directory"),
        ("eigen run --full", 2, "for --solver elpa"),
        ("figure eigenvalues run -o a.svg", 2, "is for one process"),
        ("eigen run -k 0", 2, "ask for 1 to"),
    ] {
        let out = started(&sandbox, 2, command);
        assert_eq!(out.code, code, "{}", out.stderr);
        assert_eq!(out.stderr.matches(words).count(), 1, "{}", out.stderr);
    }
    // What goes wrong in one of them only: the first one finds that its place is taken.
    sandbox.write("run/reports/eigen.json", "mine");
    let out = started(&sandbox, 2, "eigen run -k 1");
    assert!(out.code == 1 && out.stderr.contains("is not replaced"), "{}", out.stderr);
}

#[test]
#[cfg_attr(feature = "mpi", ignore = "is about a program without MPI")]
fn without_mpi_several_processes_are_refused() {
    let sandbox = Sandbox::new();
    let out = std::process::Command::new(env!("CARGO_BIN_EXE_qn-analyse"))
        .args(["inspect", "nothing"])
        .current_dir(sandbox.path("."))
        .env("OMPI_COMM_WORLD_SIZE", "2")
        .output()
        .unwrap();
    assert_eq!(out.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&out.stderr).contains("--features mpi"));
}

/// 235 parameters, of which two thirds do not touch the outputs directly.
#[test]
#[cfg_attr(not(feature = "elpa"), ignore = "takes ELPA: --features qn-cli/elpa")]
fn another_solver_finds_the_same_eigenvalues() {
    let sandbox = Sandbox::new();
    sandbox.small_network("small.toml");
    sandbox.trained("--arch small.toml --data digits --lr 0.05 --steps 12 --samples 300 --out run");
    for dtype in ["f64", "f32"] {
        let eps = if dtype == "f64" { 1e-13 } else { 1e-6 };
        for ask in ["-k 3", "-k 2 --which SA", "-k 4 --which BE", "--vectors all"] {
            let full = format!("eigen run --full {ask} --dtype {dtype} --tol 1e-3");
            sandbox.analysed(&format!("{full} --json native.json"));
            for processes in [0, 1, 2, 4] {
                let elpa = format!("{full} --solver elpa --json elpa.json");
                let out = match processes {
                    // By itself.
                    0 => sandbox.analyse(&elpa.split(' ').collect::<Vec<_>>()),
                    n => started(&sandbox, n, &elpa),
                };
                assert_eq!(out.code, 0, "{processes}: {}", out.stderr);
                let [native, elpa] = ["native", "elpa"].map(|name| {
                    let report = sandbox.json(&format!("{name}.full_spectrum.json"));
                    (report["method"].clone(), numbers(&report["eigenvalues"]))
                });
                assert_eq!((native.0, elpa.0), ("library".into(), "elpa".into()));
                let far = native.1.iter().zip(&elpa.1).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
                assert!(
                    native.1.len() == 235 && far <= 100.0 * eps * native.1[0],
                    "{processes} {ask}: {far}"
                );
                let pairs = sandbox.json("elpa.json");
                assert_eq!(pairs["converged"], pairs["k"], "{processes} {ask}");
            }
        }
    }
}
