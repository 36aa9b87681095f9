//! Closed pipes, full devices and signals.
