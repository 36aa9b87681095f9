//! What every format of data has in common.

use std::path::PathBuf;

use qn_run::Normalisation;

use crate::{DataError, Split};

/// A format of data: a file of `sources/` each.
///
/// A source says how many samples there are and what they look like before it reads them, and reads the first so many of
/// a split. It knows nothing of networks, of batches, and of how the numbers are normalised in the end.
pub trait Source: Send + Sync {
    /// The name in reports and messages: a data set's, or a file's without its folders.
    fn name(&self) -> String;

    /// The shape of a sample and the kind of its target.
    fn form(&self) -> Form;

    /// Number of samples in a split, from headers and sizes unless files are packed; 0 where there is no such split.
    ///
    /// # Errors
    /// A file is missing or damaged.
    fn samples(&self, split: Split) -> Result<usize, DataError>;

    /// The files that a split is read from, those that are there; none of what is part of the program.
    ///
    /// # Errors
    /// A folder cannot be read.
    fn files(&self, split: Split) -> Result<Vec<PathBuf>, DataError>;

    /// The first `wanted` samples of a split, all if there are fewer (or, where files come in pieces, some more).
    ///
    /// # Errors
    /// A file is missing or damaged.
    fn read(&self, split: Split, wanted: usize) -> Result<Contents, DataError>;

    /// What numbers are divided by before anything else is done with them.
    fn divisor(&self) -> f64 {
        1.0
    }

    /// Mean and standard deviation that the data set is usually normalised with, after the division; none where the
    /// numbers are taken as they are.
    fn normalisation(&self) -> Option<Normalisation> {
        None
    }
}

/// What samples look like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Form {
    /// Lengths of a sample's axes, without that of the samples: [channels, height, width] of a picture, [features].
    pub shape: Vec<usize>,
    /// The targets.
    pub targets: TargetForm,
}

/// What targets look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TargetForm {
    /// A label below `classes` for each sample.
    Labels {
        /// C: one more than the largest label of both splits, or what is known of the data set.
        classes: usize,
    },
    /// Soft labels: the probability of each class for each sample.
    Soft {
        /// C, at least 2.
        classes: usize,
    },
    /// So many numbers for each sample, values to be met.
    Values {
        /// Numbers in one target.
        width: usize,
    },
}

impl Form {
    /// Numbers in one sample.
    pub fn sample_len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Classes, or numbers in a target: how many outputs a network must have, or more of them where there are classes.
    pub fn outputs(&self) -> usize {
        match self.targets {
            TargetForm::Labels { classes } | TargetForm::Soft { classes } => classes,
            TargetForm::Values { width } => width,
        }
    }

    /// Whether so many outputs fit the targets: classes without samples are allowed where there are labels.
    pub fn fits(&self, outputs: usize) -> bool {
        match self.targets {
            TargetForm::Labels { classes } => classes <= outputs,
            _ => self.outputs() == outputs,
        }
    }

    /// How many channels are normalised each by itself: each feature of [features], the first axis of three or more, and
    /// one for all of [height, width].
    pub fn channels(&self) -> usize {
        match self.shape.as_slice() {
            [_, _] => 1,
            shape => shape.first().copied().unwrap_or(1),
        }
    }
}

/// Samples as they were read.
#[derive(Clone, Debug, PartialEq)]
pub struct Contents {
    /// All numbers, sample after sample, each row-major.
    pub values: Values,
    /// As many targets as samples.
    pub targets: Targets,
}

/// Numbers in the precision that holds them.
#[derive(Clone, Debug, PartialEq)]
pub enum Values {
    /// Integers from 0 to 255.
    Bytes(Vec<u8>),
    /// Single precision, and what it holds exactly.
    Single(Vec<f32>),
    /// Double precision, and integers of more than 16 bits.
    Double(Vec<f64>),
}

impl Values {
    /// How many there are.
    pub fn len(&self) -> usize {
        match self {
            Self::Bytes(all) => all.len(),
            Self::Single(all) => all.len(),
            Self::Double(all) => all.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// One of them.
    pub(crate) fn at(&self, index: usize) -> f64 {
        match self {
            Self::Bytes(all) => f64::from(all[index]),
            Self::Single(all) => f64::from(all[index]),
            Self::Double(all) => all[index],
        }
    }

    /// Those at some places, in that order.
    pub(crate) fn gather(&self, places: impl Iterator<Item = usize>) -> Self {
        match self {
            Self::Bytes(all) => Self::Bytes(places.map(|i| all[i]).collect()),
            Self::Single(all) => Self::Single(places.map(|i| all[i]).collect()),
            Self::Double(all) => Self::Double(places.map(|i| all[i]).collect()),
        }
    }

    /// The first that is NaN or infinite.
    pub(crate) fn not_finite(&self) -> Option<usize> {
        match self {
            Self::Bytes(_) => None,
            Self::Single(all) => all.iter().position(|x| !x.is_finite()),
            Self::Double(all) => all.iter().position(|x| !x.is_finite()),
        }
    }
}

/// What the outputs ought to be.
#[derive(Clone, Debug, PartialEq)]
pub enum Targets {
    /// A class for each sample.
    Labels(Vec<u32>),
    /// So many numbers for each sample, one sample after the other.
    Values(Vec<f64>),
}

impl Contents {
    /// Bytes and labels of pictures.
    pub(crate) fn pictures(pixels: Vec<u8>, labels: Vec<u8>) -> Self {
        let labels = labels.into_iter().map(u32::from).collect();
        Self { values: Values::Bytes(pixels), targets: Targets::Labels(labels) }
    }
}
