use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use atomic_write_file::AtomicWriteFile;
use serde::{Serialize, de::DeserializeOwned};

use crate::RunError;

/// Writes a file so that it is there whole or not at all: beside its place, synced, renamed. A symbolic link stays one:
/// the file is written where it leads. What is no file (a device, a pipe) is written to.
///
/// # Errors
/// The folder cannot be made or written.
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), RunError> {
    replace(path, |file| file.write_all(bytes))
}

/// Replaces a file by what `write` puts into it, as [`write_whole`] does.
pub(crate) fn replace(
    path: &Path,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<(), RunError> {
    let all = || {
        if std::fs::metadata(path).is_ok_and(|m| !m.is_file() && !m.is_dir()) {
            return write(&mut OpenOptions::new().write(true).open(path)?);
        }
        let path = link_target(path)?;
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir)?;
        }
        let mut file = AtomicWriteFile::open(&path)?;
        write(&mut file)?;
        file.commit()
    };
    all().map_err(RunError::io(path))
}

/// Where a path leads when the symbolic links at its end are followed, also if nothing is there.
///
/// # Errors
/// The links lead in a circle.
pub(crate) fn link_target(path: &Path) -> io::Result<PathBuf> {
    let mut path = path.to_owned();
    // As many as Linux follows.
    for _ in 0..40 {
        let Ok(target) = std::fs::read_link(&path) else { return Ok(path) };
        path = path.parent().unwrap_or(Path::new("")).join(target);
    }
    Err(io::Error::other("too many symbolic links"))
}

/// Removes what [`replace`] has left in a folder when its process was killed, on file systems on which a file must have a
/// name before it is whole: `.NAME.` and six letters or digits, for every NAME that `ours` accepts. Nobody may be
/// writing there.
pub(crate) fn remove_stale(folder: &Path, ours: impl Fn(&str) -> bool) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let parts = name.to_str().and_then(|n| n.strip_prefix('.')?.rsplit_once('.'));
        let stale = parts.is_some_and(|(name, suffix)| {
            suffix.len() == 6 && suffix.bytes().all(|b| b.is_ascii_alphanumeric()) && ours(name)
        });
        if stale && entry.file_type().is_ok_and(|t| t.is_file()) {
            // It takes space and nothing else; not worth failing for.
            let _ = std::fs::remove_file(entry.path());
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn links_are_written_through() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::create_dir(at("disk")).unwrap();
        // To a file that is there, and to one that is not yet; one link leads to the other.
        std::fs::write(at("disk/there"), "old").unwrap();
        for (name, target) in [("a", "disk/there"), ("b", "disk/new"), ("c", "b")] {
            std::os::unix::fs::symlink(target, at(name)).unwrap();
            write_whole(&at(name), name.as_bytes()).unwrap();
            assert!(at(name).is_symlink());
        }
        assert_eq!(std::fs::read_to_string(at("disk/there")).unwrap(), "a");
        assert_eq!(std::fs::read_to_string(at("disk/new")).unwrap(), "c");
        std::os::unix::fs::symlink("circle", at("circle")).unwrap();
        let message = write_whole(&at("circle"), b"").unwrap_err().to_string();
        assert!(message.contains("circle: too many symbolic links"), "{message}");
        write_whole(Path::new("/dev/null"), b"nothing").unwrap();
        assert!(!std::fs::metadata("/dev/null").unwrap().is_file());
    }
}
