//! A loss's derivatives against central differences and against its factor.

use qn_model::Shape;

use crate::losses::{Loss, Targets};

/// Two samples with outputs of this shape.
pub(crate) fn check(loss: &dyn Loss, shape: &[usize], targets: &Targets) {
    let shape = Shape::new(shape);
    loss.check(&shape, targets, 2).unwrap();
    let len = shape.len();
    let z: Vec<f64> = (0..len).map(|i| (i as f64 * 1.3).sin() * 2.0).collect();
    let zdot: Vec<f64> = (0..len).map(|i| (i as f64 * 0.7 + 1.0).cos()).collect();
    for sample in 0..2 {
        let at = |step: f64| {
            let z: Vec<f64> = z.iter().zip(&zdot).map(|(z, d)| z + step * d).collect();
            let (mut gradient, mut kept) = (vec![f64::NAN; len], vec![f64::NAN; loss.kept(&shape)]);
            let term = loss.evaluate(&z, targets.of(sample, 2), &mut gradient, &mut kept);
            (term.loss, gradient, kept)
        };
        let h = 1e-5;
        let ((_, gradient, kept), plus, minus) = (at(0.0), at(h), at(-h));
        let slope: f64 = gradient.iter().zip(&zdot).map(|(g, d)| g * d).sum();
        let difference = (plus.0 - minus.0) / (2.0 * h);
        assert!((slope - difference).abs() < 1e-8 * (1.0 + slope.abs()), "{loss:?}: {slope} {difference}");
        let mut product = vec![f64::NAN; len];
        loss.hessian_product(&kept, &zdot, &mut product);
        let mut factored = vec![0.0; len];
        let mut q = vec![f64::NAN; len];
        for r in 0..loss.rank(&shape) {
            let w = loss.hessian_factor(&kept, r, &mut q);
            let along: f64 = q.iter().zip(&zdot).map(|(q, d)| q * d).sum();
            factored.iter_mut().zip(&q).for_each(|(f, q)| *f += w * along * q);
        }
        for k in 0..len {
            let difference = (plus.1[k] - minus.1[k]) / (2.0 * h);
            assert!((product[k] - difference).abs() < 1e-8, "{loss:?}: {k} {} {difference}", product[k]);
            assert!((product[k] - factored[k]).abs() < 1e-13, "{loss:?}: {k} {} {}", product[k], factored[k]);
        }
    }
}
