//! Reading recipes.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let file = qn_fuzz::written("r.toml", bytes);
    let _ = qn_fuzz::analyse(&["inspect", file.to_str().unwrap()]);
});
