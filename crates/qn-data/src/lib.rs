//! Images and labels: the embedded digits, MNIST and CIFAR-10.
//!
//! A [`Dataset`] keeps pixels as bytes and normalises on the way out, so all of CIFAR-10 takes
//! 153 MB. Files are checked whole before anything is believed.

mod augment;
mod batches;
mod cifar;
mod dataset;
mod digits;
mod error;
mod fetch;
mod idx;
mod source;

pub use batches::epoch_batches;
pub use dataset::{DataName, Dataset, Split};
pub use error::DataError;
pub use fetch::fetch;
