//! Spectra of odd networks, and numbers on the command line and in reports.

use crate::common::Sandbox;

#[test]
fn a_tolerance_is_a_positive_number() {
    let sandbox = Sandbox::new();
    sandbox.train_digits("run");
    for command in ["eigen", "batches", "track"] {
        for tol in ["inf", "nan", "0", "-1e-6"] {
            let out = sandbox.analyse(&[command, "run", &format!("--tol={tol}")]);
            assert!(out.code == 2 && out.stderr.contains("--tol"), "{command} {tol}: {}", out.stderr);
        }
    }
}

#[test]
fn a_sigma_that_the_points_cannot_show_is_refused() {
    let sandbox = Sandbox::new();
    sandbox.train_digits("run");
    let density = |sigma: &str| {
        let of = ["density", "run", "--samples", "50", "--probes", "2", "--steps", "10", "--json", "-"];
        sandbox.analyse(&[&of[..], &["--sigma", sigma]].concat())
    };
    for sigma in ["1e-9", "1e-300", "inf", "nan", "0"] {
        let out = density(sigma);
        assert!(out.code == 2 && out.stderr.contains("sigma"), "{sigma}: {}", out.stderr);
    }
    let out = density("0.5");
    assert_eq!(out.code, 0, "{}", out.stderr);
    let report: serde_json::Value = serde_json::from_str(&out.stdout).unwrap();
    let numbers = |name: &str| -> Vec<f64> {
        report[name].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
    };
    let (grid, density) = (numbers("grid"), numbers("density"));
    let mass: f64 = grid.windows(2).zip(&density).map(|(t, d)| (t[1] - t[0]) * d).sum();
    assert!((mass - 1.0).abs() < 1e-3, "{mass}");
}

const LINEAR: &str = "name = 'one'\ninput = [1, 8, 8]\nclasses = 10\nlayers = [{ type = 'scale', factor = SCALE }, \
    { type = 'flatten' }, { type = 'linear', name = 'l', out_features = 10 }]";

#[test]
fn a_gradient_whose_square_overflows_has_a_norm() {
    let sandbox = Sandbox::new();
    sandbox.write("one.toml", LINEAR.replace("SCALE", "1e200"));
    let zeros = vec![0u8; 4 * 640];
    let view = |shape: Vec<usize>, n: usize| {
        safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape, &zeros[..4 * n]).unwrap()
    };
    let views = [("l.weight", view(vec![10, 64], 640)), ("l.bias", view(vec![10], 10))];
    sandbox.write("one.safetensors", safetensors::serialize(views, None).unwrap());
    let of = ["--checkpoint", "one.safetensors", "--arch", "one.toml", "--data", "digits", "--samples", "20"];
    let out =
        sandbox.analyse(&[&["eigen", "-k", "1", "--operator", "residual", "--json", "-"], &of[..]].concat());
    assert_eq!(out.code, 0, "{}", out.stderr);
    let report: serde_json::Value = serde_json::from_str(&out.stdout).unwrap();
    let norm = report["gradient_norm"].as_f64().unwrap();
    assert!(norm > 1e199 && norm.is_finite(), "{norm}");
}

/// A network that is sure of itself: its logits are 40 times too large, its loss far below what single precision holds
/// beside one.
#[test]
fn a_network_that_fits_its_data_has_a_spectrum_in_both_precisions() {
    let sandbox = Sandbox::new();
    let train = ["--arch", "digits", "--data", "digits", "--samples", "30", "--epochs", "60", "--lr", "0.1"];
    let out = sandbox.train(&[&train[..], &["--out", "run"]].concat());
    assert_eq!(out.code, 0, "{}", out.stderr);
    let values = |more: &[&str]| -> Vec<f64> {
        let out = sandbox.analyse(&[&["eigen", "run", "-k", "5", "--json", "-"], more].concat());
        assert_eq!(out.code, 0, "{more:?}: {}", out.stderr);
        let report: serde_json::Value = serde_json::from_str(&out.stdout).unwrap();
        report["eigenvalues"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
    };
    let double = values(&[]);
    for more in [&["--dtype", "f32"][..], &["--full", "--dtype", "f32"], &["--full"]] {
        let more = if more[0] == "--full" { more } else { &["--dtype", "f32"] };
        let found = values(more);
        for (f, d) in found.iter().zip(&double) {
            assert!((f - d).abs() < 1e-4 * double[0], "{more:?}: {found:?}, not {double:?}");
        }
    }
}
