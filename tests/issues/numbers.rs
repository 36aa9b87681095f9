//! Spectra of odd networks, and numbers on the command line and in reports.
