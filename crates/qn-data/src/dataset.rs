use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::augment::CropFlip;
use crate::{DataError, cifar, digits, idx};

/// The data sets there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DataName {
    /// 1,797 8×8 digits, embedded in the program.
    Digits,
    /// 70,000 28×28 digits.
    Mnist,
    /// 60,000 32×32 colour pictures.
    Cifar10,
}

/// Which part of a data set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    /// For fitting.
    Train,
    /// For measuring.
    Test,
}

impl Split {
    /// The name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Test => "test",
        }
    }
}

impl FromStr for DataName {
    type Err = DataError;

    fn from_str(name: &str) -> Result<Self, DataError> {
        match name {
            "digits" => Ok(Self::Digits),
            "mnist" => Ok(Self::Mnist),
            "cifar10" => Ok(Self::Cifar10),
            _ => Err(DataError::UnknownDataset(name.into())),
        }
    }
}

impl DataName {
    /// The name on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Digits => "digits",
            Self::Mnist => "mnist",
            Self::Cifar10 => "cifar10",
        }
    }

    /// Channels, height and width of a picture.
    pub fn shape(self) -> [usize; 3] {
        match self {
            Self::Digits => [1, 8, 8],
            Self::Mnist => [1, 28, 28],
            Self::Cifar10 => [3, 32, 32],
        }
    }

    /// Number of classes C.
    pub fn classes(self) -> usize {
        10
    }

    /// Divisor of a byte, and mean and standard deviation of each channel after division: of the
    /// training pixels, over pictures and positions. MNIST's and CIFAR-10's are the usual published
    /// ones; the digits' are computed from the embedded training split.
    fn normalisation(self) -> (f64, Vec<(f64, f64)>) {
        match self {
            Self::Digits => (16.0, vec![digits::train_mean_std()]),
            Self::Mnist => (255.0, vec![(0.1307, 0.3081)]),
            Self::Cifar10 => (255.0, vec![(0.4914, 0.2470), (0.4822, 0.2435), (0.4465, 0.2616)]),
        }
    }
}

/// The first N samples of one split, in file order.
#[derive(Clone, Debug)]
pub struct Dataset {
    name: DataName,
    split: Split,
    pixels: Vec<u8>,
    labels: Vec<u8>,
    tables: Vec<[f64; 256]>,
}

impl Dataset {
    /// Loads a split, or its first `samples` pictures.
    ///
    /// # Errors
    /// A file is missing or damaged, or `samples` is 0 or more than there are.
    pub fn load(
        name: DataName,
        split: Split,
        data_dir: &Path,
        samples: Option<usize>,
    ) -> Result<Self, DataError> {
        let (pixels, labels) = match name {
            DataName::Digits => digits::load(split),
            DataName::Mnist => idx::load_mnist(data_dir, split)?,
            DataName::Cifar10 => cifar::load(data_dir, split, samples.unwrap_or(usize::MAX))?,
        };
        let (divisor, channels) = name.normalisation();
        let table = |(mean, std): (f64, f64)| std::array::from_fn(|p| (p as f64 / divisor - mean) / std);
        let all = Self { name, split, pixels, labels, tables: channels.into_iter().map(table).collect() };
        let keep = samples.unwrap_or(all.len());
        all.first(keep)
    }

    /// The first `samples` of these pictures.
    ///
    /// # Errors
    /// `samples` is 0 or more than there are.
    pub fn first(mut self, samples: usize) -> Result<Self, DataError> {
        let have = self.len();
        if samples == 0 || samples > have {
            let (split, dataset) = (self.split.as_str(), self.name.as_str());
            return Err(DataError::Samples { asked: samples, have, split, dataset });
        }
        self.labels.truncate(samples);
        self.pixels.truncate(samples * self.name.shape().iter().product::<usize>());
        self.pixels.shrink_to_fit();
        Ok(self)
    }

    /// Which data set.
    pub fn name(&self) -> DataName {
        self.name
    }

    /// Which split.
    pub fn split(&self) -> Split {
        self.split
    }

    /// N.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there are no samples (there always are).
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// All labels, each below C.
    pub fn labels(&self) -> &[u8] {
        &self.labels
    }

    /// Numbers in one picture.
    pub fn sample_len(&self) -> usize {
        self.pixels.len() / self.labels.len()
    }

    /// One normalised picture, channels then rows then columns.
    ///
    /// # Panics
    /// If `index` is not below N.
    pub fn sample(&self, index: usize) -> impl Iterator<Item = f64> + '_ {
        self.planes(index).flatten()
    }

    /// The same, channel by channel.
    fn planes(&self, index: usize) -> impl Iterator<Item = impl Iterator<Item = f64> + '_> + '_ {
        let n = self.sample_len();
        let planes = self.pixels[index * n..(index + 1) * n].chunks(n / self.tables.len());
        planes.zip(&self.tables).map(|(plane, table)| plane.iter().map(|&p| table[usize::from(p)]))
    }

    /// Normalised pictures and labels of a batch, picture after picture.
    pub fn batch(&self, indices: &[usize]) -> (Vec<f32>, Vec<u32>) {
        let mut images = Vec::with_capacity(indices.len() * self.sample_len());
        for plane in indices.iter().flat_map(|&i| self.planes(i)) {
            images.extend(plane.map(|x| x as f32));
        }
        (images, indices.iter().map(|&i| u32::from(self.labels[i])).collect())
    }

    /// As [`Self::batch`] for pictures that are cropped at random after four black pixels have been added on each side,
    /// and mirrored half of the time; seed and step decide how.
    pub fn varied_batch(&self, indices: &[usize], seed: u64, step: u64) -> (Vec<f32>, Vec<u32>) {
        let (n, [_, _, width]) = (self.sample_len(), self.name.shape());
        let mut images = Vec::with_capacity(indices.len() * n);
        for (&index, how) in indices.iter().zip(CropFlip::draw(indices.len(), seed, step)) {
            let planes = self.pixels[index * n..(index + 1) * n].chunks(n / self.tables.len());
            for (plane, table) in planes.zip(&self.tables) {
                images.extend(how.pixels(plane, width).map(|p| table[usize::from(p)] as f32));
            }
        }
        (images, indices.iter().map(|&i| u32::from(self.labels[i])).collect())
    }

    /// SHA-256 of the bytes that a result depends on: labels, then pixels.
    pub fn sha256(&self) -> String {
        self.sha256_of_first(self.len()).unwrap_or_default()
    }

    /// [`Self::sha256`] of the first `samples` pictures; `None` if there are fewer.
    pub fn sha256_of_first(&self, samples: usize) -> Option<String> {
        let pixels = samples.checked_mul(self.sample_len())?;
        let mut hasher = Sha256::new();
        hasher.update(self.labels.get(..samples)?);
        hasher.update(self.pixels.get(..pixels)?);
        Some(hex(&hasher.finalize()))
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_split_and_normalised() {
        let train = Dataset::load(DataName::Digits, Split::Train, Path::new(""), None).unwrap();
        let test = Dataset::load(DataName::Digits, Split::Test, Path::new(""), None).unwrap();
        assert_eq!((train.len(), test.len()), (1437, 360));
        let all: Vec<f64> = (0..train.len()).flat_map(|i| train.sample(i)).collect();
        let mean = all.iter().sum::<f64>() / all.len() as f64;
        let variance = all.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / all.len() as f64;
        assert!(mean.abs() < 1e-12 && (variance - 1.0).abs() < 1e-12);
        assert_eq!(&train.labels()[..10], &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
    }

    #[test]
    fn samples_are_the_first_in_file_order() {
        let load = |n| Dataset::load(DataName::Digits, Split::Train, Path::new(""), n);
        let (all, few) = (load(None).unwrap(), load(Some(5)).unwrap());
        assert_eq!(all.batch(&[0, 1, 2, 3, 4]), few.batch(&[0, 1, 2, 3, 4]));
        assert_ne!(all.sha256(), few.sha256());
        for n in [0, 1438] {
            let message = load(Some(n)).unwrap_err().to_string();
            assert!(message.contains(&format!("--samples {n}")) && message.contains("1437"), "{message}");
        }
    }
}
