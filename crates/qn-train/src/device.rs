use anyhow::Result;
use candle_core::Device;

use crate::TrainError;

/// `cpu` or `cuda:N`. Asking for a CUDA device that is not there is an error, never the CPU.
///
/// # Errors
/// The name is neither, or the device is not there.
pub fn parse_device(name: &str) -> Result<Device> {
    if name == "cpu" {
        return Ok(Device::Cpu);
    }
    let Some(index) = name.strip_prefix("cuda:").and_then(|n| n.parse().ok()) else {
        return refuse(format!("`device` {name}: give cpu or cuda:N"));
    };
    if !cfg!(feature = "cuda") {
        return refuse(format!(
            "`device` {name}: this build has no CUDA support; build with the feature cuda, or use `device` cpu"
        ));
    }
    match Device::new_cuda(index) {
        Ok(device) => Ok(device),
        Err(error) => refuse(format!("`device` {name}: no such CUDA device: {error}")),
    }
}

fn refuse(reason: String) -> Result<Device> {
    Err(TrainError::Device(reason).into())
}
