use faer::prelude::{Reborrow as _, ReborrowMut as _};
use faer::{MatMut, MatRef};

use crate::SpectrumError;

/// Why a product could not be computed; the solvers pass it on.
pub type OperatorError = Box<dyn std::error::Error + Send + Sync>;

/// A real symmetric n × n matrix known by its products.
pub trait SymmetricOperator {
    /// n.
    fn dim(&self) -> usize;

    /// y = A x for a block of vectors, both n × b.
    ///
    /// # Errors
    /// Whatever keeps the product from being computed: bad numbers, an interruption.
    fn apply(&self, x: MatRef<'_, f64>, y: MatMut<'_, f64>) -> Result<(), OperatorError>;
}

impl<A: SymmetricOperator + ?Sized> SymmetricOperator for &A {
    fn dim(&self) -> usize {
        (**self).dim()
    }

    fn apply(&self, x: MatRef<'_, f64>, y: MatMut<'_, f64>) -> Result<(), OperatorError> {
        (**self).apply(x, y)
    }
}

/// y = A x, and nothing in it but numbers.
pub(crate) fn multiply(
    operator: &(impl SymmetricOperator + ?Sized),
    x: MatRef<'_, f64>,
    mut y: MatMut<'_, f64>,
) -> Result<(), SpectrumError> {
    operator.apply(x, y.rb_mut())?;
    for column in y.rb().col_iter() {
        if let Some(row) = column.iter().position(|v| !v.is_finite()) {
            return Err(SpectrumError::Product { row });
        }
    }
    Ok(())
}
