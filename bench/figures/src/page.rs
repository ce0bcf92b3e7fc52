//! The results of a folder as one page, which needs nothing but itself: of each suite the machine,
//! the goals, and every figure in a plot.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result};

use crate::plot::{dots, escaped, lines, names, style};
use crate::results::{Figure, Results, Verdict, for_people, shown};
use crate::{read, summary};

/// What the page is called in its folder.
const NAME: &str = "index.html";

const STYLE: &str = "
:root { font: 15px/1.45 system-ui, sans-serif; }
body { max-width: 48rem; margin: 2rem auto; padding: 0 1rem; }
svg { width: 100%; height: auto; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: right; padding: .15rem .5rem; font-variant-numeric: tabular-nums; }
th:first-child, td:first-child { text-align: left; }
td.reached { color: var(--good); } td.missed { color: var(--bad); }
i { display: inline-block; width: .8em; height: .8em; margin: 0 .4em 0 1em; }
";

/// What is told of each suite.
pub const ABOUT: [(&str, &str); 7] = [
    ("path", "The way through a service, to the last of so many, beside the pod's own address."),
    ("sockets", "What services cost where a program connects."),
    ("programs", "What each packet program takes for each class of packets."),
    ("network", "From pod to pod, beside node to node without pods and beside Linux bridges."),
    ("programming", "What many services cost a node's agent, beside kube-proxy's rules."),
    ("cluster", "What a cluster takes: starting it, pods, memory and processor time."),
    ("api", "What the API costs its clients, which share the machine with the server."),
];

/// Writes the page of all results in a folder, and their summary; where the page is. What cannot be
/// read is left out, and is named in the second part.
pub fn write(folder: &Path) -> Result<(std::path::PathBuf, Vec<String>)> {
    let (mut found, mut left_out) = (Vec::new(), Vec::new());
    for (suite, _) in ABOUT {
        let file = folder.join(format!("{suite}.json"));
        if !file.exists() {
            continue;
        }
        match read::results(&file) {
            Ok(results) => found.push(results),
            Err(error) => left_out.push(format!("{error:#}")),
        }
    }
    let file = folder.join(NAME);
    let written = std::fs::write(&file, page(&found));
    written.with_context(|| format!("cannot write {}", file.display()))?;
    summary::write(folder, &found)?;
    Ok((file, left_out))
}

/// The whole page.
pub fn page(all: &[Results]) -> String {
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\">\
         <title>bowline: benchmarks</title><style>{}{STYLE}</style>\n\
         <h1>bowline: benchmarks</h1>\n\
         <p>A dot is the median of the rounds, its bar goes from the least to the most of them; a \
         ring says that the machine was too noisy to tell. A green stroke is the goal. Figures are \
         ratios to a baseline of the same run where one is named; the samples are in the JSON \
         files beside this page.</p>\n",
        style()
    );
    for results in all {
        page.push_str(&suite(results, results.outdated(all).as_deref()));
    }
    page + "</html>\n"
}

/// One of them, and what is to be known of its age.
fn suite(results: &Results, outdated: Option<&str>) -> String {
    let name = &results.suite;
    let about = ABOUT.iter().find(|(suite, _)| suite == name).map_or("", |(_, about)| about);
    let mut text = format!("<h2 id=\"{name}\">{name}</h2>\n<p>{about}</p>\n");
    let _ = writeln!(text, "<p><small>{}</small></p>", escaped(&machine(results)));
    if let Some(outdated) = outdated {
        let _ = writeln!(text, "<p><b>{}</b></p>", escaped(outdated));
    }
    let _ = writeln!(text, "<p><small>{}</small></p>", results.noise());
    text.push_str(&goals(&results.figures));
    for (plot, figures) in plots(&results.figures) {
        let of = figures[0].point.as_ref().map_or("", |point| point.of.as_str());
        let unit = if figures[0].unit == "ratio" { "" } else { heading(&figures[0].unit) };
        let _ = writeln!(text, "<h3>{}</h3>", escaped(plot));
        let legend = names(&figures).into_iter().map(|(line, colour)| {
            format!("<i style=\"background:{colour}\"></i>{}", escaped(&line))
        });
        let legend: String = legend.collect();
        let _ = writeln!(text, "<p><small>{unit} over {of}:{legend}</small></p>");
        text.push_str(&lines(&figures));
    }
    for (unit, figures) in rest(&results.figures) {
        let title = if unit == "ratio" { "ratios" } else { heading(unit) };
        let _ = writeln!(text, "<h3>{}</h3>", escaped(title));
        text.push_str(&dots(&figures));
    }
    text
}

/// What the numbers of a plot are in, as they are shown, and not as short as beside each of them.
fn heading(unit: &str) -> &str {
    match for_people(0.0, unit).1 {
        "/s" => unit,
        shown => shown,
    }
}

/// Where and how it was measured, in one line.
fn machine(results: &Results) -> String {
    let parameters: Vec<String> =
        results.parameters.iter().map(|(name, value)| format!("{name} {value}")).collect();
    format!(
        "{}; {}; load {:.2} before, {:.2} after; {:.0} s; {}",
        results.machine.shown(),
        results.when(),
        results.machine.load_at_begin[0],
        results.machine.load_at_end[0],
        results.seconds,
        parameters.join(", ")
    )
}

/// The figures that have a goal, as a table.
fn goals(figures: &[Figure]) -> String {
    let with_goal: Vec<(&Figure, String)> =
        figures.iter().filter_map(|figure| Some((figure, figure.judged()?))).collect();
    if with_goal.is_empty() {
        return String::new();
    }
    let mut table = String::from(
        "<table><tr><th>goal</th><th>median</th><th>least</th><th>most</th><th></th></tr>\n",
    );
    for (figure, judged) in with_goal {
        let Figure { name, unit, .. } = figure;
        let cells = [figure.median, figure.min, figure.max]
            .map(|value| format!("<td>{}</td>", shown(value, unit)));
        let class = match figure.verdict() {
            Some(Verdict::Reached) => "reached",
            Some(Verdict::Missed) => "missed",
            _ => "noisy",
        };
        let (name, cells) = (escaped(name), cells.concat());
        let _ =
            writeln!(table, "<tr><td>{name}</td>{cells}<td class=\"{class}\">{judged}</td></tr>");
    }
    table + "</table>\n"
}

/// Plots of lines, in the order in which they come: of more than one number.
pub(crate) fn plots(figures: &[Figure]) -> Vec<(&str, Vec<&Figure>)> {
    let mut plots: Vec<(&str, Vec<&Figure>)> = Vec::new();
    for figure in figures {
        let Some(point) = figure.point.as_ref() else { continue };
        match plots.iter_mut().find(|(plot, _)| *plot == point.plot) {
            Some((_, all)) => all.push(figure),
            None => plots.push((&point.plot, vec![figure])),
        }
    }
    plots.retain(|(_, all)| {
        let at = |figure: &&Figure| figure.point.as_ref().map(|point| point.at);
        let first = all.first().and_then(at);
        all.iter().any(|figure| at(figure) != first)
    });
    plots
}

/// Everything that is in no plot of lines.
pub(crate) fn outside_plots(figures: &[Figure]) -> impl Iterator<Item = &Figure> {
    let shown: Vec<&str> = plots(figures).into_iter().map(|(plot, _)| plot).collect();
    figures.iter().filter(move |figure| {
        figure.point.as_ref().is_none_or(|point| !shown.contains(&point.plot.as_str()))
    })
}

/// The same, by its unit.
fn rest(figures: &[Figure]) -> Vec<(&str, Vec<&Figure>)> {
    let mut units: Vec<(&str, Vec<&Figure>)> = Vec::new();
    for figure in outside_plots(figures) {
        match units.iter_mut().find(|(unit, _)| *unit == figure.unit) {
            Some((_, all)) => all.push(figure),
            None => units.push((&figure.unit, vec![figure])),
        }
    }
    units
}
