//! Figures and the page, of a small recipe on the digits.

use crate::common::Sandbox;

const RECIPE: &str = r#"
name = "tiny"
description = "a test"
compare = [["sgd", "qn"]]
[common]
arch = "digits"
data = "digits"
lr = 0.05
epochs = 2
keep-checkpoints = 0
[eigen]
k = 12
full = true
[track]
[runs.sgd]
[runs.qn]
optimizer = "qn"
damping = 10.0
"#;

#[test]
fn every_figure_is_drawn_and_the_page_has_them() {
    let sandbox = Sandbox::new();
    sandbox.write("tiny.toml", RECIPE);
    let out = sandbox.analyse(&["reproduce", "tiny.toml", "--quiet"]);
    assert_eq!(out.code, 0, "{}", out.stderr);
    let sgd = "runs/tiny/sgd";
    assert_eq!(sandbox.analyse(&["density", sgd, "--quiet"]).code, 0);
    let decompose = ["decompose", sgd, "--dense-up-to", "0", "--probes", "4", "--samples", "100", "--quiet"];
    assert_eq!(sandbox.analyse(&decompose).code, 0);

    let draw = |name: &str, more: &[&str], file: &str| {
        let out = sandbox.analyse(&[&["figure", name, "-o", file], more].concat());
        assert_eq!(out.code, 0, "{name}: {}", out.stderr);
        std::fs::read(sandbox.path(file)).unwrap()
    };
    // What must be seen of the run: words of the figure, and marks on it.
    let figures: [(&str, &str, &str, &str, usize); 11] = [
        ("eigenvalues", sgd, "C = 10 classes", "<circle", 12),
        ("spectrum", sgd, "All 1898 eigenvalues", "<rect", 30),
        ("density", sgd, "Density of eigenvalues", "<polyline", 3),
        ("cosines", sgd, "mean of the framed", "<rect", 111),
        ("overlap", sgd, "random directions, assigned |cos| 0.039", "<polyline", 4),
        ("angles", sgd, "Principal angles", "<circle", 10),
        ("singular", sgd, "tolerance", "<circle", 40),
        ("training", sgd, "Accuracy on the test split", "<circle", 2),
        ("lambda", "runs/tiny/qn", "|c_k|", "<polyline", 20),
        ("track", sgd, "2/eta", "<circle", 15),
        ("blocks", sgd, "|F_lm| by layers", "<rect", 18),
    ];
    for (name, run, words, mark, at_least) in figures {
        let svg = String::from_utf8(draw(name, &[run], "figures/f.svg")).unwrap();
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"), "{name}");
        assert!(svg.contains(words), "{name} lacks {words:?}");
        assert!(svg.matches(mark).count() >= at_least, "{name}: {} of {mark}", svg.matches(mark).count());
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{name}");
    }
    let (light, dark) = (draw("angles", &[sgd], "l.svg"), draw("angles", &[sgd, "--dark"], "d.svg"));
    assert_ne!(light, dark);
    let of_report = draw("angles", &["runs/tiny/sgd/reports/overlap.json"], "r.svg");
    assert!(of_report == light, "a report and its run give the same");

    let page = std::fs::read_to_string(sandbox.path("runs/tiny/report.html")).unwrap();
    assert!(page.starts_with("<!DOCTYPE html>"));
    assert!(out.stdout.trim_end().ends_with("runs/tiny/report.html"), "{}", out.stdout);
    for words in
        ["Loss of the minibatches", "Principal angles", "type=\"range\"", "sgd/reports/eigen.json", "damping"]
    {
        assert!(page.contains(words), "{words}");
    }
    for outside in ["src=\"http", "href=\"http", "@import", "url("] {
        assert!(!page.contains(outside), "the page needs no network: {outside}");
    }
    let out = sandbox.analyse(&["report", "runs/tiny/qn", "-o", "page.html"]);
    assert_eq!(out.code, 0, "{}", out.stderr);
    assert!(std::fs::read_to_string(sandbox.path("page.html")).unwrap().contains("lambda_k"));
}

#[test]
fn what_cannot_be_drawn_is_said() {
    let sandbox = Sandbox::new();
    sandbox.train_digits("run");
    let message = |args: &[&str], code: i32| {
        let out = sandbox.analyse(args);
        assert_eq!(out.code, code, "{}", out.stderr);
        out.stderr
    };
    assert!(
        message(&["figure", "eigenvalues", "run", "-o", "f.svg"], 1).contains("run `qn-analyse eigen` first")
    );
    assert!(message(&["figure", "lambda", "run", "-o", "f.svg"], 1).contains("--optimizer qn"));
    assert!(message(&["figure", "training", "run", "-o", "f.pdf"], 2).contains("--output f.pdf"));
    assert!(message(&["figure", "training", "nothing", "-o", "f.svg"], 1).contains("nothing"));
    assert!(!sandbox.path("f.svg").exists());
}
