//! Reading other programs' parameters: whole files, and pickles in archives that are sound, whose checksums would
//! otherwise keep every change from the pickle's reader.
#![no_main]

use std::fs::File;
use std::io::Write as _;

use libfuzzer_sys::fuzz_target;
use qn_model::{Graph, Preset};
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

fuzz_target!(|bytes: &[u8]| {
    let file = qn_fuzz::written("parameters", bytes);
    let layout = Graph::new(&Preset::Digits.architecture([1, 8, 8], 10)).unwrap().layout().clone();
    let _ = qn_run::read_parameters(&file, &layout);
    let mut archive = ZipWriter::new(File::create(&file).unwrap());
    let stored = SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    for (name, bytes) in [("x/data.pkl", bytes), ("x/data/0", &[0; 1024])] {
        archive.start_file(name, stored).unwrap();
        archive.write_all(bytes).unwrap();
    }
    archive.finish().unwrap();
    let _ = qn_run::read_tensors(&file);
    let _ = qn_run::read_parameters(&file, &layout);
});
