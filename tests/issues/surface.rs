//! The loss along directions.

use serde_json::Value;

use crate::common::Sandbox;
use crate::reports::numbers;

/// A network whose loss is quadratic, W x + b with the squared error, in `line`, and one whose loss is not, in `net`.
fn trained() -> Sandbox {
    let sandbox = Sandbox::new();
    let layers = r#"
        name = "line"
        input = [1, 8, 8]
        classes = 10
        layers = [{ type = "flatten" }, { type = "linear", name = "fc", out_features = 10 }]
    "#;
    sandbox.write("line.toml", layers);
    let train = "--data digits --lr 0.05 --steps 12 --samples 200 --batch-size 50";
    sandbox.trained(&format!("{train} --arch line.toml --loss mse --out line"));
    sandbox.trained(&format!("{train} --arch digits --out net --checkpoint-every 4 --keep-checkpoints 0"));
    sandbox
}

fn rows(value: &Value) -> Vec<Vec<f64>> {
    value.as_array().unwrap().iter().map(numbers).collect()
}

#[test]
fn a_quadratic_loss_is_its_model() {
    let sandbox = trained();
    let table = sandbox.analysed("surface line --samples 200 --along gradient --range 3");
    assert_eq!(table.lines().filter(|line| line.split_whitespace().count() == 3).count(), 12, "{table}");
    sandbox.analysed("eigen line --samples 200 -k 2");
    for (along, points) in [("gradient", 51), ("random random", 21), ("2 gradient", 21)] {
        sandbox.analysed(&format!("surface line --samples 200 --along {along} --range 2"));
        let report = sandbox.json("line/reports/surface.json");
        let (losses, model) = (rows(&report["losses"]), rows(&report["model"]));
        assert_eq!((losses.len(), numbers(&report["coordinates"])[points / 2]), (points, 0.0));
        let middle = losses[points / 2][losses[0].len() / 2];
        assert_eq!(middle, report["loss"].as_f64().unwrap());
        for (loss, model) in losses.iter().flatten().zip(model.iter().flatten()) {
            assert!((loss / model - 1.0).abs() < 1e-10, "{along}: {loss} {model}");
        }
        sandbox.analysed("figure surface line -o surface.svg");
    }
    sandbox.analysed("report line");
}

#[test]
fn directions_are_what_they_are_called() {
    let sandbox = trained();
    sandbox.analysed("eigen net --samples 200 -k 3");
    sandbox.analysed("surface net --samples 200 --along 3 --points 3");
    let [surface, eigen] = ["surface", "eigen"].map(|name| sandbox.json(&format!("net/reports/{name}.json")));
    let (curvature, value) = (rows(&surface["curvature"])[0][0], numbers(&eigen["eigenvalues"])[2]);
    assert!((curvature / value - 1.0).abs() < 1e-6, "{curvature} {value}");

    sandbox.analysed("export parameters net --step 4 -o other.safetensors");
    sandbox.analysed("surface net --samples 200 --along other.safetensors --points 3");
    sandbox.analysed(
        "eigen --checkpoint other.safetensors --arch digits --data digits --samples 200 -k 1 --json other.json",
    );
    let there = rows(&sandbox.json("net/reports/surface.json")["losses"])[2][0];
    assert!((there / sandbox.json("other.json")["loss"].as_f64().unwrap() - 1.0).abs() < 1e-12);
    // Parameters of 1e200 overflow: there is no loss, and that is an answer.
    sandbox.analysed("surface net --samples 200 --along gradient --range 1e200 --points 3");
    let losses = sandbox.json("net/reports/surface.json")["losses"].clone();
    assert!(losses[0][0].is_null() && losses[1][0].is_number(), "{losses}");
    sandbox.analysed("figure surface net -o surface.svg");

    for (command, words) in [
        ("surface net --along 1 --samples 100", "other samples"),
        ("surface net --along 9 --samples 200", "holds eigenvectors 1 to 3"),
        ("surface net --along gradient --points 4", "an odd number"),
        ("surface net --along gradient --range -1", "positive"),
        ("surface net --along gradient --only *.bias", "leave --only out"),
        ("surface net --along nowhere.pt --samples 200", "nowhere.pt"),
    ] {
        let out = sandbox.analyse(&command.split(' ').collect::<Vec<_>>());
        assert!(out.code != 0 && out.stderr.contains(words), "{command}: {}", out.stderr);
    }
}
