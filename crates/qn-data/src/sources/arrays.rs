//! Data of one's own: a file of arrays called `x` and `y`, and `x_test` and `y_test` if there is a test split.
//!
//! Samples lie along the first axis. Integers in `y` are labels, [N]; floats are vectors or soft labels, [N, ...].

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::array::{ArrayFile, Header};
use super::npz::{NPY, Npz};
use super::safetensors::SafeTensors;
use crate::source::{Contents, Form, Source, TargetForm, Targets};
use crate::{DataError, Split};

/// Samples and targets in one file. Targets have been read, of samples only how many there are.
pub(crate) struct Arrays {
    path: PathBuf,
    form: Form,
    train: Part,
    test: Option<Part>,
}

/// One split.
struct Part {
    samples: usize,
    targets: Targets,
}

/// The names of a split's arrays: samples, targets.
fn names(split: Split) -> [&'static str; 2] {
    match split {
        Split::Train => ["x", "y"],
        Split::Test => ["x_test", "y_test"],
    }
}

fn open(path: &Path) -> Result<Box<dyn ArrayFile>, DataError> {
    if !path.exists() {
        return Err(DataError::NoFile { path: path.to_owned() });
    }
    let start = |path: &Path| -> std::io::Result<Vec<u8>> {
        let mut start = Vec::new();
        File::open(path)?.take(8).read_to_end(&mut start)?;
        Ok(start)
    };
    let start = start(path).map_err(DataError::io(path))?;
    let file = File::open(path).map_err(DataError::io(path))?;
    if start.starts_with(NPY) {
        let reason =
            "it is a single array, .npy: save samples and labels together with numpy.savez(FILE, x=x, y=y)";
        return Err(DataError::invalid(path, reason));
    }
    if start.starts_with(b"PK") {
        Ok(Box::new(Npz::open(path, file)?))
    } else if path.extension().is_some_and(|e| e == "npz") {
        Err(DataError::invalid(path, "it is no zip archive, which a .npz of numpy.savez is"))
    } else {
        Ok(Box::new(SafeTensors::open(path, file)?))
    }
}

impl Arrays {
    /// Reads headers and targets.
    pub(crate) fn open(path: &Path) -> Result<Self, DataError> {
        let mut file = open(path)?;
        let have = file.names();
        let has = |name: &str| have.iter().any(|n| n == name);
        let (form, train) = part(path, file.as_mut(), Split::Train)?;
        let mut arrays = Self { path: path.to_owned(), form, train, test: None };
        if names(Split::Test).into_iter().any(has) {
            let (form, test) = part(path, file.as_mut(), Split::Test)?;
            arrays.join(form)?;
            arrays.test = Some(test);
        }
        Ok(arrays)
    }

    /// That the test split's samples and targets are like those of the training split; C is the larger one.
    fn join(&mut self, test: Form) -> Result<(), DataError> {
        if test.shape != self.form.shape {
            let reason = format!(
                "samples of x_test have the shape {:?}, those of x {:?}",
                test.shape, self.form.shape
            );
            return Err(DataError::invalid(&self.path, reason));
        }
        self.form.targets = match (self.form.targets, test.targets) {
            (TargetForm::Labels { classes: a }, TargetForm::Labels { classes: b }) => {
                TargetForm::Labels { classes: a.max(b) }
            }
            (a, b) if a == b => a,
            // Soft labels in one split only are values like those of the other.
            (
                TargetForm::Soft { classes: a } | TargetForm::Values { width: a },
                TargetForm::Soft { classes: b } | TargetForm::Values { width: b },
            ) if a == b => TargetForm::Values { width: a },
            _ => {
                let reason = "y and y_test are not alike: give both labels, or vectors of the same length";
                return Err(DataError::invalid(&self.path, reason));
            }
        };
        Ok(())
    }

    fn part(&self, split: Split) -> Option<&Part> {
        match split {
            Split::Train => Some(&self.train),
            Split::Test => self.test.as_ref(),
        }
    }
}

/// A split's form and targets.
fn part(path: &Path, file: &mut dyn ArrayFile, split: Split) -> Result<(Form, Part), DataError> {
    let [x, y] = names(split);
    let have = file.names();
    for name in [x, y] {
        if !have.iter().any(|n| n == name) {
            let list = if have.is_empty() { "nothing".into() } else { have.join(", ") };
            let reason = format!(
                "it has no array {name}; what there is: {list}. Samples are called x (and x_test), labels or vectors y \
                 (and y_test), as by numpy.savez(FILE, x=x, y=y)"
            );
            return Err(DataError::invalid(path, reason));
        }
    }
    let wrong = |reason: String| DataError::invalid(path, reason);
    let header = file.header(x)?;
    let Some((&samples, shape)) = header.shape.split_first() else {
        return Err(wrong(format!("its array {x} is a single number: samples lie along the first axis")));
    };
    if header.count().is_none_or(|n| n == 0) {
        return Err(wrong(format!("its array {x} of shape {:?} holds no samples", header.shape)));
    }
    let shape = if shape.is_empty() { vec![1] } else { shape.to_vec() };
    let of_targets = file.header(y)?;
    if of_targets.shape.first() != Some(&samples) {
        return Err(wrong(format!(
            "{x} has {samples} samples (shape {:?}) and {y} has the shape {:?}: the first axis must be that of the samples \
             in both",
            header.shape, of_targets.shape
        )));
    }
    let (targets, of) = read_targets(path, file, y, &of_targets)?;
    Ok((Form { shape, targets }, Part { samples, targets: of }))
}

fn read_targets(
    path: &Path,
    file: &mut dyn ArrayFile,
    name: &str,
    header: &Header,
) -> Result<(TargetForm, Targets), DataError> {
    let wrong = |reason: String| DataError::invalid(path, format!("its array {name} {reason}"));
    let width = header.shape[1..].iter().product::<usize>();
    if !header.dtype.is_float() && width != 1 {
        return Err(wrong(format!(
            "holds integers of shape {:?}: labels are one a sample, [N]; save vectors and soft labels as floats",
            header.shape
        )));
    }
    if width == 0 {
        return Err(wrong(format!("of shape {:?} holds no numbers", header.shape)));
    }
    let values = header.read(&mut *file.open(name)?, usize::MAX).map_err(wrong)?;
    if let Some(at) = values.not_finite() {
        return Err(wrong(format!("holds {} for sample {}", values.at(at), at / width)));
    }
    let all = (0..values.len()).map(|i| values.at(i));
    if header.dtype.is_float() {
        let all: Vec<f64> = all.collect();
        let form = if soft(&all, width) {
            TargetForm::Soft { classes: width }
        } else {
            TargetForm::Values { width }
        };
        return Ok((form, Targets::Values(all)));
    }
    // The largest number stands for "no label".
    let label = |(i, l): (usize, f64)| {
        let fits = l >= 0.0 && l < f64::from(u32::MAX);
        if fits {
            Ok(l as u32)
        } else {
            Err(wrong(format!("has the label {l} for sample {i}: labels count from 0")))
        }
    };
    let labels = all.enumerate().map(label).collect::<Result<Vec<u32>, _>>()?;
    let classes = labels.iter().max().map_or(0, |&l| l as usize + 1);
    Ok((TargetForm::Labels { classes }, Targets::Labels(labels)))
}

/// Whether all targets are probabilities of two classes or more, to what half precision holds.
fn soft(all: &[f64], width: usize) -> bool {
    let probabilities =
        |row: &[f64]| row.iter().all(|p| *p >= 0.0) && (row.iter().sum::<f64>() - 1.0).abs() <= 2e-3;
    width > 1 && all.chunks(width).all(probabilities)
}

impl Source for Arrays {
    fn name(&self) -> String {
        self.path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default()
    }

    fn form(&self) -> Form {
        self.form.clone()
    }

    fn samples(&self, split: Split) -> Result<usize, DataError> {
        Ok(self.part(split).map_or(0, |part| part.samples))
    }

    fn files(&self, _: Split) -> Result<Vec<PathBuf>, DataError> {
        Ok(vec![self.path.clone()])
    }

    fn read(&self, split: Split, wanted: usize) -> Result<Contents, DataError> {
        let Some(part) = self.part(split) else {
            return Err(DataError::NoSplit { dataset: self.name(), split: split.as_str() });
        };
        let [x, _] = names(split);
        let wrong = |reason: String| DataError::invalid(&self.path, format!("its array {x} {reason}"));
        let mut file = open(&self.path)?;
        let header = file.header(x)?;
        let wanted = wanted.min(part.samples);
        let values = header.read(&mut *file.open(x)?, wanted).map_err(wrong)?;
        let each = self.form.sample_len();
        if values.len() != wanted * each {
            return Err(wrong(format!("has changed its shape to {:?}", header.shape)));
        }
        if let Some(at) = values.not_finite() {
            let (value, sample) = (values.at(at), at / each);
            return Err(wrong(format!(
                "holds {value} in sample {sample}: replace what is not a number, or leave such samples out"
            )));
        }
        let targets = match &part.targets {
            Targets::Labels(labels) => Targets::Labels(labels[..wanted].to_vec()),
            Targets::Values(all) => Targets::Values(all[..wanted * self.form.outputs()].to_vec()),
        };
        Ok(Contents { values, targets })
    }
}
