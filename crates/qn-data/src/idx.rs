//! IDX files, the format of MNIST: big-endian magic and sizes, then bytes.

use std::path::{Path, PathBuf};

use crate::source::{find, found_instead, read, without_packing};
use crate::{DataError, Split};

const IMAGES_MAGIC: u32 = 0x0803;
const LABELS_MAGIC: u32 = 0x0801;

/// The file names of a split: images, labels.
fn mnist_files(split: Split) -> [&'static str; 2] {
    match split {
        Split::Train => ["train-images-idx3-ubyte", "train-labels-idx1-ubyte"],
        Split::Test => ["t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"],
    }
}

/// The official name of one of MNIST's files, whether it is packed or has the dot of some mirrors
/// (`train-images.idx3-ubyte`).
pub(crate) fn naming(name: &str) -> Option<String> {
    let name = without_packing(name).replacen(".idx", "-idx", 1);
    let known = [Split::Train, Split::Test].into_iter().flat_map(mnist_files);
    known.into_iter().any(|n| n == name).then_some(name)
}

/// Pixels and labels of a split, from `DATA/mnist` or torchvision's `DATA/MNIST` (its `raw` included).
pub(crate) fn load_mnist(data_dir: &Path, split: Split) -> Result<(Vec<u8>, Vec<u8>), DataError> {
    let folders = ["mnist", "MNIST"].map(|folder| data_dir.join(folder));
    let path_of = |name: &str| -> Result<PathBuf, DataError> {
        find(&folders, name, naming)?.ok_or_else(|| DataError::Missing {
            path: folders[0].join(name),
            dataset: "mnist",
            dir: data_dir.to_owned(),
            instead: found_instead(&folders),
        })
    };
    let [images, labels] = mnist_files(split);
    let (image_path, label_path) = (path_of(images)?, path_of(labels)?);
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
    Ok((pixels, labels))
}

/// Checks magic, item shape and length, and gives the payload.
fn parse<'a>(bytes: &'a [u8], magic: u32, item: &[usize]) -> Result<&'a [u8], String> {
    let dims = item.len() + 1;
    let header = 4 * (1 + dims);
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
    let expected = header as u64 + u64::from(word(1)?) * item.iter().product::<usize>() as u64;
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

    fn load(images: &[u8], labels: &[u8]) -> Result<(Vec<u8>, Vec<u8>), String> {
        let dir = tempfile::tempdir().unwrap();
        let mnist = dir.path().join("mnist");
        std::fs::create_dir(&mnist).unwrap();
        std::fs::write(mnist.join("t10k-images-idx3-ubyte"), images).unwrap();
        let gz = std::fs::File::create(mnist.join("t10k-labels-idx1-ubyte.gz")).unwrap();
        let mut gz = flate2::write::GzEncoder::new(gz, flate2::Compression::fast());
        gz.write_all(labels).unwrap();
        gz.finish().unwrap();
        load_mnist(dir.path(), Split::Test).map_err(|e| e.to_string())
    }

    #[test]
    fn plain_and_packed_files_are_read() {
        let pixels: Vec<u8> = (0..2 * 784).map(|i| (i % 251) as u8).collect();
        let (p, l) = load(&idx(0x803, &[2, 28, 28], &pixels), &idx(0x801, &[2], &[3, 9])).unwrap();
        assert_eq!((p, l), (pixels, vec![3, 9]));
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
        let message = load_mnist(Path::new("nowhere"), Split::Train).unwrap_err().to_string();
        assert!(message.contains("qn-train fetch mnist"), "{message}");
    }
}
