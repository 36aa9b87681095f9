//! Files that are too large to be held in memory beside what is in them.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::Path;

use sha2::{Digest as _, Sha256};

use crate::RunError;
use crate::files::replace;

/// Bytes between the disk and a stream.
const BUFFER: usize = 1 << 20;

struct Hashing<S> {
    inner: S,
    hash: Sha256,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.inner.write(bytes)?;
        self.hash.update(&bytes[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(bytes)?;
        self.hash.update(&bytes[..n]);
        Ok(n)
    }
}

/// Writes a file with its SHA-256 at the end; it is there whole or not at all.
///
/// # Errors
/// The folder cannot be made or written.
pub fn write_stream(
    path: &Path,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<(), RunError> {
    replace(path, |file| {
        let mut hashing = Hashing { inner: BufWriter::with_capacity(BUFFER, file), hash: Sha256::new() };
        write(&mut hashing)?;
        let Hashing { mut inner, hash } = hashing;
        inner.write_all(&hash.finalize())?;
        inner.flush()
    })
}

/// Reads what [`write_stream`] has written, and gives it only when its SHA-256 is right.
///
/// # Errors
/// The file cannot be read, or is damaged.
pub fn read_stream<R>(path: &Path, read: impl FnOnce(&mut dyn Read) -> io::Result<R>) -> Result<R, RunError> {
    let all = || {
        let mut hashing =
            Hashing { inner: BufReader::with_capacity(BUFFER, File::open(path)?), hash: Sha256::new() };
        let found = read(&mut hashing)?;
        let Hashing { mut inner, hash } = hashing;
        let mut digest = Vec::new();
        inner.by_ref().take(33).read_to_end(&mut digest)?;
        if digest != hash.finalize()[..] {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "its checksum is wrong"));
        }
        Ok(found)
    };
    all().map_err(RunError::io(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_flipped_bit_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b");
        write_stream(&path, |w| w.write_all(b"some numbers")).unwrap();
        let whole = |r: &mut dyn Read| {
            let mut found = [0; 12];
            r.read_exact(&mut found).map(|()| found)
        };
        assert_eq!(&read_stream(&path, whole).unwrap(), b"some numbers");
        let bytes = std::fs::read(&path).unwrap();
        for bit in 0..8 * bytes.len() {
            let mut bytes = bytes.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            std::fs::write(&path, bytes).unwrap();
            assert!(read_stream(&path, whole).is_err(), "bit {bit}");
        }
        for wrong in [&bytes[..bytes.len() - 1], &[&bytes[..], &[0]].concat()] {
            std::fs::write(&path, wrong).unwrap();
            assert!(read_stream(&path, whole).is_err());
        }
    }
}
