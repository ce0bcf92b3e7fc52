//! `bowline bench --gate FILE`: figures that must hold, each with a tolerance.
//!
//! Guarantees: each line of the gate is checked, and one line is printed for each that does not
//! hold; a figure that is not there, or is of another unit than the check's, does not hold. A check
//! without a unit is of a ratio, which says the same on any machine; one with a unit is of an
//! absolute goal, for a machine like the one that the goal was set for. The median decides, and the
//! tolerance is what is left to the noise: a gate that waited for certainty would let everything
//! through on a busy machine.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::command::{Setting, measure};
use crate::results::{Figure, Relation, Results};
use crate::suites::Suite;
use crate::{Outcome, read};

const FORMAT: &str = "bowline-bench-gate";
const VERSION: u32 = 1;

/// The file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Gate {
    #[serde(rename = "format")]
    _format: String,
    #[serde(rename = "version")]
    _version: u32,
    /// By the suite's name.
    suites: BTreeMap<String, Asked>,
}

/// What is asked of a suite.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    /// How it is run, as on the command line.
    arguments: Vec<String>,
    checks: Vec<Check>,
}

/// One figure, with one of both bounds.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Check {
    figure: String,
    /// What bound and tolerance are in; nothing for a ratio.
    unit: Option<String>,
    at_least: Option<f64>,
    at_most: Option<f64>,
    /// How far on the wrong side of the bound the median may be.
    tolerance: f64,
}

#[derive(Clone, Copy)]
enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

impl Bound {
    /// How far a value is on the wrong side.
    fn excess(self, value: f64) -> f64 {
        match self {
            Self::AtLeast(least) => least - value,
            Self::AtMost(most) => value - most,
        }
    }
}

impl std::fmt::Display for Bound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::AtLeast(least) => write!(f, "at least {least}"),
            Self::AtMost(most) => write!(f, "at most {most}"),
        }
    }
}

/// Checks results that are there, or runs the suites that the gate names.
pub(crate) fn run(file: &Path, given: &[PathBuf], setting: &Setting<'_>) -> Result<Outcome> {
    let gate = gate(file)?;
    let results =
        if given.is_empty() { measured(&gate, setting)? } else { collected(&gate, given)? };
    let (mut checked, mut violations) = (0, Vec::new());
    for results in &results {
        let found = gate.violations(results);
        checked += gate.suites[&results.suite].checks.len();
        violations.extend(found);
    }
    for violation in &violations {
        println!("{violation}");
    }
    if !violations.is_empty() {
        let (count, shown) = (violations.len(), file.display());
        return Ok(Outcome::Bad(format!("{count} of {checked} checks of {shown} do not hold")));
    }
    println!("all {checked} checks of {} hold", file.display());
    Ok(Outcome::Good)
}

/// Reads the file, and refuses one that could not run.
pub(crate) fn gate(file: &Path) -> Result<Gate> {
    let gate: Gate = read::document(file, FORMAT, VERSION)?;
    for (name, asked) in &gate.suites {
        if asked.checks.is_empty() {
            bail!("{}: the suite `{name}` has no checks", file.display());
        }
        Suite::parsed(name, &asked.arguments).with_context(|| file.display().to_string())?;
        let unclear = asked.checks.iter().find(|check| check.bound().is_none());
        if let Some(Check { figure, .. }) = unclear {
            let shown = file.display();
            bail!("{shown}: `{figure}` needs either `at_least` or `at_most`, and a tolerance >= 0");
        }
    }
    Ok(gate)
}

impl Gate {
    /// One line for each check of this suite that does not hold.
    pub(crate) fn violations(&self, results: &Results) -> Vec<String> {
        let Some(asked) = self.suites.get(&results.suite) else { return Vec::new() };
        let lines = asked.checks.iter().filter_map(|check| {
            let figure = results.figures.iter().find(|figure| figure.name == check.figure);
            let wrong = check.violation(figure)?;
            Some(format!("{}: {}: {wrong}", results.suite, check.figure))
        });
        lines.collect()
    }
}

impl Check {
    fn bound(&self) -> Option<Bound> {
        match (self.at_least, self.at_most) {
            _ if self.tolerance < 0.0 => None,
            (Some(least), None) => Some(Bound::AtLeast(least)),
            (None, Some(most)) => Some(Bound::AtMost(most)),
            _ => None,
        }
    }

    fn violation(&self, figure: Option<&Figure>) -> Option<String> {
        let Some(figure) = figure else { return Some("no such figure".to_owned()) };
        let relation = figure.baseline.as_ref().map(|baseline| baseline.relation);
        let unit = match &self.unit {
            None if relation == Some(Relation::Ratio) => String::new(),
            None => return Some(format!("no ratio, and the check has no unit: {}", figure.unit)),
            Some(unit) if *unit == figure.unit => format!(" {unit}"),
            Some(unit) => return Some(format!("in {}, but the check is in {unit}", figure.unit)),
        };
        let Some(bound) = self.bound() else { return Some("no bound".to_owned()) };
        let tolerance = &self.tolerance;
        // What is no number is not within it.
        if bound.excess(figure.median) <= *tolerance {
            return None;
        }
        let Figure { median, min, max, .. } = figure;
        let sure = figure
            .interval
            .is_some_and(|ends| ends.into_iter().all(|end| bound.excess(end) > *tolerance));
        let noise = if sure { "" } else { "; the machine may have been too noisy" };
        Some(format!(
            "{median:.3}{unit} [{min:.3} .. {max:.3}], must be {bound}{unit} with a tolerance of \
             {tolerance}{noise}"
        ))
    }
}

/// Every suite that the gate names, measured now.
fn measured(gate: &Gate, setting: &Setting<'_>) -> Result<Vec<Results>> {
    let suites = gate.suites.iter().map(|(name, asked)| Suite::parsed(name, &asked.arguments));
    measure(&suites.collect::<Result<Vec<_>>>()?, setting)
}

/// The results that were given: one of each suite that the gate names.
fn collected(gate: &Gate, given: &[PathBuf]) -> Result<Vec<Results>> {
    let mut all: Vec<Results> = Vec::new();
    for file in given {
        let results = read::results(file)?;
        if !gate.suites.contains_key(&results.suite) {
            bail!("{}: the gate does not name the suite `{}`", file.display(), results.suite);
        }
        if all.iter().any(|other| other.suite == results.suite) {
            bail!("{}: there are results of `{}` already", file.display(), results.suite);
        }
        all.push(results);
    }
    let missing = gate.suites.keys().find(|name| all.iter().all(|one| one.suite != **name));
    match missing {
        Some(name) => bail!("no results of the suite `{name}`, which the gate names"),
        None => Ok(all),
    }
}
