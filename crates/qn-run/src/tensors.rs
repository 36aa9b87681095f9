//! safetensors files with one JSON string of metadata and a checksum.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use half::{bf16, f16};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use crate::{RunError, write_whole};

/// The single key under which our metadata is kept; with several, the crate's order is random.
const KEY: &str = "qn";

/// Numbers with a shape, row-major.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    shape: Vec<usize>,
    bytes: Vec<u8>,
    dtype: Dtype,
}

impl Tensor {
    /// Single precision.
    ///
    /// # Panics
    /// If the shape does not hold as many numbers as there are.
    pub fn f32(shape: &[usize], values: &[f32]) -> Self {
        assert_eq!(shape.iter().product::<usize>(), values.len());
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        Self { shape: shape.to_vec(), bytes, dtype: Dtype::F32 }
    }

    /// Double precision.
    ///
    /// # Panics
    /// If the shape does not hold as many numbers as there are.
    pub fn f64(shape: &[usize], values: &[f64]) -> Self {
        assert_eq!(shape.iter().product::<usize>(), values.len());
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        Self { shape: shape.to_vec(), bytes, dtype: Dtype::F64 }
    }

    /// Lengths of the dimensions.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Numbers that a file holds, row-major; `bytes` must be as many as shape and type say.
    pub(crate) fn from_bytes(shape: Vec<usize>, bytes: Vec<u8>, dtype: Dtype) -> Self {
        Self { shape, bytes, dtype }
    }

    /// Whether the numbers have a fraction and can be read: f64, f32, f16 or bf16.
    pub fn is_float(&self) -> bool {
        matches!(self.dtype, Dtype::F64 | Dtype::F32 | Dtype::F16 | Dtype::BF16)
    }

    /// The numbers in double precision; `None` if they are not f64, f32, f16 or bf16.
    pub fn to_f64(&self) -> Option<Vec<f64>> {
        let halves = || self.bytes.as_chunks().0.iter();
        match self.dtype {
            Dtype::F32 => {
                Some(self.bytes.as_chunks().0.iter().map(|b| f64::from(f32::from_le_bytes(*b))).collect())
            }
            Dtype::F64 => Some(self.bytes.as_chunks().0.iter().map(|b| f64::from_le_bytes(*b)).collect()),
            Dtype::F16 => Some(halves().map(|b| f16::from_le_bytes(*b).to_f64()).collect()),
            Dtype::BF16 => Some(halves().map(|b| bf16::from_le_bytes(*b).to_f64()).collect()),
            _ => None,
        }
    }

    /// The numbers in single precision, rounded where they are doubles; `None` where there are no doubles either.
    pub fn to_f32(&self) -> Option<Vec<f32>> {
        match self.dtype {
            Dtype::F32 => Some(self.bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect()),
            _ => Some(self.to_f64()?.into_iter().map(|v| v as f32).collect()),
        }
    }
}

/// Tensors by name, with metadata.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TensorFile {
    /// Tensors by name.
    pub tensors: BTreeMap<String, Tensor>,
    /// Our metadata; null in a file that another program wrote.
    pub meta: Value,
}

/// What is under the key. The metadata is kept as its text, which the checksum covers: a number need
/// not print as it was read.
#[derive(Serialize, Deserialize)]
struct Envelope {
    meta: Box<RawValue>,
    sha256: String,
}

impl TensorFile {
    /// Writes the file whole.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), RunError> {
        let json = serde_json::value::to_raw_value(&self.meta)
            .and_then(|meta| {
                let sha256 = self.checksum(meta.get());
                serde_json::to_string(&Envelope { meta, sha256 })
            })
            .map_err(|e| RunError::invalid(path, e.to_string()))?;
        let mut views = Vec::new();
        for (name, t) in &self.tensors {
            let view = TensorView::new(t.dtype, t.shape.clone(), &t.bytes)
                .map_err(|e| RunError::invalid(path, e.to_string()))?;
            views.push((name.as_str(), view));
        }
        let bytes = safetensors::serialize(views, Some(HashMap::from([(KEY.to_owned(), json)])))
            .map_err(|e| RunError::invalid(path, e.to_string()))?;
        write_whole(path, &bytes)
    }

    /// Reads a file of ours, or one that another program wrote.
    ///
    /// # Errors
    /// It cannot be read, is not a safetensors file, or its checksum is wrong.
    pub fn read(path: &Path) -> Result<Self, RunError> {
        let bytes = std::fs::read(path).map_err(RunError::io(path))?;
        let damaged = |reason: String| RunError::invalid(path, reason);
        let (_, header) = SafeTensors::read_metadata(&bytes)
            .map_err(|e| damaged(format!("not a safetensors file ({e})")))?;
        let parsed =
            SafeTensors::deserialize(&bytes).map_err(|e| damaged(format!("not a safetensors file ({e})")))?;
        let mut file = Self::default();
        for (name, view) in parsed.iter() {
            let tensor =
                Tensor { shape: view.shape().to_vec(), bytes: view.data().to_vec(), dtype: view.dtype() };
            file.tensors.insert(name.to_owned(), tensor);
        }
        if let Some(json) = header.metadata().as_ref().and_then(|m| m.get(KEY)) {
            let envelope: Envelope =
                serde_json::from_str(json).map_err(|e| damaged(format!("its metadata is damaged ({e})")))?;
            file.meta = serde_json::from_str(envelope.meta.get())
                .map_err(|e| damaged(format!("its metadata is damaged ({e})")))?;
            if file.checksum(envelope.meta.get()) != envelope.sha256 {
                return Err(damaged("its checksum is wrong, so it was damaged after it was written".into()));
            }
        }
        Ok(file)
    }

    /// The metadata of a file of ours, from its header alone and without its checksum; `None` for any other file.
    pub fn meta_of(path: &Path) -> Option<Value> {
        use std::io::Read as _;
        let mut file = std::fs::File::open(path).ok()?;
        let mut length = [0; 8];
        file.read_exact(&mut length).ok()?;
        let mut header = Vec::new();
        // No header of ours is longer than some kilobytes.
        file.take(u64::from_le_bytes(length).min(1 << 24)).read_to_end(&mut header).ok()?;
        let header: Value = serde_json::from_slice(&header).ok()?;
        let envelope: Envelope = serde_json::from_str(header["__metadata__"][KEY].as_str()?).ok()?;
        serde_json::from_str(envelope.meta.get()).ok()
    }

    /// The `kind` in [`Self::meta_of`] a file.
    pub fn kind_of(path: &Path) -> Option<String> {
        Some(Self::meta_of(path)?.get("kind")?.as_str()?.to_owned())
    }

    /// A tensor of this shape whose numbers have a fraction.
    ///
    /// # Errors
    /// It is missing or of another shape or kind.
    pub fn get(&self, path: &Path, name: &str, shape: &[usize]) -> Result<&Tensor, RunError> {
        let tensor = self
            .tensors
            .get(name)
            .ok_or_else(|| RunError::invalid(path, format!("it has no tensor '{name}'")))?;
        if tensor.shape != shape {
            let reason = format!("'{name}' has shape {:?}, expected {shape:?}", tensor.shape);
            return Err(RunError::invalid(path, reason));
        }
        if !tensor.is_float() {
            let reason = format!("'{name}' is of {}, not of F64, F32, F16 or BF16", tensor.dtype);
            return Err(RunError::invalid(path, reason));
        }
        Ok(tensor)
    }

    /// The JSON number or string under `key` of the metadata.
    pub(crate) fn meta_field<T: serde::de::DeserializeOwned>(
        &self,
        path: &Path,
        key: &str,
    ) -> Result<T, RunError> {
        self.meta
            .get(key)
            .and_then(|v| serde_json::from_value(v.clone()).ok())
            .ok_or_else(|| RunError::invalid(path, format!("its metadata has no usable '{key}'")))
    }

    /// SHA-256 over the metadata's text and every tensor's name, type, shape and bytes.
    fn checksum(&self, meta: &str) -> String {
        let mut hasher = Sha256::new();
        hasher.update(meta);
        for (name, t) in &self.tensors {
            hasher.update(format!("\n{name} {:?} {:?}\n", t.dtype, t.shape));
            hasher.update(&t.bytes);
        }
        hasher.finalize().iter().map(|b| format!("{b:02x}")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> TensorFile {
        let tensors = BTreeMap::from([
            ("a".to_owned(), Tensor::f64(&[2, 2], &[1.0, -2.5, 0.1, f64::MIN_POSITIVE])),
            ("b".to_owned(), Tensor::f32(&[3], &[1.0, 2.0, 3.5])),
        ]);
        TensorFile { tensors, meta: serde_json::json!({"step": 7, "layout_hash": "abc"}) }
    }

    #[test]
    fn what_is_written_is_read_and_bytes_repeat() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sub/x.safetensors");
        example().write(&path).unwrap();
        assert_eq!(TensorFile::read(&path).unwrap(), example());
        let first = std::fs::read(&path).unwrap();
        example().write(&path).unwrap();
        assert_eq!(first, std::fs::read(&path).unwrap());
    }

    #[test]
    fn any_number_may_be_metadata() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.safetensors");
        // Seconds of a run: digits that a careless parser rounds in the last place.
        for i in 0..300 {
            let seconds = (f64::from(i) + 0.5).sqrt() * 1.234_567_890_123;
            let file = TensorFile { meta: serde_json::json!({ "seconds": seconds }), ..example() };
            file.write(&path).unwrap();
            assert_eq!(TensorFile::read(&path).unwrap().meta["seconds"].as_f64(), Some(seconds));
        }
    }

    #[test]
    fn every_flipped_bit_is_noticed_or_harmless() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.safetensors");
        example().write(&path).unwrap();
        let good = std::fs::read(&path).unwrap();
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            std::fs::write(&path, &bad).unwrap();
            if let Ok(file) = TensorFile::read(&path) {
                // Our metadata key itself was hit, so the file reads as another program's; whoever
                // needs the metadata then refuses it.
                assert!(file == example() || file.meta.is_null(), "bit {bit}");
            }
        }
    }
}
