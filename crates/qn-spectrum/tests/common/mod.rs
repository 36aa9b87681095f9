//! An operator whose spectrum is known.

#![allow(dead_code, unreachable_pub)]

use faer::{MatMut, MatRef};
use qn_spectrum::{OperatorError, Scalar, SymmetricOperator};

/// Q diag(values) Qᵀ with Q a product of Householder reflections, applied without forming it.
pub struct Prescribed {
    pub values: Vec<f64>,
    reflections: Vec<Vec<f64>>,
}

impl Prescribed {
    pub fn new(values: Vec<f64>) -> Self {
        let n = values.len();
        let unit = |r: usize| {
            let raw: Vec<f64> = (0..n).map(|i| (1.3 * (i * (r + 2)) as f64 + r as f64).sin() + 0.1).collect();
            let norm = raw.iter().map(|x| x * x).sum::<f64>().sqrt();
            raw.iter().map(|x| x / norm).collect()
        };
        Self { values, reflections: (0..3).map(unit).collect() }
    }
}

fn reflect(v: &[f64], x: &mut [f64]) {
    let along: f64 = 2.0 * v.iter().zip(&*x).map(|(a, b)| a * b).sum::<f64>();
    x.iter_mut().zip(v).for_each(|(x, v)| *x -= along * v);
}

impl<S: Scalar> SymmetricOperator<S> for Prescribed {
    fn dim(&self) -> usize {
        self.values.len()
    }

    fn apply(&self, x: MatRef<'_, S>, mut y: MatMut<'_, S>) -> Result<(), OperatorError> {
        for j in 0..x.ncols() {
            let mut column: Vec<f64> = x.col(j).iter().map(|x| x.f64()).collect();
            self.reflections.iter().rev().for_each(|v| reflect(v, &mut column));
            column.iter_mut().zip(&self.values).for_each(|(x, v)| *x *= v);
            self.reflections.iter().for_each(|v| reflect(v, &mut column));
            column.into_iter().enumerate().for_each(|(i, value)| y[(i, j)] = S::of(value));
        }
        Ok(())
    }
}
