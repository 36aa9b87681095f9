//! Reading safetensors files as checkpoints and snapshots.
#![no_main]

use libfuzzer_sys::fuzz_target;
use qn_model::{Graph, Preset};

fuzz_target!(|bytes: &[u8]| {
    let file = qn_fuzz::written("c.safetensors", bytes);
    let layout = Graph::new(&Preset::Digits.architecture([1, 8, 8], 10)).unwrap().layout().clone();
    let _ = qn_run::TensorFile::read(&file);
    let _ = qn_run::Checkpoint::read(&file, &layout);
    let _ = qn_run::Snapshot::read(&file, 10, &layout);
});
