//! Training: divergence, resuming, leftovers, names and links.
