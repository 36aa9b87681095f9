/// Why a product could not be computed; the solvers pass it on.
pub type OperatorError = Box<dyn std::error::Error + Send + Sync>;

/// What can go wrong in a solver.
#[derive(Debug, thiserror::Error)]
pub enum SpectrumError {
    /// A product failed.
    #[error("{0}")]
    Operator(#[from] OperatorError),
    /// k is not between 1 and n.
    #[error("k = {k} eigenpairs of an operator of dimension {n}: k must be 1 to {n}")]
    Count {
        /// Number of pairs that was asked for.
        k: usize,
        /// The operator's dimension.
        n: usize,
    },
    /// The basis is too small.
    #[error("ncv = {ncv} is too small: with k = {k} and block = {block} it must be at least {least}")]
    Basis {
        /// Number of basis vectors that was asked for.
        ncv: usize,
        /// Pairs wanted.
        k: usize,
        /// Vectors multiplied at a time.
        block: usize,
        /// The smallest that works.
        least: usize,
    },
    /// The tolerance is negative or not finite.
    #[error("tol = {tol}: it must be a finite number of at least 0")]
    Tolerance {
        /// Tolerance that was asked for.
        tol: f64,
    },
    /// The operator is not symmetric.
    #[error(
        "the operator is not symmetric: |A - A^T| is {asymmetry:.1e} of |A|, rounding explains {bound:.1e}"
    )]
    Asymmetric {
        /// Relative asymmetry.
        asymmetry: f64,
        /// What is tolerated.
        bound: f64,
    },
    /// Too few random vectors, steps or points.
    #[error("{found} is too few: give at least {least}")]
    Probes {
        /// Number that was given.
        found: usize,
        /// The fewest that work.
        least: usize,
    },
    /// The grid of a density cannot show Gaussians so narrow.
    #[error(
        "sigma = {sigma:e} is below the distance of the {points} points, so that the density would not show: give at least {least:e}, or more points"
    )]
    Sigma {
        /// Width that was asked for.
        sigma: f64,
        /// Points of the grid.
        points: usize,
        /// The smallest that they show.
        least: f64,
    },
    /// A preconditioner of another size.
    #[error("a diagonal of {found} entries for an operator of dimension {n}")]
    DiagonalLength {
        /// Number of entries of the diagonal.
        found: usize,
        /// The operator's dimension.
        n: usize,
    },
    /// A preconditioner that has no inverse square root.
    #[error("entry {row} of the diagonal is {value}: all must be positive numbers")]
    Diagonal {
        /// The first such entry, from 0.
        row: usize,
        /// The entry itself.
        value: f64,
    },
    /// The matrix has an entry that is infinite or not a number.
    #[error("the matrix has entries that are not finite")]
    NotFinite,
    /// A product has an entry that is infinite or not a number.
    #[error("a product with the operator is not finite, first in row {row}")]
    Product {
        /// The first such row, from 0.
        row: usize,
    },
    /// The dense solver gave up.
    #[error("the dense eigensolver did not converge")]
    Dense,
}
