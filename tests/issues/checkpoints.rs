//! Parameters that other programs saved: tests/golden/make_checkpoints.py wrote the files, in which one small network
//! has the same numbers.

use std::path::{Path, PathBuf};

use crate::common::{Output, Sandbox};

const TINY: &str = "name = 'tiny'
input = [1, 8, 8]
classes = 10
layers = [
  { type = 'conv2d', name = 'conv', out_channels = 2, kernel = 3, padding = 1 },
  { type = 'batch_norm2d', name = 'bn' },
  { type = 'tanh' },
  { type = 'conv2d', name = 'conv2', out_channels = 3, kernel = 3, padding = 1, bias = false },
  { type = 'max_pool2d', kernel = 4 },
  { type = 'flatten' },
  { type = 'linear', name = 'fc', out_features = 10 },
]
";

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/checkpoints").join(name)
}

/// A sandbox with the architecture, and the golden file under a name of the user's choice.
fn given(file: &str, name: &str) -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.write("tiny.toml", TINY);
    sandbox.write(name, std::fs::read(golden(file)).unwrap());
    sandbox
}

fn eigen(sandbox: &Sandbox, file: &str, arch: &str) -> Output {
    let common = ["--data", "digits", "--samples", "30", "--k", "2", "--json", "-"];
    sandbox.analyse(&[&["eigen", "--checkpoint", file, "--arch", arch][..], &common].concat())
}

/// The eigenvalues of the network in a file, to the last bit.
fn eigenvalues(file: &str, name: &str) -> (serde_json::Value, String) {
    let out = eigen(&given(file, name), name, "tiny.toml");
    assert_eq!(out.code, 0, "{}", out.stderr);
    assert!(!out.stderr.contains("skipping") && !out.stderr.contains("Layout"), "{}", out.stderr);
    let report: serde_json::Value = serde_json::from_str(&out.stdout).unwrap();
    (report["eigenvalues"].clone(), out.stderr)
}

/// What is found is the plain network, and what is said about it has these words.
fn is_the_network(file: &str, name: &str, words: &[&str]) {
    let (expected, silent) = eigenvalues("plain.safetensors", "plain.safetensors");
    assert!(expected.as_array().is_some_and(|e| !e.is_empty()) && !silent.contains("under"), "{silent}");
    let (found, said) = eigenvalues(file, name);
    assert_eq!(found, expected, "{file}");
    for word in words {
        assert!(said.contains(word), "{word}: {said}");
    }
}

/// The one line of an error, with exit code 1 and these words.
fn refused(out: &Output, words: &[&str]) {
    assert_eq!(out.code, 1, "{}", out.stderr);
    assert_eq!(out.stderr.lines().filter(|l| l.starts_with("error: ")).count(), 1, "{}", out.stderr);
    for word in words {
        assert!(out.stderr.contains(word), "{word}: {}", out.stderr);
    }
    assert!(!out.stderr.contains("panicked") && !out.stderr.contains("Layout {"), "{}", out.stderr);
    assert!(out.stdout.is_empty(), "{}", out.stdout);
}

#[test]
fn a_training_programs_checkpoint_is_read_through_its_keys_and_prefixes() {
    let words = ["under 'model/weights/module._orig_mod.'", "'ema/' would fit as well"];
    is_the_network("nested.tar", "checkpoint.pth.tar", &words);
}

#[test]
fn half_precision_and_a_common_prefix_are_read() {
    is_the_network("bfloat16.safetensors", "model.safetensors", &["under 'model.'"]);
    is_the_network("halves.pth", "halves.pth", &[]);
}

#[test]
fn strides_of_a_tensor_are_honoured() {
    is_the_network("strided.PTH", "strided.PTH", &["under 'net/'"]);
}

#[test]
fn tensors_that_share_a_storage_are_told_apart() {
    is_the_network("shared", "shared.pt", &["under 'model_state_dict/'"]);
}

#[test]
fn a_files_kind_is_told_by_its_first_bytes() {
    for name in ["net.ckpt", "pytorch_model.bin", "net.PTH", "net", "net.tar", "net.safetensors"] {
        is_the_network("shared", name, &[]);
        is_the_network("bfloat16.safetensors", name, &[]);
    }
    let inspected = given("shared", "net.ckpt").analyse(&["inspect", "net.ckpt"]);
    assert!(inspected.code == 0 && inspected.stdout.contains("conv2.weight"), "{}", inspected.stderr);
}

#[test]
fn what_cannot_be_read_is_named_with_the_remedy() {
    let of_golden = |file: &str| eigen(&given(file, file), file, "tiny.toml");
    let remedy = "torch.save(net.state_dict()";
    refused(&of_golden("legacy.pth"), &["legacy.pth", "before 1.6", remedy, "safetensors.torch.save_file"]);
    refused(&of_golden("module.pt"), &["module.pt", "pickled whole", "__main__.Tiny", remedy]);
    let cases: [(&[u8], &str); 7] = [
        (b"", "empty"),
        (b"\x80\x04N.", "Python pickle"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
        (b"<!DOCTYPE html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1", "git lfs pull"),
        (b"just some words", "neither a safetensors file nor one of torch.save"),
        (b"PK\x03\x04 and no more", "damaged or cut off"),
    ];
    for (bytes, words) in cases {
        let sandbox = given("shared", "shared");
        sandbox.write("net.pth", bytes);
        refused(&eigen(&sandbox, "net.pth", "tiny.toml"), &["net.pth", words]);
    }
}

#[test]
fn names_and_shapes_that_do_not_fit_are_listed() {
    let sandbox = given("nested.tar", "net.pth");
    sandbox.write("wider.toml", TINY.replace("out_channels = 3", "out_channels = 4"));
    let words =
        ["'fc.weight' has shape [10, 12], expected [10, 16]", "'conv2.weight' has shape [3, 2, 3, 3]"];
    refused(&eigen(&sandbox, "net.pth", "wider.toml"), &words);
    sandbox.write("renamed.toml", TINY.replace("'fc'", "'head'"));
    let words = ["missing: head.weight [10, 12], head.bias [10]", "_orig_mod.fc.weight [10, 12]"];
    refused(&eigen(&sandbox, "net.pth", "renamed.toml"), &words);
}

#[test]
fn a_checkpoint_cut_off_anywhere_is_refused() {
    let whole = std::fs::read(golden("nested.tar")).unwrap();
    let sandbox = given("nested.tar", "net.pth");
    for parts in 1..4 {
        sandbox.write("net.pth", &whole[..whole.len() * parts / 4]);
        refused(&eigen(&sandbox, "net.pth", "tiny.toml"), &["net.pth", "damaged or cut off"]);
    }
}
