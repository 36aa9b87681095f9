//! The binary batches of CIFAR-10 and CIFAR-100: records of one label byte or two (coarse, fine) and 3 × 1024 pixels.

use std::path::{Path, PathBuf};

use qn_run::Normalisation;

use super::cifar_pickle::{self, PIXELS};
use crate::files::{MAX_BYTES, find, found_instead, is_packed, read, without_packing};
use crate::source::{Contents, Form, Source, TargetForm};
use crate::{DataError, Split};

pub(crate) const RECORD: usize = PIXELS + 1;
pub(crate) const PER_FILE: usize = 10_000;

/// CIFAR-10's files, with the SHA-1 of each as published with the data set.
pub(crate) const FILES: [(&str, &str); 6] = [
    ("data_batch_1.bin", "aadd24acce27caa71bf4b10992e9e7b2d74c2540"),
    ("data_batch_2.bin", "c0ba65cce70568cd57b4e03e9ac8d2a5367c1795"),
    ("data_batch_3.bin", "1dd00a74ab1d17a6e7d73e185b69dbf31242f295"),
    ("data_batch_4.bin", "aab85764eb3584312d3c7f65fd2fd016e36a258e"),
    ("data_batch_5.bin", "26e2849e66a845b7f1e4614ae70f4889ae604628"),
    ("test_batch.bin", "67eb016db431130d61cd03c7ad570b013799c88c"),
];

/// CIFAR-100's files.
const FILES_100: [&str; 2] = ["train.bin", "test.bin"];

/// The official name of one of CIFAR-10's binary files, whether it is packed or not.
pub(crate) fn naming(name: &str) -> Option<String> {
    let name = without_packing(name);
    FILES.iter().any(|(file, _)| *file == name).then(|| name.to_owned())
}

/// The name of one of the files, which has no ending where it is a Python pickle.
fn any_naming(name: &str) -> Option<String> {
    let name = without_packing(name);
    let binary = if name.ends_with(".bin") { name.to_owned() } else { format!("{name}.bin") };
    let known = FILES.map(|(file, _)| file).into_iter().chain(FILES_100);
    known.into_iter().any(|file| file == binary).then_some(binary)
}

/// Which of the two sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Ten,
    Hundred,
}

/// Pictures of 3×32×32 in a data directory.
pub(crate) struct Cifar {
    kind: Kind,
    dir: PathBuf,
    /// Below the directory: our name and those of the official archives, which are torchvision's.
    folders: [PathBuf; 3],
}

impl Cifar {
    /// CIFAR-10, in `DIR/cifar10`, `DIR/cifar-10-batches-bin` or `DIR/cifar-10-batches-py`.
    pub(crate) fn ten(dir: &Path) -> Self {
        let folders = ["cifar10", "cifar-10-batches-bin", "cifar-10-batches-py"];
        Self { kind: Kind::Ten, dir: dir.to_owned(), folders: folders.map(|folder| dir.join(folder)) }
    }

    /// CIFAR-100 with its hundred fine labels, in `DIR/cifar100`, `DIR/cifar-100-binary` or `DIR/cifar-100-python`.
    pub(crate) fn hundred(dir: &Path) -> Self {
        let folders = ["cifar100", "cifar-100-binary", "cifar-100-python"];
        Self { kind: Kind::Hundred, dir: dir.to_owned(), folders: folders.map(|folder| dir.join(folder)) }
    }

    fn file_names(&self, split: Split) -> Vec<&'static str> {
        let ten = FILES.iter().map(|(name, _)| *name);
        match (self.kind, split) {
            (Kind::Ten, Split::Train) => ten.take(5).collect(),
            (Kind::Ten, Split::Test) => ten.skip(5).collect(),
            (Kind::Hundred, Split::Train) => vec![FILES_100[0]],
            (Kind::Hundred, Split::Test) => vec![FILES_100[1]],
        }
    }

    fn static_name(&self) -> &'static str {
        match self.kind {
            Kind::Ten => "cifar10",
            Kind::Hundred => "cifar100",
        }
    }

    fn classes(&self) -> usize {
        match self.kind {
            Kind::Ten => 10,
            Kind::Hundred => 100,
        }
    }

    /// Labels of a record; the last one counts.
    fn label_bytes(&self) -> usize {
        match self.kind {
            Kind::Ten => 1,
            Kind::Hundred => 2,
        }
    }

    fn path_of(&self, name: &str) -> Result<PathBuf, DataError> {
        find(&self.folders, name, any_naming)?.ok_or_else(|| DataError::Missing {
            path: self.folders[0].join(name),
            dataset: self.static_name(),
            dir: self.dir.clone(),
            instead: found_instead(&self.folders),
        })
    }

    /// Adds a file's pixels and labels.
    fn append(&self, path: &Path, pixels: &mut Vec<u8>, labels: &mut Vec<u8>) -> Result<(), DataError> {
        let bytes = read(path)?;
        let before = labels.len();
        if bytes.starts_with(b"\x80") {
            let key = match self.kind {
                Kind::Ten => "labels",
                Kind::Hundred => "fine_labels",
            };
            cifar_pickle::append(&bytes, key, pixels, labels)
                .map_err(|reason| DataError::invalid(path, format!("its Python pickle {reason}")))?;
        } else {
            let skip = self.label_bytes();
            let record = skip + PIXELS;
            if bytes.is_empty() || !bytes.len().is_multiple_of(record) {
                return Err(DataError::invalid(path, self.other_size(bytes.len())));
            }
            for record in bytes.chunks_exact(record) {
                labels.push(record[skip - 1]);
                pixels.extend_from_slice(&record[skip..]);
            }
        }
        let wrong = labels[before..].iter().position(|&l| usize::from(l) >= self.classes());
        wrong.map_or(Ok(()), |i| {
            let (label, last) = (labels[before + i], self.classes() - 1);
            Err(DataError::invalid(path, format!("label {label} of record {i} is not 0 to {last}")))
        })
    }

    /// Why a file is none of the binary batches.
    fn other_size(&self, bytes: usize) -> String {
        let own = PIXELS + self.label_bytes();
        let other = match self.kind {
            Kind::Ten => (RECORD + 1, "CIFAR-100's: give --data cifar100"),
            Kind::Hundred => (RECORD, "CIFAR-10's: give --data cifar10"),
        };
        let hint = if bytes.is_multiple_of(other.0) && bytes > 0 {
            format!("; its records may be {}", other.1)
        } else {
            String::new()
        };
        format!("it has {bytes} bytes, which are no records of {own} bytes{hint}")
    }
}

impl Source for Cifar {
    fn name(&self) -> String {
        self.static_name().into()
    }

    fn form(&self) -> Form {
        Form { shape: vec![3, 32, 32], targets: TargetForm::Labels { classes: self.classes() } }
    }

    fn samples(&self, split: Split) -> Result<usize, DataError> {
        let record = (PIXELS + self.label_bytes()) as u64;
        let mut samples = 0;
        for name in self.file_names(split) {
            let path = self.path_of(name)?;
            let size = std::fs::metadata(&path).map_err(DataError::io(&path))?.len();
            samples += if !is_packed(&path)? && size.is_multiple_of(record) {
                (size / record) as usize
            } else {
                let (mut pixels, mut labels) = (Vec::new(), Vec::new());
                self.append(&path, &mut pixels, &mut labels)?;
                labels.len()
            };
        }
        Ok(samples)
    }

    fn files(&self, split: Split) -> Result<Vec<PathBuf>, DataError> {
        let found = self.file_names(split).into_iter().map(|name| find(&self.folders, name, any_naming));
        Ok(found.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect())
    }

    /// As many files as hold what is wanted.
    fn read(&self, split: Split, wanted: usize) -> Result<Contents, DataError> {
        let (mut pixels, mut labels) = (Vec::new(), Vec::new());
        for name in self.file_names(split) {
            if labels.is_empty() || labels.len() < wanted {
                self.append(&self.path_of(name)?, &mut pixels, &mut labels)?;
            }
        }
        Ok(Contents::pictures(pixels, labels))
    }

    fn divisor(&self) -> f64 {
        255.0
    }

    fn normalisation(&self) -> Option<Normalisation> {
        let (mean, std) = match self.kind {
            Kind::Ten => ([0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616]),
            Kind::Hundred => ([0.5071, 0.4865, 0.4409], [0.2673, 0.2564, 0.2762]),
        };
        Some(Normalisation { mean: mean.into(), std: std.into() })
    }
}

/// Makes binary batches from a picture with one sample a row (1024 RGB pixels) and its labels.
pub(crate) fn batch_from_png(png: &[u8], labels: &[u8]) -> Result<Vec<u8>, String> {
    let limits = png::Limits { bytes: MAX_BYTES as usize };
    let mut reader = png::Decoder::new_with_limits(std::io::Cursor::new(png), limits)
        .read_info()
        .map_err(|e| e.to_string())?;
    let info = reader.info();
    let size = (info.width as usize, info.height as usize);
    if size != (1024, PER_FILE)
        || info.color_type != png::ColorType::Rgb
        || info.bit_depth != png::BitDepth::Eight
    {
        return Err(format!("it is {} x {}, not 1024 x {PER_FILE} of 8-bit RGB", size.0, size.1));
    }
    let mut rows = vec![0; PIXELS * PER_FILE];
    reader.next_frame(&mut rows).map_err(|e| e.to_string())?;
    let mut batch = Vec::with_capacity(RECORD * PER_FILE);
    for (row, &label) in rows.chunks_exact(PIXELS).zip(labels) {
        batch.push(label);
        for channel in 0..3 {
            batch.extend(row.iter().skip(channel).step_by(3));
        }
    }
    Ok(batch)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_becomes_a_batch() {
        let mut png = Vec::new();
        let mut encoder = png::Encoder::new(&mut png, 1024, PER_FILE as u32);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_compression(png::Compression::Fastest);
        let rows: Vec<u8> = (0..PIXELS * PER_FILE).map(|i| (i % 3) as u8 + (i / PIXELS % 7) as u8).collect();
        encoder.write_header().unwrap().write_image_data(&rows).unwrap();
        let labels: Vec<u8> = (0..PER_FILE).map(|i| (i % 10) as u8).collect();
        let batch = batch_from_png(&png, &labels).unwrap();
        assert_eq!(batch.len(), RECORD * PER_FILE);
        let record = &batch[12 * RECORD..13 * RECORD];
        assert_eq!(record[0], 2);
        let planes: Vec<_> = record[1..].chunks(1024).map(|p| (p[0], p.iter().all(|&x| x == p[0]))).collect();
        assert_eq!(planes, [(5, true), (6, true), (7, true)]);
        assert!(batch_from_png(&png[..500], &labels).is_err());
        assert!(batch_from_png(b"not a picture", &labels).is_err());
        // A flipped bit of the head, or of the first lines: an error or a picture, no panic.
        for at in 0..150 {
            let mut damaged = png.clone();
            damaged[at] ^= 1 << (at % 8);
            if let Ok(batch) = batch_from_png(&damaged, &labels) {
                assert_eq!(batch.len(), RECORD * PER_FILE);
            }
        }
    }

    #[test]
    fn damage_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let load = || Cifar::ten(dir.path()).read(Split::Test, 1).unwrap_err().to_string();
        assert!(load().contains("qn-train fetch cifar10"));
        std::fs::create_dir(dir.path().join("cifar10")).unwrap();
        let file = dir.path().join("cifar10/test_batch.bin");
        std::fs::write(&file, [0; 100]).unwrap();
        assert!(load().contains("100 bytes"));
        std::fs::write(&file, []).unwrap();
        assert!(load().contains("0 bytes"));
        let mut bytes = vec![0; RECORD * 5];
        bytes[RECORD * 4] = 10;
        std::fs::write(&file, bytes).unwrap();
        assert!(load().contains("label 10 of record 4"));
    }

    #[test]
    fn the_fine_labels_of_cifar_100_count() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("cifar-100-binary");
        std::fs::create_dir(&folder).unwrap();
        let record = |fine: u8| [&[3, fine][..], &[fine; PIXELS]].concat();
        std::fs::write(folder.join("train.bin"), [record(99), record(0)].concat()).unwrap();
        let source = Cifar::hundred(dir.path());
        let expected = Contents::pictures([[99; PIXELS], [0; PIXELS]].concat(), vec![99, 0]);
        assert_eq!(source.read(Split::Train, 2).unwrap(), expected);
        assert_eq!(source.samples(Split::Train).unwrap(), 2);
        std::fs::write(folder.join("train.bin"), record(100)).unwrap();
        assert!(source.read(Split::Train, 2).unwrap_err().to_string().contains("label 100"));
        std::fs::write(folder.join("train.bin"), vec![0; RECORD * 3]).unwrap();
        assert!(source.read(Split::Train, 2).unwrap_err().to_string().contains("--data cifar10"));
    }

    #[test]
    fn no_more_files_are_read_than_are_wanted() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("cifar10")).unwrap();
        for (i, n) in [(1, 3), (2, 4)] {
            let path = dir.path().join(format!("cifar10/data_batch_{i}.bin"));
            std::fs::write(path, vec![i; RECORD * n]).unwrap();
        }
        let source = Cifar::ten(dir.path());
        let labels = |wanted| match source.read(Split::Train, wanted).map(|c| c.targets) {
            Ok(crate::source::Targets::Labels(labels)) => labels.len(),
            other => panic!("{other:?}"),
        };
        assert_eq!((labels(3), labels(4)), (3, 7));
        assert!(
            source.read(Split::Train, 8).unwrap_err().to_string().contains("data_batch_3.bin is missing")
        );
    }
}
