//! Blocks of vectors between numpy and faer.

use faer::{Mat, MatRef};
use numpy::npyffi::NPY_ORDER;
use numpy::{Element, PyArray1, PyArray2, PyArrayMethods as _, PyReadonlyArray2, PyUntypedArrayMethods as _};
use pyo3::prelude::*;

use crate::errors::value_error;

/// The block (n, b) as it lies in memory, row by row or column by column.
///
/// # Errors
/// It is neither.
pub(crate) fn block<'a, T: Element>(array: &'a PyReadonlyArray2<'_, T>) -> PyResult<MatRef<'a, T>> {
    let (rows, columns) = (array.shape()[0], array.shape()[1]);
    let numbers = array.as_slice().map_err(|_| {
        value_error("the block of vectors is not contiguous: pass numpy.ascontiguousarray(block)")
    })?;
    if array.is_c_contiguous() {
        Ok(MatRef::from_row_major_slice(numbers, rows, columns))
    } else {
        Ok(MatRef::from_column_major_slice(numbers, rows, columns))
    }
}

/// A numpy array (n, b) of numbers that lie column by column.
pub(crate) fn columns<'py, T: Element>(
    py: Python<'py>,
    numbers: Vec<T>,
    [rows, columns]: [usize; 2],
) -> PyResult<Bound<'py, PyArray2<T>>> {
    PyArray1::from_vec(py, numbers).reshape_with_order([rows, columns], NPY_ORDER::NPY_FORTRANORDER)
}

/// A numpy array of a matrix.
pub(crate) fn matrix<'py, T: Element + Copy>(
    py: Python<'py>,
    matrix: &Mat<T>,
) -> PyResult<Bound<'py, PyArray2<T>>> {
    columns(py, flat(matrix.as_ref()), [matrix.nrows(), matrix.ncols()])
}

/// All numbers of a matrix, column by column.
pub(crate) fn flat<T: Copy>(matrix: MatRef<'_, T>) -> Vec<T> {
    matrix.col_iter().flat_map(|column| column.iter().copied()).collect()
}
