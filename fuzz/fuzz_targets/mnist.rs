//! Reading IDX files.
#![no_main]

use libfuzzer_sys::fuzz_target;
use qn_data::{DataName, Dataset, Split};

fuzz_target!(|bytes: &[u8]| {
    let file = qn_fuzz::written("mnist/train-images-idx3-ubyte", bytes);
    let _ = Dataset::load(DataName::Mnist, Split::Train, file.parent().unwrap().parent().unwrap(), None);
});
