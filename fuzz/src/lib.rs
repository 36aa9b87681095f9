//! What the targets share: readers want files.

use std::path::PathBuf;

use clap::Parser as _;
use qn_cli::Interrupt;

/// The bytes in a file of that name, in a folder of this process.
pub fn written(name: &str, bytes: &[u8]) -> PathBuf {
    let path = std::env::temp_dir().join(format!("qn-fuzz-{}", std::process::id())).join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, bytes).unwrap();
    path
}

/// What `qn-analyse` makes of a command line, in this process.
pub fn analyse(words: &[&str]) -> Option<u8> {
    let line = std::iter::once("qn-analyse").chain(words.iter().copied());
    qn_cli::analyse::Cli::try_parse_from(line).ok()?.outcome(&Interrupt::default()).ok()
}
