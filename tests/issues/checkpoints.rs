//! Checkpoints as PyTorch users have them.
