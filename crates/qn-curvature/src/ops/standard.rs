//! Groups of entries relative to their mean and their spread: x̂ = (x - μ)/σ, σ² = mean (x - μ)² + ε, and derivatives.
//!
//! μ is the mean of the group or zero, r = 1/σ, and P(d) = d - mean d - x̂ mean (x̂ d), where the mean of d is left out
//! if μ is zero. Along ẋ and a tangent ḣ of h,
//!
//! ```text
//! d x̂        = r P(ẋ) = e - x̂ q
//! d (r P(h)) = r P(ḣ) - r (q c + a e + x̂ (mean (c e) - 3 q a))
//! ```
//!
//! with e = r ẋ - mean r ẋ, q = mean (x̂ r ẋ), c = h - mean h and a = mean (x̂ h); the means that are subtracted here are
//! left out as in P. ẋ comes with one factor r and the result has another, so that neither r² nor σ² takes part,
//! however small or large they are.

use qn_kernels::{Real, wide};

use super::lines::{Across, Lines, Strip, WIDTH};
use crate::operation::Saved;

/// What is saved of a pass, [`Saved::reals`]: x̂, r of every group, and once ȳ is known mean h and a of every group for
/// h = w ȳ.
#[derive(Clone, Debug)]
pub(super) struct Standard {
    /// The groups, each a line.
    pub(super) groups: Lines,
    /// Whether the mean is subtracted.
    pub(super) centred: bool,
    /// The ε that is added to variances.
    pub(super) eps: f64,
    /// So many entries of a group in turn have a weight w in common, and after so many weights they begin again.
    pub(super) run: usize,
    pub(super) period: usize,
}

impl Standard {
    /// Which of the weights the entries k of the groups of a block have.
    pub(super) fn place(&self, block: usize, k: usize) -> usize {
        (block * self.groups.len + k) / self.run % self.period
    }

    /// Numbers that lie side by side and have a weight in common: the entries k of a block of groups.
    pub(super) fn row(&self, m: usize) -> usize {
        self.groups.behind * m
    }

    /// x̂ everywhere, and 1/σ of every group.
    pub(super) fn all_statistics<T: Real>(&self, x: &[T], [unit, r]: [&mut [T]; 2], m: usize) {
        wide(|| {
            for strip in self.groups.strips(m) {
                strip.put(&self.statistics(strip, x, unit), r);
            }
        });
    }

    /// x̂ on a strip, and 1/σ. In double precision, relative to the first entry and to the largest |x - μ|: a group of
    /// equal entries has a variance of exactly zero, and no square leaves the range.
    #[inline(always)]
    fn statistics<T: Real>(&self, strip: Strip, x: &[T], unit: &mut [T]) -> Across<T> {
        let (len, n) = (self.groups.len, self.groups.len as f64);
        let mut centre = [[0.0; WIDTH]; 2];
        let [first, mean] = &mut centre;
        if self.centred {
            first.iter_mut().zip(strip.row(x, 0)).for_each(|(first, x)| *first = x.f64());
            for k in 0..len {
                let pairs = strip.row(x, k).iter().zip(&*first);
                mean.iter_mut().zip(pairs).for_each(|(sum, (x, first))| *sum += x.f64() - first);
            }
            mean.iter_mut().for_each(|sum| *sum /= n);
        }
        let centred = |x: &T, s: usize| (x.f64() - centre[0][s]) - centre[1][s];
        let (mut largest, mut squares) = ([0.0_f64; WIDTH], [0.0; WIDTH]);
        for k in 0..len {
            let all = strip.row(x, k).iter().zip(&mut largest).enumerate();
            all.for_each(|(s, (x, most))| *most = most.max(centred(x, s).abs()));
        }
        for k in 0..len {
            let all = strip.row(x, k).iter().zip(largest.iter().zip(&mut squares)).enumerate();
            for (s, (x, (&most, sum))) in all {
                *sum += if most == 0.0 { centred(x, s).abs() } else { (centred(x, s) / most).powi(2) };
            }
        }
        let mut sigma = largest;
        for (sigma, sum) in sigma.iter_mut().zip(squares) {
            *sigma = (*sigma * (sum / n).sqrt()).hypot(self.eps.sqrt());
        }
        for k in 0..len {
            let all = strip.row_mut(unit, k).iter_mut().zip(strip.row(x, k)).zip(&sigma).enumerate();
            all.for_each(|(s, ((unit, x), sigma))| *unit = T::of(centred(x, s) / sigma));
        }
        sigma.map(|sigma| T::of(1.0 / sigma))
    }

    /// Means of w d and of x̂ w d as [`Self::means`] has them, of every group.
    pub(super) fn all_means<T: Real>(
        &self,
        (unit, w, d): (&[T], Option<&[T]>, &[T]),
        [means, along]: [&mut [T]; 2],
        m: usize,
    ) {
        wide(|| {
            for strip in self.groups.strips(m) {
                let found = self.means(strip, unit, w, d);
                strip.put(&found[0], means);
                strip.put(&found[1], along);
            }
        });
    }

    /// Means of w d, zero if the mean is not subtracted, and of x̂ w d, over the groups of a strip.
    #[inline(always)]
    fn means<T: Real>(&self, strip: Strip, unit: &[T], w: Option<&[T]>, d: &[T]) -> [Across<T>; 2] {
        let (mut means, mut along) = ([T::of(0.0); WIDTH], [T::of(0.0); WIDTH]);
        for k in 0..self.groups.len {
            let w = weight(w, self.place(strip.block, k));
            let (d, unit) = (strip.row(d, k), strip.row(unit, k));
            means.iter_mut().zip(d).for_each(|(mean, &d)| *mean += w * d);
            along
                .iter_mut()
                .zip(d.iter().zip(unit))
                .for_each(|(along, (&d, &unit))| *along += unit * (w * d));
        }
        let factor = T::of(1.0 / self.groups.len as f64);
        let means = if self.centred { means.map(|x| x * factor) } else { [T::of(0.0); WIDTH] };
        [means, along.map(|x| x * factor)]
    }

    /// out = or += after · r P(before · d) for one tangent.
    pub(super) fn project<T: Real>(
        &self,
        saved: &Saved<T>,
        [before, after]: [Option<&[T]>; 2],
        d: &[T],
        (out, adds): (&mut [T], bool),
        m: usize,
    ) {
        let (unit, r) = (&saved.reals[0], &saved.reals[1]);
        wide(|| {
            for strip in self.groups.strips(m) {
                let [means, along] = self.means(strip, unit, before, d);
                for k in 0..self.groups.len {
                    let place = self.place(strip.block, k);
                    let [before, after] = [weight(before, place), weight(after, place)];
                    let (d, unit, r) = (strip.row(d, k), strip.row(unit, k), strip.of_lines(r));
                    let all = d.iter().zip(unit).zip(r).zip(means.iter().zip(&along));
                    for (o, (((&d, &unit), &r), (&mean, &along))) in strip.row_mut(out, k).iter_mut().zip(all)
                    {
                        let value = (before * d - mean - unit * along) * r * after;
                        *o = if adds { *o + value } else { value };
                    }
                }
            }
        });
    }

    /// What ẋ adds to the derivatives of x̄ and w̄, for one tangent.
    pub(super) fn second_order<T: Real>(
        &self,
        saved: &Saved<T>,
        (w, ybar, xdot): (Option<&[T]>, &[T], &[T]),
        (mut xbar, mut wbar): (Option<&mut [T]>, Option<&mut [T]>),
        m: usize,
    ) {
        let (unit, r) = (&saved.reals[0], &saved.reals[1]);
        wide(|| {
            for strip in self.groups.strips(m) {
                let [mut means, mut along] = self.means(strip, unit, None, xdot);
                for across in [&mut means, &mut along] {
                    across.iter_mut().zip(strip.of_lines(r)).for_each(|(x, &r)| *x *= r);
                }
                let dots = Dots { strip, means, along };
                if let Some(wbar) = &mut wbar {
                    for k in 0..self.groups.len {
                        wbar[self.place(strip.block, k)] += dots.against(saved, ybar, xdot, k);
                    }
                }
                if let Some(xbar) = &mut xbar {
                    let factor = |k| weight(w, self.place(strip.block, k));
                    dots.second_order(saved, self.groups.len, factor, (ybar, xdot), xbar);
                }
            }
        });
    }
}

/// A weight, or one where there are none.
#[inline(always)]
fn weight<T: Real>(w: Option<&[T]>, place: usize) -> T {
    w.map_or(T::of(1.0), |w| w[place])
}

/// Mean r ẋ and q of the groups of a strip.
struct Dots<T> {
    strip: Strip,
    means: Across<T>,
    along: Across<T>,
}

impl<T: Real> Dots<T> {
    /// e of the entries k of the groups.
    #[inline(always)]
    fn centred(&self, saved: &Saved<T>, xdot: &[T], k: usize) -> Across<T> {
        let r = self.strip.of_lines(&saved.reals[1]);
        let mut e = [T::of(0.0); WIDTH];
        let all = self.strip.row(xdot, k).iter().zip(r).zip(&self.means);
        e.iter_mut().zip(all).for_each(|(e, ((&x, &r), &mean))| *e = r * x - mean);
        e
    }

    /// Σ ȳ (e - x̂ q) over the entries k of the groups.
    #[inline(always)]
    fn against(&self, saved: &Saved<T>, ybar: &[T], xdot: &[T], k: usize) -> T {
        let mut e = self.centred(saved, xdot, k);
        let all = self.strip.row(&saved.reals[0], k).iter().zip(&self.along);
        e.iter_mut().zip(all).for_each(|(e, (&unit, &along))| *e -= unit * along);
        let ybar = self.strip.row(ybar, k);
        qn_kernels::dot(ybar, &e[..ybar.len()])
    }

    /// c of the entries k of the groups.
    #[inline(always)]
    fn weighted(&self, saved: &Saved<T>, w: T, ybar: &[T], k: usize) -> Across<T> {
        let mut c = [T::of(0.0); WIDTH];
        let all = self.strip.row(ybar, k).iter().zip(self.strip.of_lines(&saved.reals[2]));
        c.iter_mut().zip(all).for_each(|(c, (&y, &mean))| *c = w * y - mean);
        c
    }

    /// x̄ -= r (q c + a e + x̂ (mean (c e) - 3 q a)); `w` gives the weights.
    #[inline(always)]
    fn second_order(
        &self,
        saved: &Saved<T>,
        len: usize,
        w: impl Fn(usize) -> T,
        (ybar, xdot): (&[T], &[T]),
        xbar: &mut [T],
    ) {
        let [unit, r, _, a] = [0, 1, 2, 3].map(|i| saved.reals[i].as_slice());
        let mut curve = [T::of(0.0); WIDTH];
        for k in 0..len {
            let (c, e) = (self.weighted(saved, w(k), ybar, k), self.centred(saved, xdot, k));
            curve.iter_mut().zip(c.iter().zip(&e)).for_each(|(sum, (&c, &e))| *sum += c * e);
        }
        let factor = T::of(1.0 / len as f64);
        for (curve, (&q, &a)) in curve.iter_mut().zip(self.along.iter().zip(self.strip.of_lines(a))) {
            *curve = *curve * factor - T::of(3.0) * q * a;
        }
        for k in 0..len {
            let (c, e) = (self.weighted(saved, w(k), ybar, k), self.centred(saved, xdot, k));
            let lines = self.along.iter().zip(self.strip.of_lines(a)).zip(&curve);
            let all = c.iter().zip(&e).zip(self.strip.row(unit, k)).zip(lines).zip(self.strip.of_lines(r));
            let out = self.strip.row_mut(xbar, k).iter_mut();
            for (o, ((((&c, &e), &unit), ((&q, &a), &curve)), &r)) in out.zip(all) {
                *o -= (q * c + a * e + unit * curve) * r;
            }
        }
    }
}
