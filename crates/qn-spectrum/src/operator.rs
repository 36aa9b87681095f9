use faer::{MatMut, MatRef};

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
