//! Lanczos, all eigenvalues and the estimates of them, each against the others, by the programs.

use crate::common::Sandbox;
use crate::reports::{json, numbers, satisfies_its_schema};
use crate::wide;
use qn_run::TensorFile;
use serde_json::Value;

#[test]
fn lanczos_and_the_full_matrix_agree() {
    let sandbox = Sandbox::new();
    sandbox.train_digits("run");
    let run = |more: &[&str]| {
        let base = ["eigen", "run", "--samples", "300", "--json", "-", "--quiet"];
        let out = sandbox.analyse(&[&base[..], more].concat());
        assert_eq!(out.code, 0, "{}", out.stderr);
        assert!(out.stderr.is_empty(), "{}", out.stderr);
        serde_json::from_str::<Value>(&out.stdout).expect("stdout holds the report and nothing else")
    };
    let dense = run(&["--full", "--tol", "1e-9"]);
    let lanczos = run(&["--tol", "1e-9"]);
    let all = numbers(&dense["full_spectrum"]);
    assert_eq!(all.len(), 1898);
    assert!(dense["matvecs"].as_u64().unwrap() < 1898 && lanczos["matvecs"].as_u64().unwrap() < 400);
    for (a, b) in numbers(&dense["eigenvalues"]).iter().zip(numbers(&lanczos["eigenvalues"])) {
        assert!((a - b).abs() <= 1e-9 * all[0], "{a} {b}");
    }
    let single = run(&["--dtype", "f32"]);
    for (a, b) in all.iter().zip(numbers(&single["eigenvalues"])) {
        assert!((a - b).abs() <= 1e-5 * all[0], "{a} {b}");
    }
    let bottom = run(&["--which", "SA", "--k", "3", "--tol", "1e-8"]);
    for (a, b) in all[1895..].iter().zip(numbers(&bottom["eigenvalues"])) {
        assert!((a - b).abs() <= 1e-8 * all[0], "{a} {b}");
    }
    // G has no negative eigenvalues beyond rounding, and with F makes up H.
    let ggn = run(&["--operator", "ggn", "--full"]);
    let smallest = *numbers(&ggn["full_spectrum"]).last().unwrap();
    assert!(smallest >= -1e-13 * all[0], "{smallest}");
    let trace = |r: &Value| numbers(&r["full_spectrum"]).iter().sum::<f64>();
    let residual = run(&["--operator", "residual", "--full"]);
    assert!((trace(&dense) - trace(&ggn) - trace(&residual)).abs() <= 1e-10 * trace(&ggn));
    // The diagonal blocks of F are zero for ReLU and max-pooling networks: so is its trace.
    assert!(trace(&residual).abs() <= 1e-10 * trace(&ggn));
    assert!(numbers(&residual["full_spectrum"])[0] > 1e-4 * all[0], "but F is not zero");
}

#[test]
fn a_network_too_large_for_the_library_goes_through_both_stages() {
    let sandbox = Sandbox::new();
    sandbox.write("wide.toml", wide::architecture(27));
    let train = ["--arch", "wide.toml", "--data", "digits", "--lr", "0.05", "--epochs", "2", "--out", "run"];
    assert_eq!(sandbox.train(&train).code, 0);
    let mut exact: Vec<f64> = Vec::new();
    for (dtype, tolerance) in [("f64", 1e-10), ("f32", 1e-5)] {
        let run = |more: &[&str]| {
            let base = ["eigen", "run", "--samples", "100", "--dtype", dtype, "--quiet"];
            let out = sandbox.analyse(&[&base[..], more].concat());
            assert_eq!(out.code, 0, "{}", out.stderr);
            json(&sandbox.path("run/reports/eigen.json"))
        };
        let lanczos = run(&["--k", "5"]);
        let full = run(&["--full", "--vectors", "5"]);
        assert_eq!((&full["k"], &full["which"]), (&10.into(), &"BE".into()), "five from each end");
        let spectrum = json(&sandbox.path("run/reports/full_spectrum.json"));
        satisfies_its_schema("full_spectrum", "params", &spectrum);
        assert_eq!(spectrum["method"], "two_stage");
        let all = numbers(&spectrum["eigenvalues"]);
        assert_eq!(all.len(), 2959);
        let largest = all[0];
        for (a, b) in numbers(&full["eigenvalues"]).iter().zip(numbers(&lanczos["eigenvalues"])) {
            assert!((a - b).abs() <= tolerance * largest, "{dtype}: {a} {b}");
        }
        let number = |name: &str| spectrum[name].as_f64().unwrap();
        assert!(number("assembly_error") <= tolerance, "{dtype}: {}", number("assembly_error"));
        // The trace is a sum of P eigenvalues, each wrong by a part of the norm.
        assert!((number("trace") - number("trace_of_eigenvalues")).abs() <= 30.0 * tolerance * largest);
        assert!((number("frobenius") / number("frobenius_of_eigenvalues") - 1.0).abs() <= tolerance);
        let counts = numbers(&spectrum["histogram"]["counts"]).iter().sum::<f64>();
        assert_eq!(counts as usize, all.len());

        // Single precision against double: within the threshold that the report gives.
        for (a, b) in all.iter().zip(&exact) {
            assert!((a - b).abs() <= number("threshold"), "{a} {b}");
        }
        exact.clone_from(&all);

        // Every value and vector.
        let whole = run(&["--full", "--vectors", "all"]);
        let spectrum = json(&sandbox.path("run/reports/full_spectrum.json"));
        assert_eq!(spectrum["method"], "two_stage");
        assert_eq!((&whole["k"], &whole["converged"]), (&10.into(), &10.into()));
        let mut values = Vec::new();
        for first in ["0000000", "0000911"] {
            let file = sandbox.path(&format!("run/reports/eigenvectors/{first}.safetensors"));
            values.extend(TensorFile::read(&file).unwrap().tensors["eigenvalues"].to_f64().unwrap());
        }
        assert_eq!(values.len(), 2959);
        for (a, b) in all.iter().zip(&values) {
            assert!((a - b).abs() <= tolerance * largest, "{dtype}: {a} {b}");
        }
        for vector in spectrum["all_vectors"]["sampled"].as_array().unwrap() {
            let number = |field: &str| vector[field].as_f64().unwrap();
            assert!(
                number("residual") <= tolerance * largest && number("orthogonality") <= tolerance,
                "{vector}"
            );
        }
    }
}

#[test]
fn estimates_agree_with_the_dense_spectrum() {
    let sandbox = Sandbox::new();
    sandbox.train_digits("run");
    let run = |command: &str, more: &[&str]| {
        let base = [command, "run", "--samples", "200", "--json", "-", "--quiet"];
        let out = sandbox.analyse(&[&base[..], more].concat());
        assert_eq!(out.code, 0, "{}", out.stderr);
        let report: Value = serde_json::from_str(&out.stdout).unwrap();
        if command != "eigen" {
            satisfies_its_schema(command, "params", &report);
        }
        report
    };
    let norm = |values: &[f64]| values.iter().map(|v| v * v).sum::<f64>().sqrt();
    let full = |operator| numbers(&run("eigen", &["--full", "--operator", operator])["full_spectrum"]);
    let (h, f) = (full("hessian"), full("residual"));
    let covers = |estimate: &Value, truth: f64| {
        let off = (estimate["value"].as_f64().unwrap() - truth).abs();
        assert!(
            off <= 4.0 * estimate["standard_error"].as_f64().unwrap() + 1e-12 * truth,
            "{estimate} {truth}"
        );
    };
    let trace = run("trace", &[]);
    covers(&trace["hutchinson"], h.iter().sum());
    covers(&trace["hutch_plus_plus"], h.iter().sum());
    covers(&trace["frobenius_squared"], norm(&h).powi(2));

    let exact = run("decompose", &[]);
    assert_eq!(exact["method"], "dense");
    covers(&exact["residual_ratio"], norm(&f) / norm(&h));
    let estimated = run("decompose", &["--dense-up-to", "10"]);
    assert_eq!(estimated["method"], "hutchinson");
    covers(&estimated["residual_ratio"], norm(&f) / norm(&h));
    covers(&estimated["ggn_ratio"], exact["ggn_ratio"]["value"].as_f64().unwrap());

    let sigma = h[0] / 20.0;
    let density = run("density", &["--sigma", &sigma.to_string(), "--probes", "20"]);
    let bump = |x: f64| (-0.5 * (x / sigma).powi(2)).exp() / (sigma * (2.0 * std::f64::consts::PI).sqrt());
    let points = numbers(&density["grid"]).into_iter().zip(numbers(&density["density"]));
    let misses = points
        .zip(numbers(&density["standard_error"]))
        .filter(|&((t, d), error)| {
            let exact = h.iter().map(|v| bump(t - v)).sum::<f64>() / h.len() as f64;
            (d - exact).abs() > 4.0 * error + 1e-9
        })
        .count();
    assert!(misses <= 10, "{misses} of 1000 points are beyond four standard errors");
    let out = sandbox.analyse(&["trace", "run", "--probes", "1"]);
    assert_eq!(out.code, 2, "{}", out.stderr);
}

/// The blocks of the matrix that belong to some parameters: their traces add up to that of the whole.
#[test]
fn some_parameters_only() {
    let sandbox = Sandbox::new();
    sandbox.train_digits("run");
    let run = |command: &str, more: &[&str]| {
        let base = [command, "run", "--samples", "100", "--json", "-", "--quiet"];
        let out = sandbox.analyse(&[&base[..], more].concat());
        assert_eq!(out.code, 0, "{}", out.stderr);
        serde_json::from_str::<Value>(&out.stdout).unwrap()
    };
    let full = |only: &str| run("eigen", &["--full", "--only", only]);
    let whole = run("eigen", &["--full"]);
    let (outer, middle) = (full("conv1.*,fc.weight,fc.bias"), full("conv2.*"));
    assert!(whole.get("only").is_none());
    assert_eq!(outer["only"], serde_json::json!(["conv1.weight", "conv1.bias", "fc.weight", "fc.bias"]));
    assert_eq!((&outer["params"], &middle["params"]), (&730.into(), &1168.into()));
    assert_ne!(outer["layout_hash"], whole["layout_hash"]);
    satisfies_its_schema("eigen", "params", &outer);
    let [all, block, rest] = [&whole, &outer, &middle].map(|r| numbers(&r["full_spectrum"]));
    let trace = |values: &[f64]| values.iter().sum::<f64>();
    assert!((trace(&all) - trace(&block) - trace(&rest)).abs() <= 1e-11 * trace(&all));
    // Cauchy: those of a principal submatrix lie between those of the matrix.
    let slack = 1e-12 * all[0];
    for (i, value) in block.iter().enumerate() {
        assert!(*value <= all[i] + slack && *value >= all[i + 1168] - slack, "{i}");
    }

    let outer = ["--only", "conv1.*,fc.*"];
    let lanczos = run("eigen", &[&outer[..], &["--k", "4", "--tol", "1e-9"]].concat());
    for (a, b) in block.iter().zip(numbers(&lanczos["eigenvalues"])) {
        assert!((a - b).abs() <= 1e-9 * block[0], "{a} {b}");
    }
    let estimate = &run("trace", &outer)["hutch_plus_plus"];
    let off = (estimate["value"].as_f64().unwrap() - trace(&block)).abs();
    assert!(off <= 4.0 * estimate["standard_error"].as_f64().unwrap(), "{estimate}");
    let density = run("density", &[&outer[..], &["--steps", "20"]].concat());
    assert_eq!(density["params"], 730);
    assert!(numbers(&density["grid"]).last().unwrap() > &block[0]);
    let blocks = &run("decompose", &[&outer[..], &["--dense-up-to", "10"]].concat())["blocks"];
    assert_eq!(blocks["layers"], serde_json::json!(["conv1", "fc"]));

    // What is in a file is told by it, and nobody takes it for all parameters.
    assert_eq!(sandbox.analyse(&["eigen", "run", "--samples", "50", "--only", "fc.*"]).code, 0);
    let refused = sandbox.analyse(&["overlap", "run"]);
    assert!(refused.code == 1 && refused.stderr.contains("fc.weight, fc.bias only"), "{}", refused.stderr);
    let out = sandbox.analyse(&["export", "eigenvectors", "run", "-o", "vectors.safetensors"]);
    assert_eq!(out.code, 0, "{}", out.stderr);
    let exported = std::fs::read(sandbox.path("vectors.safetensors")).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&exported).unwrap();
    assert_eq!(tensors.tensor("fc.weight").unwrap().shape(), [10, 10, 64]);
    assert!(tensors.tensor("conv1.weight").is_err());
    let out = sandbox.analyse(&["eigen", "run", "--only", "fc.*,conv3.*"]);
    assert_eq!(out.code, 2);
    assert!(out.stderr.contains("'conv3.*'") && out.stderr.contains("conv2.bias"), "{}", out.stderr);
}

#[test]
fn vectors_in_single_precision() {
    let sandbox = Sandbox::new();
    sandbox.train_digits("run");
    let run = |more: &[&str]| {
        let base = ["eigen", "run", "--samples", "200", "--quiet"];
        let out = sandbox.analyse(&[&base[..], more].concat());
        assert_eq!(out.code, 0, "{}", out.stderr);
        json(&sandbox.path("run/reports/eigen.json"))
    };
    let dtype = || {
        let file = std::fs::read(sandbox.path("run/reports/eigen.safetensors")).unwrap();
        safetensors::SafeTensors::deserialize(&file).unwrap().tensor("eigenvectors").unwrap().dtype()
    };
    let double = run(&["--verify"]);
    assert_eq!((&double["storage"], dtype()), (&"f64".into(), safetensors::Dtype::F64));
    let single = run(&["--storage", "f32", "--verify"]);
    assert_eq!((&single["storage"], dtype()), (&"f32".into(), safetensors::Dtype::F32));
    satisfies_its_schema("eigen", "params", &single);
    let [a, b] = [&double, &single].map(|r| numbers(&r["eigenvalues"]));
    for (a, b) in a.iter().zip(&b) {
        assert!((a - b).abs() <= 1e-6 * b.max(1.0), "{a} {b}");
    }
    assert!(numbers(&single["residuals"]).iter().all(|r| *r <= 1e-6 * a[0]));
    assert_eq!((&single["converged"], &single["verified"]), (&10.into(), &true.into()));
    // What reads eigenvectors reads these.
    assert_eq!(sandbox.analyse(&["overlap", "run"]).code, 0);
    assert_eq!(sandbox.analyse(&["export", "eigenvectors", "run", "-o", "vectors.safetensors"]).code, 0);
    assert_eq!(sandbox.analyse(&["eigen", "run", "--full", "--storage", "f32"]).code, 2);
    let density = |storage: &str| {
        let words = ["density", "run", "--samples", "100", "--steps", "20", "--json", "-", "--quiet"];
        let out = sandbox.analyse(&[&words[..], &["--sigma", "0.1", "--storage", storage]].concat());
        serde_json::from_str::<Value>(&out.stdout).unwrap()
    };
    let (double, single) = (density("f64"), density("f32"));
    assert_eq!((&double["storage"], &single["storage"]), (&"f64".into(), &"f32".into()));
    for (a, b) in numbers(&double["density"]).iter().zip(numbers(&single["density"])) {
        assert!((a - b).abs() <= 1e-4 * (1.0 + b), "{a} {b}");
    }
}
