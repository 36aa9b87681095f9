use std::fmt::{Display, Formatter};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use crate::source::Source;
use crate::sources::cifar::Cifar;
use crate::sources::digits::Digits;
use crate::sources::idx::Idx;
use crate::{DataError, cache};

/// The data there are: sets with a name, and files of one's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DataName {
    /// 1,797 8×8 digits, embedded in the program.
    Digits,
    /// 70,000 28×28 digits.
    Mnist,
    /// 70,000 28×28 pictures of clothes, in MNIST's format.
    FashionMnist,
    /// 60,000 32×32 colour pictures of ten classes.
    Cifar10,
    /// 60,000 32×32 colour pictures of a hundred classes.
    Cifar100,
    /// `x` and `y` (and `x_test` and `y_test`) in a .npz or .safetensors file.
    File(PathBuf),
}

impl FromStr for DataName {
    type Err = DataError;

    fn from_str(name: &str) -> Result<Self, DataError> {
        match name {
            "digits" => Ok(Self::Digits),
            "mnist" => Ok(Self::Mnist),
            "fashion-mnist" => Ok(Self::FashionMnist),
            "cifar10" => Ok(Self::Cifar10),
            "cifar100" => Ok(Self::Cifar100),
            _ if Path::new(name).extension().is_some_and(|e| e == "npz" || e == "safetensors") => {
                Ok(Self::File(name.into()))
            }
            _ => Err(DataError::UnknownDataset(name.into())),
        }
    }
}

/// As on the command line.
impl Display for DataName {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Digits => "digits",
            Self::Mnist => "mnist",
            Self::FashionMnist => "fashion-mnist",
            Self::Cifar10 => "cifar10",
            Self::Cifar100 => "cifar100",
            Self::File(path) => return path.display().fmt(f),
        })
    }
}

impl DataName {
    /// The name that finds the data from any folder: a file's path is absolute.
    ///
    /// # Errors
    /// There is no current folder.
    pub fn absolute(&self) -> Result<String, DataError> {
        Ok(match self {
            Self::File(path) => {
                let path = std::path::absolute(path).map_err(DataError::io(path))?;
                path.to_string_lossy().into_owned()
            }
            name => name.to_string(),
        })
    }

    /// Where the data are read from. Nothing is read yet, but a file's headers and targets.
    ///
    /// # Errors
    /// A file is missing, damaged, or has not the arrays that it must have.
    pub fn open(&self, data_dir: &Path) -> Result<Arc<dyn Source>, DataError> {
        Ok(match self {
            Self::Digits => Arc::new(Digits),
            Self::Mnist => Arc::new(Idx::mnist(data_dir)),
            Self::FashionMnist => Arc::new(Idx::fashion_mnist(data_dir)),
            Self::Cifar10 => Arc::new(Cifar::ten(data_dir)),
            Self::Cifar100 => Arc::new(Cifar::hundred(data_dir)),
            Self::File(path) => cache::open(path)?,
        })
    }
}
