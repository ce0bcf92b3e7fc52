//! What a README shows of a folder of results: tables in Markdown, and one plot.
//!
//! Guarantees: every figure with a goal is there, reached or not; those that stand in plots of
//! lines as a table a plot, over how many there were of something. A `?` is behind what the machine
//! was too noisy to tell. Each suite says of which commit and day it is, and if the newest is of
//! another commit.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result};

use crate::page::{outside_plots, plots};
use crate::plot::{alone, names, points};
use crate::results::{Figure, Results, shown};

const TABLES: &str = "summary.md";
const PLOT: &str = "summary.svg";
/// Which plot stands for all, if it is there.
const FIRST: &str = "TCP connect/request/close, 1 at once";

/// Writes both files.
pub(crate) fn write(folder: &Path, all: &[Results]) -> Result<()> {
    let file = folder.join(TABLES);
    let written = std::fs::write(&file, tables(all));
    written.with_context(|| format!("cannot write {}", file.display()))?;
    let plots = all.iter().flat_map(|results| plots(&results.figures));
    if let Some((title, figures)) = plots.into_iter().find(|(title, _)| title.starts_with(FIRST)) {
        let file = folder.join(PLOT);
        let written = std::fs::write(&file, alone(title, &figures));
        written.with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(())
}

pub(crate) fn tables(all: &[Results]) -> String {
    let mut text = String::new();
    for results in all {
        let (machine, when) = (results.machine.shown(), results.when());
        let (suite, noise) = (&results.suite, results.noise());
        let _ = writeln!(text, "`bench {suite}`: {noise} (`?`); {machine}; {when}.\n");
        if let Some(outdated) = results.outdated(all) {
            let _ = writeln!(text, "{outdated}\n");
        }
        for (title, figures) in plots(&results.figures) {
            text.push_str(&over_counts(title, &figures));
        }
        text.push_str(&goals(&results.figures));
    }
    text
}

/// A row a line of the plot, a column a place along it.
fn over_counts(title: &str, figures: &[&Figure]) -> String {
    let mut places: Vec<f64> = Vec::new();
    for (point, _) in points(figures) {
        if !places.contains(&point.at) {
            places.push(point.at);
        }
    }
    let heads: String = places.iter().map(|place| format!(" {place} |")).collect();
    let rule = "---|".repeat(places.len() + 1);
    let mut text = format!("| {title} |{heads}\n|{rule}\n");
    for (line, _) in names(figures) {
        let cell = |place: &f64| {
            let found = points(figures).find(|(it, _)| it.line == line && it.at == *place);
            let said = found.map(|(_, it)| {
                let noisy = if it.noisy == Some(true) { "?" } else { "" };
                format!("{}{noisy}", shown(it.median, &it.unit))
            });
            format!(" {} |", said.unwrap_or_default())
        };
        let cells: String = places.iter().map(cell).collect();
        let _ = writeln!(text, "| {line} |{cells}");
    }
    text + "\n"
}

/// Those that stand in no plot of lines.
fn goals(figures: &[Figure]) -> String {
    let mut rows = String::new();
    for figure in outside_plots(figures) {
        let Some(judged) = figure.judged() else { continue };
        let Figure { name, unit, .. } = figure;
        let [median, least, most] =
            [figure.median, figure.min, figure.max].map(|value| shown(value, unit));
        let _ = writeln!(rows, "| {name} | {median} | {least} .. {most} | {judged} |");
    }
    if rows.is_empty() {
        return rows;
    }
    format!("| figure | median | least .. most | goal |\n|---|---|---|---|\n{rows}\n")
}
