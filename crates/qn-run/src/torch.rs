//! Files of `torch.save` (PyTorch 1.6 and newer): a zip archive, not compressed, in one folder of any name,
//!
//! ```text
//! data.pkl    a pickle in which a tensor is (storage, offset, shape, strides)
//! data/KEY    the bytes of the storage KEY
//! byteorder   little or big
//! ```
//!
//! The file says how large everything is, and may lie: nothing is set aside for it that is larger than the file.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::io::{BufReader, Read as _};
use std::path::Path;

use safetensors::tensor::Dtype;
use zip::{CompressionMethod, ZipArchive};

use crate::pickle::{Id, Pickle, Value};
use crate::{RunError, Tensor, TensorFile};

/// Longest data.pkl; a hundred thousand tensors take a tenth of it.
const MAX_PICKLE: u64 = 16 << 20;
/// How many times the file's size its tensors may take, which share storages where they are tied.
const MAX_SHARING: u64 = 16;
/// Dictionaries within dictionaries, and how long a key may be.
const MAX_DEPTH: usize = 8;
const MAX_KEY: usize = 256;
/// Dimensions of a tensor.
const MAX_RANK: usize = 16;

/// What a user can do about a file that holds parameters in another way.
pub(crate) const REMEDY: &str = "save the parameters with torch.save(net.state_dict(), FILE) or safetensors.torch.save_file(net.state_dict(), FILE)";

/// What is in a file.
#[derive(Debug, Default)]
pub(crate) struct Contents {
    /// Tensors by name; where a tensor's dictionary lies within others, their keys with slashes stand before its name.
    pub(crate) file: TensorFile,
    /// Classes of modules that were pickled whole, of which only Python makes anything.
    pub(crate) modules: Vec<String>,
}

/// Reads every tensor that can be reached through dictionaries and lists.
///
/// # Errors
/// The file cannot be read, is damaged, or is another kind of archive.
pub(crate) fn read(path: &Path) -> Result<Contents, RunError> {
    let file = File::open(path).map_err(RunError::io(path))?;
    let size = file.metadata().map_err(RunError::io(path))?.len();
    let damaged = |reason: String| RunError::invalid(path, reason);
    let archive = ZipArchive::new(BufReader::new(file))
        .map_err(|e| damaged(format!("its zip archive is damaged or cut off ({e})")))?;
    let root = folder(&archive).map_err(|reason| RunError::unreadable(path, reason))?;
    let mut storages = Storages { archive, root, size, bytes_read: 0, read: HashMap::new() };
    if storages.file("byteorder", 16).is_ok_and(|order| order.starts_with(b"big")) {
        return Err(RunError::unreadable(
            path,
            "it was written on a big-endian machine: convert it there to safetensors",
        ));
    }
    let bytes = storages.file("data.pkl", MAX_PICKLE).map_err(damaged)?;
    let pickle = Pickle::read(&bytes).map_err(|reason| damaged(format!("its pickle {reason}")))?;
    let mut walk = Walk {
        pickle: &pickle,
        storages,
        room: size.saturating_mul(MAX_SHARING),
        seen: HashSet::new(),
        contents: Contents::default(),
    };
    walk.visit(pickle.root, "", MAX_DEPTH).map_err(damaged)?;
    Ok(walk.contents)
}

/// The archive's one folder, with a slash.
fn folder(archive: &ZipArchive<BufReader<File>>) -> Result<String, String> {
    let names: Vec<_> = archive.file_names().filter_map(Result::ok).collect();
    let Some(root) = names.iter().find_map(|name| name.strip_suffix("data.pkl")) else {
        let numpy = names.iter().any(|name| name.ends_with(".npy"));
        let what =
            if numpy { "an archive of NumPy arrays (.npz)" } else { "a zip archive, but none of torch.save" };
        return Err(format!("it is {what}: {REMEDY}"));
    };
    if names.iter().any(|name| name.strip_prefix(root).is_some_and(|rest| rest.starts_with("code/"))) {
        return Err("it is a TorchScript module: save its parameters with torch.save(torch.jit.load(FILE).state_dict(), OTHER)".into());
    }
    Ok(root.to_owned())
}

struct Storages {
    archive: ZipArchive<BufReader<File>>,
    root: String,
    /// Of the whole file.
    size: u64,
    bytes_read: u64,
    read: HashMap<String, Vec<u8>>,
}

impl Storages {
    fn file(&mut self, name: &str, most: u64) -> Result<Vec<u8>, String> {
        let whole = format!("{}{name}", self.root);
        let entry = self.archive.by_name(&whole).map_err(|e| format!("it has no readable {name} ({e})"))?;
        if entry.compression() != CompressionMethod::Stored {
            return Err(format!("its {name} is compressed, as torch.save does not do: {REMEDY}"));
        }
        // Entries that are not compressed and do not overlap are smaller than the file together.
        let most = most.min(self.size.saturating_sub(self.bytes_read));
        let mut bytes = Vec::new();
        entry.take(most + 1).read_to_end(&mut bytes).map_err(|e| format!("its {name} is damaged ({e})"))?;
        self.bytes_read += bytes.len() as u64;
        if bytes.len() as u64 > most {
            return Err(format!("its {name} claims to be larger than it can be"));
        }
        Ok(bytes)
    }

    fn storage(&mut self, key: &str) -> Result<&[u8], String> {
        if !self.read.contains_key(key) {
            let bytes = self.file(&format!("data/{key}"), u64::MAX - 1)?;
            self.read.insert(key.to_owned(), bytes);
        }
        Ok(self.read.get(key).map_or(&[], Vec::as_slice))
    }
}

struct Walk<'a> {
    pickle: &'a Pickle<'a>,
    storages: Storages,
    /// Bytes that tensors may still take.
    room: u64,
    seen: HashSet<Id>,
    contents: Contents,
}

impl Walk<'_> {
    /// Collects what is in a dictionary or list; `prefix` stands before the names in it.
    fn visit(&mut self, id: Id, prefix: &str, depth: usize) -> Result<(), String> {
        let pickle = self.pickle;
        if let Some(class) = module_class(pickle, id) {
            self.contents.modules.push(class);
        }
        // One that lies under two keys is read at the first: its values are one.
        if depth == 0 || !self.seen.insert(id) {
            return Ok(());
        }
        let list = pickle.sequence(id).unwrap_or_default().iter().enumerate();
        let list = list.map(|(i, &entry)| (i.to_string(), entry));
        let dictionary = pickle.items(id).iter().filter_map(|&(key, entry)| {
            let name = pickle.text(key).map(str::to_owned);
            Some((name.or_else(|| pickle.count(key).map(|n| n.to_string()))?, entry))
        });
        for (name, entry) in list.chain(dictionary).filter(|(name, _)| name.len() <= MAX_KEY) {
            let name = format!("{prefix}{name}");
            let tensor =
                self.tensor(entry, MAX_DEPTH).map_err(|reason| format!("its tensor '{name}' {reason}"))?;
            match tensor {
                Some(tensor) => drop(self.contents.file.tensors.insert(name, tensor)),
                None => self.visit(entry, &format!("{name}/"), depth - 1)?,
            }
        }
        Ok(())
    }

    /// The tensor that an object is, or none if it is something else.
    fn tensor(&mut self, id: Id, depth: usize) -> Result<Option<Tensor>, String> {
        let Value::Object { class, args, .. } = *self.pickle.get(id) else { return Ok(None) };
        self.rebuild(class, args, depth)
    }

    /// The tensor that a call of one of PyTorch's functions would make, or none if it makes something else.
    fn rebuild(&mut self, function: Id, args: Id, depth: usize) -> Result<Option<Tensor>, String> {
        let (Some(function), Some(args)) = (self.pickle.global(function), self.pickle.sequence(args)) else {
            return Ok(None);
        };
        if depth == 0 {
            return Err("is made of itself".into());
        }
        match (function, args) {
            (
                "torch._utils._rebuild_parameter" | "torch._utils._rebuild_parameter_with_state",
                &[data, ..],
            ) => self.tensor(data, depth - 1),
            (
                "torch._utils._rebuild_tensor" | "torch._utils._rebuild_tensor_v2",
                &[storage, offset, shape, strides, ..],
            ) => self.view(storage, offset, shape, strides, None).map(Some),
            ("torch._utils._rebuild_tensor_v3", &[storage, offset, shape, strides, _, _, dtype, ..]) => {
                self.view(storage, offset, shape, strides, self.pickle.global(dtype)).map(Some)
            }
            // A tensor with attributes, or of a class derived from it.
            ("torch._tensor._rebuild_from_type_v2", &[function, _, args, ..]) => {
                self.rebuild(function, args, depth - 1)
            }
            (name, _) if name.starts_with("torch._utils._rebuild") => {
                let kind = name.rsplit("_rebuild_").next().unwrap_or(name);
                Err(format!("is neither dense nor of plain numbers ({kind}): {REMEDY} of a network that is"))
            }
            _ => Ok(None),
        }
    }

    /// Copies a tensor's numbers out of its storage, row-major.
    fn view(
        &mut self,
        storage: Id,
        offset: Id,
        shape: Id,
        strides: Id,
        dtype: Option<&str>,
    ) -> Result<Tensor, String> {
        let pickle = self.pickle;
        let counts = |id: Id| -> Option<Vec<usize>> {
            pickle.sequence(id)?.iter().map(|&n| pickle.count(n)).collect()
        };
        let Value::Persistent(storage) = *pickle.get(storage) else { return Err("has no storage".into()) };
        let Some(&[_, class, key, ..]) = pickle.sequence(storage) else {
            return Err("has no storage".into());
        };
        let (Some(class), Some(key)) = (pickle.global(class), pickle.text(key)) else {
            return Err("has no storage".into());
        };
        let name = dtype.unwrap_or(class);
        let (dtype, width) = number(name)
            .ok_or_else(|| format!("holds numbers of the type {name}: convert it with .float()"))?;
        let (Some(offset), Some(shape), Some(strides)) =
            (pickle.count(offset), counts(shape), counts(strides))
        else {
            return Err("has no usable shape".into());
        };
        let most = self.storages.size.min(self.room);
        let bytes = gather(self.storages.storage(key)?, width, (offset, &shape, &strides), most)?;
        self.room -= bytes.len() as u64;
        Ok(Tensor::from_bytes(shape, bytes, dtype))
    }
}

/// The class of a module (anything with `_parameters`) that was pickled whole.
fn module_class(pickle: &Pickle<'_>, id: Id) -> Option<String> {
    let Value::Object { class, state: Some(state), .. } = pickle.get(id) else { return None };
    let has = pickle.items(*state).iter().any(|(key, _)| pickle.text(*key) == Some("_parameters"));
    if has { Some(pickle.global(*class).unwrap_or("unknown").to_owned()) } else { None }
}

/// The type of number that a class of storages or a `torch.dtype` stands for, and its size in bytes.
fn number(name: &str) -> Option<(Dtype, usize)> {
    Some(match name.rsplit('.').next().unwrap_or(name) {
        "DoubleStorage" | "float64" => (Dtype::F64, 8),
        "FloatStorage" | "float32" => (Dtype::F32, 4),
        "HalfStorage" | "float16" => (Dtype::F16, 2),
        "BFloat16Storage" | "bfloat16" => (Dtype::BF16, 2),
        "LongStorage" | "int64" => (Dtype::I64, 8),
        "IntStorage" | "int32" => (Dtype::I32, 4),
        "ShortStorage" | "int16" => (Dtype::I16, 2),
        "CharStorage" | "int8" => (Dtype::I8, 1),
        "ByteStorage" | "uint8" => (Dtype::U8, 1),
        "BoolStorage" | "bool" => (Dtype::BOOL, 1),
        "uint16" => (Dtype::U16, 2),
        "uint32" => (Dtype::U32, 4),
        "uint64" => (Dtype::U64, 8),
        _ => return None,
    })
}

/// The entries (i_1, ..., i_n) of a view into a storage, row-major: numbers of `width` bytes at
/// offset + Σ i_d strides_d, of which there may be at most `most` bytes.
fn gather(
    storage: &[u8],
    width: usize,
    view: (usize, &[usize], &[usize]),
    most: u64,
) -> Result<Vec<u8>, String> {
    let (offset, shape, strides) = view;
    if shape.len() != strides.len() || shape.len() > MAX_RANK {
        return Err(format!("has {} dimensions and {} strides", shape.len(), strides.len()));
    }
    let bytes = shape.iter().try_fold(width, |product, &n| product.checked_mul(n));
    let bytes = bytes.filter(|&n| n as u64 <= most).ok_or("claims to be larger than the file")?;
    if bytes == 0 {
        return Ok(Vec::new());
    }
    // Nobody steps along an axis of one entry, whatever its stride.
    let strides: Vec<usize> = shape.iter().zip(strides).map(|(&n, &s)| if n == 1 { 0 } else { s }).collect();
    let last =
        shape.iter().zip(&strides).try_fold(offset, |at, (&n, &s)| at.checked_add((n - 1).checked_mul(s)?));
    if last.is_none_or(|last| last >= storage.len() / width) {
        return Err(format!("reaches beyond its storage of {} bytes", storage.len()));
    }
    let mut gathered = Vec::with_capacity(bytes);
    let (mut index, mut at) = (vec![0; shape.len()], offset);
    while gathered.len() < bytes {
        gathered.extend(storage.iter().skip(at * width).take(width));
        for (i, (&n, &s)) in index.iter_mut().zip(shape.iter().zip(&strides)).rev() {
            *i += 1;
            at += s;
            if *i < n {
                break;
            }
            at -= s * n;
            *i = 0;
        }
    }
    Ok(gathered)
}

impl Contents {
    /// The tensors of numbers with a fraction; what all of their names begin with (the dictionaries they are in) is
    /// left off.
    pub(crate) fn plain(mut self) -> TensorFile {
        self.file.tensors.retain(|_, tensor| tensor.is_float());
        let names: Vec<&str> = self.file.tensors.keys().map(String::as_str).collect();
        let folder = |name: &str| name.rfind('/').map_or(0, |end| end + 1);
        let common = names.first().map_or(0, |first| folder(first));
        if common == 0 || names.iter().any(|n| n.get(..common) != names.first().and_then(|f| f.get(..common)))
        {
            return self.file;
        }
        let strip =
            |(name, tensor): (String, Tensor)| (name.get(common..).unwrap_or(&name).to_owned(), tensor);
        let tensors: BTreeMap<String, Tensor> = self.file.tensors.into_iter().map(strip).collect();
        TensorFile { tensors, ..TensorFile::default() }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use zip::ZipWriter;
    use zip::write::SimpleFileOptions;

    use super::*;

    fn archive(path: &Path, entries: &[(&str, &[u8])]) {
        let mut zip = ZipWriter::new(File::create(path).unwrap());
        let stored = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
        for (name, bytes) in entries {
            zip.start_file(*name, stored).unwrap();
            zip.write_all(bytes).unwrap();
        }
        zip.finish().unwrap();
    }

    /// The tensors of an archive with this pickle (in protocol 0, whose instructions are lines) and a storage of 16 bytes.
    fn reading(pickle: &str) -> Result<Contents, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.pth");
        let numbers: Vec<u8> = [1.0f32, 2.0, 3.0, 4.0].iter().flat_map(|v| v.to_le_bytes()).collect();
        archive(&path, &[("x/data.pkl", pickle.as_bytes()), ("x/data/0", &numbers)]);
        read(&path).map_err(|e| e.to_string())
    }

    /// {'w': a view of the storage}.
    fn view(offset: &str, shape: &str, strides: &str) -> String {
        let ints = |list: &str| list.split_whitespace().map(|n| format!("I{n}\n")).collect::<String>();
        let storage = "(S'storage'\nctorch\nFloatStorage\nS'0'\nS'cpu'\nI4\ntQ";
        let (shape, strides) = (ints(shape), ints(strides));
        format!(
            "(S'w'\nctorch._utils\n_rebuild_tensor_v2\n({storage}I{offset}\n({shape}t({strides}tI0\nNtRd."
        )
    }

    #[test]
    fn offsets_and_strides_are_honoured() {
        let numbers = |offset, shape, strides| {
            reading(&view(offset, shape, strides)).unwrap().file.tensors["w"].to_f32().unwrap()
        };
        assert_eq!(numbers("0", "2 2", "2 1"), [1.0, 2.0, 3.0, 4.0]);
        assert_eq!(numbers("0", "2 2", "1 2"), [1.0, 3.0, 2.0, 4.0]);
        assert_eq!(numbers("1", "2", "2"), [2.0, 4.0]);
        assert_eq!(numbers("3", "1 1", "9999999999 77"), [4.0]);
        assert_eq!(numbers("2", "3", "0"), [3.0, 3.0, 3.0]);
        assert_eq!(numbers("3", "", ""), [4.0]);
        assert!(numbers("9", "5 0", "1 1").is_empty());
    }

    #[test]
    fn what_a_pickle_claims_is_not_believed() {
        let huge = "4611686018427387904";
        let cases = [
            (view("0", huge, "0"), "larger than the file"),
            (view("0", &format!("{huge} {huge}"), "0 0"), "larger than the file"),
            (view("0", "5", "1"), "beyond its storage"),
            (view("1", "2 2", "2 1"), "beyond its storage"),
            (view("0", "2", huge), "beyond its storage"),
            (view(huge, "2 2 2", &format!("{huge} {huge} {huge}")), "beyond its storage"),
            (view("-1", "2", "1"), "no usable shape"),
            (view("0", "2 2", "1"), "2 dimensions and 1 strides"),
            (view("0", "2", "1").replace("FloatStorage", "ComplexFloatStorage"), "ComplexFloatStorage"),
            (view("0", "2", "1").replace("_rebuild_tensor_v2", "_rebuild_sparse_tensor"), "sparse_tensor"),
            (view("0", "2", "1").replace("S'0'", "S'../1'"), "no readable data/../1"),
            // A parameter that is a parameter of itself: its arguments are completed after it was made from them.
            ("(S'w'\nctorch._utils\n_rebuild_parameter\n(lp1\nRp2\ng1\ng2\na0d.".into(), "made of itself"),
            ("(S'w'\n".into(), "ends inside"),
            ("t.".into(), "mark"),
            ("\u{1}.".into(), "unknown instruction 0x01"),
        ];
        for (pickle, expected) in cases {
            let message = reading(&pickle).unwrap_err();
            assert!(message.contains(expected), "{message}");
        }
        // A dictionary that contains itself, under two keys.
        assert!(reading("(dp0\nS'a'\ng0\nsS'b'\ng0\ns.").unwrap().file.tensors.is_empty());
        // Nothing is called.
        assert!(reading("cos\nsystem\n(S'touch x'\ntR.").unwrap().file.tensors.is_empty());
    }

    /// The archive's checksums would keep damage from the pickle's reader, so they are made anew.
    #[test]
    fn a_damaged_pickle_is_read_or_refused() {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/checkpoints");
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.pth");
        for (file, root) in [("nested.tar", "nested"), ("shared", "shared"), ("module.pt", "module")] {
            let archived = ZipArchive::new(BufReader::new(File::open(golden.join(file)).unwrap())).unwrap();
            let mut storages = Storages {
                archive: archived,
                root: format!("{root}/"),
                size: 1 << 20,
                bytes_read: 0,
                read: HashMap::new(),
            };
            let pickle = storages.file("data.pkl", MAX_PICKLE).unwrap();
            let numbers = [0; 2048];
            for trial in 0..500usize {
                let mut damaged = pickle.clone();
                for change in 0..1 + trial % 3 {
                    let at = (trial * 7919 + change * 104_729) % damaged.len();
                    damaged[at] = match trial % 4 {
                        0 => damaged[at] ^ (1 << (trial / 4 % 8)),
                        1 => 0xff,
                        2 => b"(.0tR\x85\x86sbQq"[trial / 4 % 11],
                        _ => damaged[(at + 1) % pickle.len()],
                    };
                }
                archive(&path, &[("x/data.pkl", &damaged), ("x/data/0", &numbers), ("x/data/1", &numbers)]);
                if let Err(e) = read(&path) {
                    assert!(!e.to_string().is_empty());
                }
            }
        }
    }
}
