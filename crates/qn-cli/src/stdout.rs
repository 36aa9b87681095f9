//! Results on stdout: `println!` without its panic.

use std::fmt;
use std::io::{self, Write as _};
use std::sync::OnceLock;

use crate::processes;

/// The first failure to write. What comes after it is left out: half an answer in the middle of another is none.
static FAILURE: OnceLock<io::Error> = OnceLock::new();

/// Prints a line to stdout, with the arguments of `println!`. A failure is kept for [`finish`].
macro_rules! outln {
    () => { $crate::stdout::print(format_args!("\n")) };
    ($($words:tt)*) => { $crate::stdout::print(format_args!("{}\n", format_args!($($words)*))) };
}

/// Prints to stdout. A failure is kept for [`finish`], so that it ends no work whose results go to files.
pub(crate) fn print(words: fmt::Arguments<'_>) {
    if processes::is_first() && FAILURE.get().is_none() {
        keep(io::stdout().lock().write_fmt(words));
    }
}

/// Keeps the failure, if it is one and the first.
pub(crate) fn keep(written: io::Result<()>) {
    if let Err(error) = written {
        let _ = FAILURE.set(error);
    }
}

/// Writes what is left, at the end of the program. That the reader has gone (`| head`) is no failure: it has what it wants.
pub(crate) fn finish() -> Result<(), &'static io::Error> {
    keep(io::stdout().lock().flush());
    match FAILURE.get() {
        Some(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error),
        _ => Ok(()),
    }
}

pub(crate) use outln;
