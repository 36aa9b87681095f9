//! A symmetric tridiagonal matrix's eigenvalues.

use crate::SpectrumError;

/// Diagonal and subdiagonal of a symmetric tridiagonal matrix.
#[derive(Clone, Debug, PartialEq)]
pub struct Tridiagonal {
    /// n entries.
    pub diagonal: Vec<f64>,
    /// n − 1 entries.
    pub subdiagonal: Vec<f64>,
}

/// Iterations for each eigenvalue, on average, before giving up; two are usual.
const ITERATIONS: usize = 30;

impl Tridiagonal {
    /// All eigenvalues, ascending, by the root-free QL iteration of Pal, Walker and Kahan (Parlett, The
    /// Symmetric Eigenvalue Problem, section 8.15). Errors are a small multiple of eps times the norm.
    ///
    /// # Errors
    /// A number is not finite, or the iteration does not converge, which is not known to happen.
    pub fn eigenvalues(&self) -> Result<Vec<f64>, SpectrumError> {
        let n = self.diagonal.len();
        let mut largest = 0.0f64;
        for x in self.diagonal.iter().chain(&self.subdiagonal) {
            if !x.is_finite() {
                return Err(SpectrumError::NotFinite);
            }
            largest = largest.max(x.abs());
        }
        if n == 0 || largest == 0.0 {
            return Ok(vec![0.0; n]);
        }
        // Squares are safe from overflow and underflow at this scale.
        let mut d: Vec<f64> = self.diagonal.iter().map(|x| x / largest).collect();
        let mut squares: Vec<f64> = self.subdiagonal.iter().map(|x| (x / largest).powi(2)).collect();
        squares.push(0.0);
        let negligible = |d: &[f64], squares: &[f64], i: usize| {
            squares[i] <= f64::EPSILON.powi(2) * (d[i] * d[i + 1]).abs().max(0.0625)
        };
        let mut left = ITERATIONS * n;
        let mut first = 0;
        while first < n {
            let last = (first..n - 1).find(|&i| negligible(&d, &squares, i)).unwrap_or(n - 1);
            squares[last] = 0.0;
            if last == first {
                first += 1;
                continue;
            }
            if left == 0 {
                return Err(SpectrumError::Dense);
            }
            left -= 1;
            let root = squares[first].sqrt();
            let ratio = (d[first + 1] - d[first]) / (2.0 * root);
            let shift = d[first] - root / (ratio + ratio.hypot(1.0).copysign(ratio));
            sweep(&mut d[first..=last], &mut squares[first..last], shift);
        }
        d.iter_mut().for_each(|x| *x *= largest);
        d.sort_by(f64::total_cmp);
        Ok(d)
    }
}

/// Below this p, which is γ² / c, is taken for zero: beside a norm of 1 it changes nothing, whereas its quotients would soon
/// be those of subnormal numbers, of which no digit is right. Squares in a block are above 3e-33.
const NOTHING: f64 = 1e-120;

/// One QL sweep with a shift over an unreduced block.
fn sweep(d: &mut [f64], squares: &mut [f64], shift: f64) {
    let last = d.len() - 1;
    let (mut c, mut s) = (1.0, 0.0);
    let mut gamma = d[last] - shift;
    let mut p = gamma * gamma;
    for i in (0..last).rev() {
        let square = squares[i];
        if p < NOTHING {
            p = 0.0;
        }
        let r = p + square;
        if i + 1 < last {
            squares[i + 1] = s * r;
        }
        let before = c;
        c = p / r;
        s = square / r;
        // c (d - shift) - s gamma over one denominator, and gamma² / c: the next step waits for one quotient.
        let numerator = p * (d[i] - shift) - square * gamma;
        let product = r * p;
        p = if product != 0.0 { numerator * numerator / product } else { before * square };
        let old = gamma;
        gamma = numerator / r;
        d[i + 1] = old + (d[i] - gamma);
    }
    squares[0] = s * p;
    d[0] = shift + gamma;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_difference_matrix_has_known_eigenvalues() {
        for n in [1, 2, 3, 50, 301] {
            let t = Tridiagonal { diagonal: vec![2.0; n], subdiagonal: vec![-1.0; n - 1] };
            let found = t.eigenvalues().unwrap();
            for (k, value) in found.iter().enumerate() {
                let angle = std::f64::consts::PI * (k + 1) as f64 / (2 * (n + 1)) as f64;
                assert!((value - 4.0 * angle.sin().powi(2)).abs() < 1e-14 * n as f64, "{n} {k} {value}");
            }
        }
    }

    #[test]
    fn zeros_and_scales_do_no_harm() {
        for scale in [1e-200, 1.0, 1e200] {
            let t = Tridiagonal { diagonal: vec![0.0, 0.0, 3.0 * scale], subdiagonal: vec![scale, 0.0] };
            let found = t.eigenvalues().unwrap();
            for (value, expected) in found.iter().zip([-1.0, 1.0, 3.0]) {
                assert!((value / scale - expected).abs() < 1e-15, "{found:?}");
            }
        }
        let zero = Tridiagonal { diagonal: vec![0.0; 4], subdiagonal: vec![0.0; 3] };
        assert_eq!(zero.eigenvalues().unwrap(), [0.0; 4]);
        let bad = Tridiagonal { diagonal: vec![f64::NAN, 1.0], subdiagonal: vec![1.0] };
        assert!(bad.eigenvalues().is_err());
    }
}
