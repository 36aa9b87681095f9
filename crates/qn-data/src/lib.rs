//! Samples and their targets, from the data sets that are known by name and from files of one's own.
//!
//! A [`DataName`] opens a [`Source`], one for each format, which says what samples look like and how many there are before
//! it reads them; a [`Dataset`] is the first so many samples of a split, normalised on the way out. Pixels stay bytes, so
//! that all of CIFAR-10 takes 153 MB. Files are checked whole before anything is believed, and read once in a process.
//!
//! # Examples
//! ```
//! use std::path::Path;
//! use qn_data::{DataName, Dataset, Split};
//!
//! let digits = Dataset::load(&DataName::Digits, Split::Train, Path::new(""), Some(100))?;
//! assert_eq!((digits.len(), digits.shape()), (100, &[1, 8, 8][..]));
//! assert_eq!(digits.labels().unwrap()[..3], [0, 1, 2]);
//! # Ok::<(), qn_data::DataError>(())
//! ```

mod augment;
mod batches;
mod cache;
mod dataset;
mod error;
mod fetch;
mod files;
mod fit;
mod name;
mod normalise;
mod source;
mod sources;
mod split;

pub use batches::epoch_batches;
pub use dataset::{BatchTargets, Dataset};
pub use error::DataError;
pub use fetch::fetch;
pub use fit::{architecture_for, check_loss, refuse_changed_data};
pub use name::DataName;
pub use normalise::Normalise;
pub use source::{Contents, Form, Source, TargetForm, Targets, Values};
pub use split::Split;
