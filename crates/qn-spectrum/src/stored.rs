//! Matrices as bytes, in the machine's order: what a long computation keeps for itself.

use std::io::{self, Read, Write};

use faer::{MatMut, MatRef};

use crate::chased::Chased;
use crate::{Scalar, Triangle};

/// Writes sizes; [`read_sizes`] reads them.
pub(crate) fn write_sizes<const N: usize>(to: &mut impl Write, sizes: [usize; N]) -> io::Result<()> {
    sizes.iter().try_for_each(|&size| to.write_all(&(size as u64).to_le_bytes()))
}

/// N sizes.
pub(crate) fn read_sizes<const N: usize>(from: &mut impl Read) -> io::Result<[usize; N]> {
    let mut sizes = [0; N];
    for size in &mut sizes {
        let mut bytes = [0; 8];
        from.read_exact(&mut bytes)?;
        *size = usize::try_from(u64::from_le_bytes(bytes)).unwrap_or(usize::MAX);
    }
    Ok(sizes)
}

/// The entries of a matrix, column by column.
pub(crate) fn write_entries<T: Scalar>(to: &mut impl Write, matrix: MatRef<'_, T>) -> io::Result<()> {
    matrix.col_iter().try_for_each(|column| match column.try_as_col_major() {
        Some(column) => to.write_all(bytemuck::cast_slice(column.as_slice())),
        None => Err(io::Error::other("a matrix is not stored by columns")),
    })
}

/// The entries of a matrix whose size is known.
pub(crate) fn read_entries<T: Scalar>(from: &mut impl Read, matrix: MatMut<'_, T>) -> io::Result<()> {
    matrix.col_iter_mut().try_for_each(|column| match column.try_as_col_major_mut() {
        Some(column) => from.read_exact(bytemuck::cast_slice_mut(column.as_slice_mut())),
        None => Err(io::Error::other("a matrix is not stored by columns")),
    })
}

/// Sizes that were not written by us.
pub(crate) fn unsound() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "sizes that do not belong together")
}

impl<T: Scalar> Triangle<T> {
    /// Writes what [`Self::read`] needs.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn write(&self, to: &mut impl Write) -> io::Result<()> {
        write_sizes(to, [self.order(), self.width()])?;
        to.write_all(&self.unit().to_le_bytes())?;
        self.columns().iter().try_for_each(|column| write_entries(to, column.as_ref()))
    }

    /// Reads what [`Self::write`] has written of a matrix of order n.
    ///
    /// # Errors
    /// Those of the reader, or it is not of such a matrix.
    pub fn read(from: &mut impl Read, n: usize) -> io::Result<Self> {
        let [order, width] = read_sizes(from)?;
        let mut unit = [0; 8];
        from.read_exact(&mut unit)?;
        let unit = f64::from_le_bytes(unit);
        if order != n || !(1..=n).contains(&width) || !(unit.is_normal() && unit > 0.0) {
            return Err(unsound());
        }
        let mut triangle = Self::zeros(n, width).with_unit(unit);
        triangle.columns_mut().iter_mut().try_for_each(|column| read_entries(from, column.as_mut()))?;
        Ok(triangle)
    }
}

impl<T: Scalar> Chased<T> {
    /// Writes what [`Self::read`] needs, about n²/2 numbers.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn write(&self, to: &mut impl Write) -> io::Result<()> {
        let (n, width) = self.sizes();
        write_sizes(to, [n, width])?;
        self.sweeps().iter().try_for_each(|sweep| {
            write_sizes(to, [sweep.len()])?;
            to.write_all(bytemuck::cast_slice(sweep))
        })
    }

    /// Reads what [`Self::write`] has written of a matrix of order n.
    ///
    /// # Errors
    /// Those of the reader, or it is not of such a matrix.
    pub fn read(from: &mut impl Read, n: usize) -> io::Result<Self> {
        let [order, width] = read_sizes(from)?;
        if order != n || width > n {
            return Err(unsound());
        }
        let mut chased = Self::new(n, width);
        for (s, sweep) in chased.sweeps_mut().iter_mut().enumerate() {
            let [len] = read_sizes(from)?;
            if len > n - 1 - s {
                return Err(unsound());
            }
            sweep.resize(len, T::of(0.0));
            from.read_exact(bytemuck::cast_slice_mut(sweep))?;
        }
        Ok(chased)
    }
}
