//! All eigenvalues of a matrix that fills the memory, and all eigenvectors, a range of them, or none.
//!
//! Full to band, band to tridiagonal, the tridiagonal matrix by divide and conquer, and both sets of reflections on its
//! vectors. The matrix's memory holds the first reflections, as much again the second ones; everything is stored in the
//! precision of the matrix.
//!
//! ```
//! use qn_spectrum::{Triangle, Vectors, eigh};
//!
//! // 2 on the diagonal and −1 beside it: values 4 sin²(k π / 2 (n + 1)).
//! let entry = |i: usize, j: usize| match i - j { 0 => 2.0, 1 => -1.0, _ => 0.0 };
//! let triangle = Triangle::<f64>::from_fn(300, 64, entry);
//! let found = eigh(triangle, Vectors::All, |_| Ok(()))?;
//! let lowest = 4.0 * (std::f64::consts::PI / 602.0).sin().powi(2);
//! assert!((found.values[0] - lowest).abs() < 1e-13);
//! assert_eq!(found.vectors.as_ref().ncols(), 300);
//! # Ok::<(), qn_spectrum::SpectrumError>(())
//! ```

use std::ops::Range;

use faer::prelude::ReborrowMut as _;
use faer::{Mat, MatMut, MatRef};

use crate::band_reduction::Reduction;
use crate::chased::Chased;
use crate::conquer::{self, Halves};
use crate::eigenpairs::fix_signs;
use crate::{BAND, Scalar, SpectrumError, Stage, Triangle, Tridiagonal, bulge};

/// Which eigenvectors are wanted, in the order of ascending eigenvalues.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Vectors {
    /// None: eigenvalues only.
    None,
    /// All n.
    All,
    /// Some that follow each other; the end must not be above n.
    Range(Range<usize>),
}

/// All eigenvalues and some eigenvectors, in the precision of the matrix.
#[derive(Clone, Debug)]
pub struct Eigensystem<T> {
    /// All eigenvalues, ascending.
    pub values: Vec<f64>,
    /// Unit vectors, [n, k], of the eigenvalues that were chosen; the entry of largest magnitude is positive.
    pub vectors: Columns<T>,
}

/// A matrix, column by column.
#[derive(Clone, Debug, PartialEq)]
pub struct Columns<T> {
    rows: usize,
    numbers: Vec<T>,
}

impl<T: Scalar> Columns<T> {
    /// The matrix.
    pub fn as_ref(&self) -> MatRef<'_, T> {
        MatRef::from_column_major_slice(&self.numbers, self.rows, self.numbers.len() / self.rows.max(1))
    }

    /// All numbers, column by column.
    pub fn into_vec(self) -> Vec<T> {
        self.numbers
    }
}

/// Matrices beside each other, in double precision.
pub(crate) fn wide<T: Scalar>(parts: &[Columns<T>]) -> Mat<f64> {
    let columns: Vec<_> = parts.iter().flat_map(|part| part.as_ref().col_iter()).collect();
    let rows = columns.first().map_or(0, |column| column.nrows());
    Mat::from_fn(rows, columns.len(), |i, j| columns[j][i].f64())
}

/// All eigenvalues of a matrix, which is used up, and the eigenvectors that are wanted; `observe` may stop it by an error.
///
/// Errors of the eigenvalues, residuals and |VᵀV − 1| are a small multiple of n · eps, times |A| for the first two, in
/// the precision of the matrix. All vectors take at most 1.5 n² numbers of this precision beside the result.
///
/// # Errors
/// The matrix has entries that are not finite, or `observe` says so.
///
/// # Panics
/// The range ends beyond n.
pub fn eigh<T: Scalar>(
    triangle: Triangle<T>,
    vectors: Vectors,
    mut observe: impl FnMut(Stage) -> Result<(), SpectrumError>,
) -> Result<Eigensystem<T>, SpectrumError> {
    let mut reduction = Reduction::new(triangle, BAND)?;
    while reduction.step() {
        observe(Stage::Band(reduction.done()))?;
    }
    reduction.eigh(vectors, observe)
}

/// A matrix that is reduced to tridiagonal form, with what leads back from there: gives eigenvectors a few at a time,
/// so that no more of them need be held than are wanted at once.
pub struct Panels<T> {
    values: Vec<f64>,
    reduction: Reduction<T>,
    chased: Chased<T>,
    halves: Halves<T>,
}

impl<T: Scalar> Reduction<T> {
    /// All eigenvalues and the wanted eigenvectors from the band matrix on, after the last [`Self::step`].
    ///
    /// # Errors
    /// `observe` says so.
    ///
    /// # Panics
    /// The range ends beyond n.
    pub fn eigh(
        mut self,
        vectors: Vectors,
        mut observe: impl FnMut(Stage) -> Result<(), SpectrumError>,
    ) -> Result<Eigensystem<T>, SpectrumError> {
        match vectors {
            Vectors::None => {
                let tridiagonal = self.tridiagonal(None, &mut observe)?;
                observe(Stage::Eigenvalues)?;
                let values = self.unscaled(tridiagonal.eigenvalues()?);
                Ok(Eigensystem { values, vectors: Columns { rows: self.order(), numbers: Vec::new() } })
            }
            Vectors::All => {
                let mut chased = Chased::new(self.order(), self.width());
                let tridiagonal = self.tridiagonal(Some(&mut chased), &mut observe)?;
                observe(Stage::Eigenvalues)?;
                let (values, vectors) =
                    rayon::join(|| tridiagonal.eigenvalues(), || conquer::vectors::<T>(&tridiagonal));
                let (values, mut numbers) = (self.unscaled(values?), vectors?);
                observe(Stage::Eigenvectors)?;
                chased.apply(&mut numbers);
                drop(chased);
                observe(Stage::BandToFull)?;
                self.transform(&mut numbers);
                Ok(Eigensystem { values, vectors: Columns { rows: self.order(), numbers } })
            }
            Vectors::Range(range) => {
                let panels = self.panels(&mut observe)?;
                observe(Stage::Eigenvectors)?;
                let vectors = panels.vectors(range);
                Ok(Eigensystem { values: panels.values, vectors })
            }
        }
    }

    /// All eigenvalues, and what gives eigenvectors by and by; holds 1.5 n² numbers.
    ///
    /// # Errors
    /// `observe` says so.
    pub fn panels(
        mut self,
        mut observe: impl FnMut(Stage) -> Result<(), SpectrumError>,
    ) -> Result<Panels<T>, SpectrumError> {
        let mut chased = Chased::new(self.order(), self.width());
        let tridiagonal = self.tridiagonal(Some(&mut chased), &mut observe)?;
        observe(Stage::Eigenvalues)?;
        let (values, halves) = rayon::join(|| tridiagonal.eigenvalues(), || Halves::new(&tridiagonal));
        let (values, halves) = (self.unscaled(values?), halves?);
        Ok(Panels { values, reduction: self, chased, halves })
    }

    fn tridiagonal(
        &mut self,
        chased: Option<&mut Chased<T>>,
        mut observe: impl FnMut(Stage) -> Result<(), SpectrumError>,
    ) -> Result<Tridiagonal, SpectrumError> {
        while self.step() {}
        bulge::tridiagonalise(self.band(), chased, |done| observe(Stage::Tridiagonal(done)))
    }

    fn unscaled(&self, mut values: Vec<f64>) -> Vec<f64> {
        values.iter_mut().for_each(|v| *v /= self.power());
        values
    }
}

/// The stages from the band matrix on one by one: a matrix whose eigenvectors do not fit into the memory beside it gets them
/// some at a time, first all of [`Halves::columns`], then [`Chased::apply`] and last [`Self::transform`] on each, while what
/// the other stages need is on disk.
impl<T: Scalar> Reduction<T> {
    /// The tridiagonal matrix, and what leads from its eigenvectors to those of the band matrix, after the last
    /// [`Self::step`]; the matrix's own memory is given back before that is made.
    ///
    /// # Errors
    /// `observe` says so.
    pub fn chase(
        mut self,
        mut observe: impl FnMut(Stage) -> Result<(), SpectrumError>,
    ) -> Result<(Tridiagonal, Chased<T>), SpectrumError> {
        while self.step() {}
        let (n, width, power, band) = (self.order(), self.width(), self.power(), self.band());
        drop(self);
        let mut chased = Chased::new(n, width);
        let Tridiagonal { mut diagonal, mut subdiagonal } =
            bulge::tridiagonalise(band, Some(&mut chased), |done| observe(Stage::Tridiagonal(done)))?;
        // By a power of two: no digit changes.
        diagonal.iter_mut().chain(&mut subdiagonal).for_each(|x| *x /= power);
        Ok((Tridiagonal { diagonal, subdiagonal }, chased))
    }

    /// Makes eigenvectors of the matrix, the entry of largest magnitude being positive, of those of the band matrix: columns
    /// of n numbers, which do not depend on those beside them.
    pub fn transform(&self, vectors: &mut [T]) {
        let (n, columns) = (self.order(), vectors.len() / self.order().max(1));
        let mut vectors = MatMut::from_column_major_slice_mut(vectors, n, columns);
        self.transform_many_back(vectors.rb_mut());
        fix_signs(vectors);
    }
}

impl<T: Scalar> Panels<T> {
    /// All eigenvalues, ascending.
    pub fn values(&self) -> &[f64] {
        &self.values
    }

    /// The unit eigenvectors of a range of the eigenvalues, [n, length of the range]; the entry of largest magnitude is
    /// positive.
    ///
    /// # Panics
    /// The range ends beyond n.
    pub fn vectors(&self, range: Range<usize>) -> Columns<T> {
        assert!(range.end <= self.values.len(), "vectors {range:?} of {}", self.values.len());
        let mut numbers = self.halves.columns(range);
        self.chased.apply(&mut numbers);
        self.reduction.transform(&mut numbers);
        Columns { rows: self.values.len(), numbers }
    }
}
