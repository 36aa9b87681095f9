//! What an operation must know to be differentiated twice.
//!
//! With y = f(x; θ), a dot for a tangent and a bar for a cotangent (the derivative of the loss):
//!
//! ```text
//! forward      y                  from x
//! jvp          ẏ                  from ẋ, θ̇
//! vjp          x̄, θ̄               from ȳ
//! vjp_tangent  d/dε of vjp at x + ε ẋ, θ + ε θ̇, ȳ + ε ȳ˙, from ẋ, θ̇, ȳ and ȳ˙
//! ```
//!
//! All of them work on one microbatch of m samples, and the last three on a block of b tangents or cotangents at
//! once. A value is laid out `[entry][sample]` and a block of them `[tangent][entry][sample]`: the m numbers of one
//! entry lie side by side. A block of parameter tangents is `[tangent][entry]`.

use std::any::Any;

use qn_kernels::{Packed, Real};

use crate::scratch::Scratch;

/// What an operation keeps from its forward pass.
pub struct Saved<T> {
    /// Numbers, in an order of the operation's own.
    pub reals: Vec<Vec<T>>,
    /// Places, in an order of the operation's own.
    pub indices: Vec<Vec<u32>>,
    /// Anything else.
    pub other: Option<Box<dyn Any + Send + Sync>>,
}

impl<T> Saved<T> {
    /// An operation that keeps nothing of its forward pass.
    pub fn none() -> Self {
        Self { reals: Vec::new(), indices: Vec::new(), other: None }
    }
}

/// Where an operation is evaluated: one microbatch and the parameters.
pub struct At<'a, T> {
    /// Number of samples.
    pub m: usize,
    /// Inputs, `[entry][sample]` each; empty in a product unless [`Keeps::inputs`].
    pub x: &'a [&'a [T]],
    /// Parameters, in the order of [`qn_model::Op::params`].
    pub theta: &'a [&'a [T]],
    /// What [`Operation::pack`] has made of them.
    pub packed: &'a [Packed<T>],
}

/// A block of tangents. None stands for zero, and for a parameter that does not take part.
pub struct Tangents<'a, T> {
    /// How many tangents.
    pub b: usize,
    /// Of the inputs.
    pub x: &'a [Option<&'a [T]>],
    /// Of the parameters.
    pub theta: &'a [Option<&'a [T]>],
    /// What [`Operation::pack`] has made of them.
    pub packed: &'a [Packed<T>],
    /// What [`Operation::jvp_keeping`] has returned, in [`Operation::vjp_tangent`].
    pub kept: &'a [T],
}

impl<T> Tangents<'_, T> {
    /// Zero tangents of one input and its parameters: a pass of first order with b cotangents.
    pub(crate) fn none(b: usize) -> Self {
        Self { b, x: &[None], theta: &[None], packed: &[], kept: &[] }
    }
}

/// Where a block of cotangents goes. None stands for one that nobody wants.
pub struct Cotangents<'a, T> {
    /// Of the inputs; to be overwritten.
    pub x: &'a mut [Option<&'a mut [T]>],
    /// Of the parameters; to be added to, over all samples.
    pub theta: &'a mut [Option<&'a mut [T]>],
}

/// What of a primal pass products need besides what the operation has saved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Keeps {
    /// The inputs.
    pub inputs: bool,
    /// The output's cotangent.
    pub cotangent: bool,
}

/// An operation on one microbatch; see the module's documentation.
pub trait Operation<T: Real>: Send + Sync + std::fmt::Debug {
    /// y = f(x; θ), and what the other methods need of it.
    fn forward(&self, at: &At<'_, T>, y: &mut [T], scratch: &mut Scratch<T>) -> Saved<T>;

    /// ẏ = ∂f/∂x ẋ + ∂f/∂θ θ̇ for every tangent; overwrites `ydot`.
    fn jvp(
        &self,
        at: &At<'_, T>,
        saved: &Saved<T>,
        tangents: &Tangents<'_, T>,
        ydot: &mut [T],
        scratch: &mut Scratch<T>,
    );

    /// As [`Self::jvp`]; returns what [`Self::vjp_tangent`] wants of it, in [`Tangents::kept`].
    fn jvp_keeping(
        &self,
        at: &At<'_, T>,
        saved: &Saved<T>,
        tangents: &Tangents<'_, T>,
        ydot: &mut [T],
        scratch: &mut Scratch<T>,
    ) -> Vec<T> {
        self.jvp(at, saved, tangents, ydot, scratch);
        Vec::new()
    }

    /// x̄ = (∂f/∂x)ᵀ ȳ and θ̄ = (∂f/∂θ)ᵀ ȳ for each of b cotangents.
    fn vjp(
        &self,
        at: &At<'_, T>,
        saved: &Saved<T>,
        ybar: (&[T], usize),
        to: &mut Cotangents<'_, T>,
        scratch: &mut Scratch<T>,
    );

    /// The derivative of [`Self::vjp`] along the tangents: `ybar` is the primal cotangent, one for all tangents, and
    /// `ybardot` its tangents. That of an operation which is linear in x and has no parameters is `vjp` of `ybardot`.
    fn vjp_tangent(
        &self,
        at: &At<'_, T>,
        saved: &Saved<T>,
        tangents: &Tangents<'_, T>,
        (_ybar, ybardot): (&[T], &[T]),
        to: &mut Cotangents<'_, T>,
        scratch: &mut Scratch<T>,
    ) {
        self.vjp(at, saved, (ybardot, tangents.b), to, scratch);
    }

    /// Parameters, or a block of b tangents of them, in the order in which kernels read them: made once for all
    /// microbatches, in [`At::packed`] and [`Tangents::packed`].
    fn pack(&self, _theta: &[Option<&[T]>], _b: usize) -> Vec<Packed<T>> {
        Vec::new()
    }

    /// Called once the primal cotangent ȳ is known, before any product: may save what products need of it.
    fn prepare(&self, _at: &At<'_, T>, _saved: &mut Saved<T>, _ybar: &[T], _scratch: &mut Scratch<T>) {}

    /// What must be kept for products.
    fn keeps(&self) -> Keeps {
        Keeps::default()
    }

    /// Numbers that [`Self::forward`] and [`Self::prepare`] save for each sample, at most.
    fn saves(&self) -> usize {
        0
    }
}
