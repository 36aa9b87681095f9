use std::path::{Path, PathBuf};

/// What can go wrong with a run directory.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A file cannot be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system reported.
        source: std::io::Error,
    },
    /// A file is not what its name says.
    #[error("{path} is not valid: {reason}")]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A file is of a kind that is not read, or holds nothing of what is looked for.
    #[error("{path} cannot be used: {reason}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What it is, and what to do.
        reason: String,
    },
    /// A line of a log is none.
    #[error("{path}:{line} is not a line of a training log ({reason}): mend or remove that line")]
    Line {
        /// The file.
        path: PathBuf,
        /// The line's number, from 1.
        line: usize,
        /// What is wrong.
        reason: String,
    },
    /// The run exists and nothing was said about it.
    #[error(
        "{0} already holds a run: give `resume` to go on with it, `overwrite` to replace it, or another `out`"
    )]
    Exists(PathBuf),
    /// A folder without a run holds a file that a run would replace.
    #[error("{0} is there, but no run that it could belong to: move it away, or give another `out`")]
    Foreign(PathBuf),
    /// There is no run.
    #[error("{0} is not a run directory (it has no config.toml)")]
    NotARun(PathBuf),
    /// A file where a run directory was expected.
    #[error(
        "{0} is a file and not a run directory: a file of parameters is given with `checkpoint`, `arch` and `data`"
    )]
    IsAFile(PathBuf),
    /// Another process has the run.
    #[error("{0} is in use by another process: wait for it to end, or give another `out`")]
    InUse(PathBuf),
    /// The file belongs to another network.
    #[error(
        "{path} belongs to another parameter layout ({found}) than this network's ({expected}): use the architecture it was made with"
    )]
    Layout {
        /// The file.
        path: PathBuf,
        /// Hash in the file.
        found: String,
        /// Hash of the network.
        expected: String,
    },
}

impl RunError {
    pub(crate) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, source }
    }

    pub(crate) fn invalid(path: &Path, reason: impl Into<String>) -> Self {
        Self::Invalid { path: path.to_owned(), reason: reason.into() }
    }

    pub(crate) fn unreadable(path: &Path, reason: impl Into<String>) -> Self {
        Self::Unreadable { path: path.to_owned(), reason: reason.into() }
    }
}
