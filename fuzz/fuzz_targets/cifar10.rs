//! Reading CIFAR-10's files, and making them from pictures as `fetch` does.
#![no_main]

use std::fs::File;
use std::io::{Seek as _, Write as _};
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use qn_data::{DataName, Dataset, Split};

const FILE_BYTES: usize = 10_000 * (1 + 3 * 32 * 32);

/// Labels of every picture.
static LABELS: LazyLock<String> = LazyLock::new(|| format!("[{}1]", "1,".repeat(49_999)));

fuzz_target!(|bytes: &[u8]| {
    // The first byte says which.
    let Some((&first, bytes)) = bytes.split_first() else { return };
    if first % 2 == 0 {
        picture(bytes);
    } else {
        records(bytes);
    }
});

/// The bytes are the first of the pictures that the files are made from.
fn picture(bytes: &[u8]) {
    let picture = qn_fuzz::written("pictures/data_batch_1.png", bytes);
    let folder = picture.parent().unwrap();
    if !folder.join("train_lables.json").exists() {
        qn_fuzz::written("pictures/train_lables.json", LABELS.as_bytes());
    }
    let _ = qn_data::fetch(&DataName::Cifar10, &folder.with_file_name("data"), Some(folder));
}

/// The bytes are the end of a file that has the right size, or nearly.
fn records(bytes: &[u8]) {
    let path = qn_fuzz::written("data/cifar10/test_batch.bin", b"");
    let mut file = File::options().write(true).open(&path).unwrap();
    // The last byte tries other sizes as well.
    let too_long = bytes.last().map_or(0, |&b| u64::from(b / 128));
    file.set_len(FILE_BYTES as u64 + too_long).unwrap();
    file.seek(std::io::SeekFrom::Start((FILE_BYTES - bytes.len().min(FILE_BYTES)) as u64)).unwrap();
    file.write_all(&bytes[..bytes.len().min(FILE_BYTES)]).unwrap();
    let folder = path.parent().unwrap().parent().unwrap();
    let _ = Dataset::load(&DataName::Cifar10, Split::Test, folder, None);
}
