//! The figures as one page: a plot a load, with the numbers below it. It needs nothing but itself.

use std::fmt::Write as _;

use serde_json::Value;

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 240.0;
const LEFT: f64 = 46.0;
const BOTTOM: f64 = 30.0;

/// Colours that people with any colour vision tell apart, on light and on dark (Okabe and Ito).
const COLOURS: [&str; 7] =
    ["#999999", "#0072b2", "#56b4e9", "#cc79a7", "#d55e00", "#e69f00", "#009e73"];

const STYLE: &str = "
:root { color-scheme: light dark; font: 15px/1.4 system-ui, sans-serif; }
body { max-width: 44rem; margin: 2rem auto; padding: 0 1rem; }
svg { width: 100%; height: auto; }
svg text { fill: currentColor; font-size: 11px; }
svg .axis { stroke: currentColor; stroke-opacity: .3; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: right; padding: .1rem .5rem; font-variant-numeric: tabular-nums; }
th:first-child, td:first-child { text-align: left; }
i { display: inline-block; width: .8em; height: .8em; margin-right: .5em; }
";

/// One load with the number of services of each of its figures, in order.
type Group<'a> = (&'a str, Vec<&'a Value>);

fn groups(figures: &[Value]) -> Vec<Group<'_>> {
    let mut groups: Vec<Group<'_>> = Vec::new();
    for figure in figures {
        let load = figure["load"].as_str().unwrap_or_default();
        match groups.iter_mut().find(|(name, _)| *name == load) {
            Some((_, all)) => all.push(figure),
            None => groups.push((load, vec![figure])),
        }
    }
    groups
}

/// The whole page.
pub(crate) fn page(figures: &[Value], about: &str) -> String {
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\">\
         <title>bowline: the way through a service</title><style>{STYLE}</style>\n\
         <h1>The way through a service</h1>\n<p>{about}</p>\n"
    );
    for (load, figures) in groups(figures) {
        write!(page, "<h2>{load}</h2>\n{}{}", plot(&figures), table(&figures)).unwrap();
    }
    page + "</html>\n"
}

fn ways(figures: &[&Value]) -> Vec<String> {
    let rows = figures.first().and_then(|figure| figure["ways"].as_array());
    let names = rows.into_iter().flatten().filter_map(|row| row["way"].as_str());
    names.map(str::to_owned).collect()
}

fn number(row: &Value, field: &str) -> f64 {
    row[field].as_f64().unwrap_or(0.0)
}

/// Ratios over the number of services, from nothing to a little more than the largest.
fn plot(figures: &[&Value]) -> String {
    let rows = figures.iter().flat_map(|figure| figure["ways"].as_array().into_iter().flatten());
    let most = rows.map(|row| number(row, "most")).fold(1.0, f64::max) * 1.05;
    let across = |place: usize| {
        LEFT + (WIDTH - LEFT - 20.0) * place as f64 / (figures.len() - 1).max(1) as f64
    };
    let up = |ratio: f64| (HEIGHT - BOTTOM) * (1.0 - ratio / most) + 4.0;
    let mut svg = format!("<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\">\n");
    for step in 0..=4 {
        let (ratio, y) = (most * f64::from(step) / 4.0, up(most * f64::from(step) / 4.0));
        writeln!(
            svg,
            "<line class=\"axis\" x1=\"{LEFT}\" x2=\"{WIDTH}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
             <text x=\"0\" y=\"{:.1}\">{ratio:.2}</text>",
            y + 4.0
        )
        .unwrap();
    }
    for (place, figure) in figures.iter().enumerate() {
        let (x, count) = (across(place), figure["services"].as_u64().unwrap_or(0));
        writeln!(
            svg,
            "<text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{count}</text>",
            HEIGHT - 6.0
        )
        .unwrap();
    }
    for (way, _) in ways(figures).iter().enumerate() {
        let (colour, mut points) = (COLOURS[way % COLOURS.len()], String::new());
        for (place, figure) in figures.iter().enumerate() {
            let (x, row) = (across(place), &figure["ways"][way]);
            let [least, middle, most] =
                ["least", "ratio", "most"].map(|field| up(number(row, field)));
            write!(points, "{x:.1},{middle:.1} ").unwrap();
            writeln!(
                svg,
                "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{least:.1}\" y2=\"{most:.1}\" \
                 stroke=\"{colour}\" stroke-opacity=\".4\" stroke-width=\"4\"/>\
                 <circle cx=\"{x:.1}\" cy=\"{middle:.1}\" r=\"3.5\" fill=\"{colour}\"/>"
            )
            .unwrap();
        }
        writeln!(svg, "<polyline points=\"{points}\" fill=\"none\" stroke=\"{colour}\"/>").unwrap();
    }
    svg + "</svg>\n"
}

fn table(figures: &[&Value]) -> String {
    let mut table = String::from("<table><tr><th>ratio to the pod's own address</th>");
    for figure in figures {
        write!(table, "<th>{} services</th>", figure["services"]).unwrap();
    }
    for (place, way) in ways(figures).iter().enumerate() {
        let colour = COLOURS[place % COLOURS.len()];
        write!(table, "</tr>\n<tr><td><i style=\"background:{colour}\"></i>{way}</td>").unwrap();
        for figure in figures {
            let row = &figure["ways"][place];
            let [least, middle, most] = ["least", "ratio", "most"].map(|field| number(row, field));
            let noisy = if row["noisy"] == true { " (noisy)" } else { "" };
            write!(table, "<td title=\"{least:.3} to {most:.3}\">{middle:.3}{noisy}</td>").unwrap();
        }
    }
    table + "</tr></table>\n"
}
