use faer::prelude::{Reborrow as _, ReborrowMut as _};
use faer::{MatMut, MatRef};

use crate::{OperatorError, Scalar, SpectrumError};

/// A real symmetric n × n matrix known by its products with vectors in the precision S: f64, or f32 where vectors are so
/// long that their memory counts. An operator may have both.
pub trait SymmetricOperator<S = f64> {
    /// Number n of rows and columns.
    fn dim(&self) -> usize;

    /// y = A x for a block of vectors, both n × b.
    ///
    /// # Errors
    /// Whatever keeps the product from being computed: bad numbers, an interruption.
    fn apply(&self, x: MatRef<'_, S>, y: MatMut<'_, S>) -> Result<(), OperatorError>;
}

impl<S, A: SymmetricOperator<S> + ?Sized> SymmetricOperator<S> for &A {
    fn dim(&self) -> usize {
        (**self).dim()
    }

    fn apply(&self, x: MatRef<'_, S>, y: MatMut<'_, S>) -> Result<(), OperatorError> {
        (**self).apply(x, y)
    }
}

/// y = A x, and nothing in it but numbers.
pub(crate) fn multiply<S: Scalar>(
    operator: &(impl SymmetricOperator<S> + ?Sized),
    x: MatRef<'_, S>,
    mut y: MatMut<'_, S>,
) -> Result<(), SpectrumError> {
    operator.apply(x, y.rb_mut())?;
    for column in y.rb().col_iter() {
        if let Some(row) = column.iter().position(|v| !v.f64().is_finite()) {
            return Err(SpectrumError::Product { row });
        }
    }
    Ok(())
}
