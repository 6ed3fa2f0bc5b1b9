//! Line plots as SVG, for the page.

use std::fmt::Write;

/// How values stand along an axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// Evenly, from 0.
    Linear,
    /// By their logarithm; values are positive.
    Log,
}

/// An axis.
#[derive(Clone, Debug)]
pub struct Axis {
    /// What it shows, with its unit.
    pub title: &'static str,
    /// How values stand along it.
    pub scale: Scale,
    /// What a value is called at a tick.
    pub label: fn(f64) -> String,
}

/// One line, or its points alone.
#[derive(Clone, Debug)]
pub struct Series {
    /// What the legend says.
    pub name: String,
    /// The points, along the line.
    pub points: Vec<(f64, f64)>,
    /// Whether the points are connected, or marked.
    pub is_line: bool,
}

const WIDTH: f64 = 880.0;
const HEIGHT: f64 = 360.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 20.0;
const BOTTOM: f64 = 50.0;
const TICKS: usize = 6;
const COLOURS: [&str; 10] = [
    "#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf", "#8c564b", "#e377c2", "#7f7f7f",
    "#bcbd22",
];

/// Lines in one plot; beyond it colours repeat and nobody can tell them apart.
pub const SERIES_MAX: usize = COLOURS.len();

/// A plot with its legend; nothing when there is no point. Series beyond [`SERIES_MAX`] are left out, and the legend
/// says so.
pub fn plot(title: &str, x: &Axis, y: &Axis, series: &[Series]) -> String {
    let shown = &series[..series.len().min(SERIES_MAX)];
    let points = || shown.iter().flat_map(|series| &series.points);
    let (Some(x_range), Some(y_range)) = (
        Range::over(x.scale, points().map(|point| point.0)),
        Range::over(y.scale, points().map(|point| point.1)),
    ) else {
        return String::new();
    };
    let place = |&(at_x, at_y): &(f64, f64)| {
        let across = LEFT + x_range.share(at_x) * (WIDTH - LEFT - RIGHT);
        let up = HEIGHT - BOTTOM - y_range.share(at_y) * (HEIGHT - TOP - BOTTOM);
        (across, up)
    };
    let mut svg = format!(
        "<figure><figcaption>{}</figcaption><svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\">",
        escape(title),
    );
    draw_axes(&mut svg, (x, &x_range), (y, &y_range));
    for (series, colour) in shown.iter().zip(COLOURS) {
        let places: Vec<(f64, f64)> = series.points.iter().map(place).collect();
        if series.is_line {
            let path: Vec<String> = places.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
            push(
                &mut svg,
                format_args!("<polyline fill=\"none\" stroke=\"{colour}\" points=\"{}\"/>", path.join(" ")),
            );
        }
        for ((across, up), (at_x, at_y)) in places.iter().zip(&series.points) {
            let radius = if series.is_line { 2 } else { 5 };
            push(
                &mut svg,
                format_args!(
                    "<circle cx=\"{across:.1}\" cy=\"{up:.1}\" r=\"{radius}\" fill=\"{colour}\"><title>{}: {}, {}\
                     </title></circle>",
                    escape(&series.name),
                    escape(&(x.label)(*at_x)),
                    escape(&(y.label)(*at_y)),
                ),
            );
        }
    }
    svg.push_str("</svg><div class=\"legend\">");
    for (series, colour) in shown.iter().zip(COLOURS) {
        push(
            &mut svg,
            format_args!("<span><i style=\"background:{colour}\"></i>{}</span>", escape(&series.name)),
        );
    }
    if shown.len() < series.len() {
        push(&mut svg, format_args!("<span>and {} more, not shown</span>", series.len() - shown.len()));
    }
    svg.push_str("</div></figure>\n");
    svg
}

fn push(out: &mut String, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("a string takes everything");
}

fn draw_axes(svg: &mut String, (x, x_range): (&Axis, &Range), (y, y_range): (&Axis, &Range)) {
    let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
    for (value, share) in x_range.ticks() {
        let across = LEFT + share * (right - LEFT);
        push(
            svg,
            format_args!(
                "<line class=\"grid\" x1=\"{across:.1}\" y1=\"{TOP}\" x2=\"{across:.1}\" y2=\"{bottom}\"/>\
                 <text x=\"{across:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
                bottom + 16.0,
                escape(&(x.label)(value)),
            ),
        );
    }
    for (value, share) in y_range.ticks() {
        let up = bottom - share * (bottom - TOP);
        push(
            svg,
            format_args!(
                "<line class=\"grid\" x1=\"{LEFT}\" y1=\"{up:.1}\" x2=\"{right}\" y2=\"{up:.1}\"/>\
                 <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                LEFT - 6.0,
                up + 4.0,
                escape(&(y.label)(value)),
            ),
        );
    }
    push(
        svg,
        format_args!(
            "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">{}</text><text x=\"{LEFT}\" y=\"12\">{}</text>",
            (LEFT + right) / 2.0,
            HEIGHT - 10.0,
            escape(x.title),
            escape(y.title),
        ),
    );
}

/// The values along an axis, from `low` to `high` as [`Scale`] places them.
#[derive(Debug)]
struct Range {
    scale: Scale,
    low: f64,
    high: f64,
    step: f64,
}

impl Range {
    /// The range of some values, rounded out to ticks; `None` when there are none.
    fn over(scale: Scale, values: impl Iterator<Item = f64>) -> Option<Range> {
        let placed = values.map(|value| Self::placed(scale, value)).filter(|value| value.is_finite());
        let (low, high) = placed.fold((f64::MAX, f64::MIN), |(low, high), at| (low.min(at), high.max(at)));
        if low > high {
            return None;
        }
        let (low, step) = match scale {
            Scale::Linear => (0.0, round_step((high / TICKS as f64).max(f64::MIN_POSITIVE))),
            Scale::Log => (low.floor(), ((high - low) / TICKS as f64).ceil().max(1.0)),
        };
        let high = low + (((high - low) / step).ceil() * step).max(step);
        Some(Range { scale, low, high, step })
    }

    fn placed(scale: Scale, value: f64) -> f64 {
        match scale {
            Scale::Linear => value,
            Scale::Log => value.log10(),
        }
    }

    fn share(&self, value: f64) -> f64 {
        (Self::placed(self.scale, value) - self.low) / (self.high - self.low)
    }

    /// Values to be named, with their place from 0 to 1.
    fn ticks(&self) -> Vec<(f64, f64)> {
        let count = ((self.high - self.low) / self.step).round() as usize;
        let value = |at: usize| {
            let placed = self.low + at as f64 * self.step;
            let value = if self.scale == Scale::Log { 10_f64.powf(placed) } else { placed };
            (value, at as f64 / count as f64)
        };
        (0..=count).map(value).collect()
    }
}

/// The next step of 1, 2 or 5 times a power of ten.
fn round_step(at_least: f64) -> f64 {
    let power = 10_f64.powf(at_least.log10().floor());
    let factor = [1.0, 2.0, 5.0].into_iter().find(|factor| factor * power >= at_least).unwrap_or(10.0);
    factor * power
}

/// Text for HTML.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticks(scale: Scale, values: &[f64]) -> Vec<f64> {
        Range::over(scale, values.iter().copied()).unwrap().ticks().iter().map(|tick| tick.0).collect()
    }

    #[test]
    fn ticks_are_round_and_enclose_the_values() {
        assert_eq!(ticks(Scale::Linear, &[3.0, 17.0]), [0.0, 5.0, 10.0, 15.0, 20.0]);
        assert_eq!(ticks(Scale::Linear, &[0.0]).len(), 2);
        assert_eq!(ticks(Scale::Log, &[0.3, 40.0]), [0.1, 1.0, 10.0, 100.0]);
        assert_eq!(ticks(Scale::Log, &[1.0]), [1.0, 10.0]);
        assert!(Range::over(Scale::Log, [0.0].into_iter()).is_none(), "zero has no logarithm");
    }

    #[test]
    fn a_plot_names_its_series_safely_and_holds_every_point() {
        let axis = |title| Axis { title, scale: Scale::Linear, label: |value| format!("{value}") };
        let series = |name: &str| Series {
            name: name.to_owned(),
            points: vec![(0.0, 1.0), (10.0, 2.0)],
            is_line: true,
        };
        let svg = plot("a & b", &axis("x"), &axis("y"), &[series("<one>"), series("two")]);
        assert_eq!(svg.matches("<polyline").count(), 2);
        assert_eq!(svg.matches("<circle").count(), 4);
        assert!(svg.contains("a &amp; b") && svg.contains("&lt;one&gt;") && !svg.contains("<one>"));
        let many: Vec<Series> = (0..SERIES_MAX + 2).map(|number| series(&number.to_string())).collect();
        assert!(plot("", &axis("x"), &axis("y"), &many).contains("and 2 more"));
        assert_eq!(plot("", &axis("x"), &axis("y"), &[]), "");
    }
}
