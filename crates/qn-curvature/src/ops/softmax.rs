//! p = e^x/Σ e^x along an axis: ẏ = P(ẋ), x̄ = P(ȳ) and d x̄ = P(ȳ˙ + (ẋ - u)(ȳ - s)),
//! where P(d) = p (d - Σ p d), u = Σ p ẋ and s = Σ p ȳ.

use qn_kernels::{Loop, Real, elementary, wide};
use qn_model::Shape;

use super::lines::{Across, Lines, Strip, WIDTH};
use crate::operation::{At, Cotangents, Operation, Saved, Tangents};
use crate::scratch::Scratch;

/// e^x/Σ e^x. Saves p, and once ȳ is known ȳ - s.
#[derive(Clone, Debug)]
pub(crate) struct Softmax(Lines);

/// p on a strip; gives the largest x of every line, and Σ e^(x - largest).
#[inline(always)]
pub(super) fn probabilities<T: Real>(strip: Strip, len: usize, x: &[T], p: &mut [T]) -> [Across<T>; 2] {
    let (mut largest, mut sums) = ([T::of(f64::NEG_INFINITY); WIDTH], [T::of(0.0); WIDTH]);
    for k in 0..len {
        let pairs = largest.iter_mut().zip(strip.row(x, k));
        pairs.for_each(|(most, &x)| *most = if x > *most { x } else { *most });
    }
    for k in 0..len {
        let pairs = strip.row_mut(p, k).iter_mut().zip(strip.row(x, k));
        for ((p, &x), (&most, sum)) in pairs.zip(largest.iter().zip(&mut sums)) {
            *p = elementary::exp(x - most);
            *sum += *p;
        }
    }
    for k in 0..len {
        strip.row_mut(p, k).iter_mut().zip(&sums).for_each(|(p, &sum)| *p /= sum);
    }
    [largest, sums]
}

/// p everywhere.
struct Probabilities<'a, T> {
    lines: Lines,
    x: &'a [T],
    p: &'a mut [T],
    m: usize,
}

impl<T: Real> Loop for Probabilities<'_, T> {
    #[inline(always)]
    fn run(self) {
        for strip in self.lines.strips(self.m) {
            probabilities(strip, self.lines.len, self.x, self.p);
        }
    }
}

/// out = P(d).
struct Project<'a, T> {
    lines: Lines,
    p: &'a [T],
    d: &'a [T],
    out: &'a mut [T],
    m: usize,
}

impl<T: Real> Loop for Project<'_, T> {
    #[inline(always)]
    fn run(self) {
        let Self { lines, p, d, out, m } = self;
        for strip in lines.strips(m) {
            let sums = strip.dots(p, d);
            for k in 0..lines.len {
                let pairs = strip.row(p, k).iter().zip(strip.row(d, k)).zip(&sums);
                let out = strip.row_mut(out, k).iter_mut();
                out.zip(pairs).for_each(|(o, ((&p, &d), &sum))| *o = p * (d - sum));
            }
        }
    }
}

/// out = P(d) for every tangent or cotangent.
fn project<T: Real>(lines: Lines, p: &[T], d: &[T], out: &mut [T], m: usize) {
    let len = lines.numbers(m);
    for (d, out) in d.chunks_exact(len).zip(out.chunks_exact_mut(len)) {
        wide(Project { lines, p, d, out, m });
    }
}

/// The second-order pass of one tangent: P(ȳ˙ + (ẋ - u)(ȳ - s)).
struct Bend<'a, T> {
    lines: Lines,
    p: &'a [T],
    centred: &'a [T],
    xdot: &'a [T],
    ybardot: &'a [T],
    xbar: &'a mut [T],
    m: usize,
}

impl<T: Real> Loop for Bend<'_, T> {
    #[inline(always)]
    fn run(self) {
        let Self { lines, p, centred, xdot, ybardot, xbar, m } = self;
        for strip in lines.strips(m) {
            let along = strip.dots(p, xdot);
            let mut sums = [T::of(0.0); WIDTH];
            for k in 0..lines.len {
                let [p, c, xdot, ybardot] = [p, centred, xdot, ybardot].map(|x| strip.row(x, k));
                let all = p.iter().zip(c).zip(xdot).zip(ybardot).zip(along.iter().zip(&mut sums));
                for (o, ((((&p, &c), &xdot), &ybardot), (&u, sum))) in
                    strip.row_mut(xbar, k).iter_mut().zip(all)
                {
                    *o = ybardot + (xdot - u) * c;
                    *sum += p * *o;
                }
            }
            for k in 0..lines.len {
                let pairs = strip.row(p, k).iter().zip(&sums);
                let out = strip.row_mut(xbar, k).iter_mut();
                out.zip(pairs).for_each(|(o, (&p, &sum))| *o = p * (*o - sum));
            }
        }
    }
}

impl<T: Real> Operation<T> for Softmax {
    fn forward(&self, at: &At<'_, T>, y: &mut [T], scratch: &mut Scratch<T>) -> Saved<T> {
        wide(Probabilities { lines: self.0, x: at.x[0], p: y, m: at.m });
        let mut p = scratch.take(y.len());
        p.copy_from_slice(y);
        Saved { reals: vec![p], ..Saved::none() }
    }

    fn jvp(
        &self,
        at: &At<'_, T>,
        saved: &Saved<T>,
        tangents: &Tangents<'_, T>,
        ydot: &mut [T],
        _: &mut Scratch<T>,
    ) {
        match tangents.x[0] {
            Some(xdot) => project(self.0, &saved.reals[0], xdot, ydot, at.m),
            None => ydot.fill(T::of(0.0)),
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
        if let Some(xbar) = &mut to.x[0] {
            project(self.0, &saved.reals[0], ybar, xbar, at.m);
        }
    }

    fn vjp_tangent(
        &self,
        at: &At<'_, T>,
        saved: &Saved<T>,
        tangents: &Tangents<'_, T>,
        (_, ybardot): (&[T], &[T]),
        to: &mut Cotangents<'_, T>,
        scratch: &mut Scratch<T>,
    ) {
        let Some(xdot) = tangents.x[0] else {
            self.vjp(at, saved, (ybardot, tangents.b), to, scratch);
            return;
        };
        let Some(xbar) = &mut to.x[0] else { return };
        let (p, centred, len) = (&saved.reals[0], &saved.reals[1], self.0.numbers(at.m));
        let blocks = xdot.chunks_exact(len).zip(ybardot.chunks_exact(len));
        for ((xdot, ybardot), xbar) in blocks.zip(xbar.chunks_exact_mut(len)) {
            wide(Bend { lines: self.0, p, centred, xdot, ybardot, xbar, m: at.m });
        }
    }

    fn prepare(&self, at: &At<'_, T>, saved: &mut Saved<T>, ybar: &[T], scratch: &mut Scratch<T>) {
        let mut centred = scratch.take(ybar.len());
        for strip in self.0.strips(at.m) {
            let sums = strip.dots(&saved.reals[0], ybar);
            for k in 0..self.0.len {
                let pairs = strip.row(ybar, k).iter().zip(&sums);
                let out = strip.row_mut(&mut centred, k).iter_mut();
                out.zip(pairs).for_each(|(o, (&y, &sum))| *o = y - sum);
            }
        }
        saved.reals.push(centred);
    }

    fn saves(&self) -> usize {
        2 * self.0.numbers(1)
    }
}

impl Softmax {
    pub(crate) fn new(shape: &Shape, axis: usize) -> Self {
        Self(Lines::along(shape, axis))
    }
}

#[cfg(test)]
mod tests {
    use crate::ops::testing::Check;
    use qn_model::Op;

    fn both(axis: usize) -> [Op; 2] {
        [Op::Softmax { axis }, Op::LogSoftmax { axis }]
    }

    #[test]
    fn derivatives_agree_with_differences() {
        let shapes: [&[usize]; 4] = [&[5], &[2, 3, 4], &[2, 1, 3], &[3, 30, 2]];
        for shape in shapes {
            for op in (0..shape.len()).flat_map(both) {
                Check::new(op, &[shape]).run();
            }
        }
    }

    #[test]
    fn values_by_hand() {
        let logarithms = [1.0_f64.ln(), 2.0_f64.ln(), 5.0_f64.ln()];
        let [softmax, logarithm] = both(0).map(|op| Check::new(op, &[&[3]]).values(&[&logarithms], &[]));
        for ((p, l), expected) in softmax.iter().zip(&logarithm).zip([0.125_f64, 0.25, 0.625]) {
            assert!((p - expected).abs() < 1e-15 && (l - expected.ln()).abs() < 1e-15, "{p} {l}");
        }
    }

    #[test]
    fn large_logits_do_not_overflow() {
        let x: [&[f64]; 1] = [&[1000.0, -1000.0, 999.0, f64::NEG_INFINITY]];
        let [softmax, logarithm] = both(0).map(|op| Check::new(op, &[&[4]]).values(&x, &[]));
        let e = std::f64::consts::E;
        assert!((softmax[0] - e / (e + 1.0)).abs() < 1e-15);
        assert_eq!(softmax[1], 0.0);
        assert!((softmax[2] - 1.0 / (e + 1.0)).abs() < 1e-15);
        let last = (1.0 + 1.0 / e).ln();
        assert_eq!(logarithm, [-last, -2000.0 - last, -1.0 - last, f64::NEG_INFINITY]);
        let ybar = [1.0, 2.0, 3.0, 4.0];
        for op in both(0) {
            assert!(Check::new(op, &[&[4]]).cotangent(&x, &[], &ybar).iter().all(|x| x.is_finite()));
        }
    }

    #[test]
    fn an_axis_of_length_one_leaves_nothing_to_choose() {
        let [softmax, logarithm] = both(1).map(|op| Check::new(op, &[&[2, 1]]));
        assert_eq!(softmax.values(&[&[7.0, -800.0]], &[]), [1.0, 1.0]);
        assert_eq!(logarithm.values(&[&[7.0, -800.0]], &[]), [0.0, 0.0]);
        assert_eq!(softmax.cotangent(&[&[7.0, -800.0]], &[], &[1.0, 2.0]), [0.0, 0.0]);
    }

    #[test]
    fn not_a_number_stays_visible() {
        for op in both(0) {
            let y = Check::new(op, &[&[3]]).values(&[&[1.0, f64::NAN, 2.0]], &[]);
            assert!(y.iter().all(|y| y.is_nan()));
        }
    }
}
