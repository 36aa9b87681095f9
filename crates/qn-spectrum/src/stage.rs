//! What the two-stage solvers share: the band between the stages, and where they are.

/// How far [`symmetric_eigen`](crate::symmetric_eigen) or [`eigh`](crate::eigh()) is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Stage {
    /// Full to band, nearly all of the work; the share that is done.
    Band(f64),
    /// Band to tridiagonal; the share that is done.
    Tridiagonal(f64),
    /// Eigenvalues of the tridiagonal matrix.
    Eigenvalues,
    /// Eigenvectors of the tridiagonal or of the band matrix, and from there to the full one.
    Eigenvectors,
    /// Where all eigenvectors are wanted: those of the band matrix are there, and go to the full one.
    BandToFull,
}

/// Width of the band between the stages: the first is faster with a wider one, the second with a narrower
/// one. Measured at n = 8,000.
pub const BAND: usize = 64;
