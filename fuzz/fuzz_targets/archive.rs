//! Reading archives given to `fetch --from`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use qn_data::DataName;

fuzz_target!(|bytes: &[u8]| {
    let file = qn_fuzz::written("x.tar", bytes);
    let _ = qn_data::fetch(&DataName::Cifar10, &file.with_file_name("data"), Some(&file));
});
