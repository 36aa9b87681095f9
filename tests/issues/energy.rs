//! Gradients and layers among the eigenvectors.

use qn_run::TensorFile;

use crate::common::Sandbox;
use crate::reports::numbers;
use crate::wide;

#[test]
fn all_eigenvectors_hold_all_of_a_gradient() {
    let sandbox = Sandbox::new();
    sandbox.small_network("net.toml");
    let train = "--arch net.toml --data digits --lr 0.05 --steps 6 --samples 100 --batch-size 50 --out run";
    sandbox.trained(train);
    sandbox.analysed("eigen run --full --vectors all --samples 60");
    let table = sandbox.analysed("energy run");
    assert!(
        table.lines().any(|line| line.split_whitespace().collect::<Vec<_>>()
            == ["235", "100.000", "%", "100.000", "%", "100.000", "%"]),
        "{table}"
    );
    let report = sandbox.json("run/reports/energy.json");
    assert_eq!(report["samples"], 60);
    let sums_to_one = |shares: &[f64]| (shares.iter().sum::<f64>() - 1.0).abs() < 1e-9;
    let gradient = numbers(&report["gradient"]);
    assert!(gradient.len() == 235 && sums_to_one(&gradient));
    for class in report["class_gradients"].as_array().unwrap() {
        assert!(sums_to_one(&numbers(class)));
    }
    for (masses, spread) in
        report["layer_masses"].as_array().unwrap().iter().zip(numbers(&report["participation"]))
    {
        assert!(sums_to_one(&numbers(masses)) && (1.0..=235.0).contains(&spread));
    }
    assert_eq!(numbers(&report["layer_sizes"]), [195.0 / 235.0, 40.0 / 235.0]);
    sandbox.analysed("figure energy run -o energy.svg");
    sandbox.analysed("report run");
    sandbox.analysed("inspect run/reports/energy.json");

    // Eigenvectors over other samples, or at another point, are no basis for these gradients.
    let other = sandbox.analyse(&["energy", "run", "--samples", "50"]);
    assert!(other.code == 1 && other.stderr.contains("about other samples"), "{}", other.stderr);
}

/// Above the library's order all vectors are in files, from which gradients, layers and single vectors are told.
#[test]
fn all_eigenvectors_in_files() {
    let sandbox = Sandbox::new();
    sandbox.write("wide.toml", wide::architecture(19));
    sandbox.trained(
        "--arch wide.toml --data digits --lr 0.05 --steps 6 --samples 100 --batch-size 50 --out run",
    );
    // A file of somebody else is not replaced.
    let name = "run/reports/eigenvectors/0000000.safetensors";
    sandbox.write(name, "mine");
    let ask = "eigen run --full --vectors all --samples 60";
    let out = sandbox.analyse(&ask.split(' ').collect::<Vec<_>>());
    assert!(out.code == 1 && out.stderr.contains("is not replaced"), "{}", out.stderr);
    std::fs::remove_file(sandbox.path(name)).unwrap();
    let table = sandbox.analysed(ask);
    assert!(table.contains("all eigenvectors in 2 files"), "{table}");
    let full = sandbox.json("run/reports/full_spectrum.json");
    let scale = full["largest"].as_f64().unwrap();
    let sampled = full["all_vectors"]["sampled"].as_array().unwrap();
    assert_eq!(sampled.len(), 128);
    for vector in sampled {
        let number = |field: &str| vector[field].as_f64().unwrap();
        assert!(number("residual") < 1e-12 * scale && number("orthogonality") < 1e-12, "{vector}");
    }
    let left: Vec<_> = std::fs::read_dir(sandbox.path("run/reports/eigenvectors"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with("partial"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
    assert!(!sandbox.path("run/reports/full_spectrum.partial").exists());

    let table = sandbox.analysed("energy run");
    let whole = ["2103", "100.000", "%", "100.000", "%", "100.000", "%"];
    assert!(table.lines().any(|line| line.split_whitespace().collect::<Vec<_>>() == whole), "{table}");
    let energy = sandbox.json("run/reports/energy.json");
    assert_eq!(numbers(&energy["counts"]).iter().sum::<f64>(), 2103.0);
    assert!((numbers(&energy["gradient"]).iter().sum::<f64>() - 1.0).abs() < 1e-9);
    sandbox.analysed("figure energy run -o energy.svg");

    // Single vectors from both files; the first is the one that eigen.json lists.
    sandbox.analysed("export eigenvectors run --index 0,2102 -o some.safetensors");
    sandbox.analysed("export eigenvectors run -o listed.safetensors");
    let read = |name: &str, tensor: &str| {
        let file = TensorFile::read(&sandbox.path(name)).unwrap();
        file.tensors[tensor].to_f64().unwrap()
    };
    let values = read("some.safetensors", "eigenvalues");
    assert_eq!(values, [scale, full["smallest"].as_f64().unwrap()]);
    let (some, listed) = (read("some.safetensors", "fc2.bias"), read("listed.safetensors", "fc2.bias"));
    assert!(some.len() == 20 && some[..10] == listed[..10]);
    let out = sandbox.analyse(&["export", "eigenvectors", "run", "--index", "2103", "-o", "x.safetensors"]);
    assert!(out.code == 2 && out.stderr.contains("from 0 to 2102"), "{}", out.stderr);
}

#[test]
fn eigenvectors_must_be_there_first() {
    let sandbox = Sandbox::new();
    let train = "--arch digits --data digits --lr 0.05 --steps 2 --samples 100 --batch-size 50 --out run";
    sandbox.trained(train);
    let out = sandbox.analyse(&["energy", "run"]);
    assert!(out.code == 1 && out.stderr.contains("qn-analyse eigen run"), "{}", out.stderr);
}
