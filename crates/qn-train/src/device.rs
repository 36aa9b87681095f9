use anyhow::{Context as _, Result, bail};
use candle_core::Device;

/// `cpu` or `cuda:N`. Asking for a CUDA device that is not there is an error, never the CPU.
///
/// # Errors
/// The name is neither, or the device is not there.
pub fn parse_device(name: &str) -> Result<Device> {
    if name == "cpu" {
        return Ok(Device::Cpu);
    }
    let Some(index) = name.strip_prefix("cuda:").and_then(|n| n.parse().ok()) else {
        bail!("`device` {name}: give cpu or cuda:N");
    };
    if !cfg!(feature = "cuda") {
        bail!(
            "`device` {name}: this build has no CUDA support; build with the feature cuda, or use `device` cpu"
        );
    }
    Device::new_cuda(index).with_context(|| format!("`device` {name}: no such CUDA device"))
}
