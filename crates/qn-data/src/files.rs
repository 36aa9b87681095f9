//! Files of a data set, wherever they lie: in a folder and those below it, or in a .tar, .tar.gz or .zip archive, each
//! perhaps packed by itself. What is packed, and how, is told by a file's first bytes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{Cursor, Read, Seek as _};
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;
use zip::ZipArchive;

use crate::DataError;

/// No file of the supported sets is larger; nothing larger is read into memory, and a header that
/// claims more is refused unread. CIFAR-100's training split is the largest, 155 MB.
pub(crate) const MAX_BYTES: u64 = 192 << 20;

/// How many folders deep files are looked for: `MNIST/raw` and `cifar-10-batches-bin` lie within two.
const DEPTH: usize = 2;

/// The name that a file has in a data set, for the name that it was found by, or none if it is no part of it.
pub(crate) type Naming = fn(&str) -> Option<String>;

/// What was found of a data set.
#[derive(Debug, Default)]
pub(crate) struct Collected {
    /// Unpacked, by their names in the data set.
    pub(crate) files: BTreeMap<String, Vec<u8>>,
    /// Everything that was come upon, by the names found.
    names: BTreeSet<String>,
}

impl Collected {
    /// That a file of the data set is not there, and what is instead.
    pub(crate) fn lacks(&self, source: &Path, what: &str) -> DataError {
        DataError::invalid(source, format!("it has no {what}{}", instead(&self.names)))
    }

    fn add(&mut self, path: &Path, name: String, naming: Naming, reader: impl Read) -> Result<(), DataError> {
        if let Some(proper) = naming(&name) {
            self.files.insert(proper, unpacked(path, bounded(path, reader)?)?);
        }
        self.names.insert(name);
        Ok(())
    }
}

/// Reads the files of a data set from a folder or an archive. Links and folders in archives are passed over, and no path
/// of an archive is ever written to.
pub(crate) fn collect(path: &Path, naming: Naming) -> Result<Collected, DataError> {
    let mut found = Collected::default();
    if path.is_dir() {
        for file in files_below(path)? {
            let reader = File::open(&file).map_err(DataError::io(&file))?;
            found.add(&file, last_name(&file), naming, reader)?;
        }
        return Ok(found);
    }
    let mut file = File::open(path).map_err(DataError::io(path))?;
    let start = bounded(path, (&file).take(512))?;
    file.rewind().map_err(DataError::io(path))?;
    if start.starts_with(GZIP) {
        collect_tar(path, MultiGzDecoder::new(file), naming, &mut found)?;
    } else if start.starts_with(ZIP) {
        collect_zip(path, file, naming, &mut found)?;
    } else if start.get(257..262) == Some(b"ustar") || last_name(path).ends_with(".tar") {
        collect_tar(path, file, naming, &mut found)?;
    } else {
        return Err(DataError::invalid(
            path,
            "it is neither a folder nor a .tar, .tar.gz, .tgz or .zip archive",
        ));
    }
    Ok(found)
}

/// The file of a data set in the first of some folders that has it (or a folder below), one that is not packed if there
/// is a choice.
pub(crate) fn find(folders: &[PathBuf], name: &str, naming: Naming) -> Result<Option<PathBuf>, DataError> {
    for folder in folders.iter().filter(|folder| folder.is_dir()) {
        let mut files = files_below(folder)?;
        files.retain(|file| naming(&last_name(file)).as_deref() == Some(name));
        files.sort_by_key(|file| packing(&last_name(file)).is_some());
        if let Some(file) = files.into_iter().next() {
            return Ok(Some(file));
        }
    }
    Ok(None)
}

/// What lies in some folders where a file was looked for and not found, in words that go on from the error.
pub(crate) fn found_instead(folders: &[PathBuf]) -> String {
    let files = folders.iter().filter_map(|folder| files_below(folder).ok()).flatten();
    instead(&files.map(|file| last_name(&file)).collect())
}

/// Reads a file, unpacked if it is packed.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, DataError> {
    unpacked(path, bounded(path, File::open(path).map_err(DataError::io(path))?)?)
}

/// Whether a file is packed, by its first bytes.
pub(crate) fn is_packed(path: &Path) -> Result<bool, DataError> {
    let file = File::open(path).map_err(DataError::io(path))?;
    let start = bounded(path, file.take(4))?;
    Ok(start.starts_with(GZIP) || start.starts_with(ZIP))
}

/// A name without what says that the file is packed.
pub(crate) fn without_packing(name: &str) -> &str {
    packing(name).unwrap_or(name)
}

const GZIP: &[u8] = b"\x1f\x8b";
const ZIP: &[u8] = b"PK\x03\x04";

fn packing(name: &str) -> Option<&str> {
    name.strip_suffix(".gz").or_else(|| name.strip_suffix(".zip"))
}

/// Those data sets that are often taken for ours, and archives that are still to be unpacked.
fn instead(names: &BTreeSet<String>) -> String {
    let has = |name: &str| names.contains(name);
    let archive = |name: &&String| [".tar", ".tar.gz", ".tgz", ".zip"].iter().any(|end| name.ends_with(end));
    if has("data_batch_1") || has("test_batch") {
        "; what there is is CIFAR-10 as Python pickles (cifar-10-python.tar.gz): fetch takes its binary version, \
         cifar-10-binary.tar.gz; the pickles are read where they lie in the data directory's cifar-10-batches-py"
            .into()
    } else if has("fine_label_names.txt") || (has("train") && has("test") && has("meta")) {
        "; what there is is CIFAR-100: give --data cifar100".into()
    } else if let Some(archive) = names.iter().find(archive) {
        format!("; there is {archive}, which `qn-train fetch` takes with --from")
    } else if names.is_empty() {
        String::new()
    } else {
        let some: Vec<&str> = names.iter().take(6).map(String::as_str).collect();
        let more = if names.len() > some.len() { ", ..." } else { "" };
        format!("; what there is: {}{more}", some.join(", "))
    }
}

/// The files in a folder and those below it, in the order of their names.
fn files_below(dir: &Path) -> Result<Vec<PathBuf>, DataError> {
    let (mut files, mut folders) = (Vec::new(), vec![(dir.to_owned(), DEPTH)]);
    while let Some((dir, depth)) = folders.pop() {
        for entry in std::fs::read_dir(&dir).map_err(DataError::io(&dir))? {
            let path = entry.map_err(DataError::io(&dir))?.path();
            if path.is_file() {
                files.push(path);
            } else if path.is_dir() && depth > 0 {
                folders.push((path, depth - 1));
            }
        }
    }
    files.sort();
    Ok(files)
}

fn collect_tar(
    path: &Path,
    reader: impl Read,
    naming: Naming,
    found: &mut Collected,
) -> Result<(), DataError> {
    let mut archive = tar::Archive::new(reader);
    for entry in archive.entries().map_err(DataError::io(path))? {
        let mut entry = entry.map_err(DataError::io(path))?;
        let name = last_name(&entry.path().map_err(DataError::io(path))?);
        if entry.header().entry_type().is_file() {
            if naming(&name).is_some() && entry.size() > MAX_BYTES {
                let reason = format!("its entry {name} claims {} bytes", entry.size());
                return Err(DataError::invalid(path, reason));
            }
            found.add(path, name, naming, &mut entry)?;
        }
    }
    Ok(())
}

fn collect_zip(path: &Path, file: File, naming: Naming, found: &mut Collected) -> Result<(), DataError> {
    let damaged =
        |e: zip::result::ZipError| DataError::invalid(path, format!("its zip archive is damaged ({e})"));
    let mut archive = ZipArchive::new(file).map_err(damaged)?;
    for i in 0..archive.len() {
        let entry = archive.by_index(i).map_err(damaged)?;
        if entry.is_file() {
            let name = last_name(Path::new(entry.name().map_err(damaged)?.as_ref()));
            found.add(path, name, naming, entry)?;
        }
    }
    Ok(())
}

/// What is in a gzip file (all of its members) or in a zip archive of one file; other bytes as they are.
fn unpacked(path: &Path, bytes: Vec<u8>) -> Result<Vec<u8>, DataError> {
    if bytes.starts_with(GZIP) {
        return bounded(path, MultiGzDecoder::new(bytes.as_slice()));
    }
    if !bytes.starts_with(ZIP) {
        return Ok(bytes);
    }
    let damaged =
        |e: zip::result::ZipError| DataError::invalid(path, format!("its zip archive is damaged ({e})"));
    let mut archive = ZipArchive::new(Cursor::new(bytes)).map_err(damaged)?;
    if archive.len() != 1 {
        let reason = format!("it is a zip archive of {} entries where one is expected", archive.len());
        return Err(DataError::invalid(path, reason));
    }
    bounded(path, archive.by_index(0).map_err(damaged)?)
}

fn bounded(path: &Path, reader: impl Read) -> Result<Vec<u8>, DataError> {
    let mut bytes = Vec::new();
    reader.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(DataError::io(path))?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(DataError::invalid(path, format!("it holds more than {MAX_BYTES} bytes")));
    }
    Ok(bytes)
}

fn last_name(path: &Path) -> String {
    path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::write::GzEncoder;
    use zip::ZipWriter;
    use zip::write::SimpleFileOptions;

    use super::*;
    use crate::{DataName, Dataset, Split, fetch};

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn zip(entries: &[(&str, &[u8])]) -> Vec<u8> {
        let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
        let packed = SimpleFileOptions::default().compression_method(zip::CompressionMethod::Deflated);
        for (name, bytes) in entries {
            writer.start_file(*name, packed).unwrap();
            writer.write_all(bytes).unwrap();
        }
        writer.finish().unwrap().into_inner()
    }

    const IMAGES: &str = "t10k-images-idx3-ubyte";
    const LABELS: &str = "t10k-labels-idx1-ubyte";

    fn idx() -> (Vec<u8>, Vec<u8>) {
        let images = [&[0, 0, 8, 3, 0, 0, 0, 3, 0, 0, 0, 28, 0, 0, 0, 28][..], &[5; 3 * 784]].concat();
        (images, vec![0, 0, 8, 1, 0, 0, 0, 3, 4, 5, 6])
    }

    /// The labels read from these two files of MNIST.
    fn labels(images: (&str, Vec<u8>), labels: (&str, Vec<u8>)) -> Result<Vec<u8>, String> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("mnist")).unwrap();
        for (name, bytes) in [images, labels] {
            std::fs::write(dir.path().join("mnist").join(name), bytes).unwrap();
        }
        let set =
            Dataset::load(&DataName::Mnist, Split::Test, dir.path(), None).map_err(|e| e.to_string())?;
        Ok(set.labels().unwrap().iter().map(|&l| l as u8).collect())
    }

    #[test]
    fn every_member_of_a_gzip_file_is_read() {
        let (images, numbers) = idx();
        let members = [gzip(&images[..900]), gzip(&images[900..])].concat();
        let found = labels(("t10k-images-idx3-ubyte.gz", members.clone()), (LABELS, numbers.clone()));
        assert_eq!(found.unwrap(), [4, 5, 6]);
        let cut = members[..members.len() - 9].to_vec();
        assert!(labels(("t10k-images-idx3-ubyte.gz", cut), (LABELS, numbers)).is_err());
    }

    #[test]
    fn packing_is_told_by_the_first_bytes() {
        let (images, numbers) = idx();
        let plain_under_gz = (format!("{IMAGES}.gz"), images.clone());
        let found = labels((&plain_under_gz.0, plain_under_gz.1), (LABELS, gzip(&numbers)));
        assert_eq!(found.unwrap(), [4, 5, 6]);
        let zipped = zip(&[("whatever", &images)]);
        let found = labels(("t10k-images.idx3-ubyte.zip", zipped), (LABELS, numbers.clone()));
        assert_eq!(found.unwrap(), [4, 5, 6]);
        let two = zip(&[("a", &images), ("b", &images)]);
        let message = labels(("t10k-images.idx3-ubyte.zip", two), (LABELS, numbers)).unwrap_err();
        assert!(message.contains("2 entries"), "{message}");
    }

    #[test]
    fn an_archive_that_unpacks_to_too_much_is_refused() {
        let bomb = vec![0; MAX_BYTES as usize + 1];
        let (_, numbers) = idx();
        for packed in [gzip(&bomb), zip(&[("x", &bomb)])] {
            let message = labels((IMAGES, packed), (LABELS, numbers.clone())).unwrap_err();
            assert!(message.contains("more than"), "{message}");
        }
    }

    #[test]
    fn fetch_reads_zip_archives_and_names_other_sets() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("archive");
        let tried = |name: DataName, entries: &[(&str, &[u8])]| {
            std::fs::write(&path, zip(entries)).unwrap();
            fetch(&name, &dir.path().join("data"), Some(&path)).unwrap_err().to_string()
        };
        let message = tried(DataName::Mnist, &[("MNIST/train-images.idx3-ubyte", b"wrong")]);
        assert!(message.contains("train-images-idx3-ubyte has digest"), "{message}");
        let message = tried(DataName::Cifar10, &[("cifar-10-batches-py/data_batch_1", b"\x80\x02}.")]);
        assert!(
            message.contains("Python pickles") && message.contains("cifar-10-binary.tar.gz"),
            "{message}"
        );
        let message =
            tried(DataName::Cifar10, &[("cifar-100-python/train", b""), ("meta", b""), ("test", b"")]);
        assert!(message.contains("CIFAR-100"), "{message}");
    }
}
