//! The secular equation: eigenvalues of D + ρ z zᵀ, D diagonal with ascending entries.
//!
//! They are the zeros of f(λ) = 1/ρ + Σ z_i² / (d_i − λ), one between any two neighbouring poles and one above the
//! last. Each is kept as the nearer pole and a distance from it, so that every d_i − λ is known to full relative
//! precision. Steps are those of the "middle way" (R.-C. Li, LAPACK working note 89, 1994): the poles on the left are
//! replaced by one at the neighbour on the left and a constant with the sum's value and slope, those on the right
//! likewise; a bracket is kept, and halved where a step leaves it.

use rayon::prelude::*;

/// A zero: pole number `pole` plus `offset`.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Root {
    pub(crate) pole: usize,
    pub(crate) offset: f64,
}

/// Steps before a root is taken as it is; four are usual, and halving alone would take a hundred.
const STEPS: usize = 200;
/// Every so many steps the bracket is halved, whatever the step.
const HALVING: usize = 12;
/// Roots that are found in one go.
const CHUNK: usize = 16;
/// Numbers that are summed side by side.
const LANES: usize = 8;

/// D + ρ z zᵀ of order k ≥ 1: poles strictly ascending, no entry of z zero, ρ > 0.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Secular<'a> {
    pub(crate) poles: &'a [f64],
    pub(crate) z: &'a [f64],
    pub(crate) rho: f64,
}

/// What one evaluation of f gives: the sums over poles on the left and on the right, and their slopes.
struct Value {
    f: f64,
    left_slope: f64,
    right_slope: f64,
    /// What |f| may be by roundings.
    error: f64,
}

impl Secular<'_> {
    /// All zeros, ascending.
    pub(crate) fn roots(&self) -> Vec<Root> {
        let mut roots = vec![Root::default(); self.poles.len()];
        roots.par_chunks_mut(CHUNK).enumerate().for_each(|(chunk, roots)| {
            pulp::Arch::new().dispatch(|| {
                for (i, root) in roots.iter_mut().enumerate() {
                    *root = self.root(chunk * CHUNK + i);
                }
            });
        });
        roots
    }

    /// The z whose zeros are exactly these: with it, and not with the given one, computed eigenvectors are orthogonal
    /// however close the zeros are (Gu & Eisenstat, 1994).
    pub(crate) fn exact_z(&self, roots: &[Root]) -> Vec<f64> {
        let k = self.poles.len();
        let mut exact = vec![0.0; k];
        exact.par_chunks_mut(LANES * CHUNK).enumerate().for_each(|(chunk, products)| {
            let start = chunk * LANES * CHUNK;
            let poles = &self.poles[start..start + products.len()];
            pulp::Arch::new().dispatch(|| self.products(start, poles, roots, products));
            for (product, z) in products.iter_mut().zip(&self.z[start..]) {
                *product = product.abs().sqrt().copysign(*z);
            }
        });
        exact
    }

    /// Π (λ_j − d_i) / Π (d_j − d_i) over j ≠ i in the denominator, for some poles d_i from number `start` on.
    #[inline(always)]
    fn products(&self, start: usize, poles: &[f64], roots: &[Root], products: &mut [f64]) {
        products.fill(1.0);
        let end = start + poles.len();
        for (j, root) in roots.iter().enumerate() {
            let (origin, pole) = (self.poles[root.pole], self.poles[j]);
            let times = |product: &mut f64, d: f64| *product *= ((origin - d) + root.offset) / (pole - d);
            if (start..end).contains(&j) {
                for (i, (product, &d)) in products.iter_mut().zip(poles).enumerate() {
                    if start + i == j {
                        *product *= (origin - d) + root.offset;
                    } else {
                        times(product, d);
                    }
                }
            } else {
                products.iter_mut().zip(poles).for_each(|(product, &d)| times(product, d));
            }
        }
    }

    /// The zero above pole j.
    #[inline(always)]
    fn root(&self, j: usize) -> Root {
        let k = self.poles.len();
        if j + 1 == k {
            let width = self.rho * self.z.iter().map(|z| z * z).sum::<f64>();
            // The zero may be the upper end, by roundings.
            return self.search((j, j), (0.0, 2.0 * width), 0.5 * width);
        }
        let half = 0.5 * (self.poles[j + 1] - self.poles[j]);
        if self.value((j, j), half).f >= 0.0 {
            self.search((j, j), (0.0, half), half)
        } else {
            self.search((j, j + 1), (-half, 0.0), -half)
        }
    }

    /// The zero above pole j at a distance from pole `origin` within a bracket.
    #[inline(always)]
    fn search(&self, (j, origin): (usize, usize), (mut low, mut high): (f64, f64), mut offset: f64) -> Root {
        let base = self.poles[origin];
        for step in 0..STEPS {
            let value = self.value((j, origin), offset);
            if value.f.abs() <= value.error {
                break;
            }
            if value.f < 0.0 {
                low = low.max(offset)
            } else {
                high = high.min(offset)
            }
            let to_left = (self.poles[j] - base) - offset;
            let change = match self.poles.get(j + 1) {
                Some(right) => {
                    let to_right = (right - base) - offset;
                    // At first the neighbours' own weights, beside which the other poles are a constant.
                    let weights = (self.z[j].powi(2), self.z[j + 1].powi(2));
                    two_poles(&value, (to_left, to_right), (step == 0).then_some(weights))
                }
                None => one_pole(&value, to_left),
            };
            let next = offset + change;
            let inside = low < next && next < high && step % HALVING < HALVING - 1;
            let next = if inside { next } else { 0.5 * (low + high) };
            if next == offset || next <= low || next >= high {
                break;
            }
            offset = next;
        }
        Root { pole: origin, offset }
    }

    /// f at the distance `offset` from pole `origin`, between poles j and j + 1.
    #[inline(always)]
    fn value(&self, (j, origin): (usize, usize), offset: f64) -> Value {
        let (base, inverse) = (self.poles[origin], 1.0 / self.rho);
        let (left, left_slope) = sums(&self.poles[..=j], &self.z[..=j], base, offset);
        let (right, right_slope) = sums(&self.poles[j + 1..], &self.z[j + 1..], base, offset);
        let error =
            f64::EPSILON * (8.0 * (right - left) + inverse + offset.abs() * (left_slope + right_slope));
        Value { f: inverse + left + right, left_slope, right_slope, error }
    }
}

/// Σ z² / (d − λ) and Σ z² / (d − λ)², λ being `base` + `offset`.
#[inline(always)]
fn sums(poles: &[f64], z: &[f64], base: f64, offset: f64) -> (f64, f64) {
    let (mut sum, mut slope) = ([0.0; LANES], [0.0; LANES]);
    let (poles, poles_rest) = poles.as_chunks::<LANES>();
    let (z, z_rest) = z.as_chunks::<LANES>();
    for (d, z) in poles.iter().zip(z) {
        for lane in 0..LANES {
            let quotient = z[lane] / ((d[lane] - base) - offset);
            sum[lane] += z[lane] * quotient;
            slope[lane] += quotient * quotient;
        }
    }
    let (mut sum, mut slope) = (sum.iter().sum::<f64>(), slope.iter().sum::<f64>());
    for (d, z) in poles_rest.iter().zip(z_rest) {
        let quotient = z / ((d - base) - offset);
        sum += z * quotient;
        slope += quotient * quotient;
    }
    (sum, slope)
}

/// The step to the zero of c + s / (a − η) + t / (b − η), a < 0 < b being the ways to the neighbouring poles, with the
/// value of f at η = 0 and either given weights s and t or the slopes of the two sums.
#[inline(always)]
fn two_poles(value: &Value, (a, b): (f64, f64), weights: Option<(f64, f64)>) -> f64 {
    let f = value.f;
    let (constant, linear) = match weights {
        Some((s, t)) => {
            let constant = f - s / a - t / b;
            (constant, constant * (a + b) + s + t)
        }
        None => {
            let (left, right) = (value.left_slope, value.right_slope);
            (f - a * left - b * right, (a + b) * f - a * b * (left + right))
        }
    };
    let product = a * b * f;
    let root = (linear * linear - 4.0 * product * constant).max(0.0).sqrt();
    if linear <= 0.0 { (linear - root) / (2.0 * constant) } else { 2.0 * product / (linear + root) }
}

/// The step to the zero of c + s / (a − η) with the value and slope of f at η = 0.
#[inline(always)]
fn one_pole(value: &Value, a: f64) -> f64 {
    let constant = value.f - a * value.left_slope;
    a + a * a * value.left_slope / constant
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Zeros, and z recomputed from them, of a matrix whose poles are close in places and whose weights are uneven.
    #[test]
    fn roots_interlace_and_z_is_found_again() {
        let k = 67;
        let poles: Vec<f64> = (0..k).map(|i| (i / 3) as f64 + 1e-13 * (i % 3) as f64).collect();
        let z: Vec<f64> =
            (0..k).map(|i| 10f64.powi(-(i * 7 % 11)) * if i % 2 == 0 { 1.0 } else { -1.0 }).collect();
        for rho in [1e-6, 1.0, 1e6] {
            let secular = Secular { poles: &poles, z: &z, rho };
            let roots = secular.roots();
            for (j, root) in roots.iter().enumerate() {
                let above = root.pole == j && root.offset > 0.0;
                let below = root.pole == j + 1 && root.offset < 0.0;
                assert!(above || below, "{j}: {root:?}");
            }
            let exact = secular.exact_z(&roots);
            for (exact, z) in exact.iter().zip(&z) {
                let error = (exact / (z * rho.sqrt()) - 1.0).abs();
                assert!(error < 1e-12 * k as f64, "rho {rho}: {exact} for {z}, {error}");
            }
        }
    }

    #[test]
    fn one_and_two_poles_are_solved_exactly() {
        let one = Secular { poles: &[3.0], z: &[0.5], rho: 8.0 };
        let root = one.roots()[0];
        assert!((root.offset - 2.0).abs() < 1e-14, "{root:?}");
        // [[1, 1], [1, 3]] = diag(0, 2) + (1, 1) (1, 1)ᵀ.
        let two = Secular { poles: &[0.0, 2.0], z: &[1.0, 1.0], rho: 1.0 };
        for (root, expected) in two.roots().iter().zip([2.0 - 2f64.sqrt(), 2.0 + 2f64.sqrt()]) {
            assert!((two.poles[root.pole] + root.offset - expected).abs() < 1e-15);
        }
    }
}
