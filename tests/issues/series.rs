//! Several checkpoints in one study.

use serde_json::Value;

use crate::common::Sandbox;
use crate::reports::numbers;

const DIGITS: &str = "--arch digits --data digits --samples 200";

/// A run with checkpoints of three steps, and its parameters at each in epochs/net_STEP.safetensors.
fn trained() -> Sandbox {
    let sandbox = Sandbox::new();
    let train = "--arch digits --data digits --lr 0.05 --steps 12 --samples 200 --batch-size 50 --checkpoint-every 4 \
                 --keep-checkpoints 0 --out run";
    sandbox.trained(train);
    std::fs::create_dir(sandbox.path("epochs")).unwrap();
    for step in [4, 8, 12] {
        let file = format!("epochs/net_{step}.safetensors");
        sandbox.analysed(&format!("export parameters run --step {step} -o {file}"));
    }
    sandbox
}

#[test]
fn a_series_has_what_each_checkpoint_has_by_itself() {
    let sandbox = trained();
    let table = sandbox.analysed(&format!("eigen --checkpoint epochs {DIGITS} -k 3 --json all.json"));
    assert_eq!(table.lines().count(), 4, "{table}");
    let all = sandbox.json("all.json");
    assert_eq!(all["kind"], "series");
    for (point, step) in all["points"].as_array().unwrap().iter().zip([4, 8, 12]) {
        let one = format!(
            "eigen --checkpoint epochs/net_{step}.safetensors {DIGITS} -k 3 --json {step}.json --quiet"
        );
        sandbox.analysed(&one);
        let one = sandbox.json(&format!("{step}.json"));
        assert_eq!(point["step"], step);
        for field in ["eigenvalues", "residuals", "loss", "parameters_sha256"] {
            assert_eq!(point["eigen"][field], one[field], "{step} {field}");
        }
    }
    for command in ["trace --probes 12", "density --probes 2 --steps 10"] {
        let pattern = format!("{command} --checkpoint epochs/*.safetensors {DIGITS} --json other.json");
        sandbox.analysed(&pattern);
        assert_eq!(sandbox.json("other.json")["points"].as_array().unwrap().len(), 3);
        sandbox.analysed("figure series other.json -o figure.svg");
        sandbox.analysed("inspect other.json");
        std::fs::remove_file(sandbox.path("other.json")).unwrap();
    }
    sandbox.analysed("figure series all.json -o figure.svg");
    let figure = std::fs::read_to_string(sandbox.path("figure.svg")).unwrap();
    assert!(figure.contains("lambda_3") && figure.contains("along training"));

    let full = format!("eigen --checkpoint epochs {DIGITS} --full --json full.json");
    let out = sandbox.analyse(&full.split(' ').collect::<Vec<_>>());
    assert_eq!(out.code, 2, "{}", out.stderr);
    assert!(out.stderr.contains("--full is for one checkpoint at a time"), "{}", out.stderr);
}

#[test]
fn files_are_followed_as_a_run_is() {
    let sandbox = trained();
    sandbox.analysed("track run --samples 200 --probes 4 --json run.json --quiet");
    sandbox.analysed(&format!(
        "track --checkpoint epochs --lr 0.05 {DIGITS} --probes 4 --json files.json --quiet"
    ));
    let [run, files] = ["run.json", "files.json"].map(|file| sandbox.json(file));
    assert_eq!((&files["lr"], &files["threshold"]), (&run["lr"], &run["threshold"]));
    assert!(files["momentum_threshold"].is_null() && files["points"][0]["rho_limit"].is_null());
    let points = |report: &Value| report["points"].as_array().unwrap().clone();
    // The run keeps its beginning as well.
    let of_run: Vec<Value> = points(&run).into_iter().filter(|point| point["step"] != 0).collect();
    assert_eq!((of_run.len(), points(&files).len()), (3, 3));
    for (of_run, of_file) in of_run.iter().zip(&points(&files)) {
        for field in
            ["step", "loss", "eigenvalues", "outside", "mean_assigned_cosine", "gradient_in_class_span"]
        {
            assert_eq!(of_run[field], of_file[field], "{field}");
        }
    }
    sandbox.analysed("figure track files.json -o figure.svg");
}

/// A layer's block is the matrix of its parameters alone; traces of the blocks are the whole trace.
#[test]
fn every_layer_by_itself_is_what_only_gives() {
    let sandbox = trained();
    let one = "--checkpoint epochs/net_12.safetensors --arch digits --data digits --samples 200 --json";
    let table = sandbox.analysed(&format!("eigen {one} eigen.json -k 3 --per-layer"));
    let report = sandbox.json("eigen.json");
    let layers = report["layers"].as_array().unwrap();
    assert_eq!((&report["kind"], table.lines().count()), (&"layers".into(), layers.len() + 1));
    for layer in layers {
        let name = layer["layer"].as_str().unwrap();
        sandbox.analysed(&format!("eigen {one} only.json -k 3 --only {name}.*"));
        assert_eq!(layer["eigen"]["eigenvalues"], sandbox.json("only.json")["eigenvalues"], "{name}");
    }
    sandbox.analysed(&format!("trace {one} trace.json --per-layer --probes 200"));
    sandbox.analysed(&format!("trace {one} whole.json --probes 600"));
    let value = |found: &Value| found["hutch_plus_plus"]["value"].as_f64().unwrap();
    let error = |found: &Value| found["hutch_plus_plus"]["standard_error"].as_f64().unwrap();
    let (layers, whole) = (sandbox.json("trace.json"), sandbox.json("whole.json"));
    let layers: Vec<&Value> =
        layers["layers"].as_array().unwrap().iter().map(|layer| &layer["trace"]).collect();
    let (sum, spread) =
        (layers.iter().map(|l| value(l)).sum::<f64>(), layers.iter().map(|l| error(l)).sum::<f64>());
    assert!((sum - value(&whole)).abs() <= 5.0 * (spread + error(&whole)), "{sum} {whole}");
    sandbox.analysed(&format!("density {one} density.json --per-layer --probes 2 --steps 10"));
    for report in ["eigen", "trace", "density"] {
        sandbox.analysed(&format!("figure layers {report}.json -o {report}.svg"));
        sandbox.analysed(&format!("inspect {report}.json"));
    }
    let full = format!("eigen {one} full.json --per-layer --full");
    assert_eq!(sandbox.analyse(&full.split(' ').collect::<Vec<_>>()).code, 2);
}

/// The last one's own eigenvectors are those that `track` compares its class gradients with.
#[test]
fn class_gradients_of_files_are_compared_with_the_last_ones_eigenvectors() {
    let sandbox = trained();
    sandbox.analysed(&format!("overlap --checkpoint epochs {DIGITS} --tol 1e-8 --json overlap.json"));
    let overlap = sandbox.json("overlap.json");
    let snapshots = overlap["snapshots"].as_array().unwrap();
    let steps: Vec<u64> = snapshots.iter().map(|snapshot| snapshot["step"].as_u64().unwrap()).collect();
    assert_eq!((steps, &overlap["class_gradients"]), (vec![4, 8, 12], &"exact".into()));
    sandbox.analysed(&format!("eigen --checkpoint epochs/net_12.safetensors {DIGITS} --json eigen.json"));
    let [found, expected] = [&overlap, &sandbox.json("eigen.json")].map(|r| numbers(&r["eigenvalues"]));
    assert!(found.iter().zip(&expected).all(|(f, e)| (f / e - 1.0).abs() < 1e-6), "{found:?} {expected:?}");
    sandbox.analysed(&format!("track --checkpoint epochs --lr 0.05 {DIGITS} --probes 4 --json track.json"));
    let [found, expected] = [&snapshots[2], &sandbox.json("track.json")["points"][2]]
        .map(|at| at["mean_assigned_cosine"].as_f64().unwrap());
    assert!((found - expected).abs() < 1e-5, "{found} {expected}");
    sandbox.analysed("figure overlap overlap.json -o figure.svg");

    for (command, words) in [
        ("overlap run --operator ggn", "only --k, --gradients and --json can be chosen"),
        (&format!("overlap --checkpoint epochs {DIGITS} -k 9 --json a.json"), "there are 10 classes"),
        (&format!("overlap --checkpoint epochs {DIGITS} --only *.bias --json a.json"), "leave --only out"),
        (&format!("overlap --checkpoint epochs {DIGITS}"), "--json"),
    ] {
        let out = sandbox.analyse(&command.split(' ').collect::<Vec<_>>());
        assert!(out.code == 2 && out.stderr.contains(words), "{command}: {}", out.stderr);
    }
}

#[test]
fn a_loss_that_is_known_is_compared() {
    let sandbox = trained();
    let trace =
        format!("trace --checkpoint epochs/net_12.safetensors {DIGITS} --probes 12 --json trace.json");
    let eigen = format!("eigen --checkpoint epochs/net_12.safetensors {DIGITS} -k 1 --json eigen.json");
    sandbox.analysed(&eigen);
    let loss = sandbox.json("eigen.json")["loss"].as_f64().unwrap();
    sandbox.analysed(&format!("{trace} --expect-loss {loss:.5}"));
    let wrong = format!("{trace} --expect-loss {}", 1.01 * loss);
    let out = sandbox.analyse(&wrong.split(' ').collect::<Vec<_>>());
    assert_eq!(out.code, 2, "{}", out.stderr);
    for words in ["--expect-loss", &format!("the loss is {loss:.6}"), "accuracy"] {
        assert!(out.stderr.contains(words), "{words}: {}", out.stderr);
    }
}
