//! Figures as SVG, in colours that can be read on light and on dark.
//!
//! Two kinds: dots, a row for each figure, all of one unit; and lines, over how many there were of
//! something. Each shows the median, the least and the most of the rounds. There is room for the
//! medians and the goals; what is far from them ends at the edge.

use std::fmt::Write as _;

use crate::results::{Better, Figure, Point, Verdict, shown};

const WIDTH: f64 = 720.0;
/// Where dots may be.
const DOTS: [f64; 2] = [24.0, 500.0];
const ROW: f64 = 36.0;
/// Where lines may be, and how high.
const LINES: [f64; 2] = [60.0, 700.0];
const HEIGHT: f64 = 230.0;
const TOP: f64 = 10.0;
/// What is further apart than this is shown by its logarithm.
const FAR: f64 = 50.0;

/// Colours of lines and dots, on light and on dark, that people with any colour vision tell apart.
pub(crate) const COLOURS: [[&str; 2]; 7] = [
    ["#1f78b4", "#5aa9e6"],
    ["#c65102", "#ff8a3c"],
    ["#00835f", "#2fc59b"],
    ["#b0568a", "#e39ac4"],
    ["#8f6500", "#e6b84c"],
    ["#6a51a3", "#b3a2f0"],
    ["#767676", "#a8a8a8"],
];
/// The last one is for what is nobody's to improve.
const PALE: &str = "var(--c6)";
const OURS: &str = "var(--c0)";
const NAMES: [&str; 7] =
    [OURS, "var(--c1)", "var(--c2)", "var(--c3)", "var(--c4)", "var(--c5)", PALE];

/// What plots need of a style sheet, in a page or alone.
pub(crate) fn style() -> String {
    let colours = |ground: usize| -> String {
        let all = COLOURS.iter().enumerate();
        all.map(|(place, pair)| format!("--c{place}: {}; ", pair[ground])).collect()
    };
    format!(
        ":root {{ color-scheme: light dark; --good: #00704f; --bad: #b3261e; {}}}\n\
         @media (prefers-color-scheme: dark) {{ :root {{ --good: #3fc79a; --bad: #ff8a80; {}}} }}\n\
         svg text {{ fill: currentColor; font-size: 12px; }}\n\
         svg text.mark {{ font-size: 10px; fill-opacity: .65; }}\n\
         svg text.missed {{ fill: var(--bad); }}\n\
         svg .axis {{ stroke: currentColor; stroke-opacity: .18; }}\n\
         svg .one {{ stroke-opacity: .8; }}\n\
         svg .goal {{ stroke: var(--good); stroke-width: 2.5; }}\n",
        colours(0),
        colours(1)
    )
}

/// A plot of lines as a file of its own, with its title and what its lines are.
pub(crate) fn alone(title: &str, figures: &[&Figure]) -> String {
    const LINE: f64 = 18.0;
    let names = names(figures);
    let top = 30.0 + LINE * names.len().div_ceil(2) as f64;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {}\" \
         font-family=\"system-ui, sans-serif\" color=\"#1f2328\">\n<style>{}\
         @media (prefers-color-scheme: dark) {{ svg {{ color: #f0f6fc; }} }}</style>\n\
         <text x=\"0\" y=\"14\" font-weight=\"600\">{}</text>\n",
        top + HEIGHT,
        style(),
        escaped(title)
    );
    for (place, (name, colour)) in names.iter().enumerate() {
        let x = (place % 2) as f64 * WIDTH / 2.0;
        let y = 24.0 + LINE * (place / 2) as f64;
        let _ = writeln!(
            svg,
            "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"4\" style=\"fill: {colour}\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\">{}</text>",
            x + 5.0,
            y + 6.0,
            x + 16.0,
            y + 10.0,
            escaped(name)
        );
    }
    let _ = writeln!(svg, "<svg y=\"{top}\" height=\"{HEIGHT}\" width=\"{WIDTH}\">");
    svg + &lines(figures) + "</svg></svg>\n"
}

/// What HTML takes for text.
pub(crate) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// Values to places along one side.
struct Scale {
    values: [f64; 2],
    places: [f64; 2],
    is_logarithmic: bool,
}

impl Scale {
    /// For the medians of these and their goals: from nothing on, or logarithmic if they are far
    /// apart.
    fn new(figures: &[&Figure], places: [f64; 2]) -> Self {
        let values = figures.iter().flat_map(|figure| {
            [Some(figure.median), figure.goal].into_iter().flatten().filter(|it| it.is_finite())
        });
        let values: Vec<f64> = values.collect();
        let least = values.iter().copied().fold(f64::INFINITY, f64::min);
        let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        if least > 0.0 && most / least > FAR {
            let values = [least / 2.0, most * 2.0];
            return Self { values, places, is_logarithmic: true };
        }
        let most = if most > 0.0 { most * 1.2 } else { 1.0 };
        Self { values: [least.min(0.0) * 1.2, most], places, is_logarithmic: false }
    }

    fn place(&self, value: f64) -> f64 {
        let part = |value: f64, [from, to]: [f64; 2]| (value - from) / (to - from);
        let part = match self.is_logarithmic {
            true => part(value.max(self.values[0]).ln(), self.values.map(f64::ln)),
            false => part(value, self.values),
        };
        let [from, to] = self.places;
        from + part.clamp(0.0, 1.0) * (to - from)
    }

    /// Where people look for orientation.
    fn ticks(&self) -> Vec<f64> {
        let [from, to] = self.values;
        if !self.is_logarithmic {
            let ten = 10_f64.powf(((to - from) / 5.0).log10().floor());
            let steps = [1.0, 2.0, 5.0, 10.0].map(|step| step * ten);
            let step = steps.into_iter().find(|step| (to - from) / step <= 5.0).unwrap_or(to);
            let (first, last) = ((from / step).ceil() as i32, (to / step).floor() as i32);
            return (first..=last).map(|count| f64::from(count) * step).collect();
        }
        let tens = from.log10().floor() as i32..=to.log10().ceil() as i32;
        tens.map(|ten| 10_f64.powi(ten)).filter(|value| (from..=to).contains(value)).collect()
    }
}

/// What is said of a figure when somebody points at it.
fn title(figure: &Figure) -> String {
    let Figure { name, unit, median, min, max, samples, .. } = figure;
    let [median, min, max] = [median, min, max].map(|value| shown(*value, unit));
    format!(
        "<title>{}: {median}, from {min} to {max} in {} rounds</title>",
        escaped(name),
        samples.len()
    )
}

/// A row for each figure. All have the unit of the first.
pub(crate) fn dots(figures: &[&Figure]) -> String {
    let unit = figures.first().map_or("", |figure| figure.unit.as_str());
    let scale = Scale::new(figures, DOTS);
    let height = ROW * figures.len() as f64 + 24.0;
    let mut svg = format!("<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\">\n");
    for value in scale.ticks() {
        let (x, bottom) = (scale.place(value), height - 18.0);
        // As much as the baseline.
        let one = if unit == "ratio" && (value - 1.0).abs() < 1e-9 { " one" } else { "" };
        let _ = writeln!(
            svg,
            "<line class=\"axis{one}\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"0\" y2=\"{bottom}\"/>\
             <text class=\"mark\" x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            height - 4.0,
            shown(value, unit)
        );
    }
    for (place, figure) in figures.iter().enumerate() {
        svg.push_str(&row(figure, &scale, ROW * place as f64));
    }
    svg + "</svg>\n"
}

fn row(figure: &Figure, scale: &Scale, top: f64) -> String {
    let colour = match figure.better {
        Some(Better::More | Better::Less) => OURS,
        None => PALE,
    };
    let [middle, least, most] =
        [figure.median, figure.min, figure.max].map(|value| scale.place(value));
    let (y, noisy) = (top + 24.0, figure.noisy == Some(true));
    let fill = if noisy { "none" } else { colour };
    let mut row = format!(
        "<g>{}<text x=\"{}\" y=\"{:.1}\">{}</text>\
         <line x1=\"{least:.1}\" x2=\"{most:.1}\" y1=\"{y}\" y2=\"{y}\" style=\"stroke: {colour}\" \
         stroke-opacity=\".45\" stroke-width=\"4\"/>\
         <circle cx=\"{middle:.1}\" cy=\"{y}\" r=\"4\" style=\"fill: {fill}; stroke: {colour}\" \
         stroke-width=\"1.5\"/>",
        title(figure),
        DOTS[0],
        top + 13.0,
        escaped(&figure.name)
    );
    if let Some(goal) = figure.goal {
        let (x, up, down) = (scale.place(goal), y - 7.0, y + 7.0);
        let _ = write!(
            row,
            "<line class=\"goal\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{up}\" y2=\"{down}\"/>"
        );
    }
    let said = match figure.verdict() {
        Some(verdict) => format!(" {verdict}"),
        None if noisy => " (noisy)".to_owned(),
        None => String::new(),
    };
    let class = if figure.verdict() == Some(Verdict::Missed) { " class=\"missed\"" } else { "" };
    let value = shown(figure.median, &figure.unit);
    let x = DOTS[1] + 20.0;
    let _ = writeln!(row, "<text{class} x=\"{x}\" y=\"{:.1}\">{value}{said}</text></g>", y + 4.0);
    row
}

/// The figures of one plot as lines, over how many there were, each at the same distance.
pub(crate) fn lines(figures: &[&Figure]) -> String {
    let unit = figures.first().map_or("", |figure| figure.unit.as_str());
    let up = Scale::new(figures, [HEIGHT - 26.0, TOP]);
    let mut counts: Vec<f64> = points(figures).map(|(point, _)| point.at).collect();
    counts.sort_unstable_by(f64::total_cmp);
    counts.dedup();
    let across = |at: f64| {
        let place = counts.iter().position(|count| *count == at).unwrap_or(0) as f64;
        LINES[0] + (LINES[1] - LINES[0]) * (place + 0.5) / counts.len().max(1) as f64
    };
    let mut svg = format!("<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\">\n");
    for value in up.ticks() {
        let (y, [left, right]) = (up.place(value), LINES);
        let _ = writeln!(
            svg,
            "<line class=\"axis\" x1=\"{left}\" x2=\"{right}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
             <text class=\"mark\" x=\"0\" y=\"{:.1}\">{}</text>",
            y + 4.0,
            shown(value, unit)
        );
    }
    for at in &counts {
        let x = across(*at);
        let _ = writeln!(
            svg,
            "<text class=\"mark\" x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{at}</text>",
            HEIGHT - 6.0
        );
    }
    let names = names(figures);
    for (place, (name, colour)) in names.iter().enumerate() {
        // Beside each other, so that their bars can be told apart.
        let aside = (place as f64 - (names.len() - 1) as f64 / 2.0) * 7.0;
        let mut of_line: Vec<_> =
            points(figures).filter(|(point, _)| point.line == *name).collect();
        of_line.sort_by(|(one, _), (other, _)| one.at.total_cmp(&other.at));
        let mut corners = String::new();
        for (point, figure) in of_line {
            let x = across(point.at) + aside;
            let _ = write!(corners, "{x:.1},{:.1} ", up.place(figure.median));
            svg.push_str(&dot(figure, colour, x, &up));
        }
        let _ = writeln!(
            svg,
            "<polyline points=\"{corners}\" style=\"fill: none; stroke: {colour}\"/>"
        );
    }
    svg + "</svg>\n"
}

/// One figure of a line, and its goal.
fn dot(figure: &Figure, colour: &str, x: f64, up: &Scale) -> String {
    let [middle, least, most] =
        [figure.median, figure.min, figure.max].map(|value| up.place(value));
    let fill = if figure.noisy == Some(true) { "none" } else { colour };
    let mut dot = format!(
        "<g>{}<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{least:.1}\" y2=\"{most:.1}\" \
         style=\"stroke: {colour}\" stroke-opacity=\".45\" stroke-width=\"4\"/>\
         <circle cx=\"{x:.1}\" cy=\"{middle:.1}\" r=\"3.5\" \
         style=\"fill: {fill}; stroke: {colour}\" stroke-width=\"1.5\"/>",
        title(figure)
    );
    if let Some(goal) = figure.goal {
        let (y, left, right) = (up.place(goal), x - 7.0, x + 7.0);
        let _ = write!(
            dot,
            "<line class=\"goal\" x1=\"{left:.1}\" x2=\"{right:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>"
        );
    }
    dot + "</g>\n"
}

/// Those that stand in a plot of lines, with their places in it.
pub(crate) fn points<'a>(figures: &'a [&Figure]) -> impl Iterator<Item = (&'a Point, &'a Figure)> {
    figures.iter().filter_map(|figure| Some((figure.point.as_ref()?, *figure)))
}

/// The lines of a plot, in the order in which they come, with their colours.
pub(crate) fn names(figures: &[&Figure]) -> Vec<(String, &'static str)> {
    let mut names: Vec<(String, &'static str)> = Vec::new();
    for (Point { line, .. }, _) in points(figures) {
        if names.iter().all(|(other, _)| other != line) {
            names.push((line.clone(), NAMES[names.len() % NAMES.len()]));
        }
    }
    names
}
