//! Data sets as people have them on their disks, and batches that batch normalisation cannot take.

use qn_data::{DataName, Dataset, Split};

use crate::common::{Output, Sandbox};

/// Two images and their labels as MNIST's files.
fn idx() -> [(&'static str, Vec<u8>); 2] {
    let images = [&[0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 28, 0, 0, 0, 28][..], &[7; 2 * 784]].concat();
    [("train-images.idx3-ubyte", images), ("train-labels.idx1-ubyte", vec![0, 0, 8, 1, 0, 0, 0, 2, 3, 9])]
}

fn mnist(sandbox: &Sandbox) -> Result<Dataset, String> {
    Dataset::load(&DataName::Mnist, Split::Train, &sandbox.path("data"), None).map_err(|e| e.to_string())
}

fn refused(out: &Output, code: i32, words: &[&str]) {
    assert_eq!(out.code, code, "{}", out.stderr);
    for word in words {
        assert!(out.stderr.contains(word), "{word}: {}", out.stderr);
    }
    assert!(out.stdout.is_empty() && !out.stderr.contains("panicked"), "{}", out.stderr);
}

#[test]
fn mnist_of_torchvision_and_of_mirrors_is_found() {
    for folder in ["data/mnist", "data/MNIST/raw", "data/mnist/raw", "data/mnist/MNIST/raw"] {
        for dotted in [true, false] {
            let sandbox = Sandbox::new();
            for (name, bytes) in idx() {
                let name = if dotted { name.to_owned() } else { name.replace('.', "-") };
                sandbox.write(&format!("{folder}/{name}"), bytes);
            }
            assert_eq!(mnist(&sandbox).unwrap().labels().unwrap(), [3, 9], "{folder}");
        }
    }
}

#[test]
fn another_form_of_a_data_set_is_named_with_what_to_do() {
    let train = |sandbox: &Sandbox, data: &str| {
        sandbox.train(&["--arch", "lenet", "--data", data, "--steps", "1", "--out", "run"])
    };
    let sandbox = Sandbox::new();
    sandbox.write("data/cifar-10-batches-py/data_batch_1", b"\x80\x02}.");
    refused(&train(&sandbox, "cifar10"), 1, &["data_batch_1", "pickle", "data and labels"]);
    let fetched = sandbox.train(&["fetch", "cifar10", "--from", "data/cifar-10-batches-py"]);
    refused(&fetched, 1, &["CIFAR-10 as Python pickles", "cifar-10-binary.tar.gz"]);
    for (other, words) in [("fashion-mnist", "FashionMNIST"), ("cifar100", "cifar-100-python.tar.gz")] {
        refused(&train(&sandbox, other), 1, &["is missing", words]);
        refused(&sandbox.train(&["fetch", other]), 1, &["cannot fetch", words]);
    }

    let sandbox = Sandbox::new();
    sandbox.write("data/cifar10/train.bin", vec![0; 3074]);
    sandbox.write("data/cifar10/fine_label_names.txt", "apple\n");
    refused(&train(&sandbox, "cifar10"), 1, &["data_batch_1.bin is missing", "--data cifar100"]);
    sandbox.write("data/cifar10/data_batch_1.bin", vec![0; 3074 * 20]);
    refused(&train(&sandbox, "cifar10"), 1, &["61480 bytes", "--data cifar100"]);
    sandbox.write("data/cifar10/data_batch_1.bin", b"\x80\x02}.");
    refused(&train(&sandbox, "cifar10"), 1, &["Python pickle", "data and labels"]);

    let sandbox = Sandbox::new();
    sandbox.write("data/mnist/mnist.npz", b"PK\x03\x04");
    refused(&train(&sandbox, "mnist"), 1, &["what there is: mnist.npz", "qn-train fetch mnist"]);
    sandbox.write("data/mnist/archive.zip", b"PK\x03\x04");
    refused(&train(&sandbox, "mnist"), 1, &["archive.zip", "--from"]);
    refused(
        &sandbox.train(&["fetch", "mnist", "--from", "data/mnist/archive.zip"]),
        1,
        &["zip archive is damaged"],
    );
}

#[test]
fn a_message_about_samples_counts_all_files_of_a_split() {
    let sandbox = Sandbox::new();
    for i in 1..=5 {
        sandbox.write(&format!("data/cifar10/data_batch_{i}.bin"), vec![1; 3073 * 4]);
    }
    sandbox.write("data/cifar10/test_batch.bin", vec![1; 3073]);
    for samples in ["0", "21"] {
        let args = ["--data", "cifar10", "--samples", samples, "--out", "run"];
        refused(&sandbox.train(&args), 2, &["cifar10 has 20 samples", "1 to 20"]);
    }
}

const NORMALISED: &str = "name = 'normalised'
input = [1, 8, 8]
classes = 10
layers = [
  { type = 'max_pool2d', kernel = 8 },
  { type = 'conv2d', name = 'conv', out_channels = 4, kernel = 1 },
  { type = 'batch_norm2d', name = 'norm' },
  { type = 'flatten' },
  { type = 'linear', name = 'fc', out_features = 10 },
]
";

#[test]
fn a_batch_that_leaves_batch_norm_one_value_a_channel_is_refused_before_training() {
    let sandbox = Sandbox::new();
    sandbox.write("net.toml", NORMALISED);
    let train = |more: &[&str]| {
        sandbox.train(
            &[&["--arch", "net.toml", "--data", "digits", "--out", "run", "--overwrite"][..], more].concat(),
        )
    };
    let words = ["the last batch of an epoch has one sample", "'norm'", "--batch-size"];
    refused(&train(&["--samples", "41", "--batch-size", "20", "--epochs", "1"]), 2, &words);
    refused(&train(&["--samples", "41", "--batch-size", "20", "--steps", "2"]), 2, &words);
    refused(&train(&["--batch-size", "1", "--steps", "1"]), 2, &["every batch has one sample", "'norm'"]);
    refused(&train(&["--samples", "1", "--batch-size", "full", "--steps", "1"]), 2, &["every batch"]);
    assert!(!sandbox.path("run").exists(), "nothing is written");
    // The batch of one sample is never come to; there is none.
    for fine in [["--samples", "41", "--steps", "1"], ["--samples", "42", "--steps", "3"]] {
        let out = train(&[&fine[..], &["--batch-size", "20"]].concat());
        assert_eq!(out.code, 0, "{}", out.stderr);
    }
}
