//! Reading architectures.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let file = qn_fuzz::written("a.toml", bytes);
    let _ = qn_model::Architecture::from_file(&file);
});
