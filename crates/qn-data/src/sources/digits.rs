//! The digits that are part of the program: records of 64 pixels from 0 to 16 and a label.

use std::path::PathBuf;

use qn_run::Normalisation;

use crate::source::{Contents, Form, Source, TargetForm};
use crate::{DataError, Split};

/// Provenance and licence: `assets/README.md`.
static RECORDS: &[u8] = include_bytes!("../../assets/digits.bin");
const PIXELS: usize = 64;
const RECORD: usize = PIXELS + 1;
const TRAIN: usize = 1437;

/// 1,797 digits of 8×8 pixels.
pub(crate) struct Digits;

impl Source for Digits {
    fn name(&self) -> String {
        "digits".into()
    }

    fn form(&self) -> Form {
        Form { shape: vec![1, 8, 8], targets: TargetForm::Labels { classes: 10 } }
    }

    fn samples(&self, split: Split) -> Result<usize, DataError> {
        Ok(records(split).count())
    }

    fn files(&self, _: Split) -> Result<Vec<PathBuf>, DataError> {
        Ok(Vec::new())
    }

    fn read(&self, split: Split, _: usize) -> Result<Contents, DataError> {
        let pixels = records(split).flat_map(|r| &r[..PIXELS]).copied().collect();
        let labels = records(split).map(|r| r[PIXELS]).collect();
        Ok(Contents::pictures(pixels, labels))
    }

    fn divisor(&self) -> f64 {
        16.0
    }

    /// Computed from the training split.
    fn normalisation(&self) -> Option<Normalisation> {
        let (mean, std) = train_mean_std();
        Some(Normalisation { mean: vec![mean], std: vec![std] })
    }
}

fn records(split: Split) -> impl Iterator<Item = &'static [u8]> {
    let (train, test) = RECORDS.split_at(TRAIN * RECORD);
    let part = match split {
        Split::Train => train,
        Split::Test => test,
    };
    part.chunks_exact(RECORD)
}

/// Mean and standard deviation of the training pixels divided by 16.
fn train_mean_std() -> (f64, f64) {
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
