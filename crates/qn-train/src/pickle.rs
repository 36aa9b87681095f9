//! Parameters that PyTorch has pickled.

use std::panic::AssertUnwindSafe;
use std::path::Path;

use anyhow::{Context as _, Result, anyhow, bail};
use candle_core::pickle::PthTensors;
use candle_core::{DType, Device};
use qn_run::{Tensor, TensorFile};

/// Where a checkpoint of a larger program keeps its state_dict, after the file itself.
const KEYS: [Option<&str>; 4] = [None, Some("state_dict"), Some("model_state_dict"), Some("model")];

/// Reads a state_dict that `torch.save` has written (.pth, .pt), or one under `state_dict`, `model_state_dict` or
/// `model` of a dictionary. Nothing in the file is executed: tensors are all that is understood.
///
/// # Errors
/// The file cannot be read, or has no tensors.
pub fn read_pickle(path: &Path) -> Result<TensorFile> {
    let mut why = anyhow!("it holds no tensors");
    let size = std::fs::metadata(path).with_context(|| format!("cannot read {}", path.display()))?.len();
    for key in KEYS {
        match guarded(|| tensors(path, key, size)) {
            Ok(found) if !found.is_empty() => return converted(found),
            Ok(_) => {}
            Err(e) if key.is_none() => why = e,
            Err(_) => {}
        }
    }
    Err(why.context(format!(
        "{} is not a state_dict saved by PyTorch (1.6 or newer); `safetensors.torch.save_file` writes one that needs no pickle",
        path.display()
    )))
}

fn tensors(path: &Path, key: Option<&str>, size: u64) -> Result<Vec<(String, candle_core::Tensor)>> {
    let file = PthTensors::new(path, key)?;
    let mut found = Vec::new();
    for (name, info) in file.tensor_infos() {
        let dims = info.layout.shape().dims().iter().map(|&d| d as u64);
        let bytes = dims.chain([info.dtype.size_in_bytes() as u64]).try_fold(1u64, u64::checked_mul);
        if bytes.is_none_or(|bytes| bytes > size) {
            bail!("'{name}' claims to be larger than the file");
        }
        found.extend(file.get(name)?.map(|tensor| (name.clone(), tensor)));
    }
    Ok(found)
}

/// candle's reader takes some damaged files for impossible and panics: an error, said by us.
fn guarded<R>(read: impl FnOnce() -> Result<R>) -> Result<R> {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let result = std::panic::catch_unwind(AssertUnwindSafe(read));
    std::panic::set_hook(hook);
    result.unwrap_or_else(|_| Err(anyhow!("it is damaged")))
}

fn converted(found: Vec<(String, candle_core::Tensor)>) -> Result<TensorFile> {
    let mut file = TensorFile::default();
    for (name, tensor) in found {
        // A counter of batch normalisation, which nothing here depends on.
        if !tensor.dtype().is_float() {
            continue;
        }
        let flat = tensor.to_device(&Device::Cpu)?.flatten_all()?;
        let values = if tensor.dtype() == DType::F64 {
            Tensor::f64(tensor.dims(), &flat.to_vec1()?)
        } else {
            Tensor::f32(tensor.dims(), &flat.to_dtype(DType::F32)?.to_vec1()?)
        };
        file.tensors.insert(name, values);
    }
    Ok(file)
}
