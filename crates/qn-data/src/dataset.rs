use std::path::Path;
use std::sync::Arc;

use qn_run::Normalisation;
use sha2::{Digest, Sha256};

use crate::augment::CropFlip;
use crate::source::{Contents, Form, Targets, Values};
use crate::{DataError, DataName, Split, cache, normalise};

/// Up to so many channels of bytes have tables of their normalised values.
const TABLES: usize = 64;

/// The first N samples of one split, in file order, normalised on the way out.
#[derive(Clone, Debug)]
pub struct Dataset {
    name: String,
    split: Split,
    form: Form,
    contents: Arc<Contents>,
    samples: usize,
    divisor: f64,
    /// What every channel is normalised with; none where numbers are taken as they are.
    normalisation: Option<Normalisation>,
    /// For each channel, what a byte becomes.
    tables: Vec<[f64; 256]>,
}

/// What the outputs for a batch ought to be.
#[derive(Clone, Debug, PartialEq)]
pub enum BatchTargets {
    /// A class for each sample.
    Labels(Vec<u32>),
    /// So many numbers for each sample, one sample after the other.
    Values(Vec<f32>),
}

impl Dataset {
    /// Loads a split, or its first `samples`, normalised as the data set usually is; a file's numbers are as they are.
    ///
    /// # Errors
    /// A file is missing or damaged, or `samples` is 0 or more than there are.
    pub fn load(
        name: &DataName,
        split: Split,
        data_dir: &Path,
        samples: Option<usize>,
    ) -> Result<Self, DataError> {
        let source = name.open(data_dir)?;
        let (name, form) = (source.name(), source.form());
        let have = if samples == Some(0) { source.samples(split)? } else { 0 };
        if have > 0 {
            return Err(DataError::Samples { asked: 0, have, split: split.as_str(), dataset: name });
        }
        let contents = cache::read(source.as_ref(), split, samples.unwrap_or(usize::MAX))?;
        let have = contents.values.len() / form.sample_len();
        let (divisor, normalisation) = (source.divisor(), source.normalisation());
        let tables = Vec::new();
        let all = Self { name, split, form, contents, samples: have, divisor, normalisation: None, tables };
        let keep = samples.unwrap_or(have);
        match normalisation {
            Some(usual) => all.normalised(&usual)?.first(keep),
            None => all.first(keep),
        }
    }

    /// These samples, normalised with a mean and a standard deviation for each channel, or with one of each.
    ///
    /// # Errors
    /// They are as many as neither one nor the channels.
    pub fn normalised(mut self, by: &Normalisation) -> Result<Self, DataError> {
        let channels = self.form.channels();
        let Normalisation { mean, std } = normalise::check(by.clone(), channels)?;
        let all = |numbers: Vec<f64>| if numbers.len() == 1 { vec![numbers[0]; channels] } else { numbers };
        let (mean, std) = (all(mean), all(std));
        self.tables = match self.contents.values {
            Values::Bytes(_) if channels <= TABLES => {
                let pairs = mean.iter().zip(&std);
                pairs.map(|(m, s)| std::array::from_fn(|p| (p as f64 / self.divisor - m) / s)).collect()
            }
            _ => Vec::new(),
        };
        self.normalisation = Some(Normalisation { mean, std });
        Ok(self)
    }

    /// The first `samples` of these.
    ///
    /// # Errors
    /// `samples` is 0 or more than there are.
    pub fn first(mut self, samples: usize) -> Result<Self, DataError> {
        let have = self.len();
        if samples == 0 || samples > have {
            let (split, dataset) = (self.split.as_str(), self.name);
            return Err(DataError::Samples { asked: samples, have, split, dataset });
        }
        self.samples = samples;
        Ok(self)
    }

    /// Which data set, or which file without its folders.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Which split the samples are of.
    pub fn split(&self) -> Split {
        self.split
    }

    /// Number of samples N.
    pub fn len(&self) -> usize {
        self.samples
    }

    /// Whether there are no samples (there always are).
    pub fn is_empty(&self) -> bool {
        self.samples == 0
    }

    /// Lengths of a sample's axes.
    pub fn shape(&self) -> &[usize] {
        &self.form.shape
    }

    /// What samples and targets look like.
    pub fn form(&self) -> &Form {
        &self.form
    }

    /// What each channel is normalised with, after a division of pixels by 255 (of the digits' by 16); none where numbers are
    /// taken as they are.
    pub fn normalisation(&self) -> Option<&Normalisation> {
        self.normalisation.as_ref()
    }

    /// Whether numbers are bytes that are not normalised.
    pub fn has_raw_bytes(&self) -> bool {
        matches!(self.contents.values, Values::Bytes(_)) && self.normalisation.is_none()
    }

    /// All labels, each below C; none where targets are numbers.
    pub fn labels(&self) -> Option<&[u32]> {
        match &self.contents.targets {
            Targets::Labels(labels) => Some(&labels[..self.samples]),
            Targets::Values(_) => None,
        }
    }

    /// All targets that are numbers, sample after sample; none where there are labels.
    pub fn values(&self) -> Option<&[f64]> {
        match &self.contents.targets {
            Targets::Labels(_) => None,
            Targets::Values(values) => Some(&values[..self.samples * self.form.outputs()]),
        }
    }

    /// Those of so many classes that no sample belongs to; of soft labels, that none belongs to most.
    pub fn absent_classes(&self, classes: usize) -> Vec<usize> {
        let mut absent = vec![true; classes];
        let mut seen = |class: usize| {
            if let Some(absent) = absent.get_mut(class) {
                *absent = false;
            }
        };
        match (self.labels(), self.values()) {
            (Some(labels), _) => labels.iter().for_each(|&l| seen(l as usize)),
            (_, values) => {
                for row in values.unwrap_or_default().chunks(self.form.outputs()) {
                    let largest = |best, k: usize| if row[k] > row[best] { k } else { best };
                    seen((1..row.len()).fold(0, largest));
                }
            }
        }
        (0..classes).filter(|&k| absent[k]).collect()
    }

    /// Numbers in one sample.
    pub fn sample_len(&self) -> usize {
        self.form.sample_len()
    }

    /// One normalised sample, row-major: of a picture channels, then rows, then columns.
    ///
    /// # Panics
    /// If `index` is not below N.
    pub fn sample(&self, index: usize) -> impl Iterator<Item = f64> + '_ {
        let mut numbers = Vec::with_capacity(self.sample_len());
        self.extend(&mut numbers, index, |x| x);
        numbers.into_iter()
    }

    /// Adds the normalised numbers of a sample, each made what is wanted.
    fn extend<T>(&self, numbers: &mut Vec<T>, index: usize, of: impl Fn(f64) -> T) {
        assert!(index < self.samples, "sample {index} of {}", self.samples);
        let (len, values) = (self.sample_len(), &self.contents.values);
        let (start, plane) = (index * len, len / self.form.channels());
        match (values, &self.normalisation) {
            (Values::Bytes(bytes), Some(_)) if !self.tables.is_empty() => {
                for (plane, table) in bytes[start..start + len].chunks(plane).zip(&self.tables) {
                    numbers.extend(plane.iter().map(|&p| of(table[usize::from(p)])));
                }
            }
            (_, Some(Normalisation { mean, std })) => {
                for (c, (mean, std)) in mean.iter().zip(std).enumerate() {
                    let places = start + c * plane..start + (c + 1) * plane;
                    numbers.extend(places.map(|at| of((values.at(at) / self.divisor - mean) / std)));
                }
            }
            (_, None) => numbers.extend((start..start + len).map(|at| of(values.at(at) / self.divisor))),
        }
    }

    /// Normalised inputs of a batch, sample after sample.
    pub fn inputs(&self, indices: &[usize]) -> Vec<f32> {
        let mut inputs = Vec::with_capacity(indices.len() * self.sample_len());
        indices.iter().for_each(|&index| self.extend(&mut inputs, index, |x| x as f32));
        inputs
    }

    /// Targets of a batch.
    pub fn batch_targets(&self, indices: &[usize]) -> BatchTargets {
        match &self.contents.targets {
            Targets::Labels(labels) => BatchTargets::Labels(indices.iter().map(|&i| labels[i]).collect()),
            Targets::Values(values) => {
                let width = self.form.outputs();
                let rows = indices.iter().flat_map(|&i| &values[i * width..(i + 1) * width]);
                BatchTargets::Values(rows.map(|&y| y as f32).collect())
            }
        }
    }

    /// Whether [`Self::varied_inputs`] can be asked for: samples are pictures of bytes.
    pub fn can_be_varied(&self) -> bool {
        !self.tables.is_empty() && matches!(self.form.shape.len(), 2 | 3)
    }

    /// As [`Self::inputs`] for pictures that are cropped at random after four black pixels have been added on each side,
    /// and mirrored half of the time; seed and step decide how.
    ///
    /// # Panics
    /// If they are not pictures, see [`Self::can_be_varied`].
    pub fn varied_inputs(&self, indices: &[usize], seed: u64, step: u64) -> Vec<f32> {
        let (Values::Bytes(pixels), Some(&width)) = (&self.contents.values, self.form.shape.last()) else {
            panic!("only pictures of bytes are varied");
        };
        let n = self.sample_len();
        let mut images = Vec::with_capacity(indices.len() * n);
        for (&index, how) in indices.iter().zip(CropFlip::draw(indices.len(), seed, step)) {
            let planes = pixels[index * n..(index + 1) * n].chunks(n / self.tables.len());
            for (plane, table) in planes.zip(&self.tables) {
                images.extend(how.pixels(plane, width).map(|p| table[usize::from(p)] as f32));
            }
        }
        images
    }

    /// SHA-256 of the bytes that a result depends on: targets, then numbers as they were read.
    pub fn sha256(&self) -> String {
        self.sha256_of_first(self.len()).unwrap_or_default()
    }

    /// [`Self::sha256`] of the first `samples`; `None` if there are fewer. Labels of at most 256 classes are hashed as
    /// bytes, and all other numbers in the order and width in which memory has them, the lowest byte first.
    pub fn sha256_of_first(&self, samples: usize) -> Option<String> {
        if samples > self.samples {
            return None;
        }
        let mut hasher = Sha256::new();
        match &self.contents.targets {
            Targets::Labels(labels) if self.form.outputs() <= 256 => {
                hasher.update(labels[..samples].iter().map(|&l| l as u8).collect::<Vec<u8>>());
            }
            Targets::Labels(labels) => labels[..samples].iter().for_each(|l| hasher.update(l.to_le_bytes())),
            Targets::Values(all) => {
                all[..samples * self.form.outputs()].iter().for_each(|y| hasher.update(y.to_le_bytes()));
            }
        }
        let numbers = samples * self.sample_len();
        match &self.contents.values {
            Values::Bytes(all) => hasher.update(&all[..numbers]),
            Values::Single(all) => all[..numbers].iter().for_each(|x| hasher.update(x.to_le_bytes())),
            Values::Double(all) => all[..numbers].iter().for_each(|x| hasher.update(x.to_le_bytes())),
        }
        Some(hex(&hasher.finalize()))
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Normalise;

    fn digits(split: Split, samples: Option<usize>) -> Result<Dataset, DataError> {
        Dataset::load(&DataName::Digits, split, Path::new(""), samples)
    }

    #[test]
    fn digits_are_split_and_normalised() {
        let (train, test) = (digits(Split::Train, None).unwrap(), digits(Split::Test, None).unwrap());
        assert_eq!((train.len(), test.len()), (1437, 360));
        let all: Vec<f64> = (0..train.len()).flat_map(|i| train.sample(i)).collect();
        let mean = all.iter().sum::<f64>() / all.len() as f64;
        let variance = all.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / all.len() as f64;
        assert!(mean.abs() < 1e-12 && (variance - 1.0).abs() < 1e-12);
        assert_eq!(&train.labels().unwrap()[..10], &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
    }

    #[test]
    fn measured_numbers_are_those_that_the_digits_come_with() {
        let source = DataName::Digits.open(Path::new("")).unwrap();
        let measured = Normalise::Auto.resolve(source.as_ref()).unwrap();
        assert_eq!(Some(&measured), source.normalisation().as_ref());
        let plain = digits(Split::Train, Some(3)).unwrap();
        let plain = plain.normalised(&Normalise::None.resolve(source.as_ref()).unwrap()).unwrap();
        assert!(plain.sample(2).all(|x| (x * 16.0).fract() == 0.0 && (0.0..=1.0).contains(&x)));
    }

    #[test]
    fn samples_are_the_first_in_file_order() {
        let load = |n| digits(Split::Train, n);
        let (all, few) = (load(None).unwrap(), load(Some(5)).unwrap());
        let indices = [0, 1, 2, 3, 4];
        assert_eq!(all.inputs(&indices), few.inputs(&indices));
        assert_eq!(all.batch_targets(&indices), few.batch_targets(&indices));
        assert_ne!(all.sha256(), few.sha256());
        assert_eq!(all.sha256_of_first(5), Some(few.sha256()));
        for n in [0, 1438] {
            let message = load(Some(n)).unwrap_err().to_string();
            assert!(message.contains(&format!("`samples` {n}")) && message.contains("1437"), "{message}");
        }
    }

    #[test]
    fn classes_without_samples_are_found() {
        let few = digits(Split::Train, Some(4)).unwrap();
        assert_eq!(few.absent_classes(6), [4, 5]);
    }
}
