//! The Python version of CIFAR's batches, which torchvision downloads: pickles of a dictionary with `data`, an array
//! [N, 3072] of bytes, and `labels` or `fine_labels`, a list.

use qn_run::{Id, Pickle, Value};

/// Bytes of a picture: three channels of 32 × 32.
pub(crate) const PIXELS: usize = 3 * 32 * 32;

/// Adds pixels and labels, the latter by `key`. Nothing of the pickle is executed.
///
/// # Errors
/// The pickle is damaged or another one: in words that go on from "its Python pickle".
pub(crate) fn append(
    bytes: &[u8],
    key: &str,
    pixels: &mut Vec<u8>,
    labels: &mut Vec<u8>,
) -> Result<(), String> {
    let pickle = Pickle::read(bytes)?;
    let entry = |key: &str| {
        let items = pickle.items(pickle.root).iter();
        items.rev().find(|(name, _)| pickle.text(*name) == Some(key)).map(|(_, value)| *value)
    };
    let (Some(data), Some(list)) = (entry("data"), entry(key)) else {
        return Err(format!("is no dictionary with data and {key}, as CIFAR's batches are"));
    };
    let new = pickle.sequence(list).ok_or_else(|| format!("has no list of {key}"))?;
    let label = |id: &Id| pickle.count(*id).and_then(|n| u8::try_from(n).ok());
    let new: Vec<u8> = new
        .iter()
        .map(label)
        .collect::<Option<_>>()
        .ok_or_else(|| format!("has {key} that are no labels"))?;
    let data = array(&pickle, data).ok_or("has data that are no array of bytes")?;
    if new.is_empty() || data.len() != new.len() * PIXELS {
        return Err(format!("has {} bytes of pixels for {} labels of {PIXELS} each", data.len(), new.len()));
    }
    pixels.extend_from_slice(&data);
    labels.extend(new);
    Ok(())
}

/// The numbers of numpy's array: `_reconstruct(...)` whose state is (version, shape, dtype, whether in Fortran's order,
/// numbers), of single bytes, row-major.
fn array(pickle: &Pickle<'_>, id: Id) -> Option<Vec<u8>> {
    let Value::Object { class, state: Some(state), .. } = pickle.get(id) else { return None };
    let &[_, shape, dtype, _, numbers] = pickle.sequence(*state)? else { return None };
    let Value::Object { args, .. } = pickle.get(dtype) else { return None };
    let bytes = pickle.text(*pickle.sequence(*args)?.first()?)? == "u1";
    let known = pickle.global(*class)?.ends_with("multiarray._reconstruct") && bytes;
    let sides = pickle.sequence(shape)?.iter().map(|&n| pickle.count(n)).collect::<Option<Vec<_>>>()?;
    let numbers = raw(pickle, numbers)?;
    (known && sides.last() == Some(&PIXELS) && sides.iter().product::<usize>() == numbers.len())
        .then_some(numbers)
}

/// Bytes, or `_codecs.encode(text, 'latin1')`, as which Python 3 writes them for Python 2.
fn raw(pickle: &Pickle<'_>, id: Id) -> Option<Vec<u8>> {
    if let Some(bytes) = pickle.bytes(id) {
        return Some(bytes.to_vec());
    }
    let Value::Object { class, args, .. } = pickle.get(id) else { return None };
    let (&[text, _], "_codecs.encode") = (pickle.sequence(*args)?, pickle.global(*class)?) else {
        return None;
    };
    let Value::Text(text) = pickle.get(text) else { return None };
    text.chars().map(|c| u8::try_from(u32::from(c)).ok()).collect()
}
