//! The same bits with any number of threads, and again.

use crate::common::Sandbox;

#[test]
fn reports_do_not_depend_on_the_threads() {
    let sandbox = Sandbox::new();
    sandbox.train_digits("run");
    let commands = [
        "eigen run -k 5 --samples 300",
        "eigen run -k 5 --samples 300 --dtype f32 --which BE",
        "eigen run --full --samples 200 --dtype f32 --tol 1e-3",
        "density run --samples 200 --dtype f32",
        "trace run --samples 200",
        "decompose run --samples 200",
    ];
    for command in commands {
        let report = |threads: &str| {
            let args: Vec<&str> =
                command.split(' ').chain(["--threads", threads, "--quiet", "--json", "-"]).collect();
            let out = sandbox.analyse(&args);
            assert_eq!(out.code, 0, "{command}: {}", out.stderr);
            let mut report: serde_json::Value = serde_json::from_str(&out.stdout).unwrap();
            report.as_object_mut().unwrap().remove("seconds");
            report
        };
        let one = report("1");
        for threads in ["1", "2", "4"] {
            assert!(report(threads) == one, "{command} differs with {threads} threads");
        }
    }
}
