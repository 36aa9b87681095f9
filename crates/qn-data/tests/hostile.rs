//! Damaged and contradictory files of one's own: an error that says what is wrong, never a panic.

use std::collections::BTreeMap;
use std::io::{Cursor, Write as _};
use std::path::Path;

use qn_data::{DataName, Dataset, Split};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use zip::write::SimpleFileOptions;

fn golden(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/data").join(name);
    std::fs::read(path).unwrap()
}

/// What both splits give or say of a file with these bytes.
fn load(dir: &Path, name: &str, bytes: &[u8]) -> [Result<String, String>; 2] {
    let path = dir.join(name);
    std::fs::write(&path, bytes).unwrap();
    [Split::Train, Split::Test].map(|split| {
        let set =
            Dataset::load(&DataName::File(path.clone()), split, dir, None).map_err(|e| e.to_string())?;
        assert!(set.sample(set.len() - 1).all(f64::is_finite));
        Ok(set.sha256())
    })
}

#[test]
fn files_that_end_early_are_errors() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["blobs.npz", "vectors.npz", "soft.safetensors"] {
        let good = golden(name);
        for cut in (0..good.len()).step_by(good.len() / 200 + 1) {
            let [train, _] = load(dir.path(), &format!("{cut}-{name}"), &good[..cut]);
            assert!(train.unwrap_err().contains(name), "{name} of {cut} bytes");
        }
    }
}

#[test]
fn flipped_bits_do_no_harm() {
    let dir = tempfile::tempdir().unwrap();
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    for name in ["blobs.npz", "vectors.npz", "pictures.npz", "soft.safetensors"] {
        let good = golden(name);
        let [expected, _] = load(dir.path(), name, &good);
        let (mut refused, tries) = (0, 600);
        for i in 0..tries {
            let mut bad = good.clone();
            let at = rng.random_range(0..bad.len() as u32) as usize;
            bad[at] ^= 1 << (i % 8);
            let [train, _] = load(dir.path(), &format!("{i}-{name}"), &bad);
            refused += usize::from(train.is_err());
            // A zip archive has checksums: what is read is what was written, unless the array's own name was hit.
            if name.ends_with(".npz") && train.is_ok() {
                assert_eq!(train, expected, "{name}, byte {at}");
            }
        }
        assert!(refused > tries / 10, "{name}: {refused}");
    }
}

#[test]
fn pickles_with_flipped_bits_do_no_harm() {
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    for (name, data, to) in [
        ("test_batch", DataName::Cifar10, "cifar-10-batches-py/test_batch"),
        ("data_batch_2", DataName::Cifar10, "cifar-10-batches-py/test_batch"),
        ("train", DataName::Cifar100, "cifar-100-python/test"),
    ] {
        let good = golden(name);
        for i in 0..600 {
            let dir = tempfile::tempdir().unwrap();
            let mut bad = good.clone();
            // Mostly in what is not pixels.
            let at =
                if i % 3 == 0 { rng.random_range(0..bad.len() as u32) } else { rng.random_range(0..200) };
            bad[at as usize] ^= 1 << (i % 8);
            if i % 5 == 0 {
                bad.truncate(rng.random_range(0..good.len() as u32) as usize);
            }
            let path = dir.path().join(to);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, bad).unwrap();
            if let Ok(set) = Dataset::load(&data, Split::Test, dir.path(), None) {
                assert_eq!((set.len(), set.sample_len()), (2, 3072));
            }
        }
    }
}

/// A .npy file.
fn npy(descr: &str, shape: &str, numbers: &[u8]) -> Vec<u8> {
    let header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n");
    let length = (header.len() as u16).to_le_bytes();
    [b"\x93NUMPY\x01\x00", &length[..], header.as_bytes(), numbers].concat()
}

fn npz(arrays: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut writer = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for (name, bytes) in arrays {
        writer.start_file(format!("{name}.npy"), SimpleFileOptions::default()).unwrap();
        writer.write_all(bytes).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

fn floats(numbers: &[f32]) -> Vec<u8> {
    numbers.iter().flat_map(|x| x.to_le_bytes()).collect()
}

#[test]
fn contradictions_are_named() {
    let x = || ("x", npy("<f4", "(3, 2)", &floats(&[0.0; 6])));
    let y = || ("y", npy("|u1", "(3,)", &[0, 1, 2]));
    let x_test = || ("x_test", npy("<f4", "(1, 2)", &floats(&[0.0; 2])));
    let y_test = || ("y_test", npy("|u1", "(1,)", &[0]));
    let not_finite = floats(&[0.0, 0.0, 0.0, 0.0, 0.0, f32::NAN]);
    let cases: BTreeMap<&str, Vec<(&str, Vec<u8>)>> = BTreeMap::from([
        ("no array y; what there is: x.", vec![x()]),
        ("no array y_test", vec![x(), y(), x_test()]),
        ("no array x_test", vec![x(), y(), y_test()]),
        (
            "x has 3 samples (shape [3, 2]) and y has the shape [2]",
            vec![x(), ("y", npy("|u1", "(2,)", &[0, 1]))],
        ),
        ("x is a single number", vec![("x", npy("<f4", "()", &floats(&[1.0]))), y()]),
        (
            "of shape [0, 2] holds no samples",
            vec![("x", npy("<f4", "(0, 2)", &[])), ("y", npy("|u1", "(0,)", &[]))],
        ),
        ("holds NaN in sample 2", vec![("x", npy("<f4", "(3, 2)", &not_finite)), y()]),
        ("label -1 for sample 1", vec![x(), ("y", npy("|i1", "(3,)", &[0, 255, 1]))]),
        ("holds integers of shape [3, 2]", vec![x(), ("y", npy("|u1", "(3, 2)", &[0; 6]))]),
        (
            "y holds inf for sample 0",
            vec![x(), ("y", npy("<f4", "(3,)", &floats(&[f32::INFINITY, 0.0, 1.0])))],
        ),
        ("numpy's '<c8'", vec![("x", npy("<c8", "(3,)", &[0; 24])), y()]),
        ("bytes where its header promises 24", vec![("x", npy("<f4", "(3, 200)", &floats(&[0.0; 20]))), y()]),
        ("promises more", vec![("x", npy("<f8", "(4611686018427387904, 8)", &[])), y()]),
        (
            "samples of x_test have the shape [3], those of x [2]",
            vec![x(), y(), ("x_test", npy("<f4", "(1, 3)", &floats(&[0.0; 3]))), y_test()],
        ),
        ("not alike", vec![x(), y(), x_test(), ("y_test", npy("<f4", "(1,)", &floats(&[1.0])))]),
    ]);
    let dir = tempfile::tempdir().unwrap();
    for (i, (words, arrays)) in cases.into_iter().enumerate() {
        let [train, _] = load(dir.path(), &format!("{i}.npz"), &npz(&arrays));
        let message = train.expect_err(words);
        assert!(message.contains(words) && message.contains(&format!("{i}.npz")), "{words}: {message}");
    }
}

#[test]
fn a_safetensors_header_that_promises_too_much_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let file = |header: &str, numbers: usize| {
        let length = (header.len() as u64).to_le_bytes();
        [&length[..], header.as_bytes(), &vec![0; numbers]].concat()
    };
    let y = r#""y": {"dtype": "U8", "shape": [2], "data_offsets": [0, 2]}"#;
    for (i, (x, words)) in [
        (r#"{"dtype": "F32", "shape": [2, 9], "data_offsets": [2, 74]}"#, "does not fit"),
        (r#"{"dtype": "F32", "shape": [2], "data_offsets": [2, 9]}"#, "does not fit"),
        (r#"{"dtype": "F32", "shape": [2], "data_offsets": [10, 2]}"#, "does not fit"),
        (r#"{"dtype": "F32", "shape": [4611686018427387904, 4], "data_offsets": [2, 10]}"#, "does not fit"),
        (r#"{"dtype": "F8_E4M3", "shape": [2], "data_offsets": [2, 4]}"#, "F8_E4M3"),
        (r#"{"dtype": "F32", "shape": [2]}"#, "data_offsets"),
        ("7", "cannot be read"),
    ]
    .into_iter()
    .enumerate()
    {
        let [train, _] =
            load(dir.path(), &format!("{i}.safetensors"), &file(&format!("{{{y}, \"x\": {x}}}"), 10));
        let message = train.expect_err(x);
        assert!(message.contains(words), "{message}");
    }
    let [train, _] = load(dir.path(), "huge.safetensors", &[&u64::MAX.to_le_bytes()[..], b"{}"].concat());
    assert!(train.unwrap_err().contains("header would have"));
}
