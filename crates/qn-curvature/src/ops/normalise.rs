//! Normalisation of groups of entries: y = w x̂ + v with x̂ = (x - μ)/σ and σ² = mean (x - μ)² + ε over a group.
//!
//! With P, q and e as in [`super::standard`],
//!
//! ```text
//! ẏ = w r P(ẋ) + ẇ x̂ + v̇
//! x̄ = r P(w ȳ),  w̄ = Σ ȳ x̂,  v̄ = Σ ȳ
//! d x̄ = r P(w ȳ˙) + r P(ẇ ȳ) + the derivative of r P(h) along ẋ at h = w ȳ
//! d w̄ = Σ ȳ˙ x̂ + Σ ȳ (e - x̂ q)
//! ```

use qn_kernels::Real;
use qn_model::Shape;

use super::conv::part;
use super::lines::Lines;
use super::standard::Standard;
use crate::layout::Layout;
use crate::operation::{At, Cotangents, Keeps, Operation, Saved, Tangents};
use crate::scratch::Scratch;

/// Layer, RMS or group normalisation.
#[derive(Clone, Debug)]
pub(crate) struct Normalise {
    standard: Standard,
    /// Which of the parameters are w and v.
    weight: Option<usize>,
    bias: Option<usize>,
}

impl Normalise {
    /// Over the last axes, with parameters of their shape; several axes lie in the graph's order, one anywhere. `centred`
    /// says whether the mean is subtracted.
    pub(crate) fn over_last_axes(
        input: &Layout,
        axes: usize,
        (centred, eps): (bool, f64),
        [has_weight, has_bias]: [bool; 2],
    ) -> Self {
        let shape = input.shape();
        let first = shape.rank() - axes;
        let len = shape.dims()[first..].iter().product();
        let groups = match axes {
            1 => Lines::along(&input.memory(), input.place(first)),
            _ => Lines { before: shape.len() / len, len, behind: 1 },
        };
        Self {
            standard: Standard { groups, centred, eps, run: 1, period: len },
            weight: has_weight.then_some(0),
            bias: has_bias.then_some(usize::from(has_weight)),
        }
    }

    /// Over groups of the channels of axis 0, with two parameters for each channel or none.
    pub(crate) fn over_channels(shape: &Shape, groups: usize, eps: f64, has_affine: bool) -> Self {
        let (len, channels) = (shape.len() / groups, shape.dims()[0]);
        let lines = Lines { before: groups, len, behind: 1 };
        let run = shape.len() / channels;
        Self {
            standard: Standard { groups: lines, centred: true, eps, run, period: channels },
            weight: has_affine.then_some(0),
            bias: has_affine.then_some(1),
        }
    }

    fn weight<'a, T>(&self, at: &At<'a, T>) -> Option<&'a [T]> {
        self.weight.map(|i| at.theta[i])
    }

    /// The tangents of w, of all tangents.
    fn weight_dot<'a, T>(&self, tangents: &Tangents<'a, T>) -> Option<&'a [T]> {
        self.weight.and_then(|i| tangents.theta[i])
    }
}

impl<T: Real> Operation<T> for Normalise {
    fn forward(&self, at: &At<'_, T>, y: &mut [T], scratch: &mut Scratch<T>) -> Saved<T> {
        let m = at.m;
        let (mut unit, mut r) = (scratch.take(y.len()), scratch.take(self.standard.groups.count(m)));
        self.standard.all_statistics(at.x[0], [&mut unit, &mut r], m);
        let bias = self.bias.map(|i| at.theta[i]);
        let row = self.standard.row(m);
        for (k, (y, unit)) in y.chunks_exact_mut(row).zip(unit.chunks_exact(row)).enumerate() {
            let place = self.standard.place(0, k);
            let w = self.weight(at).map_or(T::of(1.0), |w| w[place]);
            let v = bias.map_or(T::of(0.0), |v| v[place]);
            y.iter_mut().zip(unit).for_each(|(y, &unit)| *y = w * unit + v);
        }
        Saved { reals: vec![unit, r], ..Saved::none() }
    }

    fn jvp(
        &self,
        at: &At<'_, T>,
        saved: &Saved<T>,
        tangents: &Tangents<'_, T>,
        ydot: &mut [T],
        _: &mut Scratch<T>,
    ) {
        let (m, len, unit) = (at.m, self.standard.groups.numbers(at.m), &saved.reals[0]);
        let (weight, bias) = (self.weight_dot(tangents), self.bias.and_then(|i| tangents.theta[i]));
        for (t, ydot) in ydot.chunks_exact_mut(len).enumerate() {
            match tangents.x[0] {
                Some(xdot) => {
                    let xdot = part(xdot, len, t);
                    self.standard.project(saved, [None, self.weight(at)], xdot, (ydot, false), m);
                }
                None => ydot.fill(T::of(0.0)),
            }
            let row = self.standard.row(m);
            for (k, ydot) in ydot.chunks_exact_mut(row).enumerate() {
                let place = t * self.standard.period + self.standard.place(0, k);
                if let Some(w) = weight {
                    let (w, unit) = (w[place], part(unit, row, k));
                    ydot.iter_mut().zip(unit).for_each(|(y, &unit)| *y += w * unit);
                }
                if let Some(v) = bias.map(|v| v[place]) {
                    ydot.iter_mut().for_each(|y| *y += v);
                }
            }
        }
    }

    fn vjp(
        &self,
        at: &At<'_, T>,
        saved: &Saved<T>,
        (ybar, _): (&[T], usize),
        to: &mut Cotangents<'_, T>,
        _: &mut Scratch<T>,
    ) {
        let (m, len, unit) = (at.m, self.standard.groups.numbers(at.m), &saved.reals[0]);
        let row = self.standard.row(m);
        for (t, ybar) in ybar.chunks_exact(len).enumerate() {
            let places = (0..len / row).map(|k| t * self.standard.period + self.standard.place(0, k));
            if let Some(wbar) = self.weight.and_then(|i| to.theta[i].as_deref_mut()) {
                let pairs = ybar.chunks_exact(row).zip(unit.chunks_exact(row));
                places.clone().zip(pairs).for_each(|(p, (y, unit))| wbar[p] += qn_kernels::dot(y, unit));
            }
            if let Some(vbar) = self.bias.and_then(|i| to.theta[i].as_deref_mut()) {
                places.zip(ybar.chunks_exact(row)).for_each(|(p, y)| vbar[p] += qn_kernels::sum(y));
            }
            if let Some(xbar) = &mut to.x[0] {
                let xbar = &mut xbar[t * len..(t + 1) * len];
                self.standard.project(saved, [self.weight(at), None], ybar, (xbar, false), m);
            }
        }
    }

    fn vjp_tangent(
        &self,
        at: &At<'_, T>,
        saved: &Saved<T>,
        tangents: &Tangents<'_, T>,
        (ybar, ybardot): (&[T], &[T]),
        to: &mut Cotangents<'_, T>,
        scratch: &mut Scratch<T>,
    ) {
        self.vjp(at, saved, (ybardot, tangents.b), to, scratch);
        let (len, w) = (self.standard.groups.numbers(at.m), self.weight(at));
        for t in 0..tangents.b {
            let mut xbar = to.x[0].as_deref_mut().map(|x| &mut x[t * len..(t + 1) * len]);
            if let (Some(v), Some(xbar)) = (self.weight_dot(tangents), &mut xbar) {
                let v = part(v, self.standard.period, t);
                self.standard.project(saved, [Some(v), None], ybar, (xbar, true), at.m);
            }
            if let Some(xdot) = tangents.x[0] {
                let wbar = self.weight.and_then(|i| to.theta[i].as_deref_mut());
                let wbar = wbar.map(|w| &mut w[t * self.standard.period..(t + 1) * self.standard.period]);
                self.standard.second_order(saved, (w, ybar, part(xdot, len, t)), (xbar, wbar), at.m);
            }
        }
    }

    fn prepare(&self, at: &At<'_, T>, saved: &mut Saved<T>, ybar: &[T], scratch: &mut Scratch<T>) {
        let [mut means, mut along] = [(); 2].map(|()| scratch.take(self.standard.groups.count(at.m)));
        let of = (saved.reals[0].as_slice(), self.weight(at), ybar);
        self.standard.all_means(of, [&mut means, &mut along], at.m);
        saved.reals.extend([means, along]);
    }

    fn keeps(&self) -> Keeps {
        Keeps { inputs: false, cotangent: true }
    }

    fn saves(&self) -> usize {
        self.standard.groups.numbers(1) + 3 * self.standard.groups.before
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::Check;
    use qn_model::{Op, ParamId};

    const W: Option<ParamId> = Some(ParamId(0));
    const V: Option<ParamId> = Some(ParamId(1));

    #[test]
    fn derivatives_of_layer_norm_agree_with_differences() {
        for (axes, dims) in [(1, &[4][..]), (2, &[3, 4])] {
            let op = |weight, bias| Op::LayerNorm { weight, bias, axes, eps: 1e-2 };
            Check::new(op(W, V), &[&[2, 3, 4]]).params(&[dims, dims]).run();
            Check::new(op(W, None), &[&[2, 3, 4]]).params(&[dims]).run();
            Check::new(op(None, W), &[&[2, 3, 4]]).params(&[dims]).run();
            Check::new(op(None, None), &[&[2, 3, 4]]).run();
        }
        let op = Op::LayerNorm { weight: W, bias: V, axes: 1, eps: 1.0 };
        Check::new(op, &[&[3, 1]]).params(&[&[1], &[1]]).run();
    }

    #[test]
    fn derivatives_of_rms_and_group_norm_agree_with_differences() {
        for (weight, params) in [(W, &[&[4][..]][..]), (None, &[])] {
            for eps in [0.0, 0.1] {
                Check::new(Op::RmsNorm { weight, axes: 1, eps }, &[&[3, 4]]).params(params).run();
            }
        }
        for groups in [1, 2, 4] {
            let op = |affine| Op::GroupNorm { affine, groups, eps: 1e-2 };
            Check::new(op(Some([ParamId(0), ParamId(1)])), &[&[4, 2, 3]]).params(&[&[4], &[4]]).run();
            Check::new(op(None), &[&[4, 3]]).run();
        }
    }

    fn layer(eps: f64) -> Op {
        Op::LayerNorm { weight: None, bias: None, axes: 1, eps }
    }

    #[test]
    fn values_by_hand() {
        // Mean 3, variance 4; root mean square √13.
        let x: &[f64] = &[1.0, 5.0];
        assert_eq!(Check::new(layer(0.0), &[&[2]]).values(&[x], &[]), [-1.0, 1.0]);
        let op = Op::LayerNorm { weight: W, bias: V, axes: 1, eps: 5.0 };
        let y = Check::new(op, &[&[2]]).params(&[&[2], &[2]]).values(&[x], &[&[3.0, 6.0], &[1.0, -1.0]]);
        assert_eq!(y, [-1.0, 3.0]);
        let op = Op::RmsNorm { weight: None, axes: 1, eps: 3.0 };
        assert_eq!(Check::new(op, &[&[2]]).values(&[x], &[]), [0.25, 1.25]);
        let op = Op::GroupNorm { affine: Some([ParamId(0), ParamId(1)]), groups: 2, eps: 0.0 };
        let check = Check::new(op, &[&[4, 1]]).params(&[&[4], &[4]]);
        let y = check.values(&[&[1.0, 5.0, 8.0, 2.0]], &[&[1.0, 2.0, 3.0, 4.0], &[0.0, 0.0, 0.5, 0.0]]);
        assert_eq!(y, [-1.0, 2.0, 3.5, -4.0]);
    }

    #[test]
    fn equal_entries_have_no_variance() {
        let check = Check::new(layer(0.25), &[&[3]]);
        let x: [&[f64]; 1] = [&[0.1; 3]];
        assert_eq!(check.values(&x, &[]), [0.0; 3]);
        // 1/σ = 2, and the mean of ȳ is subtracted.
        assert_eq!(check.cotangent(&x, &[], &[1.0, 2.0, 6.0]), [-4.0, -2.0, 6.0]);
        assert_eq!(Check::new(layer(1.0), &[&[2, 1]]).values(&[&[7.0, -9.0]], &[]), [0.0; 2]);
    }

    /// d x̄ and d w̄ times σ, at inputs, tangents of inputs and √ε that are `scale` times those of some example.
    fn second_order<T: Real>(centred: bool, scale: f64) -> Vec<f64> {
        let shape = Shape::new([1, 5]);
        let eps = 0.3 * scale * scale;
        let operation = Normalise::over_last_axes(&Layout::plain(&shape), 1, (centred, eps), [true, false]);
        let of = |numbers: [f64; 5], scale: f64| numbers.map(|x| T::of(x * scale));
        let (x, xdot) = (of([1.0, -2.0, 0.5, 3.0, 1.5], scale), of([0.5, 1.0, -1.0, 2.0, 0.25], scale));
        let (w, wdot) = (of([1.0, 2.0, -1.0, 0.5, 3.0], 1.0), of([-1.0, 0.5, 1.0, 2.0, -0.5], 1.0));
        let (ybar, ybardot) = (of([2.0, -1.0, 1.0, 0.5, 4.0], 1.0), of([1.0, 1.5, -2.0, 3.0, 0.5], 1.0));
        let (at, mut scratch) = (At { m: 1, x: &[&x], theta: &[&w], packed: &[] }, Scratch::new());
        let mut saved = operation.forward(&at, &mut [T::of(0.0); 5], &mut scratch);
        operation.prepare(&at, &mut saved, &ybar, &mut scratch);
        let tangents = Tangents { b: 1, x: &[Some(&xdot)], theta: &[Some(&wdot)], packed: &[], kept: &[] };
        let (mut xbar, mut wbar) = ([T::of(0.0); 5], [T::of(0.0); 5]);
        let mut to = Cotangents { x: &mut [Some(&mut xbar)], theta: &mut [Some(&mut wbar)] };
        operation.vjp_tangent(&at, &saved, &tangents, (&ybar, &ybardot), &mut to, &mut scratch);
        let xbar = xbar.iter().map(|x| x.f64() * scale);
        xbar.chain(wbar.iter().map(|w| w.f64())).collect()
    }

    #[test]
    fn small_and_large_numbers_are_normalised_as_well_as_others() {
        for centred in [true, false] {
            let expected = second_order::<f64>(centred, 1.0);
            let agree = |found: Vec<f64>, tolerance: f64| {
                for (found, expected) in found.iter().zip(&expected) {
                    assert!((found - expected).abs() < tolerance, "{centred} {found} {expected}");
                }
            };
            for power in [-250, 250] {
                agree(second_order::<f64>(centred, 2.0_f64.powi(power)), 1e-12);
            }
            for power in [-100, 0, 100] {
                agree(second_order::<f32>(centred, 2.0_f64.powi(power)), 1e-4);
            }
        }
    }

    #[test]
    fn a_small_spread_about_a_large_mean_is_found_exactly() {
        let far = 2.0_f64.powi(40);
        let y = Check::new(layer(0.0), &[&[4]]).values(&[&[far - 0.5, far + 0.5, far + 0.5, far - 0.5]], &[]);
        assert_eq!(y, [-1.0, 1.0, 1.0, -1.0]);
    }
}
