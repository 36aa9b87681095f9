//! Where an axis has its ticks, and what they are called: round numbers, no two of which read alike.

use super::panel::Scale;

/// More ticks than this are not drawn.
const MOST: usize = 8;

/// A tick: its place along the axis, and its label.
pub(super) type Tick = (f64, String);

/// The ticks of an axis from one place to another.
pub(super) fn ticks(scale: Scale, (low, high): (f64, f64)) -> Vec<Tick> {
    let found = match scale {
        Scale::Linear => linear(low, high),
        Scale::Log => log(low, high),
        Scale::Symlog { threshold } => symlog(threshold, low, high),
    };
    if found.is_empty() {
        [low, high].map(|place| (place, format!("{:.1e}", scale.value(place)))).into()
    } else {
        found
    }
}

/// The 1, 2 or 5 times a power of ten by which an interval has at most [`MOST`] multiples.
fn step(low: f64, high: f64) -> Option<f64> {
    let least = (high - low) / MOST as f64;
    let power = 10f64.powf(least.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|m| m * power).find(|step| *step >= least)?;
    (step.is_normal() && (low / step).is_finite() && (high / step).is_finite()).then_some(step)
}

/// Multiples of a step between two values.
fn multiples(low: f64, high: f64) -> Vec<Tick> {
    let Some(step) = step(low, high) else { return Vec::new() };
    let first = (low / step).ceil();
    // A multiple may be above the end by a rounding.
    let end = high + 1e-9 * step;
    let mut values: Vec<f64> =
        (0..=MOST).map(|i| (first + i as f64) * step).take_while(|value| *value <= end).collect();
    values.dedup();
    let size = low.abs().max(high.abs());
    values.into_iter().map(|value| (value, label(value, step, size))).collect()
}

/// A number with as many digits as tell it from the next one, `step` away; `size` is the largest of them.
fn label(value: f64, step: f64, size: f64) -> String {
    let exponent = |x: f64| x.abs().log10().floor() as i32;
    // A rounding of the step's multiples may be below the power of ten.
    let last = exponent(step * (1.0 + 1e-9));
    if value.abs() < 0.5 * step {
        return "0".into();
    }
    if size < 1e5 && last >= -4 {
        let decimals = usize::try_from(-last).unwrap_or(0);
        return format!("{value:.decimals$}");
    }
    let digits = usize::try_from(exponent(value * (1.0 + 1e-15)) - last).unwrap_or(0).min(17);
    format!("{value:.digits$e}")
}

fn linear(low: f64, high: f64) -> Vec<Tick> {
    multiples(low, high)
}

/// Places are decimal logarithms: decades, with 2 and 5, or with 3, between them where there are few; within a decade the
/// round values themselves.
fn log(low: f64, high: f64) -> Vec<Tick> {
    if high - low < 0.8 {
        let values = multiples(10f64.powf(low), 10f64.powf(high));
        return values.into_iter().map(|(value, label)| (value.log10(), label)).collect();
    }
    let mantissas: &[f64] = match high - low {
        width if width < 2.2 => &[1.0, 2.0, 5.0],
        width if width < 4.2 => &[1.0, 3.0],
        _ => &[1.0],
    };
    let stride = ((high - low) / MOST as f64).ceil().max(1.0) as i64;
    let decades = (low.floor() as i64..=high.ceil() as i64).filter(|decade| decade.rem_euclid(stride) == 0);
    let all = decades.flat_map(|decade| mantissas.iter().map(move |m| (decade, *m)));
    let placed = all.map(|(decade, m)| (decade as f64 + m.log10(), power_label(m, decade)));
    placed.filter(|(place, _)| (low..=high).contains(place)).collect()
}

/// m times a power of ten.
fn power_label(m: f64, decade: i64) -> String {
    match decade {
        0..=3 => format!("{}", m * 10f64.powi(decade as i32)),
        // Without the roundings of a product: 3 and -2 are 0.03.
        -3..=-1 => format!("0.{}{m}", "0".repeat((-decade - 1) as usize)),
        _ => format!("{m}e{decade}"),
    }
}

/// Zero, and powers of ten beyond the threshold on both sides.
fn symlog(threshold: f64, low: f64, high: f64) -> Vec<Tick> {
    let scale = Scale::Symlog { threshold };
    let reach = scale.value(low).abs().max(scale.value(high).abs());
    let (first, last) = (threshold.log10().ceil(), reach.log10().floor());
    if !(first.is_finite() && last.is_finite()) {
        return Vec::new();
    }
    let (first, last) = (first as i64, last as i64);
    let stride = ((last - first + 1).max(1) as usize).div_ceil(MOST / 2) as i64;
    // From the largest down, so that the ends have theirs.
    let powers: Vec<i64> = (first..=last).rev().step_by(stride as usize).collect();
    let negative = powers.iter().map(|&p| (-(10f64.powi(p as i32)), format!("-1e{p}")));
    let positive = powers.iter().rev().map(|&p| (10f64.powi(p as i32), format!("1e{p}")));
    let all = negative.chain([(0.0, "0".to_owned())]).chain(positive);
    let placed = all.filter_map(|(value, label)| Some((scale.place(value)?, label)));
    placed.filter(|(place, _)| (low..=high).contains(place)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(scale: Scale, low: f64, high: f64) -> Vec<String> {
        ticks(scale, (low, high)).into_iter().map(|(_, label)| label).collect()
    }

    #[test]
    fn linear_ticks_are_round() {
        assert_eq!(labels(Scale::Linear, -0.3, 10.4), ["0", "2", "4", "6", "8", "10"]);
        assert_eq!(labels(Scale::Linear, 2.21, 2.32), ["2.22", "2.24", "2.26", "2.28", "2.30", "2.32"]);
        assert_eq!(labels(Scale::Linear, 0.0, 2.1e6), ["0", "5e5", "1.0e6", "1.5e6", "2.0e6"]);
    }

    #[test]
    fn logarithmic_ticks_are_round() {
        let log = |low: f64, high: f64| labels(Scale::Log, low.log10(), high.log10());
        assert_eq!(log(0.009, 11.0), ["0.01", "0.03", "0.1", "0.3", "1", "3", "10"]);
        assert_eq!(log(0.9, 21.0), ["1", "2", "5", "10", "20"]);
        assert_eq!(log(0.5e-8, 2.0), ["1e-8", "1e-6", "1e-4", "0.01", "1"]);
        // The losses of a run that does not learn.
        assert_eq!(log(2.19, 2.31), ["2.20", "2.22", "2.24", "2.26", "2.28", "2.30"]);
    }

    #[test]
    fn both_signs() {
        let scale = Scale::Symlog { threshold: 2e-4 };
        let [low, high] = [-0.5, 40.0].map(|x| scale.place(x).unwrap());
        assert_eq!(labels(scale, low, high), ["-1e-1", "-1e-3", "0", "1e-3", "1e-1", "1e1"]);
    }

    #[test]
    fn no_two_read_alike_whatever_the_interval() {
        let next = |x: f64| f64::from_bits(x.to_bits() + 1);
        let intervals = [
            (0.0, 1.0),
            (-1e307, 8e307),
            (1e20, 1e20 + 1e6),
            (1.0, next(1.0)),
            (3e-300, 4e-300),
            (0.0, 5e-324),
        ];
        for (low, high) in intervals {
            let mut found = labels(Scale::Linear, low, high);
            let count = found.len();
            found.dedup();
            assert!(
                (1..=MOST + 1).contains(&found.len()) && count - found.len() <= 1,
                "{low} {high}: {found:?}"
            );
        }
        for width in [0.01, 0.1, 0.5, 0.79, 0.8, 1.5, 2.2, 3.0, 4.2, 9.0, 40.0, 300.0] {
            for low in [-150.3, -5.1, -0.4, 0.0, 2.7] {
                let mut found = labels(Scale::Log, low, low + width);
                let count = found.len();
                assert!((1..=12).contains(&count), "{low} {width}: {found:?}");
                found.dedup();
                assert_eq!(found.len(), count, "{low} {width}: {found:?}");
            }
        }
    }
}
