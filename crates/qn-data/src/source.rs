//! Files from a folder or from a .tar, .tar.gz or .tgz archive, by their last name.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use flate2::read::GzDecoder;

use crate::DataError;

/// No file of the supported sets is larger; nothing larger is read into memory, and a header that
/// claims more is refused unread.
pub(crate) const MAX_BYTES: u64 = 64 << 20;

/// Reads every regular file whose last name `wanted` accepts. Links and folders in archives are
/// passed over and no path of an archive is ever written to.
pub(crate) fn collect(path: &Path, wanted: fn(&str) -> bool) -> Result<BTreeMap<String, Vec<u8>>, DataError> {
    let mut found = BTreeMap::new();
    if path.is_dir() {
        collect_folder(path, wanted, &mut found, 2)?;
        return Ok(found);
    }
    let file = File::open(path).map_err(DataError::io(path))?;
    let name = last_name(path);
    if name.ends_with(".tar.gz") || name.ends_with(".tgz") {
        collect_tar(path, GzDecoder::new(file), wanted, &mut found)?;
    } else if name.ends_with(".tar") {
        collect_tar(path, file, wanted, &mut found)?;
    } else {
        return Err(DataError::invalid(path, "it is neither a folder nor a .tar, .tar.gz or .tgz archive"));
    }
    Ok(found)
}

fn collect_folder(
    dir: &Path,
    wanted: fn(&str) -> bool,
    found: &mut BTreeMap<String, Vec<u8>>,
    depth: usize,
) -> Result<(), DataError> {
    for entry in std::fs::read_dir(dir).map_err(DataError::io(dir))? {
        let path = entry.map_err(DataError::io(dir))?.path();
        let name = last_name(&path);
        if path.is_dir() && depth > 0 {
            collect_folder(&path, wanted, found, depth - 1)?;
        } else if path.is_file() && wanted(&name) {
            let file = File::open(&path).map_err(DataError::io(&path))?;
            found.insert(name, bounded(&path, file)?);
        }
    }
    Ok(())
}

fn collect_tar(
    path: &Path,
    reader: impl Read,
    wanted: fn(&str) -> bool,
    found: &mut BTreeMap<String, Vec<u8>>,
) -> Result<(), DataError> {
    let mut archive = tar::Archive::new(reader);
    for entry in archive.entries().map_err(DataError::io(path))? {
        let mut entry = entry.map_err(DataError::io(path))?;
        let name = last_name(&entry.path().map_err(DataError::io(path))?);
        if entry.header().entry_type().is_file() && wanted(&name) {
            if entry.size() > MAX_BYTES {
                let reason = format!("its entry {name} claims {} bytes", entry.size());
                return Err(DataError::invalid(path, reason));
            }
            found.insert(name, bounded(path, &mut entry)?);
        }
    }
    Ok(())
}

fn bounded(path: &Path, reader: impl Read) -> Result<Vec<u8>, DataError> {
    let mut bytes = Vec::new();
    reader.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(DataError::io(path))?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(DataError::invalid(path, format!("it holds a file of more than {MAX_BYTES} bytes")));
    }
    Ok(bytes)
}

fn last_name(path: &Path) -> String {
    path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default()
}
