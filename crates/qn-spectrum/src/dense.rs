use faer::diag::Diag;
use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::evd;
use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, MatMut, MatRef, Par};

use crate::eigenpairs::verified;
use crate::eigh::wide;
use crate::operator::multiply;
use crate::scaling::safe_power;
use crate::{
    Eigenpairs, Eigensystem, OperatorError, STORAGE_WIDTH, Scalar, Solver, SpectrumError, SymmetricOperator,
    Triangle, Vectors, Which, eigh,
};

/// A symmetric matrix in memory.
#[derive(Clone, Debug)]
pub struct DenseSymmetric {
    matrix: Mat<f64>,
}

/// All eigenvalues and vectors of a matrix.
#[derive(Clone, Debug)]
pub struct FullSpectrum {
    /// Eigenvalues, ascending.
    pub values: Vec<f64>,
    /// Column i belongs to value i.
    pub vectors: Mat<f64>,
}

/// Pieces that faer's solver divides its work into, whatever the number of threads: the last bits depend on it. On two
/// threads 2 to 16 take the same time (n = 3,000).
const PIECES: usize = 8;
/// Unit vectors multiplied at a time.
const BLOCK: usize = 16;
/// Products in single precision are symmetric to about the square root of their roundings times
/// 6e-8; a wrong operator is asymmetric by its whole size.
const ASYMMETRY: f64 = 1e-3;

/// Orders up to which the library's solver is faster, with vectors (n = 1,000: 0.3 s against 0.4 s; n = 2,000: 1.5 s
/// against 1.6 s, in a quarter of the memory beside the result).
const LIBRARY_UP_TO: usize = 2000;

/// Whether [`FullSpectrum::of`] is the better way to all eigenvalues of a matrix of order n, with vectors or without, and not
/// [`symmetric_eigen`](crate::symmetric_eigen).
pub fn wants_library(n: usize) -> bool {
    n <= LIBRARY_UP_TO
}

impl DenseSymmetric {
    /// The symmetric part of a matrix.
    ///
    /// # Errors
    /// An entry is not finite, or it is not symmetric, by more than rounding explains.
    pub fn new(mut matrix: Mat<f64>) -> Result<Self, SpectrumError> {
        let n = matrix.nrows();
        let norm = finite_norm_max(matrix.as_ref())?;
        // Relative to the largest entry, whose square may be out of range.
        let (mut asymmetry, mut size) = (0.0, 0.0);
        for j in 0..n {
            for i in 0..=j {
                let (a, b) = (matrix[(i, j)], matrix[(j, i)]);
                let weight = if i == j { 1.0 } else { 2.0 };
                asymmetry += weight * (a / norm - b / norm).powi(2);
                let mean = 0.5 * a + 0.5 * b;
                size += weight * (mean / norm).powi(2);
                matrix[(i, j)] = mean;
                matrix[(j, i)] = mean;
            }
        }
        let asymmetry = f64::sqrt(asymmetry / size);
        if norm > 0.0 && asymmetry > ASYMMETRY {
            return Err(SpectrumError::Asymmetric { asymmetry, bound: ASYMMETRY });
        }
        Ok(Self { matrix })
    }

    /// The matrix of an operator, from n products; `observe` hears how many columns are done.
    ///
    /// # Errors
    /// A product fails, or the operator is not symmetric.
    pub fn assemble<S: Scalar>(
        operator: &impl SymmetricOperator<S>,
        mut observe: impl FnMut(usize),
    ) -> Result<Self, SpectrumError> {
        let n = operator.dim();
        let mut matrix = Mat::zeros(n, n);
        for start in (0..n).step_by(BLOCK) {
            let b = BLOCK.min(n - start);
            let units = Mat::from_fn(n, b, |i, j| S::of(f64::from(u8::from(i == start + j))));
            let mut products = Mat::zeros(n, b);
            multiply(operator, units.as_ref(), products.as_mut())?;
            (0..b).for_each(|j| (0..n).for_each(|i| matrix[(i, start + j)] = products[(i, j)].f64()));
            observe(start + b);
        }
        Self::new(matrix)
    }

    /// The matrix.
    pub fn matrix(&self) -> MatRef<'_, f64> {
        self.matrix.as_ref()
    }

    /// All eigenvalues and vectors, in the way of [`FullSpectrum::of`].
    ///
    /// # Errors
    /// The iteration does not converge, which is not known to happen.
    pub fn eigen(&self) -> Result<FullSpectrum, SpectrumError> {
        FullSpectrum::of(self.matrix())
    }
}

impl FullSpectrum {
    /// All eigenvalues and vectors of a symmetric matrix, of which the lower triangle is read, by faer's divide and
    /// conquer, or above the order at which that is faster by the two stages of [`eigh`](crate::eigh()). Results do not depend
    /// on the number of threads.
    ///
    /// # Errors
    /// An entry is not finite, or the iteration does not converge, which is not known to happen.
    pub fn of(matrix: MatRef<'_, f64>) -> Result<Self, SpectrumError> {
        let power = safe_power::<f64>(finite_norm_max(matrix)?);
        if !wants_library(matrix.nrows()) {
            return Self::by_two_stages(matrix);
        }
        if power == 1.0 {
            return Self::of_safe(matrix);
        }
        let mut spectrum = Self::of_safe((matrix * faer::Scale(power)).as_ref())?;
        spectrum.values.iter_mut().for_each(|v| *v /= power);
        Ok(spectrum)
    }

    fn by_two_stages(matrix: MatRef<'_, f64>) -> Result<Self, SpectrumError> {
        let triangle = Triangle::<f64>::from_fn(matrix.nrows(), STORAGE_WIDTH, |i, j| matrix[(i, j)]);
        let Eigensystem { values, vectors } = eigh(triangle, Vectors::All, |_| Ok(()))?;
        Ok(Self { values, vectors: wide(&[vectors]) })
    }

    fn of_safe(matrix: MatRef<'_, f64>) -> Result<Self, SpectrumError> {
        let (n, par) = (matrix.nrows(), Par::rayon(PIECES));
        let (mut values, mut vectors) = (Diag::zeros(n), Mat::zeros(n, n));
        let scratch =
            evd::self_adjoint_evd_scratch::<f64>(n, evd::ComputeEigenvectors::Yes, par, Default::default());
        let mut buffer = MemBuffer::new(scratch);
        let (u, stack) = (Some(vectors.as_mut()), MemStack::new(&mut buffer));
        evd::self_adjoint_evd(matrix, values.as_mut(), u, par, stack, Default::default())
            .map_err(|_| SpectrumError::Dense)?;
        Ok(Self { values: values.column_vector().iter().copied().collect(), vectors })
    }

    /// k pairs, with residuals from products with the operator that the spectrum belongs to.
    ///
    /// # Errors
    /// k is 0 or more than n, or a product fails.
    pub fn pairs<S: Scalar>(
        &self,
        operator: &impl SymmetricOperator<S>,
        k: usize,
        which: Which,
        tol: f64,
    ) -> Result<Eigenpairs<S>, SpectrumError> {
        let n = self.values.len();
        if k == 0 || k > n {
            return Err(SpectrumError::Count { k, n });
        }
        let chosen = which.choose(&self.values, k);
        let vectors = Mat::from_fn(n, k, |i, j| S::of(self.vectors[(i, chosen[j])]));
        let values = chosen.iter().map(|&i| self.values[i]).collect();
        let scale = self.values.iter().fold(0.0f64, |a, v| a.max(v.abs()));
        let pairs = verified(operator, values, vectors, tol, scale)?;
        Ok(Eigenpairs { solver: Solver::Dense, ..pairs })
    }
}

/// The largest |entry|.
///
/// # Errors
/// An entry is not finite.
fn finite_norm_max(matrix: MatRef<'_, f64>) -> Result<f64, SpectrumError> {
    let mut largest = 0.0f64;
    for entry in matrix.col_iter().flat_map(|column| column.iter()) {
        if !entry.is_finite() {
            return Err(SpectrumError::NotFinite);
        }
        largest = largest.max(entry.abs());
    }
    Ok(largest)
}

impl SymmetricOperator for DenseSymmetric {
    fn dim(&self) -> usize {
        self.matrix.nrows()
    }

    fn apply(&self, x: MatRef<'_, f64>, y: MatMut<'_, f64>) -> Result<(), OperatorError> {
        matmul(y, Accum::Replace, self.matrix.as_ref(), x, 1.0, Par::Seq);
        Ok(())
    }
}
