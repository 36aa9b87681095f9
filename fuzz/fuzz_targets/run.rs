//! Reading config.toml and metrics.jsonl.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let file = qn_fuzz::written("config.toml", bytes);
    let _ = qn_run::read_metrics(&file);
    let _ = qn_run::RunDirectory::open(file.parent().unwrap()).and_then(|run| run.read_config());
});
