use qn_study::SurfaceReport;

use crate::stdout::outln;

/// Lines of a table, at most.
const SHOWN: usize = 11;

/// Slopes and curvatures; along one direction some of the losses beside the model.
pub(in super::super) fn print_surface(report: &SurfaceReport) {
    outln!("loss {:.6}", report.loss);
    for (i, direction) in report.directions.iter().enumerate() {
        outln!(
            "along {}: norm {:.4}, slope {:.4e}, curvature {:.6}",
            direction.name,
            direction.norm,
            direction.slope,
            report.curvature[i][i]
        );
    }
    if report.directions.len() > 1 {
        let finite = report.losses.iter().flatten().flatten();
        let [low, high] = finite.fold([f64::INFINITY, f64::NEG_INFINITY], |[a, b], x| [a.min(*x), b.max(*x)]);
        outln!("losses from {low:.6} to {high:.6}");
        return;
    }
    outln!("{:>12} {:>14} {:>14}", "t", "loss", "model");
    let points = report.coordinates.len();
    let each = (points - 1).div_ceil(SHOWN - 1);
    // From the middle outwards, so that it is one of the lines.
    for i in (0..points).filter(|i| i.abs_diff(points / 2).is_multiple_of(each)) {
        let number = |x: Option<f64>| x.map_or("not finite".into(), |x| format!("{x:.6}"));
        let (loss, model) = (number(report.losses[i][0]), number(report.model[i][0]));
        outln!("{:>12.6} {loss:>14} {model:>14}", report.coordinates[i]);
    }
}
