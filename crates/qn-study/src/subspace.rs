//! How two sets of vectors in R^P lie to each other.

use nalgebra::{DMatrix, DVector};
use pathfinding::kuhn_munkres::kuhn_munkres;
use pathfinding::matrix::Matrix;

/// |v_k · e_j| of unit vectors along the columns of V and E; zero columns give zeros.
pub fn cosines(v: &DMatrix<f64>, e: &DMatrix<f64>) -> DMatrix<f64> {
    (unit_columns(v).transpose() * unit_columns(e)).abs()
}

/// The columns that are not zero: those of classes of which there was a sample.
pub(crate) fn present_columns(a: &DMatrix<f64>) -> Vec<usize> {
    (0..a.ncols()).filter(|&k| a.column(k).iter().any(|x| *x != 0.0)).collect()
}

/// The best pairing of rows with columns.
#[derive(Clone, Debug, PartialEq)]
pub struct Assignment {
    /// Column of each row.
    pub columns: Vec<usize>,
    /// Mean of the paired entries; 0 where there are no rows.
    pub mean: f64,
}

/// The pairing of rows with different columns that has the largest sum (Hungarian algorithm), for
/// entries from 0 to 1 and at least as many columns as rows. Entries are compared to 2^-40.
pub fn assign(scores: &DMatrix<f64>) -> Assignment {
    if scores.nrows() == 0 {
        return Assignment { columns: Vec::new(), mean: 0.0 };
    }
    let fixed = |x: f64| (x * (1u64 << 40) as f64).round() as i64;
    let weights = Matrix::from_fn(scores.nrows(), scores.ncols(), |(i, j)| fixed(scores[(i, j)]));
    let (_, columns) = kuhn_munkres(&weights);
    let total: f64 = columns.iter().enumerate().map(|(i, &j)| scores[(i, j)]).sum();
    Assignment { mean: total / columns.len() as f64, columns }
}

/// Largest |v_j · v_k| of two different columns, normalised.
pub fn max_coherence(v: &DMatrix<f64>) -> f64 {
    let v = unit_columns(v);
    let gram = v.transpose() * v;
    let n = gram.nrows();
    (0..n).flat_map(|j| (0..j).map(move |k| (j, k))).fold(0.0, |a, at| a.max(gram[at].abs()))
}

/// Principal angles between the column spaces of V and of E (orthonormal columns), in radians,
/// ascending: as many as the smaller dimension. Small angles come from sines, large ones from
/// cosines, so all are accurate (Björck & Golub, 1973).
pub fn principal_angles(v: &DMatrix<f64>, e: &DMatrix<f64>) -> Vec<f64> {
    let q = column_space(v);
    let inner = q.transpose() * e;
    let count = inner.nrows().min(inner.ncols());
    let mut cosines = sorted_singular_values(&inner);
    cosines.truncate(count);
    // With more directions in E than in V some sines belong to no angle: they are the largest.
    let outside = if q.ncols() >= e.ncols() { e - &q * &inner } else { &q - e * inner.transpose() };
    let mut sines = sorted_singular_values(&outside);
    sines.reverse();
    cosines
        .iter()
        .zip(sines)
        .map(|(&c, s)| if c * c < 0.5 { c.clamp(0.0, 1.0).acos() } else { s.clamp(0.0, 1.0).asin() })
        .collect()
}

/// ‖Qᵀ E‖²_F / C with Q an orthonormal basis of V's columns: the mean of the squared cosines of the
/// principal angles when both have C dimensions.
pub(crate) fn subspace_overlap(v: &DMatrix<f64>, e: &DMatrix<f64>) -> f64 {
    (column_space(v).transpose() * e).norm_squared() / v.ncols().max(1) as f64
}

/// A numerical rank and what it was read from.
#[derive(Clone, Debug, PartialEq)]
pub struct Rank {
    /// Singular values above the tolerance.
    pub rank: usize,
    /// s_max · max(m, n) · eps, the usual choice (NumPy's, MATLAB's).
    pub tolerance: f64,
    /// Singular values, the largest first.
    pub singular_values: Vec<f64>,
}

/// Rank of a tall matrix whose entries are known to relative precision `eps`.
pub fn numerical_rank(a: &DMatrix<f64>, eps: f64) -> Rank {
    let singular_values = sorted_singular_values(a);
    let largest = singular_values.first().copied().unwrap_or(0.0);
    let tolerance = largest * a.nrows().max(a.ncols()) as f64 * eps;
    let rank = singular_values.iter().filter(|&&s| s > tolerance).count();
    Rank { rank, tolerance, singular_values }
}

/// Columns divided by their norms; zero columns stay zero.
pub(crate) fn unit_columns(a: &DMatrix<f64>) -> DMatrix<f64> {
    let mut a = a.clone();
    for mut column in a.column_iter_mut() {
        let norm = column.norm();
        if norm > 0.0 {
            column /= norm;
        }
    }
    a
}

/// Two matrices side by side.
pub(crate) fn beside(a: &DMatrix<f64>, b: &DMatrix<f64>) -> DMatrix<f64> {
    let columns: Vec<DVector<f64>> = a.column_iter().chain(b.column_iter()).map(|c| c.into_owned()).collect();
    DMatrix::from_columns(&columns)
}

/// An orthonormal basis of the column space: what is left of a normalised column after the others
/// must exceed 1e-10, well above the rounding of the single-precision snapshots being projected.
pub(crate) fn column_space(a: &DMatrix<f64>) -> DMatrix<f64> {
    let mut basis: Vec<DVector<f64>> = Vec::new();
    for column in unit_columns(a).column_iter() {
        let mut rest = column.into_owned();
        for _ in 0..2 {
            for q in &basis {
                rest.axpy(-q.dot(&rest), q, 1.0);
            }
        }
        let norm = rest.norm();
        if norm > 1e-10 {
            basis.push(rest / norm);
        }
    }
    if basis.is_empty() { DMatrix::zeros(a.nrows(), 0) } else { DMatrix::from_columns(&basis) }
}

/// Singular values, descending, from the small triangular factor.
fn sorted_singular_values(a: &DMatrix<f64>) -> Vec<f64> {
    if a.is_empty() {
        return Vec::new();
    }
    let small = if a.nrows() > a.ncols() { a.clone().qr().r() } else { a.clone() };
    let mut values: Vec<f64> = small.singular_values().iter().copied().collect();
    values.sort_by(|x, y| y.total_cmp(x));
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first `count` unit vectors of R^n after `skip`.
    fn units(n: usize, skip: usize, count: usize) -> DMatrix<f64> {
        DMatrix::from_fn(n, count, |i, j| f64::from(u8::from(i == skip + j)))
    }

    /// Reproducible numbers that look independent: a sum of uniform hashes, nearly normal.
    fn noise(n: usize, count: usize, stream: u64) -> DMatrix<f64> {
        let hash = |i: u64| {
            let mut x = (i ^ stream << 40).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            x = (x ^ x >> 29).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            (x ^ x >> 32) as f64 / u64::MAX as f64 - 0.5
        };
        DMatrix::from_fn(n, count, |i, j| (0..6).map(|r| hash(((j * n + i) * 6 + r) as u64)).sum())
    }

    #[test]
    fn identical_subspaces() {
        let e = units(50, 3, 4);
        let v = DMatrix::from_columns(&[
            e.column(2) * 7.0,
            -e.column(0),
            e.column(3).into_owned(),
            e.column(1) * 0.1,
        ]);
        let a = assign(&cosines(&v, &e));
        assert_eq!((a.columns, a.mean), (vec![2, 0, 3, 1], 1.0));
        assert!((subspace_overlap(&v, &e) - 1.0).abs() < 1e-15);
        assert!(principal_angles(&v, &e).iter().all(|&t| t.abs() < 1e-15));
        assert_eq!(numerical_rank(&beside(&unit_columns(&v), &e), f64::EPSILON).rank, 4);
        assert!(max_coherence(&v) < 1e-15);
    }

    #[test]
    fn orthogonal_subspaces() {
        let (v, e) = (units(50, 0, 4), units(50, 4, 4));
        assert_eq!(assign(&cosines(&v, &e)).mean, 0.0);
        assert_eq!(subspace_overlap(&v, &e), 0.0);
        assert!(principal_angles(&v, &e).iter().all(|&t| (t - std::f64::consts::FRAC_PI_2).abs() < 1e-15));
        assert_eq!(numerical_rank(&beside(&v, &e), f64::EPSILON).rank, 8);
    }

    #[test]
    fn rotated_subspaces() {
        // Each v_k is e_k turned by its own angle out of the subspace: those are the principal angles.
        let angles = [1e-9f64, 1e-3, 0.4, 1.2];
        let (e, outside) = (units(50, 0, 4), units(50, 4, 4));
        let turned: Vec<_> = angles
            .iter()
            .enumerate()
            .map(|(k, t)| e.column(k) * t.cos() + outside.column(k) * t.sin())
            .collect();
        let v = DMatrix::from_columns(&turned);
        for (found, expected) in principal_angles(&v, &e).iter().zip(angles) {
            assert!((found - expected).abs() < 1e-15 + 1e-14 * expected, "{found} {expected}");
        }
        let mean = angles.iter().map(|t| t.cos()).sum::<f64>() / 4.0;
        assert!((assign(&cosines(&v, &e)).mean - mean).abs() < 1e-14);
        let squares = angles.iter().map(|t| t.cos().powi(2)).sum::<f64>() / 4.0;
        assert!((subspace_overlap(&v, &e) - squares).abs() < 1e-14);
        // Turning within the subspace changes cosines, not angles.
        let (s, c) = 0.7f64.sin_cos();
        let inside =
            DMatrix::from_columns(&[v.column(2) * c + v.column(3) * s, v.column(3) * c - v.column(2) * s]);
        let found = principal_angles(&inside, &e);
        assert!(found.len() == 2 && (found[0] - 0.4).abs() < 1e-12 && (found[1] - 1.2).abs() < 1e-12);
        let small = units(50, 0, 2);
        assert_eq!(principal_angles(&v, &small).len(), 2);
    }

    #[test]
    fn random_subspaces_meet_the_baseline() {
        let (p, k) = (40_000, 10);
        let (v, e) = (noise(p, k, 1), unit_columns(&noise(p, k, 2)));
        let mean = cosines(&v, &e).mean();
        let baseline = (2.0 / (std::f64::consts::PI * p as f64)).sqrt();
        // 100 cosines of spread 0.76 of their mean: a standard error of 7.6 %.
        assert!((mean / baseline - 1.0).abs() < 0.3, "{mean} {baseline}");
        assert!((subspace_overlap(&v, &e) * p as f64 / k as f64 - 1.0).abs() < 0.5);
        assert_eq!(numerical_rank(&beside(&unit_columns(&v), &e), f64::from(f32::EPSILON)).rank, 20);
    }

    #[test]
    fn missing_and_repeated_directions() {
        let e = units(30, 0, 3);
        let v = DMatrix::from_columns(&[e.column(0).into_owned(), e.column(0) * 2.0, DVector::zeros(30)]);
        assert_eq!(principal_angles(&v, &e).len(), 1);
        assert!((subspace_overlap(&v, &e) - 1.0 / 3.0).abs() < 1e-15);
        assert_eq!(max_coherence(&v), 1.0);
        let none = DMatrix::zeros(30, 3);
        assert!(principal_angles(&none, &e).is_empty());
        assert_eq!((assign(&cosines(&none, &e)).mean, numerical_rank(&none, f64::EPSILON).rank), (0.0, 0));
    }

    #[test]
    fn the_assignment_is_the_best_not_the_greedy_one() {
        let scores = DMatrix::from_row_slice(3, 3, &[0.9, 0.8, 0.1, 0.8, 0.1, 0.1, 0.2, 0.3, 0.1]);
        let a = assign(&scores);
        assert_eq!(a.columns, [1, 0, 2]);
        assert!((a.mean - 1.7 / 3.0).abs() < 1e-15);
    }

    /// The rank of [V, E] with cosine 0.36 between pairs is 2C, but at P = 62,006 in single precision
    /// the tolerance is 0.0074 of the largest singular value: with class gradients of norm 200 every
    /// unit eigenvector falls below it, and the rank reads C.
    #[test]
    fn the_rank_trap() {
        let (p, c) = (62_006, 10);
        let (e, outside) = (units(p, 0, c), units(p, c, c));
        let cosine = 0.36f64;
        let sine = (1.0 - cosine * cosine).sqrt();
        let unit: Vec<_> = (0..c).map(|k| e.column(k) * cosine + outside.column(k) * sine).collect();
        let v = DMatrix::from_columns(&unit);
        let rank = |scale: f64| numerical_rank(&beside(&(&v * scale), &e), f64::from(f32::EPSILON));
        assert_eq!([rank(1.0).rank, rank(100.0).rank, rank(200.0).rank], [20, 20, 10]);
        assert!((rank(1.0).tolerance / rank(1.0).singular_values[0] - 0.0074).abs() < 1e-4);
    }
}
