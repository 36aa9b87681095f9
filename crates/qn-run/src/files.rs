use std::io::{self, Write as _};
use std::path::Path;

use atomic_write_file::AtomicWriteFile;
use serde::{Serialize, de::DeserializeOwned};

use crate::RunError;

/// Writes a file so that it is there whole or not at all: beside its place, synced, renamed.
///
/// # Errors
/// The folder cannot be made or written.
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), RunError> {
    replace(path, |file| file.write_all(bytes))
}

/// The same for what `write` puts into the file.
pub(crate) fn replace(
    path: &Path,
    write: impl FnOnce(&mut AtomicWriteFile) -> io::Result<()>,
) -> Result<(), RunError> {
    let all = || {
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir)?;
        }
        let mut file = AtomicWriteFile::open(path)?;
        write(&mut file)?;
        file.commit()
    };
    all().map_err(RunError::io(path))
}

pub(crate) fn write_toml(path: &Path, value: &impl Serialize) -> Result<(), RunError> {
    let text = toml::to_string(value).map_err(|e| RunError::invalid(path, e.to_string()))?;
    write_whole(path, text.as_bytes())
}

pub(crate) fn read_toml<T: DeserializeOwned>(path: &Path) -> Result<T, RunError> {
    let text = std::fs::read_to_string(path).map_err(RunError::io(path))?;
    toml::from_str(&text).map_err(|e| RunError::invalid(path, e.to_string().trim().to_owned()))
}

pub(crate) fn write_json(path: &Path, value: &impl Serialize) -> Result<(), RunError> {
    let mut text = serde_json::to_string_pretty(value).map_err(|e| RunError::invalid(path, e.to_string()))?;
    text.push('\n');
    write_whole(path, text.as_bytes())
}
