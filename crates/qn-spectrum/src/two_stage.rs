//! All eigenvalues, and some eigenvectors, of a matrix that fills the memory.

use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, Par};

use crate::band::band_eigenvectors;
use crate::band_reduction::Reduction;
use crate::eigenpairs::fix_signs;
use crate::eigh::wide;
use crate::orthogonal::orthonormalise;
use crate::{
    BAND, Eigensystem, FullSpectrum, STORAGE_WIDTH, Scalar, SpectrumError, Stage, SymmetricOperator as _,
    Triangle, Vectors, bulge,
};

/// Inverse iteration on the band matrix gives up to one vector in so many; more come from the tridiagonal matrix.
const MANY_VECTORS: usize = 20;

/// Bytes that [`symmetric_eigen`] holds at most beside a triangle of order n, for so many vectors.
pub fn workspace_bytes<T: Scalar>(n: usize, vectors: usize) -> usize {
    let given = n * vectors * size_of::<f64>();
    // The reflections, the halves of the tridiagonal matrix's vectors, and the vectors before they are given.
    let made = if vectors > n / MANY_VECTORS { n * (n + vectors) * size_of::<T>() } else { given };
    // The reflectors of a block column, and what is as wide as the band.
    given + made + n * STORAGE_WIDTH * size_of::<T>() + 4 * n * BAND * size_of::<f64>()
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
        let n = self.order();
        if bottom + top > n / MANY_VECTORS {
            return self.many((bottom, top), observe);
        }
        let band = self.band();
        let tridiagonal =
            bulge::tridiagonalise::<T, _>(band.clone(), None, |done| observe(Stage::Tridiagonal(done)))?;
        observe(Stage::Eigenvalues)?;
        let mut values = tridiagonal.eigenvalues()?;
        let chosen = ends(n, bottom, top);
        observe(Stage::Eigenvectors)?;
        let wanted: Vec<f64> = chosen.iter().map(|&i| values[i]).collect();
        let mut vectors = rayleigh_ritz(&band, band_eigenvectors(&band, &wanted, 0))?;
        self.transform_back(&mut vectors);
        fix_signs(vectors.as_mut());
        values.iter_mut().for_each(|v| *v /= self.power());
        Ok(PartialSpectrum { values, chosen, vectors })
    }

    /// [`Self::eigen`] by divide and conquer.
    fn many(
        self,
        (bottom, top): (usize, usize),
        mut observe: impl FnMut(Stage) -> Result<(), SpectrumError>,
    ) -> Result<PartialSpectrum, SpectrumError> {
        let n = self.order();
        let chosen = ends(n, bottom, top);
        if chosen.len() == n {
            let Eigensystem { values, vectors } = self.eigh(Vectors::All, observe)?;
            return Ok(PartialSpectrum { values, chosen, vectors: wide(&[vectors]) });
        }
        let panels = self.panels(&mut observe)?;
        observe(Stage::Eigenvectors)?;
        let vectors = [panels.vectors(0..bottom), panels.vectors(n - top..n)];
        Ok(PartialSpectrum { values: panels.values().to_vec(), chosen, vectors: wide(&vectors) })
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
        fix_signs(vectors.as_mut());
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
