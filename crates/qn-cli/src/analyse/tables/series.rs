use qn_study::{LayersReport, Point, SeriesReport};

use super::decimal::decimal;
use crate::stdout::outln;

/// One line a checkpoint.
pub(in super::super) fn print_series(report: &SeriesReport) {
    let points = report.points.iter().map(|point| (point.step.to_string(), &point.found));
    print_points("step", &points.collect::<Vec<_>>());
}

/// One line a layer.
pub(in super::super) fn print_layers(report: &LayersReport) {
    let points = report.layers.iter().map(|layer| (layer.layer.clone(), &layer.found));
    print_points("layer", &points.collect::<Vec<_>>());
}

/// One line a report of a study, each of which is about something with a name.
fn print_points(what: &str, points: &[(String, &Point)]) {
    let width = points.iter().map(|(name, _)| name.len()).fold(8, usize::max);
    for (i, (name, found)) in points.iter().enumerate() {
        let head = |columns: &[&str]| {
            let columns: String = columns.iter().map(|name| format!(" {name:>14}")).collect();
            outln!("{what:>width$} {columns}");
        };
        match found {
            Point::Eigen(found) => {
                if i == 0 {
                    head(&["loss", "accuracy / %", "first", "second", "last", "converged"]);
                }
                let value = |at: Option<&f64>| at.map_or("-".into(), |value| decimal(*value, 6));
                outln!(
                    "{name:>width$}  {:>14} {:>14} {:>14} {:>14} {:>14} {:>14}",
                    decimal(found.loss, 5),
                    found.accuracy.map_or("-".into(), |share| format!("{:.2}", 100.0 * share)),
                    value(found.eigenvalues.first()),
                    value(found.eigenvalues.get(1)),
                    value(found.eigenvalues.last()),
                    format!("{} of {}", found.converged, found.eigenvalues.len()),
                );
            }
            Point::Density(found) => {
                if i == 0 {
                    head(&["from", "to", "products"]);
                }
                let end = |at: Option<&f64>| at.map_or("-".into(), |value| decimal(*value, 4));
                outln!(
                    "{name:>width$}  {:>14} {:>14} {:>14}",
                    end(found.grid.first()),
                    end(found.grid.last()),
                    found.matvecs
                );
            }
            Point::Trace(found) => {
                if i == 0 {
                    head(&["trace", "±", "|H|_F squared", "±"]);
                }
                outln!(
                    "{name:>width$}  {:>14.6} {:>14.1e} {:>14.6} {:>14.1e}",
                    found.hutch_plus_plus.value,
                    found.hutch_plus_plus.standard_error,
                    found.frobenius_squared.value,
                    found.frobenius_squared.standard_error
                );
            }
        }
    }
}
