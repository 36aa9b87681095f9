//! Reports and tensors that do not belong together are told apart.
