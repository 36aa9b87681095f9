//! What a figure shows, before it is drawn.

use anyhow::{Result, ensure};

/// One pair of axes, or a matrix.
#[derive(Clone, Debug)]
pub(crate) enum Panel {
    /// Series over axes.
    Chart(Chart),
    /// Entries from 0 to 1.
    Matrix(Matrix),
}

/// Series over axes.
#[derive(Clone, Debug)]
pub(crate) struct Chart {
    pub(crate) title: String,
    pub(crate) x: Axis,
    pub(crate) y: Axis,
    pub(crate) series: Vec<Series>,
    pub(crate) references: Vec<Reference>,
}

/// A matrix in colours, row by row from above.
#[derive(Clone, Debug)]
pub(crate) struct Matrix {
    pub(crate) title: String,
    pub(crate) rows: &'static str,
    pub(crate) columns: &'static str,
    pub(crate) entries: Vec<Vec<f64>>,
    /// What the rows are called; they are counted from zero where there are no names.
    pub(crate) row_names: Vec<String>,
    /// Column of each row that is framed, if one is.
    pub(crate) framed: Vec<Option<usize>>,
}

/// What an axis measures, and how.
#[derive(Clone, Debug)]
pub(crate) struct Axis {
    pub(crate) label: String,
    pub(crate) scale: Scale,
}

/// How values are laid out along an axis.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Scale {
    Linear,
    /// Positive values only.
    Log,
    /// Logarithmic in |x| outside ±threshold, linear inside.
    Symlog {
        threshold: f64,
    },
}

/// Points with one look.
#[derive(Clone, Debug)]
pub(crate) struct Series {
    pub(crate) name: String,
    pub(crate) points: Vec<(f64, f64)>,
    pub(crate) mark: Mark,
}

/// A look.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Mark {
    Line,
    /// A broad pale line, on which another one can be seen.
    Broad,
    /// A line, and a dot at every point.
    Dots,
    /// A dot on a stem from the axis.
    Stems,
    /// A filled area down to the axis, in steps.
    Steps,
}

/// A line across the chart.
#[derive(Clone, Debug)]
pub(crate) struct Reference {
    pub(crate) name: String,
    pub(crate) at: At,
}

/// Where a reference line is.
#[derive(Clone, Copy, Debug)]
pub(crate) enum At {
    X(f64),
    Y(f64),
}

/// Adds a line across a chart, unless there is one of that name.
pub(crate) fn once(references: &mut Vec<Reference>, name: String, at: At) {
    if references.iter().all(|r| r.name != name) {
        references.push(Reference { name, at });
    }
}

impl Axis {
    pub(crate) fn linear(label: impl Into<String>) -> Self {
        Self { label: label.into(), scale: Scale::Linear }
    }

    pub(crate) fn log(label: impl Into<String>) -> Self {
        Self { label: label.into(), scale: Scale::Log }
    }
}

impl Scale {
    /// Where a value lies; `None` where it cannot be shown.
    pub(crate) fn place(self, value: f64) -> Option<f64> {
        let place = match self {
            Self::Linear => value,
            Self::Log if value > 0.0 => value.log10(),
            Self::Log => return None,
            Self::Symlog { threshold } => {
                let size = value.abs() / threshold;
                value.signum() * if size <= 1.0 { size } else { 1.0 + size.log10() }
            }
        };
        place.is_finite().then_some(place)
    }

    /// The value at a place.
    pub(crate) fn value(self, place: f64) -> f64 {
        match self {
            Self::Linear => place,
            Self::Log => 10f64.powf(place),
            Self::Symlog { threshold } => {
                let size = place.abs();
                let size = if size <= 1.0 { size } else { 10f64.powf(size - 1.0) };
                place.signum() * size * threshold
            }
        }
    }
}

impl Chart {
    /// The places that everything takes, in x and in y, with a margin; stems and steps reach down to zero.
    ///
    /// # Errors
    /// The ends of an axis are so far apart that a double cannot tell how far.
    pub(crate) fn extent(&self) -> Result<[(f64, f64); 2]> {
        let mut extent = [(f64::INFINITY, f64::NEG_INFINITY); 2];
        let mut widen = |axis: usize, place: Option<f64>| {
            if let Some(place) = place {
                extent[axis] = (extent[axis].0.min(place), extent[axis].1.max(place));
            }
        };
        for series in &self.series {
            for &(x, y) in &series.points {
                if let (Some(x), Some(y)) = (self.x.scale.place(x), self.y.scale.place(y)) {
                    widen(0, Some(x));
                    widen(1, Some(y));
                }
            }
            if matches!(series.mark, Mark::Stems | Mark::Steps) && self.y.scale == Scale::Linear {
                widen(1, Some(0.0));
            }
        }
        for reference in &self.references {
            match reference.at {
                At::X(x) => widen(0, self.x.scale.place(x)),
                At::Y(y) => widen(1, self.y.scale.place(y)),
            }
        }
        let ends = |axis: &Axis, (low, high): (f64, f64)| {
            if low > high {
                return Ok((0.0, 1.0));
            }
            let margin = if high > low { 0.04 * (high - low) } else { 0.5 };
            // What differs by roundings alone has no ticks in between.
            let margin = margin.max(1e-9 * low.abs().max(high.abs()));
            ensure!(
                (high - low + 2.0 * margin).is_finite(),
                "the figure '{}' cannot be drawn: its axis '{}' would reach from {low:.0e} to {high:.0e}",
                self.title,
                axis.label
            );
            Ok((low - margin, high + margin))
        };
        Ok([ends(&self.x, extent[0])?, ends(&self.y, extent[1])?])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_and_values_are_inverse() {
        for scale in [Scale::Linear, Scale::Log, Scale::Symlog { threshold: 0.1 }] {
            for value in [1e-3, 0.1, 7.0, 2e5] {
                for value in if scale == Scale::Log { vec![value] } else { vec![value, -value] } {
                    let back = scale.value(scale.place(value).unwrap());
                    assert!((back / value - 1.0).abs() < 1e-12, "{scale:?} {value} {back}");
                }
            }
        }
        assert_eq!(Scale::Log.place(0.0), None);
        assert_eq!(Scale::Log.place(-1.0), None);
        assert_eq!(Scale::Linear.place(f64::NAN), None);
        assert_eq!(Scale::Symlog { threshold: 2.0 }.place(0.0), Some(0.0));
    }
}
