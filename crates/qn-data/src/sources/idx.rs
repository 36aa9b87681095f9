//! IDX files, the format of MNIST and Fashion-MNIST: big-endian magic and sizes, then bytes.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use qn_run::Normalisation;

use crate::files::{find, found_instead, is_packed, read, without_packing};
use crate::source::{Contents, Form, Source, TargetForm};
use crate::{DataError, Split};

const IMAGES_MAGIC: u32 = 0x0803;
const LABELS_MAGIC: u32 = 0x0801;

/// The file names of a split: images, labels.
fn file_names(split: Split) -> [&'static str; 2] {
    match split {
        Split::Train => ["train-images-idx3-ubyte", "train-labels-idx1-ubyte"],
        Split::Test => ["t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"],
    }
}

/// The official name of one of the files, whether it is packed or has the dot of some mirrors
/// (`train-images.idx3-ubyte`).
pub(crate) fn naming(name: &str) -> Option<String> {
    let name = without_packing(name).replacen(".idx", "-idx", 1);
    let known = [Split::Train, Split::Test].into_iter().flat_map(file_names);
    known.into_iter().any(|n| n == name).then_some(name)
}

/// Pictures of 28×28 pixels and ten classes in a data directory.
pub(crate) struct Idx {
    name: &'static str,
    dir: PathBuf,
    /// Below the directory: our name and torchvision's, whose files are in `raw` below.
    folders: [PathBuf; 2],
    normalisation: (f64, f64),
}

impl Idx {
    /// MNIST, in `DIR/mnist` or `DIR/MNIST`.
    pub(crate) fn mnist(dir: &Path) -> Self {
        Self::new("mnist", "MNIST", dir, (0.1307, 0.3081))
    }

    /// Fashion-MNIST, in `DIR/fashion-mnist` or `DIR/FashionMNIST`.
    pub(crate) fn fashion_mnist(dir: &Path) -> Self {
        Self::new("fashion-mnist", "FashionMNIST", dir, (0.2860, 0.3530))
    }

    fn new(name: &'static str, other: &str, dir: &Path, normalisation: (f64, f64)) -> Self {
        Self { name, dir: dir.to_owned(), folders: [dir.join(name), dir.join(other)], normalisation }
    }

    fn path_of(&self, name: &str) -> Result<PathBuf, DataError> {
        find(&self.folders, name, naming)?.ok_or_else(|| DataError::Missing {
            path: self.folders[0].join(name),
            dataset: self.name,
            dir: self.dir.clone(),
            instead: found_instead(&self.folders),
        })
    }
}

impl Source for Idx {
    fn name(&self) -> String {
        self.name.into()
    }

    fn form(&self) -> Form {
        Form { shape: vec![1, 28, 28], targets: TargetForm::Labels { classes: 10 } }
    }

    fn samples(&self, split: Split) -> Result<usize, DataError> {
        let [images, labels] = file_names(split);
        let path = self.path_of(images)?;
        if is_packed(&path)? {
            // The labels are the smaller file.
            let path = self.path_of(labels)?;
            let bytes = read(&path)?;
            return Ok(parse(&bytes, LABELS_MAGIC, &[]).map_err(|r| DataError::invalid(&path, r))?.len());
        }
        let mut head = Vec::new();
        let file = std::fs::File::open(&path).map_err(DataError::io(&path))?;
        file.take(16).read_to_end(&mut head).map_err(DataError::io(&path))?;
        let samples = promised(&head, IMAGES_MAGIC, &[28, 28]).map_err(|r| DataError::invalid(&path, r))?;
        usize::try_from(samples).map_err(|_| DataError::invalid(&path, "it is too large"))
    }

    fn files(&self, split: Split) -> Result<Vec<PathBuf>, DataError> {
        let found = file_names(split).map(|name| find(&self.folders, name, naming));
        Ok(found.into_iter().collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect())
    }

    fn read(&self, split: Split, _: usize) -> Result<Contents, DataError> {
        let [images, labels] = file_names(split);
        let (image_path, label_path) = (self.path_of(images)?, self.path_of(labels)?);
        let pixels = parse(&read(&image_path)?, IMAGES_MAGIC, &[28, 28])
            .map_err(|r| DataError::invalid(&image_path, r))?
            .to_vec();
        let labels = parse(&read(&label_path)?, LABELS_MAGIC, &[])
            .map_err(|r| DataError::invalid(&label_path, r))?
            .to_vec();
        if pixels.len() != labels.len() * 28 * 28 {
            let reason = format!("{} labels for {} images", labels.len(), pixels.len() / (28 * 28));
            return Err(DataError::invalid(&label_path, reason));
        }
        if let Some(i) = labels.iter().position(|&l| l > 9) {
            return Err(DataError::invalid(
                &label_path,
                format!("label {} of sample {i} is not 0 to 9", labels[i]),
            ));
        }
        Ok(Contents::pictures(pixels, labels))
    }

    fn divisor(&self) -> f64 {
        255.0
    }

    fn normalisation(&self) -> Option<Normalisation> {
        let (mean, std) = self.normalisation;
        Some(Normalisation { mean: vec![mean], std: vec![std] })
    }
}

/// Bytes of a header of items of so many axes.
fn header_len(item: &[usize]) -> usize {
    4 * (2 + item.len())
}

/// Checks magic and item shape, and gives the number of items that the header promises.
fn promised(bytes: &[u8], magic: u32, item: &[usize]) -> Result<u64, String> {
    let header = header_len(item);
    let word = |i: usize| -> Result<u32, String> {
        let b =
            bytes.get(4 * i..4 * i + 4).ok_or_else(|| format!("it ends inside its {header}-byte header"))?;
        Ok(u32::from_be_bytes([b[0], b[1], b[2], b[3]]))
    };
    let found = word(0)?;
    if found != magic {
        return Err(format!("its magic number is {found:#010x}, not {magic:#010x}"));
    }
    for (i, &expected) in item.iter().enumerate() {
        let found = word(2 + i)?;
        if found as usize != expected {
            return Err(format!("its items are {found} where {expected} is expected"));
        }
    }
    Ok(u64::from(word(1)?))
}

/// Checks magic, item shape and length, and gives the payload.
fn parse<'a>(bytes: &'a [u8], magic: u32, item: &[usize]) -> Result<&'a [u8], String> {
    let header = header_len(item);
    let expected = header as u64 + promised(bytes, magic, item)? * item.iter().product::<usize>() as u64;
    if bytes.len() as u64 != expected {
        return Err(format!("it has {} bytes where its header promises {expected}", bytes.len()));
    }
    if bytes.len() == header {
        return Err("it holds no samples".into());
    }
    Ok(&bytes[header..])
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    fn idx(magic: u32, dims: &[u32], payload: &[u8]) -> Vec<u8> {
        let mut bytes = magic.to_be_bytes().to_vec();
        dims.iter().for_each(|d| bytes.extend(d.to_be_bytes()));
        bytes.extend(payload);
        bytes
    }

    fn load(images: &[u8], labels: &[u8]) -> Result<Contents, String> {
        let dir = tempfile::tempdir().unwrap();
        let mnist = dir.path().join("mnist");
        std::fs::create_dir(&mnist).unwrap();
        std::fs::write(mnist.join("t10k-images-idx3-ubyte"), images).unwrap();
        let gz = std::fs::File::create(mnist.join("t10k-labels-idx1-ubyte.gz")).unwrap();
        let mut gz = flate2::write::GzEncoder::new(gz, flate2::Compression::fast());
        gz.write_all(labels).unwrap();
        gz.finish().unwrap();
        Idx::mnist(dir.path()).read(Split::Test, 1).map_err(|e| e.to_string())
    }

    #[test]
    fn plain_and_packed_files_are_read() {
        let pixels: Vec<u8> = (0..2 * 784).map(|i| (i % 251) as u8).collect();
        let found = load(&idx(0x803, &[2, 28, 28], &pixels), &idx(0x801, &[2], &[3, 9])).unwrap();
        assert_eq!(found, Contents::pictures(pixels, vec![3, 9]));
    }

    #[test]
    fn damage_is_named() {
        let pixels = vec![0; 2 * 784];
        let good_images = idx(0x803, &[2, 28, 28], &pixels);
        let good_labels = idx(0x801, &[2], &[1, 2]);
        let cases: [(Vec<u8>, Vec<u8>, &str); 8] = [
            (idx(0x801, &[2, 28, 28], &pixels), good_labels.clone(), "magic"),
            (good_images[..999].to_vec(), good_labels.clone(), "promises"),
            ([good_images.clone(), vec![0]].concat(), good_labels.clone(), "promises"),
            (good_images[..7].to_vec(), good_labels.clone(), "header"),
            (idx(0x803, &[2, 14, 56], &pixels), good_labels.clone(), "14 where 28"),
            (idx(0x803, &[u32::MAX, 28, 28], &pixels), good_labels, "promises"),
            (good_images.clone(), idx(0x801, &[2], &[1, 10]), "label 10"),
            (good_images, idx(0x801, &[3], &[1, 2, 3]), "3 labels for 2"),
        ];
        for (images, labels, expected) in cases {
            let message = load(&images, &labels).unwrap_err();
            assert!(message.contains(expected), "{message}");
        }
    }

    #[test]
    fn a_missing_file_names_the_remedy() {
        let message = Idx::mnist(Path::new("nowhere")).read(Split::Train, 1).unwrap_err().to_string();
        assert!(message.contains("qn-train fetch mnist"), "{message}");
        let message = Idx::fashion_mnist(Path::new("nowhere")).samples(Split::Train).unwrap_err().to_string();
        assert!(message.contains("FashionMNIST/raw") && !message.contains("fetch"), "{message}");
    }

    #[test]
    fn the_number_of_samples_comes_from_the_header() {
        let dir = tempfile::tempdir().unwrap();
        let raw = dir.path().join("FashionMNIST/raw");
        std::fs::create_dir_all(&raw).unwrap();
        // There are no images behind the header, and no labels.
        std::fs::write(raw.join("train-images-idx3-ubyte"), idx(0x803, &[60_000, 28, 28], &[])).unwrap();
        assert_eq!(Idx::fashion_mnist(dir.path()).samples(Split::Train).unwrap(), 60_000);
    }
}
