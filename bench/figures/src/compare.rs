//! `cargo xtask bench compare`: what changed from one run to another beyond the noise.
//!
//! Guarantees: a figure has changed when the intervals of its median (`results.rs`) in the two runs
//! have nothing in common, and the medians are further apart than two runs of one build are, which
//! find other pages and other neighbours on the machine: by default a twentieth of what was
//! measured, before a baseline was taken from it. What has no interval, says nothing of bowline,
//! was measured with other parameters or in another unit, or is no ratio and was measured on
//! another kind of machine or on one of another speed (its baseline changed, too), is shown and not
//! judged.
//!
//! Does not: correct for the number of figures. Each interval misses its median once in sixteen
//! runs at most, both in opposite ways far less often.

use std::fmt;
use std::io::Write as _;
use std::path::PathBuf;

use anyhow::{Result, bail};

use crate::results::{Better, Figure, Machine, Relation, Results, median, shown};
use crate::{Outcome, read};

/// Two runs of one suite.
#[derive(clap::Args)]
pub struct Args {
    /// The run before, SUITE.json of a suite's `--folder`.
    #[arg(value_name = "A.json")]
    before: PathBuf,
    /// The run after.
    #[arg(value_name = "B.json")]
    after: PathBuf,
    /// Changes below so many percent of what was measured are not told: two runs of one build
    /// differ by so much.
    #[arg(long, value_name = "PERCENT", default_value_t = 5.0)]
    ignore: f64,
}

/// What became of a figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    Better,
    Worse,
    /// Nothing beyond the noise.
    Same,
    /// Changed, and neither is better: it says something of the machine or of others.
    Other,
    /// The runs had other parameters: other things were measured, or less exactly.
    OtherParameters,
    /// One is not in the unit of the other.
    OtherUnit,
    /// Fewer than five rounds on one side.
    TooFew,
    /// No ratio, and the machines differ.
    OtherMachine,
    /// No ratio, and the baseline took another time, too: the processor was not as fast.
    OtherSpeed,
    /// Only in the first run.
    Gone,
    /// Only in the second.
    New,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Better => "better",
            Self::Worse => "WORSE",
            Self::Same => "same within the noise",
            Self::Other => "changed; not bowline's",
            Self::OtherParameters => "other parameters: not judged",
            Self::OtherUnit => "another unit: not judged",
            Self::TooFew => "too few rounds to tell",
            Self::OtherMachine => "another machine: not judged",
            Self::OtherSpeed => "its baseline changed, too: not judged",
            Self::Gone => "not in B",
            Self::New => "not in A",
        })
    }
}

/// One line of the table.
pub struct Row {
    name: String,
    /// Each value with its unit.
    before: Option<(f64, String)>,
    after: Option<(f64, String)>,
    pub change: Change,
}

/// Prints the table.
pub fn run(args: &Args) -> Result<Outcome> {
    let (before, after) = (read::results(&args.before)?, read::results(&args.after)?);
    let rows = rows(&before, &after, args.ignore / 100.0)?;
    let mut text = String::new();
    for (name, results) in [("A", &before), ("B", &after)] {
        let load = results.machine.load_at_begin[0];
        text += &format!("{name}: {}, load {load:.2}\n", results.machine.shown());
    }
    if before.parameters != after.parameters {
        let differences = differences(&before, &after);
        text += &format!("The parameters differ, so that nothing is judged: {differences}\n");
    }
    text += &Table(&rows).to_string();
    // Whoever reads only the head of it has closed the pipe.
    drop(std::io::stdout().write_all(text.as_bytes()));
    if before.parameters != after.parameters {
        bail!("nothing was compared: A and B were measured with other parameters");
    }
    let worse = rows.iter().filter(|row| row.change == Change::Worse).count();
    if worse > 0 {
        let all = rows.len();
        return Ok(Outcome::Bad(format!("{worse} of {all} figures got worse beyond the noise")));
    }
    Ok(Outcome::Good)
}

fn differences(before: &Results, after: &Results) -> String {
    let names = before.parameters.keys().chain(after.parameters.keys());
    let mut names: Vec<&String> = names.collect();
    names.sort_unstable();
    names.dedup();
    let sides = names.into_iter().map(|name| {
        (name, [before, after].map(|side| side.parameters.get(name).unwrap_or_default()))
    });
    let shown: Vec<String> = sides
        .filter(|(_, [one, other])| one != other)
        .map(|(name, [one, other])| format!("{name} {one} and {other}"))
        .collect();
    shown.join(", ")
}

/// Every figure of both runs, in the order of the first, then those that only the second has.
pub fn rows(before: &Results, after: &Results, ignored: f64) -> Result<Vec<Row>> {
    if before.suite != after.suite {
        bail!("A is of the suite `{}`, B of `{}`: not to compare", before.suite, after.suite);
    }
    let machine = is_same_machine(&before.machine, &after.machine);
    let parameters = before.parameters == after.parameters;
    let judged = |one: &Figure, other: &Figure| match (one.unit == other.unit, parameters) {
        (false, _) => Change::OtherUnit,
        (true, false) => Change::OtherParameters,
        (true, true) => change(one, other, machine, ignored),
    };
    let find = |results: &Results, name: &str| {
        results.figures.iter().find(|figure| figure.name == name).cloned()
    };
    let row = |before: Option<&Figure>, after: Option<&Figure>, change| {
        let value = |figure: &Figure| (figure.median, figure.unit.clone());
        Row {
            name: before.or(after).map(|figure| figure.name.clone()).unwrap_or_default(),
            before: before.map(value),
            after: after.map(value),
            change,
        }
    };
    let mut rows = Vec::new();
    for one in &before.figures {
        let other = find(after, &one.name);
        let change = other.as_ref().map_or(Change::Gone, |other| judged(one, other));
        rows.push(row(Some(one), other.as_ref(), change));
    }
    let new = after.figures.iter().filter(|figure| find(before, &figure.name).is_none());
    rows.extend(new.map(|figure| row(None, Some(figure), Change::New)));
    Ok(rows)
}

fn is_same_machine(one: &Machine, other: &Machine) -> bool {
    (&one.cpu, one.cpus, &one.kernel) == (&other.cpu, other.cpus, &other.kernel)
}

fn change(before: &Figure, after: &Figure, same_machine: bool, ignored: f64) -> Change {
    let ratio =
        before.baseline.as_ref().is_some_and(|baseline| baseline.relation == Relation::Ratio);
    if !ratio && !same_machine {
        return Change::OtherMachine;
    }
    let (Some(one), Some(other)) = (before.interval, after.interval) else {
        return Change::TooFew;
    };
    let whole = match (&before.absolute, ratio) {
        (Some(absolute), false) => median(&absolute.samples),
        _ => before.median,
    };
    if (after.median - before.median).abs() <= ignored * whole.abs() {
        return Change::Same;
    }
    let (less, more) = (other[1] < one[0], other[0] > one[1]);
    match (after.better, less, more) {
        (_, false, false) => Change::Same,
        (None, ..) => Change::Other,
        _ if !is_same_speed(before, after, ignored) => Change::OtherSpeed,
        (Some(Better::More), _, true) | (Some(Better::Less), true, _) => Change::Better,
        (Some(_), ..) => Change::Worse,
    }
}

/// Whether what was taken from both figures is about the same. Of ratios it does not matter.
fn is_same_speed(before: &Figure, after: &Figure, ignored: f64) -> bool {
    let taken = |figure: &Figure| {
        let absolute = figure.absolute.as_ref()?;
        let baseline = figure.baseline.as_ref()?;
        let pairs = absolute.samples.iter().zip(&figure.samples);
        (baseline.relation == Relation::Difference)
            .then(|| median(&pairs.map(|(whole, rest)| whole - rest).collect::<Vec<_>>()))
    };
    let both = taken(before).zip(taken(after));
    both.is_none_or(|(one, other)| (other - one).abs() <= ignored * one.abs())
}

/// The table, for people.
struct Table<'a>(&'a [Row]);

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let longest = self.0.iter().map(|row| row.name.chars().count()).max().unwrap_or(0);
        let name = longest.max("FIGURE".len());
        writeln!(f, "{:name$}  {:>16}  {:>16}  {:>8}  VERDICT", "FIGURE", "A", "B", "CHANGE")?;
        for row in self.0 {
            let change = match (&row.before, &row.after) {
                (Some((a, unit)), Some((b, other))) if *a != 0.0 && unit == other => {
                    format!("{:+.1}%", (b - a) / a.abs() * 100.0)
                }
                _ => "-".to_owned(),
            };
            let [a, b] = [&row.before, &row.after].map(|value| match value {
                Some((value, unit)) => shown(*value, unit),
                None => "-".to_owned(),
            });
            writeln!(f, "{:name$}  {a:>16}  {b:>16}  {change:>8}  {}", row.name, row.change)?;
        }
        Ok(())
    }
}
