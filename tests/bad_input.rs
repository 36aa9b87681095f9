//! Bad input: one line that says what is wrong and what to do, the right exit code, nothing written.

use crate::common::{Output, Sandbox};

/// The exit code, and words that the one-line message must have.
fn refused(out: &Output, code: i32, words: &[&str]) {
    assert_eq!(out.code, code, "{}", out.stderr);
    let errors: Vec<&str> = out.stderr.lines().filter(|l| l.starts_with("error: ")).collect();
    assert_eq!(errors.len(), 1, "{}", out.stderr);
    for word in words {
        assert!(errors[0].contains(word), "{word}: {}", errors[0]);
    }
    assert!(!out.stderr.contains("panicked"), "{}", out.stderr);
    assert!(out.stdout.is_empty(), "{}", out.stdout);
}

const DIGITS: [&str; 6] = ["--arch", "digits", "--data", "digits", "--steps", "1"];

#[test]
fn training() {
    let sandbox = Sandbox::new();
    let train = |more: &[&str]| sandbox.train(&[&DIGITS[..], &["--out", "run"], more].concat());
    refused(&sandbox.train(&["--arch", "resnet10", "--data", "digits"]), 2, &["resnet10", "lenet"]);
    refused(&sandbox.train(&["--data", "imagenet"]), 2, &["imagenet", "cifar10"]);
    refused(&sandbox.train(&["--data", "cifar10"]), 1, &["data_batch_1.bin", "qn-train fetch cifar10"]);
    refused(&train(&["--samples", "0"]), 2, &["--samples 0", "1437"]);
    refused(&train(&["--samples", "1438"]), 2, &["--samples 1438", "1437"]);
    refused(&train(&["--lr", "-1"]), 2, &["--lr -1"]);
    refused(&train(&["--device", "cuda:0"]), 1, &["cuda:0", "--device cpu"]);
    refused(&train(&["--device", "gpu"]), 1, &["cpu or cuda:N"]);
    refused(&sandbox.train(&["--resume", "--out", "nowhere"]), 1, &["nowhere", "not a run directory"]);
    assert!(!sandbox.path("run").exists(), "nothing is written before the options are understood");

    assert_eq!(train(&[]).code, 0);
    let config = std::fs::read(sandbox.path("run/config.toml")).unwrap();
    refused(&train(&[]), 2, &["run", "--resume", "--overwrite"]);
    assert_eq!(std::fs::read(sandbox.path("run/config.toml")).unwrap(), config);

    sandbox.write("file", "");
    refused(&sandbox.train(&[&DIGITS[..], &["--out", "file/run"]].concat()), 1, &["file/run"]);
    let diverge =
        ["--arch", "digits", "--data", "digits", "--lr", "1e30", "--epochs", "2", "--out", "diverged"];
    refused(&sandbox.train(&diverge), 1, &["diverged", "step", "--lr"]);
    assert_eq!(sandbox.train(&["--lr", "fast"]).code, 2);
    assert_eq!(sandbox.train(&["--optimizer", "lbfgs"]).code, 2);
}

#[test]
fn damaged_data_sets() {
    let sandbox = Sandbox::new();
    let mnist = |words: &[&str]| {
        let args = ["--arch", "lenet", "--data", "mnist", "--steps", "1", "--out", "run"];
        refused(&sandbox.train(&args), 1, words);
        assert!(!sandbox.path("run").exists());
    };
    mnist(&["train-images-idx3-ubyte", "qn-train fetch mnist"]);
    sandbox.write("data/mnist/train-images-idx3-ubyte", b"\0\0\x08\x01\0\0\0\x01");
    sandbox.write("data/mnist/train-labels-idx1-ubyte", b"\0\0\x08\x01\0\0\0\x01\x03");
    mnist(&["magic"]);
    sandbox.write("data/mnist/train-images-idx3-ubyte", b"\0\0\x08\x03\0\0\0\x01\0\0\0\x1c\0\0\0\x1c\0");
    mnist(&["17 bytes", "800"]);
}

#[test]
fn analysing() {
    let sandbox = Sandbox::new();
    sandbox.train_digits("run");
    let eigen = |more: &[&str]| sandbox.analyse(&[&["eigen", "run"], more].concat());
    refused(&eigen(&["--k", "0"]), 2, &["--k 0", "1898"]);
    refused(&eigen(&["--k", "1899"]), 2, &["--k 1899", "1898"]);
    refused(&eigen(&["--full", "--vectors", "0"]), 2, &["--vectors 0", "1898"]);
    refused(&eigen(&["--full", "--vectors", "some"]), 2, &["--vectors", "all"]);
    refused(&eigen(&["--vectors", "3"]), 2, &["required"]);
    refused(&eigen(&["--samples", "0"]), 2, &["--samples 0"]);
    refused(&eigen(&["--samples", "99999"]), 2, &["99999", "1437"]);
    refused(&eigen(&["--block", "0"]), 2, &["--block"]);
    refused(&eigen(&["--ncv", "3", "--samples", "20"]), 2, &["ncv = 3", "at least"]);
    refused(&eigen(&["--json", "/proc/none/x.json", "--samples", "20", "--k", "1"]), 1, &["/proc/none"]);
    refused(&sandbox.analyse(&["eigen"]), 2, &["run directory", "--checkpoint"]);
    refused(&sandbox.analyse(&["eigen", "nowhere"]), 1, &["nowhere", "not a run directory"]);
    refused(&sandbox.analyse(&["overlap", "run"]), 1, &["qn-analyse eigen run"]);
    refused(&sandbox.analyse(&["reproduce", "fig99"]), 2, &["fig99"]);
    assert!(!sandbox.path("run/reports").exists());

    let path = std::fs::read_dir(sandbox.path("run/checkpoints")).unwrap().next().unwrap().unwrap().path();
    let file = path.to_str().unwrap();
    let other = |arch| ["eigen", "--checkpoint", file, "--arch", arch, "--data", "digits", "--json", "-"];
    sandbox.write(
        "wide.toml",
        "name='wide'\ninput=[1,8,8]\nclasses=10\nlayers=[{type='flatten'},{type='linear',name='fc',out_features=10}]",
    );
    refused(&sandbox.analyse(&other("wide.toml")), 1, &["surplus: conv1.bias", "missing: none"]);
    refused(&sandbox.analyse(&other("lenet")), 2, &["lenet"]);
    sandbox.write("broken.toml", "name = 3");
    refused(&sandbox.analyse(&other("broken.toml")), 2, &["broken.toml"]);

    // NaN weights are named, a flipped bit is noticed.
    let good = std::fs::read(&path).unwrap();
    let mut bad = qn_run::TensorFile::read(&path).unwrap();
    let mut bias = bad.tensors["fc.bias"].to_f32().unwrap();
    bias[2] = f32::NAN;
    bad.tensors.insert("fc.bias".into(), qn_run::Tensor::f32(&[10], &bias));
    bad.write(&path).unwrap();
    refused(&eigen(&[]), 1, &["'fc.bias' holds NaN at entry 2"]);
    let mut flipped = good.clone();
    *flipped.last_mut().unwrap() ^= 4;
    std::fs::write(&path, flipped).unwrap();
    refused(&eigen(&[]), 1, &["checksum"]);
    std::fs::write(&path, &good[..good.len() / 2]).unwrap();
    refused(&eigen(&[]), 1, &["not a safetensors file"]);
    std::fs::write(&path, good).unwrap();

    // Eigenvectors of another layout, and too few of them.
    assert_eq!(eigen(&["--samples", "50", "--k", "2"]).code, 0);
    refused(&sandbox.analyse(&["overlap", "run"]), 2, &["--k 10", "holds 2"]);
    assert_eq!(eigen(&["--samples", "50", "--which", "SA"]).code, 0);
    refused(&sandbox.analyse(&["overlap", "run"]), 1, &["SA", "--which LA"]);
    assert_eq!(eigen(&["--samples", "50"]).code, 0);
    let vectors = sandbox.path("run/reports/eigen.safetensors");
    let mut file = qn_run::TensorFile::read(&vectors).unwrap();
    file.meta["layout_hash"] = "0123".into();
    file.write(&vectors).unwrap();
    refused(&sandbox.analyse(&["overlap", "run"]), 1, &["0123", "another parameter layout"]);
}
