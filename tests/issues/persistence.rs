//! The top eigenvectors along training.

use qn_run::TensorFile;

use crate::common::Sandbox;
use crate::reports::numbers;

#[test]
fn overlaps_are_those_of_eigenvectors_found_one_by_one() {
    let sandbox = Sandbox::new();
    sandbox.small_network("net.toml");
    let train = "--arch net.toml --data digits --lr 0.5 --steps 40 --samples 100 --batch-size 50 --checkpoint-every 20 \
                 --keep-checkpoints 0 --out run";
    sandbox.trained(train);
    let table = sandbox.analysed("persistence run -k 3 --tol 1e-9 --samples 100");
    assert_eq!(table.lines().count(), 5, "{table}");
    let report = sandbox.json("run/reports/persistence.json");
    let points = report["points"].as_array().unwrap();
    assert_eq!(points.iter().map(|p| p["step"].as_u64().unwrap()).collect::<Vec<_>>(), [0, 20, 40]);
    assert!((report["random_overlap"].as_f64().unwrap() - 3.0 / 235.0).abs() < 1e-15);
    let overlaps: Vec<Vec<f64>> = report["overlaps"].as_array().unwrap().iter().map(numbers).collect();

    let vectors = [0, 20, 40].map(|step| {
        sandbox.analysed(&format!(
            "eigen run --step {step} -k 3 --tol 1e-9 --samples 100 --json {step}.json --quiet"
        ));
        let file = TensorFile::read(&sandbox.path(&format!("{step}.eigenvectors.safetensors"))).unwrap();
        file.tensors["eigenvectors"].to_f64().unwrap()
    });
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    for (s, of_s) in vectors.iter().enumerate() {
        for (t, of_t) in vectors.iter().enumerate() {
            let squares = of_s.chunks(235).flat_map(|a| of_t.chunks(235).map(|b| dot(a, b).powi(2)));
            let expected = squares.sum::<f64>() / 3.0;
            assert!((overlaps[s][t] - expected).abs() < 1e-6, "{s} {t}: {} {expected}", overlaps[s][t]);
        }
    }
    let kept = numbers(&points[1]["kept"]);
    assert!((kept.iter().sum::<f64>() / 3.0 - overlaps[0][1]).abs() < 1e-12);
    for (v, (masses, spread)) in vectors[2]
        .chunks(235)
        .zip(points[2]["layer_masses"].as_array().unwrap().iter().zip(numbers(&points[2]["participation"])))
    {
        assert!((numbers(masses)[0] - dot(&v[..195], &v[..195])).abs() < 1e-6);
        assert!((spread * v.iter().map(|x| x.powi(4)).sum::<f64>() - 1.0).abs() < 1e-6);
    }
    // Two minibatches of 50 are all 100 samples.
    assert_eq!(report["batch_size"], 50);
    assert!(points[2]["batch_sharpness"]["standard_error"].as_f64().unwrap() > 0.0);
    sandbox.analysed("figure persistence run -o figure.svg");
    sandbox.analysed("report run");
    sandbox.analysed("inspect run/reports/persistence.json");

    // Of all samples at once, the batch sharpness is that along the gradient.
    let whole = "persistence run -k 1 --samples 100 --batch-size 100 --draws 1 --json whole.json --quiet";
    sandbox.analysed(whole);
    for point in sandbox.json("whole.json")["points"].as_array().unwrap() {
        let [batch, all] = [&point["batch_sharpness"]["value"], &point["gradient_sharpness"]];
        assert!((batch.as_f64().unwrap() / all.as_f64().unwrap() - 1.0).abs() < 1e-12, "{batch} {all}");
    }
    let refused = sandbox.analyse(&["persistence", "run", "-k", "236"]);
    assert!(refused.code == 2 && refused.stderr.contains("235 parameters"), "{}", refused.stderr);
    let alone = sandbox.analyse(&["persistence", "run", "--batch-size", "20", "--draws", "1"]);
    assert!(alone.code == 2 && alone.stderr.contains("two minibatches"), "{}", alone.stderr);
}
