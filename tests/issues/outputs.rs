//! Files that were not ours, or that are being read, are never replaced.
