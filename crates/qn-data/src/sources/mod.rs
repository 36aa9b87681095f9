//! A file for each format, and for what some of them share.

pub(crate) mod array;
pub(crate) mod arrays;
pub(crate) mod cifar;
pub(crate) mod cifar_pickle;
pub(crate) mod digits;
pub(crate) mod idx;
pub(crate) mod npz;
pub(crate) mod safetensors;
