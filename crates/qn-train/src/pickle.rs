//! Parameters that PyTorch has pickled.

use std::path::Path;

use anyhow::{Result, anyhow};
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
    for key in KEYS {
        match candle_core::pickle::read_all_with_key(path, key) {
            Ok(found) if !found.is_empty() => return converted(found),
            Ok(_) => {}
            Err(e) if key.is_none() => why = e.into(),
            Err(_) => {}
        }
    }
    Err(why.context(format!(
        "{} is not a state_dict saved by PyTorch (1.6 or newer); `safetensors.torch.save_file` writes one that needs no pickle",
        path.display()
    )))
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
