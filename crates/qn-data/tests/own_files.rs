//! Data of one's own as numpy, safetensors and Python's pickle write them; tests/golden/make_data.py has made the files.

use std::path::{Path, PathBuf};

use qn_data::{BatchTargets, DataError, DataName, Dataset, Normalise, Split, TargetForm};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/data").join(name)
}

fn load(name: &str, split: Split, samples: Option<usize>) -> Result<Dataset, DataError> {
    Dataset::load(&DataName::File(golden(name)), split, Path::new(""), samples)
}

/// 0, 1/4, 2/4, ... less 3.
fn ramp(range: std::ops::Range<usize>) -> Vec<f64> {
    range.map(|i| i as f64 / 4.0 - 3.0).collect()
}

fn sample(data: &Dataset, index: usize) -> Vec<f64> {
    data.sample(index).collect()
}

#[test]
fn labels_and_features_with_a_test_split() {
    let (train, test) =
        (load("blobs.npz", Split::Train, None).unwrap(), load("blobs.npz", Split::Test, None).unwrap());
    assert_eq!((train.len(), test.len(), train.shape()), (60, 30, &[20][..]));
    assert_eq!(train.form().targets, TargetForm::Labels { classes: 3 });
    assert_eq!(train.labels().unwrap()[..5], [0, 1, 2, 0, 1]);
    assert_eq!(train.name(), "blobs.npz");
    assert_eq!(train.normalisation(), None);
    let few = load("blobs.npz", Split::Train, Some(7)).unwrap();
    assert_eq!(few.inputs(&[6, 2]), train.inputs(&[6, 2]));
    assert_eq!(few.absent_classes(5), [3, 4]);
    assert_eq!(train.sha256_of_first(7), Some(few.sha256()));
    let message = load("blobs.npz", Split::Train, Some(61)).unwrap_err().to_string();
    assert!(message.contains("`samples` 61") && message.contains("60 samples"), "{message}");
}

#[test]
fn vectors_in_fortran_order() {
    let data = load("vectors.npz", Split::Train, Some(5)).unwrap();
    assert_eq!((data.shape(), data.form().targets), (&[2, 3][..], TargetForm::Values { width: 2 }));
    assert_eq!((sample(&data, 0), sample(&data, 4)), (ramp(0..6), ramp(24..30)));
    assert_eq!(data.values().unwrap(), ramp(0..10));
    assert_eq!(data.labels(), None);
    assert_eq!(data.batch_targets(&[3, 0]), BatchTargets::Values(vec![-1.5, -1.25, -3.0, -2.75]));
    let message = load("vectors.npz", Split::Test, None).unwrap_err().to_string();
    assert!(message.contains("no test split") && message.contains("x_test"), "{message}");
}

#[test]
fn bytes_and_sparse_labels() {
    let data = load("pictures.npz", Split::Train, None).unwrap();
    assert_eq!((data.shape(), data.form().outputs()), (&[2, 3, 3][..], 301));
    assert_eq!(data.labels().unwrap(), [3, 0, 1, 300]);
    assert_eq!(sample(&data, 1), (18..36).map(f64::from).collect::<Vec<_>>());
    assert!(data.has_raw_bytes() && !data.can_be_varied());
    // Each of two channels by its own numbers.
    let by = "10:20,2:4".parse::<Normalise>().unwrap();
    let source = DataName::File(golden("pictures.npz")).open(Path::new("")).unwrap();
    let data = data.normalised(&by.resolve(source.as_ref()).unwrap()).unwrap();
    let expected = (18..36).map(|p| if p < 27 { f64::from(p - 10) / 2.0 } else { f64::from(p - 20) / 4.0 });
    assert_eq!(sample(&data, 1), expected.collect::<Vec<_>>());
    assert!(data.can_be_varied());
    assert!("1:2:3,1:1:1".parse::<Normalise>().unwrap().resolve(source.as_ref()).is_err());
}

#[test]
fn soft_labels_in_half_precisions() {
    let data = load("soft.safetensors", Split::Train, None).unwrap();
    assert_eq!(data.form().targets, TargetForm::Soft { classes: 3 });
    assert_eq!(sample(&data, 3), ramp(15..20));
    assert_eq!(data.values().unwrap()[..6], [0.5, 0.25, 0.25, 0.0, 1.0, 0.0]);
    // Of the first two samples none is of class 2.
    assert_eq!(data.absent_classes(3), [] as [usize; 0]);
    assert_eq!(data.first(2).unwrap().absent_classes(3), [2]);
}

#[test]
fn measured_means_and_deviations_are_those_of_each_channel() {
    let normalised = |name: &str| {
        let source = DataName::File(golden(name)).open(Path::new("")).unwrap();
        let by = Normalise::Auto.resolve(source.as_ref()).unwrap();
        let data = load(name, Split::Train, None).unwrap().normalised(&by).unwrap();
        let all: Vec<Vec<f64>> = (0..data.len()).map(|i| sample(&data, i)).collect();
        (all, source.form().channels())
    };
    for (name, channels) in [("blobs.npz", 20), ("vectors.npz", 1), ("pictures.npz", 2)] {
        let (all, found) = normalised(name);
        assert_eq!(found, channels, "{name}");
        let plane = all[0].len() / channels;
        for c in 0..channels {
            let of: Vec<f64> = all.iter().flat_map(|x| x[c * plane..(c + 1) * plane].to_vec()).collect();
            let mean = of.iter().sum::<f64>() / of.len() as f64;
            let variance = of.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / of.len() as f64;
            assert!(mean.abs() < 1e-12 && (variance - 1.0).abs() < 1e-12, "{name}: {mean} {variance}");
        }
    }
}

/// A data directory with some golden files by other names.
fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, to) in files {
        let to = dir.path().join(to);
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::copy(golden(name), to).unwrap();
    }
    dir
}

#[test]
fn pickled_batches_of_every_python_are_read() {
    let dir = folder(&[
        ("test_batch", "cifar-10-batches-py/test_batch"),
        ("data_batch_1", "cifar-10-batches-py/data_batch_1"),
        ("data_batch_2", "cifar-10-batches-py/data_batch_2"),
        ("train", "cifar-100-python/train"),
    ]);
    let pixel = |at: usize| at % 253;
    let check = |name: &DataName, split, samples: usize| {
        let data = Dataset::load(name, split, dir.path(), Some(samples)).unwrap();
        let none = Normalise::None.resolve(name.open(dir.path()).unwrap().as_ref()).unwrap();
        let data = data.normalised(&none).unwrap();
        for i in 0..samples {
            assert_eq!(data.labels().unwrap()[i], [9, 4][i % 2]);
            let expected = (0..3072).map(|at| pixel(at + i % 2 * 3072) as f64 / 255.0);
            assert!(data.sample(i).eq(expected), "{name}, sample {i}");
        }
    };
    check(&DataName::Cifar10, Split::Test, 2);
    check(&DataName::Cifar10, Split::Train, 4);
    check(&DataName::Cifar100, Split::Train, 2);
    let samples = |name: &DataName, split| name.open(dir.path()).unwrap().samples(split);
    assert_eq!(samples(&DataName::Cifar100, Split::Train).unwrap(), 2);
    let message = samples(&DataName::Cifar10, Split::Train).unwrap_err().to_string();
    assert!(message.contains("data_batch_3.bin is missing"), "{message}");
}

#[test]
fn a_pickle_of_the_other_set_is_named() {
    let dir = folder(&[("train", "cifar-10-batches-py/test_batch")]);
    let message = Dataset::load(&DataName::Cifar10, Split::Test, dir.path(), None).unwrap_err().to_string();
    assert!(message.contains("test_batch") && message.contains("data and labels"), "{message}");
}

#[test]
fn files_that_are_given_instead_are_named_with_what_to_do() {
    for (name, words) in [
        ("single.npy", "numpy.savez"),
        ("other_names.npz", "no array x; what there is: images, labels"),
        ("nowhere.npz", "`data`"),
        ("test_batch", "not a safetensors file"),
    ] {
        let message = load(name, Split::Train, None).unwrap_err().to_string();
        assert!(message.contains(words) && message.contains(name), "{message}");
    }
    let message = "x.csv".parse::<DataName>().unwrap_err().to_string();
    assert!(message.contains("x.csv") && message.contains("FILE.npz") && message.contains("cifar100"));
}
