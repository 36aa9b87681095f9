//! Files of parameters that other programs wrote, told apart by their first bytes and never by their names.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use qn_model::ParamLayout;

use crate::state_dict::{StateDict, state_dict};
use crate::torch::{self, Contents, REMEDY};
use crate::{RunError, TensorFile};

/// How files begin that people take for parameters, and what they are.
const OTHERS: [(&[u8], &str); 9] = [
    // A pickle of protocol 2 with the number that PyTorch's older format begins with.
    (
        b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.",
        "it is in PyTorch's format from before 1.6 (or of _use_new_zipfile_serialization=False): torch.load it and",
    ),
    (b"\x80", "it is a Python pickle, but none of torch.save: load it and"),
    (b"\x89HDF", "it is an HDF5 file, which Keras writes:"),
    (b"\x93NUMPY", "it is a NumPy array (.npy):"),
    (b"GGUF", "it is a GGUF file:"),
    (b"\x1f\x8b", "it is compressed by gzip: unpack it with gunzip, or"),
    (
        b"version https://git-lfs",
        "it is Git LFS's note of where the file is, not the file: fetch it with `git lfs pull`, or",
    ),
    (
        b"<",
        "it is a web page or XML, perhaps what a server said instead of sending the file: download it again, or",
    ),
    (b"", "it is neither a safetensors file nor one of torch.save:"),
];

/// Longest header of a safetensors file.
const MAX_HEADER: u64 = 100_000_000;

/// The parameters of a network in a safetensors file (ours, or another program's) or a file of `torch.save`: a
/// state_dict, in whatever dictionary it lies and with whatever prefix its names have, as [`state_dict`] finds it.
///
/// # Errors
/// The file cannot be read or is damaged; it is of another kind, or holds no parameters of that layout: then it is said
/// what it is and what to do.
pub fn read_parameters(path: &Path, layout: &ParamLayout) -> Result<StateDict, RunError> {
    let contents = read(path)?;
    let nothing = contents.file.tensors.is_empty();
    if nothing && contents.modules.is_empty() {
        return Err(RunError::unreadable(path, format!("it holds no tensors: {REMEDY}")));
    }
    let found = if nothing { None } else { Some(state_dict(&contents.file, path, layout)) };
    match found {
        Some(Err(e)) if contents.modules.is_empty() => Err(e),
        Some(Ok(state)) => Ok(state),
        _ => Err(whole_module(path, &contents)),
    }
}

/// The tensors of a safetensors file, or those of a file of `torch.save` that are of numbers with a fraction. Where these
/// lie in several dictionaries, the dictionaries' keys stand before their names with slashes.
///
/// # Errors
/// The file cannot be read, is damaged, or is of another kind.
pub fn read_tensors(path: &Path) -> Result<TensorFile, RunError> {
    let contents = read(path)?;
    if contents.file.tensors.is_empty() && !contents.modules.is_empty() {
        return Err(whole_module(path, &contents));
    }
    Ok(contents.plain())
}

fn whole_module(path: &Path, contents: &Contents) -> RunError {
    let classes = contents.modules.first().map_or("", String::as_str);
    let reason = format!(
        "it holds a module that was pickled whole ({classes}), which takes the Python code it was made by: {REMEDY}"
    );
    RunError::unreadable(path, reason)
}

fn read(path: &Path) -> Result<Contents, RunError> {
    let mut start = Vec::new();
    let file = File::open(path).map_err(RunError::io(path))?;
    let size = file.metadata().map_err(RunError::io(path))?.len();
    file.take(512).read_to_end(&mut start).map_err(RunError::io(path))?;
    if start.starts_with(b"PK\x03\x04") {
        return torch::read(path);
    }
    if let Some((length, b"{")) = start.get(..9).and_then(|s| s.split_first_chunk()) {
        // One that is cut off has a header of a possible length as well.
        if u64::from_le_bytes(*length) <= MAX_HEADER {
            return Ok(Contents { file: TensorFile::read(path)?, modules: Vec::new() });
        }
    }
    if start.get(257..262) == Some(b"ustar") {
        return Err(RunError::unreadable(path, "it is a tar archive: unpack it and give the file within"));
    }
    if size == 0 {
        return Err(RunError::unreadable(path, "it is empty"));
    }
    let what = OTHERS.iter().find(|(magic, _)| start.starts_with(magic)).map_or("", |(_, what)| what);
    Err(RunError::unreadable(path, format!("{what} {REMEDY}")))
}
