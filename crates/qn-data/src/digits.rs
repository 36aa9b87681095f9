use crate::Split;

/// Provenance and licence: `assets/README.md`.
static RECORDS: &[u8] = include_bytes!("../assets/digits.bin");
const PIXELS: usize = 64;
const RECORD: usize = PIXELS + 1;
const TRAIN: usize = 1437;

fn records(split: Split) -> impl Iterator<Item = &'static [u8]> {
    let (train, test) = RECORDS.split_at(TRAIN * RECORD);
    let part = match split {
        Split::Train => train,
        Split::Test => test,
    };
    part.chunks_exact(RECORD)
}

pub(crate) fn load(split: Split) -> (Vec<u8>, Vec<u8>) {
    let pixels = records(split).flat_map(|r| &r[..PIXELS]).copied().collect();
    let labels = records(split).map(|r| r[PIXELS]).collect();
    (pixels, labels)
}

/// Mean and standard deviation of the training pixels divided by 16.
pub(crate) fn train_mean_std() -> (f64, f64) {
    let (mut n, mut sum, mut squares) = (0u64, 0u64, 0u64);
    for &p in records(Split::Train).flat_map(|r| &r[..PIXELS]) {
        let p = u64::from(p);
        n += 1;
        sum += p;
        squares += p * p;
    }
    let mean = sum as f64 / n as f64;
    let variance = squares as f64 / n as f64 - mean * mean;
    (mean / 16.0, variance.sqrt() / 16.0)
}
