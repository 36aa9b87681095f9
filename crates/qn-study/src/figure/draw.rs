//! Panels as SVG.

use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::coord::ranged1d::{DefaultFormatting, KeyPointHint, Ranged};
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;

use super::panel::{At, Chart, Mark, Matrix, Panel, Scale};
use super::ticks::{Tick, ticks};

/// Colours of a figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Theme {
    Light,
    Dark,
}

/// Okabe and Ito's palette, which colour-blind readers can tell apart, without its yellow, which is faint on white; and
/// three more, so that ten classes have a colour each.
const SERIES: [RGBColor; 10] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(128, 128, 128),
    RGBColor(120, 70, 40),
    RGBColor(110, 80, 200),
    RGBColor(170, 170, 60),
];
/// Two columns' width on screen, one's in print.
const WIDTH: u32 = 560;
const HEIGHT: u32 = 340;
const FONT: &str = "sans-serif";

impl Theme {
    fn paper(self) -> RGBColor {
        if self == Self::Light { WHITE } else { RGBColor(24, 26, 30) }
    }

    fn ink(self) -> RGBColor {
        if self == Self::Light { RGBColor(30, 30, 30) } else { RGBColor(225, 225, 225) }
    }

    fn grid(self) -> RGBColor {
        if self == Self::Light { RGBColor(225, 225, 225) } else { RGBColor(62, 66, 72) }
    }
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// One panel under the other.
pub(crate) fn svg(panels: &[Panel], theme: Theme) -> Result<String> {
    let mut text = String::new();
    {
        let size = (WIDTH, HEIGHT * panels.len().max(1) as u32);
        let root = SVGBackend::with_string(&mut text, size).into_drawing_area();
        root.fill(&theme.paper()).map_err(failed)?;
        for (area, panel) in root.split_evenly((panels.len().max(1), 1)).iter().zip(panels) {
            match panel {
                Panel::Chart(chart) => draw_chart(area, chart, theme)?,
                Panel::Matrix(matrix) => draw_matrix(area, matrix, theme)?,
            }
        }
        root.present().map_err(failed)?;
    }
    Ok(text)
}

fn failed(error: impl std::fmt::Display) -> anyhow::Error {
    anyhow!("cannot draw the figure: {error}")
}

/// An entry of a legend.
struct Entry<'a> {
    name: &'a str,
    color: RGBColor,
    dashes: Option<Dashes>,
}

/// A dash and the gap behind it, in pixels.
type Dashes = (u32, u32);

/// What tells one reference line from the next.
const DASHES: [Dashes; 3] = [(6, 4), (2, 4), (12, 4)];

/// An axis whose ticks are at given places.
struct Ticked {
    ends: RangedCoordf64,
    places: Vec<f64>,
}

impl Ranged for Ticked {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    fn map(&self, place: &f64, limit: (i32, i32)) -> i32 {
        self.ends.map(place, limit)
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        // What is asked for last is the light lines between the ticks, of which there are none.
        if hint.weight().allow_light_points() { Vec::new() } else { self.places.clone() }
    }

    fn range(&self) -> std::ops::Range<f64> {
        self.ends.range()
    }
}

/// The title and a legend in as many rows as it needs; what is left of the area.
fn draw_head<'a>(area: &Area<'a>, title: &str, entries: &[Entry<'_>], ink: RGBColor) -> Result<Area<'a>> {
    let (left, row, sample, letter) = (76, 18, 18, 7);
    let text = |size: u32| (FONT, size).into_font().color(&ink);
    area.draw(&Text::new(title.to_owned(), (left, 10), text(15))).map_err(failed)?;
    let (mut x, mut y) = (left, 38);
    for (i, entry) in entries.iter().enumerate() {
        let width = sample + 8 + letter * entry.name.chars().count() as i32 + 14;
        if i > 0 && x + width > WIDTH as i32 {
            (x, y) = (left, y + row);
        }
        let stretches: Vec<(i32, i32)> = match entry.dashes {
            None => vec![(0, sample)],
            Some((dash, gap)) => (0..sample)
                .step_by((dash + gap) as usize)
                .map(|from| (from, sample.min(from + dash as i32)))
                .collect(),
        };
        for (from, to) in stretches {
            let stroke = entry.color.stroke_width(if entry.dashes.is_some() { 1 } else { 3 });
            area.draw(&PathElement::new(vec![(x + from, y), (x + to, y)], stroke)).map_err(failed)?;
        }
        let at = (x + sample + 6, y - 6);
        area.draw(&Text::new(entry.name.to_owned(), at, text(12))).map_err(failed)?;
        x += width;
    }
    let used = if entries.is_empty() { 30 } else { y + 8 };
    Ok(area.split_vertically(used).1)
}

fn draw_chart(area: &Area<'_>, chart: &Chart, theme: Theme) -> Result<()> {
    let [(x0, x1), (y0, y1)] = chart.extent()?;
    let (ink, grid) = (theme.ink(), theme.grid());
    let text = |size: u32| (FONT, size).into_font().color(&ink);
    let colors = || SERIES.iter().copied().cycle();
    let dashes = || DASHES.iter().copied().cycle();
    let named = chart.series.iter().zip(colors()).filter(|(series, _)| !series.name.is_empty());
    let mut entries: Vec<Entry<'_>> =
        named.map(|(series, color)| Entry { name: &series.name, color, dashes: None }).collect();
    entries.extend(chart.references.iter().zip(dashes()).map(|(r, dashes)| Entry {
        name: &r.name,
        color: ink,
        dashes: Some(dashes),
    }));
    let area = draw_head(area, &chart.title, &entries, ink)?;
    let (xs, ys) = (chart.x.scale, chart.y.scale);
    let (x_ticks, y_ticks) = (ticks(xs, (x0, x1)), ticks(ys, (y0, y1)));
    let places = |ticks: &[Tick]| ticks.iter().map(|(place, _)| *place).collect::<Vec<f64>>();
    let mut context = ChartBuilder::on(&area)
        .margin(8)
        .margin_right(24)
        .x_label_area_size(40)
        .y_label_area_size(68)
        .build_cartesian_2d(
            Ticked { ends: (x0..x1).into(), places: places(&x_ticks) },
            Ticked { ends: (y0..y1).into(), places: places(&y_ticks) },
        )
        .map_err(failed)?;
    context
        .configure_mesh()
        .x_desc(&chart.x.label)
        .y_desc(&chart.y.label)
        .x_label_formatter(&|place| called(&x_ticks, *place))
        .y_label_formatter(&|place| called(&y_ticks, *place))
        .label_style(text(12))
        .axis_desc_style(text(13))
        .axis_style(ink)
        .bold_line_style(grid)
        .light_line_style(theme.paper())
        .draw()
        .map_err(failed)?;
    let floor = if ys == Scale::Linear { 0f64.clamp(y0, y1) } else { y0 };
    for (series, color) in chart.series.iter().zip(colors()) {
        let at = |&(x, y): &(f64, f64)| Some((xs.place(x)?, ys.place(y)?));
        let points: Vec<(f64, f64)> = series.points.iter().filter_map(at).collect();
        match series.mark {
            Mark::Line | Mark::Dots => {
                context.draw_series(LineSeries::new(points.iter().copied(), color.stroke_width(2)))
            }
            Mark::Broad => {
                let pale = color.mix(0.4).stroke_width(8);
                context.draw_series(LineSeries::new(points.iter().copied(), pale))
            }
            Mark::Stems => context.draw_series(
                points
                    .iter()
                    .map(|&(x, y)| PathElement::new(vec![(x, floor), (x, y)], color.stroke_width(1))),
            ),
            Mark::Steps => context.draw_series(series.points.windows(2).filter_map(|pair| {
                let ((left, top), right) = (at(&pair[0])?, xs.place(pair[1].0)?);
                Some(Rectangle::new([(left, floor), (right, top)], color.mix(0.6).filled()))
            })),
        }
        .map_err(failed)?;
        if matches!(series.mark, Mark::Dots | Mark::Stems) {
            let radius = if points.len() > 60 { 2 } else { 3 };
            let dots = points.iter().map(|&point| Circle::new(point, radius, color.filled()));
            context.draw_series(dots).map_err(failed)?;
        }
    }
    for (reference, (dash, gap)) in chart.references.iter().zip(dashes()) {
        let ends = match reference.at {
            At::X(x) => xs.place(x).map(|x| [(x, y0), (x, y1)]),
            At::Y(y) => ys.place(y).map(|y| [(x0, y), (x1, y)]),
        };
        let Some(ends) = ends else { continue };
        context.draw_series(DashedLineSeries::new(ends, dash, gap, ink.stroke_width(1))).map_err(failed)?;
    }
    Ok(())
}

fn draw_matrix(area: &Area<'_>, matrix: &Matrix, theme: Theme) -> Result<()> {
    let (m, n) = (matrix.entries.len(), matrix.entries.first().map_or(0, Vec::len));
    let ink = theme.ink();
    let text = |size: u32| (FONT, size).into_font().color(&ink);
    let area = draw_head(area, &matrix.title, &[], ink)?;
    let longest = matrix.row_names.iter().map(|name| name.chars().count()).max().unwrap_or(0);
    let left = 68.max(36 + 6 * longest as u32);
    let column_width = area.dim_in_pixel().0.saturating_sub(left + 32) as usize / n.max(1);
    let numbered = m.max(n) <= NUMBERED && column_width >= NUMBER_WIDTH;
    let mut context = ChartBuilder::on(&area)
        .margin(8)
        .margin_right(24)
        .x_label_area_size(40)
        .y_label_area_size(left)
        .build_cartesian_2d(0.0..n as f64, m as f64..0.0)
        .map_err(failed)?;
    // A tick between two entries has no label.
    let entry = |place: f64, count: usize| {
        let at = place.round() as usize;
        ((place - at as f64).abs() < 1e-6 && at < count).then_some(at)
    };
    let column = |place: &f64| entry(*place, n).map_or(String::new(), |at| (at + 1).to_string());
    let row = |place: &f64| match entry(*place, m) {
        Some(at) => matrix.row_names.get(at).cloned().unwrap_or_else(|| at.to_string()),
        None => String::new(),
    };
    context
        .configure_mesh()
        .disable_mesh()
        .x_desc(matrix.columns)
        .y_desc(matrix.rows)
        .x_label_formatter(&column)
        .y_label_formatter(&row)
        .y_labels(if matrix.row_names.is_empty() { 10 } else { m + 1 })
        .x_label_offset(16)
        .y_label_offset(10)
        .label_style(text(12))
        .axis_desc_style(text(13))
        .axis_style(ink)
        .draw()
        .map_err(failed)?;
    for (i, row) in matrix.entries.iter().enumerate() {
        for (j, &entry) in row.iter().enumerate() {
            let corners = [(j as f64, i as f64), (j as f64 + 1.0, i as f64 + 1.0)];
            let cell = Rectangle::new(corners, shade(entry).filled());
            context.draw_series([cell]).map_err(failed)?;
            if !numbered {
                continue;
            }
            let on_dark = if entry < 0.55 { WHITE } else { BLACK };
            let style = (FONT, 10).into_font().color(&on_dark);
            let label = Text::new(format!("{entry:.2}"), (j as f64 + 0.22, i as f64 + 0.35), style);
            context.draw_series([label]).map_err(failed)?;
        }
        if let Some(&Some(j)) = matrix.framed.get(i) {
            let corners = [(j as f64 + 0.04, i as f64 + 0.04), (j as f64 + 0.96, i as f64 + 0.96)];
            context.draw_series([Rectangle::new(corners, SERIES[1].stroke_width(2))]).map_err(failed)?;
        }
    }
    Ok(())
}

/// Rows and columns of a matrix whose entries are written into their cells, at most,
const NUMBERED: usize = 20;
/// and pixels of a column at least.
const NUMBER_WIDTH: usize = 22;

/// Viridis, from 0 to 1, between nine of its colours.
fn shade(value: f64) -> RGBColor {
    const STOPS: [(u8, u8, u8); 9] = [
        (68, 1, 84),
        (71, 44, 122),
        (59, 81, 139),
        (44, 113, 142),
        (33, 144, 141),
        (39, 173, 129),
        (92, 200, 99),
        (170, 220, 50),
        (253, 231, 37),
    ];
    let place = value.clamp(0.0, 1.0) * (STOPS.len() - 1) as f64;
    let below = (place as usize).min(STOPS.len() - 2);
    let (a, b, t) = (STOPS[below], STOPS[below + 1], place - below as f64);
    let mix = |a: u8, b: u8| (f64::from(a) + t * (f64::from(b) - f64::from(a))).round() as u8;
    RGBColor(mix(a.0, b.0), mix(a.1, b.1), mix(a.2, b.2))
}

/// The label of the tick at a place.
fn called(ticks: &[Tick], place: f64) -> String {
    ticks.iter().find(|(at, _)| *at == place).map_or_else(String::new, |(_, label)| label.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figure::panel::{Axis, Series};

    #[test]
    fn numbers_of_any_size_are_drawn_or_refused() {
        let drawn = |points: [(f64, f64); 2]| {
            let series = Series { name: String::new(), points: points.to_vec(), mark: Mark::Dots };
            let (x, y) = (Axis::linear("index"), Axis::linear("value"));
            let chart = Chart { title: "t".into(), x, y, series: vec![series], references: Vec::new() };
            svg(&[Panel::Chart(chart)], Theme::Light)
        };
        let message = drawn([(0.0, 1e308), (1.0, -1e308)]).unwrap_err().to_string();
        assert!(message.contains("'value' would reach from -1e308 to 1e308"), "{message}");
        let next = |x: f64| f64::from_bits(x.to_bits() + 1);
        for (low, high) in
            [(-1e307, 8e307), (1e20, next(1e20)), (1.0, next(1.0)), (0.0, 5e-324), (3e-300, 4e-300)]
        {
            assert!(drawn([(0.0, low), (1.0, high)]).unwrap().contains("<circle"), "{low} {high}");
        }
    }

    #[test]
    fn the_ends_of_the_colours() {
        assert_eq!((shade(0.0), shade(1.0)), (RGBColor(68, 1, 84), RGBColor(253, 231, 37)));
    }
}
