//! What the targets share: readers want files.

use std::path::PathBuf;

/// The bytes in a file of that name, in a folder of this process.
pub fn written(name: &str, bytes: &[u8]) -> PathBuf {
    let path = std::env::temp_dir().join(format!("qn-fuzz-{}", std::process::id())).join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, bytes).unwrap();
    path
}
