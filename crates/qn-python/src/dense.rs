//! Whole matrices: those of the engine, assembled, and numpy's.

use std::ops::Range;

use faer::Mat;
use numpy::{PyArray1, PyArray2, PyReadonlyArray2, PyUntypedArrayMethods as _};
use pyo3::prelude::*;
use qn_curvature::{Curvature, Derivatives, Entries, Operator, Real};
use qn_spectrum::{
    DenseSymmetric, PartialSpectrum, STORAGE_WIDTH, Scalar, SpectrumError, Stage, Triangle, wants_library,
};

use crate::arrays::{block, matrix};
use crate::errors::{Stopped, spectrum_error, value_error};
use crate::progress::Progress;

/// All eigenvalues, ascending; the indices of those that have vectors; the vectors, (n, number of indices).
pub(crate) type Spectrum<'py> =
    (Bound<'py, PyArray1<f64>>, Bound<'py, PyArray1<usize>>, Bound<'py, PyArray2<f64>>);

/// The matrix of the engine in the making.
struct Assembly<'a, T> {
    triangle: Triangle<T>,
    shrink: f64,
    progress: &'a Progress,
}

impl<T: Scalar> Entries<Stopped> for Assembly<'_, T> {
    fn add(&mut self, rows: Range<usize>, j: usize, x: impl Iterator<Item = f64>) {
        self.triangle.add(rows, j, x.map(|x| x * self.shrink));
    }

    fn reached(&mut self, _: usize, share: f64) -> Result<(), Stopped> {
        Ok(self.progress.tell("assembly", share, 0.0)?)
    }
}

fn assemble<T: Real + Scalar>(
    curvature: &Curvature<T>,
    which: Operator,
    progress: &Progress,
) -> Result<Triangle<T>, Stopped> {
    let unit = 1.0 / curvature.scale();
    let triangle = Triangle::zeros(curvature.dim(), STORAGE_WIDTH).with_unit(unit);
    let mut assembly = Assembly { triangle, shrink: 1.0 / unit, progress };
    curvature.assemble(which, 0, &mut assembly)?;
    Ok(assembly.triangle)
}

/// All eigenvalues and the vectors at both ends.
fn eigen<T: Scalar>(
    triangle: Triangle<T>,
    (bottom, top): (usize, usize),
    progress: &Progress,
) -> Result<PartialSpectrum, SpectrumError> {
    let n = triangle.order();
    if wants_library(n) {
        return Ok(DenseSymmetric::new(triangle.to_square())?.eigen()?.ends((bottom, top)));
    }
    qn_spectrum::symmetric_eigen(triangle, (bottom, top), |stage| {
        let (name, share) = match stage {
            Stage::Band(share) => ("to band form", share),
            Stage::Tridiagonal(share) => ("to tridiagonal form", share),
            Stage::Eigenvalues => ("eigenvalues", 0.0),
            Stage::Eigenvectors | Stage::BandToFull => ("eigenvectors", 0.0),
        };
        progress.tell(name, share, 0.0).map_err(|raised| SpectrumError::Operator(Box::new(raised)))
    })
}

fn spectrum<'py>(py: Python<'py>, found: PartialSpectrum) -> PyResult<Spectrum<'py>> {
    let vectors = matrix(py, &found.vectors)?;
    Ok((PyArray1::from_vec(py, found.values), PyArray1::from_vec(py, found.chosen), vectors))
}

fn check_ends(n: usize, bottom: usize, top: usize) -> PyResult<(usize, usize)> {
    match bottom <= n && top <= n {
        true => Ok((bottom, top)),
        false => Err(value_error(format!("{bottom} smallest and {top} largest of {n} eigenvalues"))),
    }
}

/// The whole matrix of the engine, (P, P).
pub(crate) fn whole<'py>(
    py: Python<'py>,
    (derivatives, which): (&Derivatives, Operator),
    progress: &Progress,
) -> PyResult<Bound<'py, PyArray2<f64>>> {
    let square = py.detach(|| -> Result<Mat<f64>, Stopped> {
        Ok(match derivatives {
            Derivatives::Double(c) => assemble(c, which, progress)?.to_square(),
            Derivatives::Single(c) => assemble(c, which, progress)?.to_square(),
        })
    })?;
    matrix(py, &square)
}

/// All eigenvalues of a matrix of the engine, and the vectors of the smallest and of the largest.
pub(crate) fn spectrum_of<'py>(
    py: Python<'py>,
    (derivatives, which): (&Derivatives, Operator),
    [bottom, top]: [usize; 2],
    progress: &Progress,
) -> PyResult<Spectrum<'py>> {
    let ends = check_ends(derivatives.dim(), bottom, top)?;
    let found = py.detach(|| -> PyResult<PartialSpectrum> {
        match derivatives {
            Derivatives::Double(c) => eigen(assemble(c, which, progress)?, ends, progress),
            Derivatives::Single(c) => eigen(assemble(c, which, progress)?, ends, progress),
        }
        .map_err(spectrum_error)
    })?;
    spectrum(py, found)
}

/// All eigenvalues of a symmetric matrix, and the vectors of the `bottom` smallest and the `top` largest, in the precision
/// of the matrix.
#[pyfunction]
#[pyo3(signature = (array, bottom, top, progress=None))]
pub(crate) fn symmetric_eigen<'py>(
    py: Python<'py>,
    array: &Bound<'py, PyAny>,
    bottom: usize,
    top: usize,
    progress: Option<Bound<'py, PyAny>>,
) -> PyResult<Spectrum<'py>> {
    let progress = Progress::new(progress);
    if let Ok(array) = array.extract::<PyReadonlyArray2<'py, f64>>() {
        return solve(py, &array, (bottom, top), &progress);
    }
    match array.extract::<PyReadonlyArray2<'py, f32>>() {
        Ok(array) => solve(py, &array, (bottom, top), &progress),
        Err(_) => Err(value_error("the matrix is no array of two axes of float64 or float32")),
    }
}

fn solve<'py, T: Scalar + numpy::Element>(
    py: Python<'py>,
    array: &PyReadonlyArray2<'py, T>,
    (bottom, top): (usize, usize),
    progress: &Progress,
) -> PyResult<Spectrum<'py>> {
    let n = array.shape()[0];
    if array.shape() != [n, n] || n == 0 {
        return Err(value_error(format!("a matrix of shape {:?} is not square", array.shape())));
    }
    let (ends, square) = (check_ends(n, bottom, top)?, block(array)?);
    let found = py.detach(|| {
        eigen(Triangle::<T>::from_fn(n, STORAGE_WIDTH, |i, j| square[(i, j)].f64()), ends, progress)
    });
    spectrum(py, found.map_err(spectrum_error)?)
}
