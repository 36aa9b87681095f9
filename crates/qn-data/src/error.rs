use std::path::{Path, PathBuf};

/// What can be wrong with a data set.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// The name is not one of the data sets.
    #[error(
        "unknown data set '{0}': use digits, mnist, fashion-mnist, cifar10, cifar100, or a file of your own, FILE.npz or \
         FILE.safetensors"
    )]
    UnknownDataset(String),
    /// A file is not there.
    #[error("{path} is missing: {}{instead}", remedy(dataset, dir))]
    Missing {
        /// The file.
        path: PathBuf,
        /// The data set.
        dataset: &'static str,
        /// The data directory.
        dir: PathBuf,
        /// What is there in its place, in words that go on from the rest; or nothing.
        instead: String,
    },
    /// A file of one's own is not there.
    #[error("the data file {path} is missing: give its path with `data`")]
    NoFile {
        /// The file.
        path: PathBuf,
    },
    /// The data have no such split.
    #[error("{dataset} has no {split} split: that takes arrays x_{split} and y_{split} in the file")]
    NoSplit {
        /// Which data.
        dataset: String,
        /// Which part.
        split: &'static str,
    },
    /// Mean and standard deviation make no sense.
    #[error("`normalise` {asked}: {reason}")]
    Normalise {
        /// As asked.
        asked: String,
        /// What is wrong, and what to give.
        reason: String,
    },
    /// A file cannot be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
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
    /// More samples were asked for than there are, or none.
    #[error("`samples` {asked}: the {split} split of {dataset} has {have} samples; ask for 1 to {have}")]
    Samples {
        /// As asked.
        asked: usize,
        /// As many as there are.
        have: usize,
        /// Which part.
        split: &'static str,
        /// Which data set.
        dataset: String,
    },
    /// A network or a loss that was asked for does not fit the data.
    #[error(transparent)]
    Misfit(#[from] qn_run::Invalid),
    /// There is no such architecture, or it is none.
    #[error(transparent)]
    Architecture(#[from] qn_model::ModelError),
    /// The data are not those that a run was begun with.
    #[error(
        "the {split} split of {dataset} has changed since {run} was begun: its SHA-256 is not the one in manifest.json"
    )]
    Changed {
        /// Which part.
        split: &'static str,
        /// Which data.
        dataset: String,
        /// The run.
        run: PathBuf,
    },
    /// The data set cannot be brought.
    #[error("cannot fetch {dataset}: {reason}")]
    Fetch {
        /// Which data set.
        dataset: String,
        /// Why, and what to do.
        reason: String,
    },
}

/// How a data set's file is come by.
fn remedy(dataset: &str, dir: &Path) -> String {
    let dir = dir.display();
    match dataset {
        "fashion-mnist" => format!("torchvision's files are looked for in {dir}/FashionMNIST/raw"),
        "cifar100" => format!("unpack cifar-100-python.tar.gz or cifar-100-binary.tar.gz in {dir}"),
        _ => format!("run `qn-train fetch {dataset} --data-dir {dir}` to get it"),
    }
}

impl DataError {
    pub(crate) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, source }
    }

    pub(crate) fn invalid(path: &Path, reason: impl Into<String>) -> Self {
        Self::Invalid { path: path.to_owned(), reason: reason.into() }
    }
}
