use faer::{Mat, MatMut, MatRef};

use crate::{OperatorError, Scalar, SymmetricOperator, Triangle};

/// A symmetric band matrix in double precision: entries (i, j) with j ≤ i ≤ j + width.
///
/// Columns are stored one after the other with room for 2 · width entries each, since the way to
/// tridiagonal form fills in that far.
#[derive(Clone, Debug)]
pub(crate) struct Band {
    pub(crate) n: usize,
    pub(crate) width: usize,
    /// Entry (i, j) at `j * stride + i - j`.
    pub(crate) data: Vec<f64>,
    pub(crate) stride: usize,
}

impl Band {
    pub(crate) fn zeros(n: usize, width: usize) -> Self {
        let stride = 2 * width.max(1);
        Self { n, width, data: vec![0.0; n * stride], stride }
    }

    /// The part of a triangle within `width` of the diagonal.
    pub(crate) fn of<T: Scalar>(triangle: &Triangle<T>, width: usize) -> Self {
        let n = triangle.order();
        let mut band = Self::zeros(n, width);
        for j in 0..n {
            for i in j..n.min(j + width + 1) {
                let at = band.at(i, j);
                band.data[at] = triangle.get(i, j).f64();
            }
        }
        band
    }

    /// Where entry (i, j), i ≥ j, is.
    pub(crate) fn at(&self, i: usize, j: usize) -> usize {
        j * self.stride + i - j
    }

    /// Entry (i, j), in either triangle, zero outside the band.
    pub(crate) fn get(&self, i: usize, j: usize) -> f64 {
        let (i, j) = (i.max(j), i.min(j));
        if i - j <= self.width { self.data[self.at(i, j)] } else { 0.0 }
    }

    /// The largest sum of |entries| in a row.
    pub(crate) fn norm(&self) -> f64 {
        let mut sums = vec![0.0; self.n];
        for j in 0..self.n {
            for i in j..self.n.min(j + self.width + 1) {
                let x = self.data[self.at(i, j)].abs();
                sums[i] += x;
                if i > j {
                    sums[j] += x;
                }
            }
        }
        sums.into_iter().fold(0.0, f64::max)
    }
}

impl SymmetricOperator for Band {
    fn dim(&self) -> usize {
        self.n
    }

    fn apply(&self, x: MatRef<'_, f64>, mut y: MatMut<'_, f64>) -> Result<(), OperatorError> {
        y.fill(0.0);
        for c in 0..x.ncols() {
            for j in 0..self.n {
                for i in j..self.n.min(j + self.width + 1) {
                    let a = self.data[self.at(i, j)];
                    y[(i, c)] += a * x[(j, c)];
                    if i > j {
                        y[(j, c)] += a * x[(i, c)];
                    }
                }
            }
        }
        Ok(())
    }
}

/// LU factors of B − λ I with partial pivoting.
pub(crate) struct BandFactors {
    n: usize,
    width: usize,
    /// Row i of U, from the diagonal on, 2 · width + 1 entries each.
    upper: Vec<f64>,
    /// The multipliers of step j.
    lower: Vec<f64>,
    /// The row that step j has exchanged with row j.
    pivots: Vec<usize>,
}

impl BandFactors {
    /// Pivots smaller than `tiny` are replaced by it: the matrix is meant to be nearly singular.
    pub(crate) fn of(band: &Band, shift: f64, tiny: f64) -> Self {
        let (n, w) = (band.n, band.width);
        let row_len = 2 * w + 1;
        // Rows under elimination, each from the current column on.
        let mut rows: std::collections::VecDeque<Vec<f64>> = std::collections::VecDeque::new();
        let full_row = |i: usize, from: usize| -> Vec<f64> {
            let mut row = vec![0.0; row_len + 1];
            for j in i.saturating_sub(w).max(from)..n.min(i + w + 1) {
                row[j - from] = band.get(i, j) - if i == j { shift } else { 0.0 };
            }
            row
        };
        let mut factors = Self {
            n,
            width: w,
            upper: vec![0.0; n * row_len],
            lower: vec![0.0; n * w.max(1)],
            pivots: vec![0; n],
        };
        for i in 0..n.min(w + 1) {
            rows.push_back(full_row(i, 0));
        }
        for j in 0..n {
            let p = (0..rows.len())
                .fold(0, |best, p| if rows[p][0].abs() > rows[best][0].abs() { p } else { best });
            rows.swap(0, p);
            factors.pivots[j] = j + p;
            let Some(mut pivot) = rows.pop_front() else { break };
            if pivot[0].abs() < tiny {
                pivot[0] = if pivot[0] < 0.0 { -tiny } else { tiny };
            }
            for (r, row) in rows.iter_mut().enumerate() {
                let factor = row[0] / pivot[0];
                factors.lower[j * w + r] = factor;
                for (x, &u) in row[1..row_len].iter_mut().zip(&pivot[1..row_len]) {
                    *x -= factor * u;
                }
                row.copy_within(1.., 0);
                row[row_len] = 0.0;
            }
            factors.upper[j * row_len..(j + 1) * row_len].copy_from_slice(&pivot[..row_len]);
            if j + w + 1 < n {
                rows.push_back(full_row(j + w + 1, j + 1));
            }
        }
        factors
    }

    /// x ← (B − λ I)⁻¹ x.
    pub(crate) fn solve(&self, x: &mut [f64]) {
        let (n, w) = (self.n, self.width);
        for j in 0..n {
            x.swap(j, self.pivots[j]);
            let top = x[j];
            for (r, xi) in x[j + 1..n.min(j + w + 1)].iter_mut().enumerate() {
                *xi -= self.lower[j * w + r] * top;
            }
        }
        let row_len = 2 * w + 1;
        for i in (0..n).rev() {
            let row = &self.upper[i * row_len..(i + 1) * row_len];
            let rest: f64 = row[1..].iter().zip(&x[i + 1..]).map(|(u, x)| u * x).sum();
            x[i] = (x[i] - rest) / row[0];
        }
    }
}

/// Eigenvectors of a band matrix for given eigenvalues, by inverse iteration; [n, k]. Each vector is kept
/// orthogonal to those before, and a Rayleigh–Ritz step at the end settles clusters.
pub(crate) fn band_eigenvectors(band: &Band, values: &[f64], seed: u64) -> Mat<f64> {
    use rand::SeedableRng as _;
    let (n, k) = (band.n, values.len());
    // The zero matrix has any vectors: its size only has to leave quotients finite.
    let norm = if band.norm() > 0.0 { band.norm() } else { 1.0 };
    let tiny = f64::EPSILON * norm;
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    let mut vectors = Mat::zeros(n, k);
    for (i, &value) in values.iter().enumerate() {
        let factors = BandFactors::of(band, value, tiny);
        let (done, mut rest) = vectors.as_mut().split_at_col_mut(i);
        let mut x = rest.as_mut().subcols_mut(0, 1);
        crate::orthogonal::fill_random(x.as_mut(), &mut rng);
        for _ in 0..INVERSE_ITERATIONS {
            crate::orthogonal::project_out(done.as_ref(), x.as_mut());
            let mut column: Vec<f64> = x.as_ref().col(0).iter().copied().collect();
            factors.solve(&mut column);
            let length = column.iter().fold(0.0f64, |a, v| a.max(v.abs()));
            x.as_mut().col_mut(0).iter_mut().zip(column).for_each(|(x, v)| *x = v / length);
        }
        crate::orthogonal::project_out(done.as_ref(), x.as_mut());
        let length = x.norm_l2();
        x *= faer::Scale(1.0 / length);
    }
    vectors
}

/// Each multiplies what does not belong to the eigenvalue by the tiny distance to it: two would do.
const INVERSE_ITERATIONS: usize = 3;
