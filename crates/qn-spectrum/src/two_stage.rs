//! All eigenvalues, and some eigenvectors, of a matrix that fills the memory.

use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, Par};

use crate::band::band_eigenvectors;
use crate::band_reduction::Reduction;
use crate::eigenpairs::fix_signs;
use crate::orthogonal::orthonormalise;
use crate::{FullSpectrum, Scalar, SpectrumError, SymmetricOperator as _, Triangle, bulge};

/// How far [`symmetric_eigen`] is.
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
}

/// Width of the band between the stages: the first is faster with a wider one, the second with a narrower
/// one. Measured at n = 8,000.
pub const BAND: usize = 64;

/// Columns of a [`Triangle`] that are best stored together: the matrix products of the first stage are of this width.
pub const STORAGE_WIDTH: usize = 256;

/// Orders up to which the library's solver is used, which gives every vector. Above it is slower than
/// the two stages are (n = 2,000: 0.9 s against 0.7 s).
const LIBRARY_UP_TO: usize = 2000;
/// Above that the library's solver, whose vectors come all at once, is used for more than one vector in so many.
const MANY_VECTORS: usize = 20;

/// Whether [`FullSpectrum::of`] is the better way to all eigenvalues of a matrix of order n and to so many of its vectors,
/// and not [`symmetric_eigen`].
pub fn wants_library(n: usize, vectors: usize) -> bool {
    n <= LIBRARY_UP_TO || vectors > n / MANY_VECTORS
}

/// All eigenvalues and some eigenvectors.
#[derive(Clone, Debug)]
pub struct PartialSpectrum {
    /// All eigenvalues, ascending.
    pub values: Vec<f64>,
    /// Which of them have vectors.
    pub chosen: Vec<usize>,
    /// Their unit vectors, [n, k]; the entry of largest magnitude is positive.
    pub vectors: Mat<f64>,
}

/// All eigenvalues of a matrix, which is used up, and the eigenvectors of the `bottom` smallest and the
/// `top` largest. Two stages: to a band matrix by block reflectors, and from there to a tridiagonal one by
/// chasing bulges. `observe` may stop it by an error.
///
/// Errors of the eigenvalues are a small multiple of n · eps · |A| in the precision of the storage.
///
/// # Errors
/// The matrix has entries that are not finite, or `observe` says so.
pub fn symmetric_eigen<T: Scalar>(
    triangle: Triangle<T>,
    ends: (usize, usize),
    mut observe: impl FnMut(Stage) -> Result<(), SpectrumError>,
) -> Result<PartialSpectrum, SpectrumError> {
    let mut reduction = Reduction::new(triangle, BAND)?;
    while reduction.step() {
        observe(Stage::Band(reduction.done()))?;
    }
    reduction.eigen(ends, observe)
}

impl<T: Scalar> Reduction<T> {
    /// All eigenvalues from the band matrix on, after the last [`Self::step`].
    ///
    /// # Errors
    /// `observe` says so.
    pub fn eigen(
        mut self,
        (bottom, top): (usize, usize),
        mut observe: impl FnMut(Stage) -> Result<(), SpectrumError>,
    ) -> Result<PartialSpectrum, SpectrumError> {
        while self.step() {}
        let (n, band) = (self.order(), self.band());
        let tridiagonal =
            bulge::tridiagonalise::<T, _>(band.clone(), None, |done| observe(Stage::Tridiagonal(done)))?;
        observe(Stage::Eigenvalues)?;
        let mut values = tridiagonal.eigenvalues()?;
        let chosen = ends(n, bottom, top);
        observe(Stage::Eigenvectors)?;
        let wanted: Vec<f64> = chosen.iter().map(|&i| values[i]).collect();
        let mut vectors = rayleigh_ritz(&band, band_eigenvectors(&band, &wanted, 0))?;
        self.transform_back(&mut vectors);
        fix_signs(&mut vectors);
        values.iter_mut().for_each(|v| *v /= self.power());
        Ok(PartialSpectrum { values, chosen, vectors })
    }
}

/// The `bottom` smallest and the `top` largest of n indices.
fn ends(n: usize, bottom: usize, top: usize) -> Vec<usize> {
    (0..n).filter(|&i| i < bottom || i + top >= n).collect()
}

impl FullSpectrum {
    /// All eigenvalues, and the vectors of the `bottom` smallest and the `top` largest alone.
    pub fn ends(self, (bottom, top): (usize, usize)) -> PartialSpectrum {
        let (n, all) = (self.values.len(), self.vectors);
        let chosen = ends(n, bottom, top);
        let mut vectors = Mat::from_fn(n, chosen.len(), |i, j| all[(i, chosen[j])]);
        fix_signs(&mut vectors);
        PartialSpectrum { values: self.values, chosen, vectors }
    }
}

/// Rayleigh–Ritz: orthonormal vectors of the same space that diagonalise the matrix in it, ascending.
fn rayleigh_ritz(band: &crate::band::Band, mut vectors: Mat<f64>) -> Result<Mat<f64>, SpectrumError> {
    use rand::SeedableRng as _;
    let (n, k) = (vectors.nrows(), vectors.ncols());
    if k == 0 {
        return Ok(vectors);
    }
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(0);
    let (none, all) = vectors.as_mut().split_at_col_mut(0);
    orthonormalise(none.as_ref(), all, f64::MIN_POSITIVE, &mut rng);
    let mut products = Mat::zeros(n, k);
    band.apply(vectors.as_ref(), products.as_mut())?;
    let mut projected = Mat::zeros(k, k);
    matmul(projected.as_mut(), Accum::Replace, vectors.transpose(), products.as_ref(), 1.0, Par::Seq);
    let eigen = FullSpectrum::of(projected.as_ref())?;
    let mut ritz_vectors = Mat::zeros(n, k);
    matmul(ritz_vectors.as_mut(), Accum::Replace, vectors.as_ref(), eigen.vectors.as_ref(), 1.0, Par::Seq);
    Ok(ritz_vectors)
}
