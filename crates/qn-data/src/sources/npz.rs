//! numpy's .npz: a zip archive of .npy files, stored (`numpy.savez`) or deflated (`savez_compressed`).
//!
//! A .npy file is `\x93NUMPY`, two bytes of version, the length of its header (two bytes, four from version 2 on), the
//! header (a Python dictionary as text: `descr`, `fortran_order`, `shape`), and the numbers.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use zip::ZipArchive;

use super::array::{ArrayFile, Dtype, Header};
use crate::DataError;

pub(crate) const NPY: &[u8] = b"\x93NUMPY";

/// No header of numbers is longer.
const MAX_HEADER: u64 = 1 << 16;

/// An archive whose directory has been read.
pub(crate) struct Npz {
    path: PathBuf,
    archive: ZipArchive<BufReader<File>>,
}

impl Npz {
    /// Reads the directory.
    pub(crate) fn open(path: &Path, file: File) -> Result<Self, DataError> {
        let archive = ZipArchive::new(BufReader::new(file)).map_err(|e| damaged(path, &e))?;
        Ok(Self { path: path.to_owned(), archive })
    }
}

fn damaged(path: &Path, error: &zip::result::ZipError) -> DataError {
    DataError::invalid(path, format!("its zip archive cannot be read ({error})"))
}

impl ArrayFile for Npz {
    fn names(&self) -> Vec<String> {
        let names =
            self.archive.file_names().filter_map(|name| Some(name.ok()?.strip_suffix(".npy")?.to_owned()));
        names.collect()
    }

    fn header(&mut self, name: &str) -> Result<Header, DataError> {
        let path = self.path.clone();
        let mut entry = self.archive.by_name(&format!("{name}.npy")).map_err(|e| damaged(&path, &e))?;
        let size = entry.size();
        let wrong = |reason: String| DataError::invalid(&path, format!("its array {name} {reason}"));
        let (header, start) = read_header(&mut entry).map_err(wrong)?;
        let promised = header.bytes().and_then(|bytes| bytes.checked_add(start));
        if promised != Some(size) {
            let promised = promised.map_or("more".to_owned(), |n| n.to_string());
            return Err(wrong(format!("has {size} bytes where its header promises {promised}")));
        }
        Ok(header)
    }

    fn open(&mut self, name: &str) -> Result<Box<dyn Read + '_>, DataError> {
        let path = self.path.clone();
        let mut entry = self.archive.by_name(&format!("{name}.npy")).map_err(|e| damaged(&path, &e))?;
        read_header(&mut entry)
            .map_err(|reason| DataError::invalid(&path, format!("its array {name} {reason}")))?;
        Ok(Box::new(entry))
    }
}

/// The header of a .npy file, and how many bytes it takes with all that is before the numbers.
fn read_header(reader: &mut dyn Read) -> Result<(Header, u64), String> {
    let early = |e: std::io::Error| format!("cannot be read ({e})");
    let mut start = [0; 8];
    reader.read_exact(&mut start).map_err(early)?;
    let (NPY, [major, _]) = (&start[..6], [start[6], start[7]]) else {
        return Err("does not begin as a .npy file".into());
    };
    let width = if major == 1 { 2 } else { 4 };
    let mut length = [0; 4];
    reader.read_exact(&mut length[..width]).map_err(early)?;
    let length = u64::from(u32::from_le_bytes(length));
    if length > MAX_HEADER {
        return Err(format!("has a header of {length} bytes, which no array of numbers has"));
    }
    let mut text = vec![0; length as usize];
    reader.read_exact(&mut text).map_err(early)?;
    Ok((parse(&String::from_utf8_lossy(&text))?, 8 + width as u64 + length))
}

/// `{'descr': '<f4', 'fortran_order': False, 'shape': (100, 20), }`
fn parse(text: &str) -> Result<Header, String> {
    let field = |key: &str| {
        let (_, rest) = text.split_once(&format!("'{key}':"))?;
        Some(rest.trim_start())
    };
    let unread = || format!("has a header that cannot be read: {}", text.trim());
    let descr = field("descr").ok_or_else(unread)?;
    let descr = descr.strip_prefix('\'').and_then(|rest| rest.split_once('\''));
    let (descr, _) = descr.ok_or("is a table with named columns: save each column as an array of numbers")?;
    let fortran = field("fortran_order").ok_or_else(unread)?.starts_with("True");
    let shape = field("shape").and_then(|rest| rest.strip_prefix('(')?.split_once(')')).ok_or_else(unread)?.0;
    let sides =
        shape.split(',').map(|side| side.trim().trim_end_matches('L')).filter(|side| !side.is_empty());
    let shape = sides.map(str::parse).collect::<Result<Vec<usize>, _>>().map_err(|_| unread())?;
    let dtype = match descr.trim_start_matches(['<', '>', '|', '=']) {
        "b1" => Dtype::Bool,
        "u1" => Dtype::U8,
        "i1" => Dtype::I8,
        "u2" => Dtype::U16,
        "i2" => Dtype::I16,
        "u4" => Dtype::U32,
        "i4" => Dtype::I32,
        "u8" => Dtype::U64,
        "i8" => Dtype::I64,
        "f2" => Dtype::F16,
        "f4" => Dtype::F32,
        "f8" => Dtype::F64,
        _ => {
            return Err(format!(
                "holds numpy's '{descr}': save integers, or floats of at most 64 bits (x.astype('float32'))"
            ));
        }
    };
    Ok(Header { dtype, big_endian: descr.starts_with('>'), fortran, shape })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::Values;

    /// tests/golden/make_data.py has written the numbers 0 to 5 in every type.
    #[test]
    fn every_type_of_numpy_is_read() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/data/dtypes.npz");
        let mut file = Npz::open(&path, File::open(&path).unwrap()).unwrap();
        let names = file.names();
        assert_eq!(names.len(), 19);
        for name in &names {
            let header = match file.header(name) {
                Ok(header) => header,
                Err(e) => {
                    assert!(["complex", "text"].contains(&name.as_str()), "{e}");
                    continue;
                }
            };
            let values = header.read(&mut *file.open(name).unwrap(), usize::MAX).unwrap();
            let values: Vec<f64> = (0..values.len()).map(|i| values.at(i)).collect();
            let expected: &[f64] = match name.as_str() {
                "scalar" => &[7.0],
                "bool" => &[0.0, 1.0, 0.0, 1.0, 0.0, 1.0],
                _ => &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0],
            };
            assert_eq!(values, expected, "{name}");
        }
        let header = file.header("u1").unwrap();
        let first = header.read(&mut *file.open("u1").unwrap(), 1).unwrap();
        assert_eq!(first, Values::Bytes(vec![0, 1, 2]));
    }

    #[test]
    fn headers_of_all_versions_are_read() {
        let text = "{'descr': '>i2', 'fortran_order': True, 'shape': (7, 3L), }\n";
        let expected = Header { dtype: Dtype::I16, big_endian: true, fortran: true, shape: vec![7, 3] };
        for version in [1, 2, 3] {
            let mut bytes = [NPY, &[version, 0]].concat();
            let length = (text.len() as u32).to_le_bytes();
            bytes.extend(if version == 1 { &length[..2] } else { &length[..] });
            bytes.extend(text.as_bytes());
            let (header, start) = read_header(&mut bytes.as_slice()).unwrap();
            assert_eq!((&header, start), (&expected, bytes.len() as u64));
            for cut in 0..bytes.len() {
                assert!(read_header(&mut &bytes[..cut]).is_err(), "{cut}");
            }
        }
    }

    #[test]
    fn other_arrays_are_named() {
        let message = |descr: &str| {
            parse(&format!("{{'descr': {descr}, 'fortran_order': False, 'shape': (), }}")).unwrap_err()
        };
        assert!(message("'|O'").contains("'|O'") && message("'<c8'").contains("astype"));
        assert!(message("[('a', '<f4')]").contains("named columns"));
        assert!(parse("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,), }").is_err());
        assert!(parse("{}").is_err());
        assert!(parse("{'descr': '<f4', 'fortran_order': False, 'shape': (), }").unwrap().shape.is_empty());
    }
}
