use faer::{MatMut, MatRef};
use qn_model::ParamLayout;

use crate::{ClassGradients, Curvature, CurvatureError, LossAndGradient, Operator, Real};

/// A network's derivatives in a precision that is chosen at run time.
pub enum Derivatives {
    /// In double precision.
    Double(Curvature<f64>),
    /// In single precision; sums over microbatches are double.
    Single(Curvature<f32>),
}

impl Derivatives {
    /// P: the parameters by which there are derivatives.
    pub fn dim(&self) -> usize {
        match self {
            Self::Double(c) => c.dim(),
            Self::Single(c) => c.dim(),
        }
    }

    /// Names and order of these parameters.
    pub fn layout(&self) -> &ParamLayout {
        match self {
            Self::Double(c) => c.layout(),
            Self::Single(c) => c.layout(),
        }
    }

    /// Samples in a microbatch.
    pub fn microbatch(&self) -> usize {
        match self {
            Self::Double(c) => c.microbatch(),
            Self::Single(c) => c.microbatch(),
        }
    }

    /// Loss, accuracy and gradient: [`Curvature::loss_and_gradient`].
    ///
    /// # Errors
    /// The loss or the gradient is not finite.
    pub fn loss_and_gradient(&self) -> Result<LossAndGradient, CurvatureError> {
        match self {
            Self::Double(c) => c.loss_and_gradient(),
            Self::Single(c) => c.loss_and_gradient(),
        }
    }

    /// Class gradients and their λ_k: [`Curvature::class_gradients`].
    ///
    /// # Errors
    /// There are no labels, or a derivative is not finite.
    pub fn class_gradients(&self) -> Result<ClassGradients, CurvatureError> {
        match self {
            Self::Double(c) => c.class_gradients(),
            Self::Single(c) => c.class_gradients(),
        }
    }

    /// Loss, accuracy and gradient, unless it should stop: [`Curvature::loss_and_gradient_unless`].
    ///
    /// # Errors
    /// It was stopped; or those of [`Self::loss_and_gradient`].
    pub fn loss_and_gradient_unless(
        &self,
        should_stop: &(dyn Fn() -> bool + Sync),
    ) -> Result<LossAndGradient, CurvatureError> {
        match self {
            Self::Double(c) => c.loss_and_gradient_unless(should_stop),
            Self::Single(c) => c.loss_and_gradient_unless(should_stop),
        }
    }

    /// Class gradients and their λ_k, unless it should stop: [`Curvature::class_gradients_unless`].
    ///
    /// # Errors
    /// It was stopped; or those of [`Self::class_gradients`].
    pub fn class_gradients_unless(
        &self,
        should_stop: &(dyn Fn() -> bool + Sync),
    ) -> Result<ClassGradients, CurvatureError> {
        match self {
            Self::Double(c) => c.class_gradients_unless(should_stop),
            Self::Single(c) => c.class_gradients_unless(should_stop),
        }
    }

    /// The network's outputs for each sample: [`Curvature::outputs`].
    ///
    /// # Errors
    /// A number is not finite.
    pub fn outputs(&self) -> Result<Vec<f64>, CurvatureError> {
        match self {
            Self::Double(c) => c.outputs(),
            Self::Single(c) => c.outputs(),
        }
    }

    /// y = J x for tangents of the parameters, P × b, and of the outputs: [`Curvature::jvp`].
    ///
    /// # Errors
    /// Sizes do not agree, or a number in x or in the result is not finite.
    pub fn jvp<S: Real>(&self, x: MatRef<'_, S>, y: MatMut<'_, S>) -> Result<(), CurvatureError> {
        match self {
            Self::Double(c) => c.jvp(x, y),
            Self::Single(c) => c.jvp(x, y),
        }
    }

    /// y = Jᵀ u for cotangents of the outputs and of the parameters, P × b: [`Curvature::vjp`].
    ///
    /// # Errors
    /// Sizes do not agree, or a number in u or in the result is not finite.
    pub fn vjp<S: Real>(&self, u: MatRef<'_, S>, y: MatMut<'_, S>) -> Result<(), CurvatureError> {
        match self {
            Self::Double(c) => c.vjp(u, y),
            Self::Single(c) => c.vjp(u, y),
        }
    }

    /// y = A x for a block of vectors, P × b each, of one of the matrices: [`Curvature::product`].
    ///
    /// # Errors
    /// Sizes do not agree, or a number in x or in the result is not finite.
    pub fn product<S: Real>(
        &self,
        operator: Operator,
        x: MatRef<'_, S>,
        y: MatMut<'_, S>,
    ) -> Result<(), CurvatureError> {
        match self {
            Self::Double(c) => c.product(operator, x, y),
            Self::Single(c) => c.product(operator, x, y),
        }
    }

    /// A product that asks before every microbatch whether it should stop: [`Curvature::product_unless`].
    ///
    /// # Errors
    /// It was stopped, and y is no product; or those of [`Self::product`].
    pub fn product_unless<S: Real>(
        &self,
        should_stop: &(dyn Fn() -> bool + Sync),
        operator: Operator,
        x: MatRef<'_, S>,
        y: MatMut<'_, S>,
    ) -> Result<(), CurvatureError> {
        match self {
            Self::Double(c) => c.product_unless(should_stop, operator, x, y),
            Self::Single(c) => c.product_unless(should_stop, operator, x, y),
        }
    }
}
