//! Reading IDX files.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use qn_data::{DataName, Dataset, Split};

fuzz_target!(|bytes: &[u8]| {
    // Both files must be there before either is read: the same bytes are tried as labels beside an image, too.
    let file = qn_fuzz::written("mnist/train-images-idx3-ubyte", bytes);
    qn_fuzz::written("mnist/train-labels-idx1-ubyte", &ONE_LABEL);
    load(&file);
    qn_fuzz::written("mnist/train-images-idx3-ubyte", &[&ONE_IMAGE[..], &[7; 784]].concat());
    load(&qn_fuzz::written("mnist/train-labels-idx1-ubyte", bytes));
});

const ONE_LABEL: [u8; 9] = [0, 0, 8, 1, 0, 0, 0, 1, 3];
const ONE_IMAGE: [u8; 16] = [0, 0, 8, 3, 0, 0, 0, 1, 0, 0, 0, 28, 0, 0, 0, 28];

fn load(file: &Path) {
    let _ = Dataset::load(&DataName::Mnist, Split::Train, file.parent().unwrap().parent().unwrap(), None);
}
