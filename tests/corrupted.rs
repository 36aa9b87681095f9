//! Damaged files: no reader panics, and what carries a checksum is never believed when it has been changed.
//!
//! `QN_MUTATIONS=100000` makes so many of each; by default a few hundred.

use std::path::{Path, PathBuf};

use qn_data::{DataName, Dataset, Split};
use qn_model::{Architecture, Graph, ParamLayout, Preset};
use qn_run::{Checkpoint, OptimizerState, Snapshot, TensorFile};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use crate::common::Sandbox;

fn mutations() -> usize {
    std::env::var("QN_MUTATIONS").ok().and_then(|n| n.parse().ok()).unwrap_or(300)
}

type Reader = Box<dyn Fn(&Path) -> Result<String, String>>;

/// A file and whoever reads it; what is read is put into words, so that it can be compared.
struct Target {
    file: PathBuf,
    read: Reader,
    /// A changed file must be refused, or mean the same.
    checked: bool,
}

fn target<T: std::fmt::Debug, E: ToString>(
    file: PathBuf,
    checked: bool,
    read: impl Fn(&Path) -> Result<T, E> + 'static,
) -> Target {
    let read = move |path: &Path| read(path).map(|v| format!("{v:?}")).map_err(|e| e.to_string());
    Target { file, read: Box::new(read), checked }
}

/// One to four of: a bit flipped, a byte set to an extreme, a stretch removed, doubled or zeroed, the end cut off.
fn mutate(original: &[u8], random: &mut ChaCha8Rng) -> Vec<u8> {
    let mut bytes = original.to_vec();
    for _ in 0..random.random_range(1..=4) {
        if bytes.is_empty() {
            break;
        }
        // Headers are small and matter most.
        let n = bytes.len();
        let at = if random.random_bool(0.5) {
            random.random_range(0..n.min(256))
        } else {
            random.random_range(0..n)
        };
        let end = (at + random.random_range(1..=16)).min(n);
        match random.random_range(0..6) {
            0 => bytes[at] ^= 1 << random.random_range(0..8),
            1 => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][random.random_range(0..5)],
            2 => drop(bytes.drain(at..end)),
            3 => {
                let piece = bytes[at..end].to_vec();
                bytes.splice(at..at, piece);
            }
            4 => bytes[at..end].fill([0, 0xff, b'9'][random.random_range(0..3)]),
            _ => bytes.truncate(at),
        }
    }
    bytes
}

fn layout() -> ParamLayout {
    Graph::new(&Preset::Digits.architecture([1, 8, 8], 10)).unwrap().layout().clone()
}

/// A file of each kind that anything of ours reads.
fn targets(sandbox: &Sandbox) -> Vec<Target> {
    let layout = layout();
    let p = layout.len();
    let (checkpoint, snapshot) = (sandbox.path("c.safetensors"), sandbox.path("s.safetensors"));
    Checkpoint {
        step: 3,
        seconds: 1.25,
        parameters: vec![0.5; p],
        buffers: Vec::new(),
        optimizer: OptimizerState { momentum: vec![1.5; p], ..OptimizerState::default() },
    }
    .write(&checkpoint, &layout)
    .unwrap();
    Snapshot {
        step: 3,
        layout_hash: layout.hash(),
        params: p,
        class_gradients: vec![0.25; 10 * p],
        averaged_class_gradients: Vec::new(),
        gradient: vec![2.0; p],
        lambda: vec![0.125; 10],
    }
    .write(&snapshot)
    .unwrap();
    sandbox.train_digits("run");
    let [images, labels] =
        ["train-images-idx3-ubyte", "train-labels-idx1-ubyte"].map(|f| format!("mnist/{f}"));
    sandbox.write(&images, [&[0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 28, 0, 0, 0, 28][..], &[7; 2 * 784]].concat());
    sandbox.write(&labels, [0, 0, 8, 1, 0, 0, 0, 2, 3, 9]);
    sandbox.write("arch.json", serde_json::to_vec(&Preset::Lenet.architecture([3, 32, 32], 10)).unwrap());
    let mnist = |file: &Path| {
        let folder = file.parent().unwrap().parent().unwrap();
        Dataset::load(&DataName::Mnist, Split::Train, folder, None).map(|d| d.sha256())
    };
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden");
    for file in ["state_dict.pth", "checkpoints/nested.tar", "checkpoints/bfloat16.safetensors"] {
        sandbox.write(file, std::fs::read(golden.join(file)).unwrap());
    }
    let tensors = |f: &Path| qn_run::read_tensors(f).map(|t| t.tensors);
    let (for_checkpoint, for_snapshot) = (layout.clone(), layout);
    vec![
        target(checkpoint, true, move |f| Checkpoint::read(f, &for_checkpoint)),
        target(snapshot, true, move |f| Snapshot::read(f, 10, &for_snapshot)),
        target(sandbox.path("run/config.toml"), false, |f| {
            qn_run::RunDirectory::open(f.parent().unwrap())?.read_config()
        }),
        target(sandbox.path("run/metrics.jsonl"), false, qn_run::read_metrics),
        target(sandbox.path("arch.json"), false, Architecture::from_file),
        target(sandbox.path("state_dict.pth"), false, tensors),
        target(sandbox.path("checkpoints/nested.tar"), false, tensors),
        target(sandbox.path("checkpoints/bfloat16.safetensors"), false, tensors),
        target(sandbox.path(&images), false, mnist),
        target(sandbox.path(&labels), false, mnist),
    ]
}

#[test]
fn no_reader_panics_and_no_changed_file_is_believed() {
    let sandbox = Sandbox::new();
    for target in targets(&sandbox) {
        let name = target.file.file_name().unwrap().to_string_lossy().into_owned();
        let original = std::fs::read(&target.file).unwrap();
        let meant = (target.read)(&target.file).unwrap();
        let mut random = ChaCha8Rng::seed_from_u64(7);
        let (mut refused, mut same, mut other) = (0, 0, 0);
        for trial in 0..mutations() {
            let bytes = mutate(&original, &mut random);
            std::fs::write(&target.file, &bytes).unwrap();
            match (target.read)(&target.file) {
                Err(words) => {
                    assert!(!words.is_empty());
                    refused += 1;
                }
                Ok(read) if read == meant => same += 1,
                Ok(_) => {
                    assert!(!target.checked, "{name}: change {trial} was believed");
                    other += 1;
                }
            }
        }
        std::fs::write(&target.file, &original).unwrap();
        println!("{name}: {refused} refused, {same} read as before, {other} read as something else");
    }
}

/// Reports and recipes are read by the program alone: it must end with a message, whatever they hold.
#[test]
fn the_program_survives_damaged_reports_and_recipes() {
    let sandbox = Sandbox::new();
    sandbox.train_digits("run");
    assert_eq!(sandbox.analyse(&["eigen", "run", "-k", "10", "-q"]).code, 0);
    assert_eq!(sandbox.analyse(&["overlap", "run", "-q"]).code, 0);
    let recipe = "name = 'r'\ndescription = 'd'\n[common]\narch = 'digits'\ndata = 'digits'\nsteps = 1\n[eigen]\nk = 2\n[runs.a]\nlr = 0.1\n";
    sandbox.write("r.toml", recipe);
    let mut random = ChaCha8Rng::seed_from_u64(8);
    let figure: [&[&str]; 3] =
        [&["figure", "cosines", "run", "-o", "f.svg"], &["overlap", "run", "-q"], &["inspect", "r.toml"]];
    let files = ["run/reports/overlap.json", "run/reports/eigen.json", "r.toml"];
    for (file, command) in files.iter().zip(figure) {
        let original = std::fs::read(sandbox.path(file)).unwrap();
        for _ in 0..mutations() / 20 {
            let bytes = mutate(&original, &mut random);
            sandbox.write(file, &bytes);
            let out = sandbox.analyse(command);
            assert!([0, 1, 2].contains(&out.code), "{file}: {}", out.stderr);
            assert!(!out.stderr.contains("panicked"), "{file}: {}", out.stderr);
            assert!(out.code == 0 || out.stderr.starts_with("error:"), "{file}: {}", out.stderr);
        }
        sandbox.write(file, &original);
    }
    // The vectors are checked, whatever the report says.
    let vectors = sandbox.path("run/reports/eigen.safetensors");
    let mut bytes = std::fs::read(&vectors).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&vectors, bytes).unwrap();
    let out = sandbox.analyse(&["overlap", "run", "-q"]);
    assert!(out.code == 1 && out.stderr.contains("checksum"), "{}", out.stderr);
}

/// Headers that promise what nobody has are refused before anything is set aside for it.
#[test]
fn what_headers_claim_is_not_allocated() {
    let sandbox = Sandbox::new();
    let huge = u64::MAX / 2;
    sandbox.write("length.safetensors", huge.to_le_bytes());
    let header = format!(r#"{{"a":{{"dtype":"F64","shape":[{huge}],"data_offsets":[0,{huge}]}}}}"#);
    let bytes = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes()].concat();
    sandbox.write("shape.safetensors", bytes);
    for file in ["length.safetensors", "shape.safetensors"] {
        assert!(TensorFile::read(&sandbox.path(file)).is_err(), "{file}");
    }
    sandbox
        .write("mnist/train-images-idx3-ubyte", [0, 0, 8, 3, 255, 255, 255, 255, 0, 0, 0, 28, 0, 0, 0, 28]);
    sandbox.write("mnist/train-labels-idx1-ubyte", [0, 0, 8, 1, 255, 255, 255, 255]);
    assert!(Dataset::load(&DataName::Mnist, Split::Train, &sandbox.path(""), None).is_err());
}
