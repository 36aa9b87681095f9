//! safetensors: the length of a header, the header (JSON: each tensor's `dtype`, `shape` and `data_offsets`), the numbers.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use super::array::{ArrayFile, Dtype, Header};
use crate::DataError;

/// The format's own limit.
const MAX_HEADER: u64 = 100_000_000;

/// A file whose header has been read.
pub(crate) struct SafeTensors {
    path: PathBuf,
    file: File,
    /// Where the numbers begin, and how many bytes there are behind.
    start: u64,
    len: u64,
    tensors: BTreeMap<String, Value>,
}

#[derive(Deserialize)]
struct Tensor {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: [u64; 2],
}

impl SafeTensors {
    /// Reads the header.
    pub(crate) fn open(path: &Path, mut file: File) -> Result<Self, DataError> {
        let io = DataError::io;
        let invalid = |why: String| DataError::invalid(path, format!("it is not a safetensors file: {why}"));
        let all = file.metadata().map_err(io(path))?.len();
        let mut length = [0; 8];
        file.read_exact(&mut length).map_err(|_| invalid(format!("it has {all} bytes")))?;
        let length = u64::from_le_bytes(length);
        let start = length.checked_add(8).filter(|start| *start <= all && length <= MAX_HEADER);
        let start = start.ok_or_else(|| invalid(format!("its header would have {length} bytes")))?;
        let mut text = vec![0; length as usize];
        file.read_exact(&mut text).map_err(io(path))?;
        let mut tensors: BTreeMap<String, Value> =
            serde_json::from_slice(&text).map_err(|e| invalid(format!("its header is no JSON ({e})")))?;
        tensors.remove("__metadata__");
        Ok(Self { path: path.to_owned(), file, start, len: all - start, tensors })
    }

    fn tensor(&self, name: &str) -> Result<Tensor, DataError> {
        let value = self.tensors.get(name).cloned().unwrap_or_default();
        Tensor::deserialize(value)
            .map_err(|e| self.wrong(name, format!("has a header that cannot be read ({e})")))
    }

    fn wrong(&self, name: &str, reason: String) -> DataError {
        DataError::invalid(&self.path, format!("its array {name} {reason}"))
    }
}

impl ArrayFile for SafeTensors {
    fn names(&self) -> Vec<String> {
        self.tensors.keys().cloned().collect()
    }

    fn header(&mut self, name: &str) -> Result<Header, DataError> {
        let Tensor { dtype, shape, data_offsets: [from, to] } = self.tensor(name)?;
        let dtype = match dtype.as_str() {
            "BOOL" => Dtype::Bool,
            "U8" => Dtype::U8,
            "I8" => Dtype::I8,
            "U16" => Dtype::U16,
            "I16" => Dtype::I16,
            "U32" => Dtype::U32,
            "I32" => Dtype::I32,
            "U64" => Dtype::U64,
            "I64" => Dtype::I64,
            "F16" => Dtype::F16,
            "BF16" => Dtype::Bf16,
            "F32" => Dtype::F32,
            "F64" => Dtype::F64,
            _ => {
                let reason = format!("holds {dtype}: save integers, or floats of 16 to 64 bits (x.float())");
                return Err(self.wrong(name, reason));
            }
        };
        let header = Header { dtype, big_endian: false, fortran: false, shape };
        let there = to.checked_sub(from).filter(|_| to <= self.len);
        if there.is_none() || there != header.bytes() {
            let (shape, len) = (&header.shape, self.len);
            let reason =
                format!("of shape {shape:?} lies at bytes {from} to {to} of {len}, which does not fit");
            return Err(self.wrong(name, reason));
        }
        Ok(header)
    }

    fn open(&mut self, name: &str) -> Result<Box<dyn Read + '_>, DataError> {
        let [from, _] = self.tensor(name)?.data_offsets;
        let at = self.start.saturating_add(from);
        self.file.seek(SeekFrom::Start(at)).map_err(DataError::io(&self.path))?;
        Ok(Box::new(BufReader::with_capacity(1 << 18, &self.file)))
    }
}
