//! Reading reports back: for the page with its tables and figures, for `inspect`, and eigenvectors' for `overlap`.
#![no_main]

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use clap::Parser as _;
use libfuzzer_sys::fuzz_target;

/// The first byte of an input says which; see fuzz/run.
const REPORTS: [&str; 8] =
    ["eigen", "full_spectrum", "overlap", "density", "trace", "decompose", "track", "batches"];

/// A small run with one snapshot and the eigenvectors found for it.
static RUN: LazyLock<PathBuf> = LazyLock::new(|| {
    let run = qn_fuzz::written("run", b"");
    std::fs::remove_file(&run).unwrap();
    let out = run.to_str().unwrap();
    let line = "qn-train --arch digits --data digits --samples 40 --steps 1 --threads 1 --quiet --out";
    let _ = qn_cli::train::Cli::parse_from(line.split(' ').chain([out])).run();
    qn_fuzz::analyse(&["eigen", out, "-q", "-k", "10"]).unwrap();
    std::fs::remove_file(run.join("reports/eigen.json")).unwrap();
    run
});

// Making the run takes longer than an input may.
fuzz_target!(init: LazyLock::force(&RUN), |bytes: &[u8]| {
    let Some((&first, json)) = bytes.split_first() else { return };
    let name = REPORTS[usize::from(first) % REPORTS.len()];
    let file = RUN.join(format!("reports/{name}.json"));
    std::fs::write(&file, json).unwrap();
    let words = |path: &Path| path.to_str().unwrap().to_owned();
    let _ = qn_fuzz::analyse(&["inspect", &words(&file)]);
    let _ = qn_fuzz::analyse(&["report", "-q", &words(&RUN)]);
    if name == "eigen" {
        let _ = qn_fuzz::analyse(&["overlap", "-q", &words(&RUN)]);
        let _ = std::fs::remove_file(RUN.join("reports/overlap.json"));
    }
    std::fs::remove_file(&file).unwrap();
});
