use faer::traits::RealField;
use faer::{Mat, MatMut, MatRef};

use crate::lanes::Lanes;

/// The precision in which a matrix or the vectors of a solver are stored: f32 or f64.
pub trait Scalar: RealField + bytemuck::Pod + Lanes + Copy + Send + Sync + 'static {
    /// Numbers up to this, and down to its inverse, can be squared and divided by each other: about
    /// √(eps / smallest normal number).
    const SAFE: f64;
    /// The distance of 1 to the next number.
    const EPS: f64;
    /// What projecting out twice leaves of a vector of length 1 that lies in the span: some roundings.
    const LEFT: f64;
    /// Rows of tall matrices that are computed with at a time in double precision: all of them where they need not be
    /// converted, and otherwise so many that a Lanczos basis stays within the second-level cache.
    const STRIP: usize;
    /// The precision's name.
    const NAME: &'static str;
    /// Rounds to this precision.
    fn of(x: f64) -> Self;
    /// Exactly this number as a double.
    fn f64(self) -> f64;
    /// A matrix in double precision: itself, or a copy in a buffer.
    fn widen<'a>(x: MatRef<'a, Self>, buffer: &'a mut Mat<f64>) -> MatRef<'a, f64>;
    /// Changes a matrix in double precision: in place, or in a copy that is rounded back.
    fn change(x: MatMut<'_, Self>, change: impl FnOnce(MatMut<'_, f64>));
}

impl Scalar for f32 {
    const SAFE: f64 = 1e15;
    const EPS: f64 = Self::EPSILON as f64;
    const LEFT: f64 = 10.0 * Self::EPSILON as f64;
    const STRIP: usize = 1024;
    const NAME: &'static str = "f32";

    fn of(x: f64) -> Self {
        x as Self
    }

    fn f64(self) -> f64 {
        f64::from(self)
    }

    fn widen<'a>(x: MatRef<'a, Self>, buffer: &'a mut Mat<f64>) -> MatRef<'a, f64> {
        if (buffer.nrows(), buffer.ncols()) != (x.nrows(), x.ncols()) {
            *buffer = Mat::zeros(x.nrows(), x.ncols());
        }
        for (to, from) in buffer.col_iter_mut().zip(x.col_iter()) {
            to.iter_mut().zip(from.iter()).for_each(|(to, from)| *to = f64::from(*from));
        }
        buffer.as_ref()
    }

    fn change(x: MatMut<'_, Self>, change: impl FnOnce(MatMut<'_, f64>)) {
        let mut wide = Mat::from_fn(x.nrows(), x.ncols(), |i, j| f64::from(x[(i, j)]));
        change(wide.as_mut());
        for (to, from) in x.col_iter_mut().zip(wide.col_iter()) {
            to.iter_mut().zip(from.iter()).for_each(|(to, from)| *to = *from as Self);
        }
    }
}

impl Scalar for f64 {
    const SAFE: f64 = 1e145;
    const EPS: f64 = Self::EPSILON;
    const LEFT: f64 = 100.0 * Self::EPSILON;
    const STRIP: usize = usize::MAX;
    const NAME: &'static str = "f64";

    fn of(x: f64) -> Self {
        x
    }

    fn f64(self) -> f64 {
        self
    }

    fn widen<'a>(x: MatRef<'a, Self>, _: &'a mut Mat<f64>) -> MatRef<'a, f64> {
        x
    }

    fn change(x: MatMut<'_, Self>, change: impl FnOnce(MatMut<'_, f64>)) {
        change(x);
    }
}
