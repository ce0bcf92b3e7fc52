//! `cargo xtask bench compare`: what changed from one run to another beyond the noise.
//!
//! Guarantees: a figure has changed when the intervals of its median (`results.rs`) in the two runs
//! have nothing in common, and the medians are further apart than two runs of one build are, which
//! find other pages and other neighbours on the machine: by default a twentieth of what was
//! measured, before a baseline was taken from it. What has no interval, says nothing of bowline, or
//! is no ratio and was measured on another kind of machine or on one of another speed (its baseline
//! changed, too), is shown and not judged.
//!
//! Does not: correct for the number of figures. Each interval misses its median once in sixteen
//! runs at most, both in opposite ways far less often.

use std::fmt;
use std::path::PathBuf;

use anyhow::{Result, bail};

use super::results::{Better, Figure, Machine, Relation, Results, for_people, median};
use super::{Outcome, read};

/// Two runs of one suite.
#[derive(clap::Args)]
pub(super) struct Args {
    /// The run before, as a suite's `--json` wrote it.
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
pub(super) enum Change {
    Better,
    Worse,
    /// Nothing beyond the noise.
    Same,
    /// Changed, and neither is better: it says something of the machine or of others.
    Other,
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
            Self::TooFew => "too few rounds to tell",
            Self::OtherMachine => "another machine: not judged",
            Self::OtherSpeed => "its baseline changed, too: not judged",
            Self::Gone => "not in B",
            Self::New => "not in A",
        })
    }
}

/// One line of the table.
pub(super) struct Row {
    name: String,
    unit: String,
    before: Option<f64>,
    after: Option<f64>,
    pub(super) change: Change,
}

/// Prints the table.
pub(super) fn run(args: &Args) -> Result<Outcome> {
    let (before, after) = (read::results(&args.before)?, read::results(&args.after)?);
    let rows = rows(&before, &after, args.ignore / 100.0)?;
    for (name, results) in [("A", &before), ("B", &after)] {
        println!("{name}: {}", about(results));
    }
    if before.parameters != after.parameters {
        println!("The parameters differ: {}", differences(&before, &after));
    }
    print!("{}", Table(&rows));
    let worse = rows.iter().filter(|row| row.change == Change::Worse).count();
    if worse > 0 {
        let all = rows.len();
        return Ok(Outcome::Bad(format!("{worse} of {all} figures got worse beyond the noise")));
    }
    Ok(Outcome::Good)
}

fn about(results: &Results) -> String {
    let Machine { kernel, cpu, cpus, load_at_begin, version, commit, changed, .. } =
        &results.machine;
    let commit = commit.as_deref().map_or("unknown", |commit| commit.get(..12).unwrap_or(commit));
    let changed = if *changed == Some(true) { " with changes" } else { "" };
    format!(
        "bowline {version}, commit {commit}{changed}; {cpus} CPUs ({cpu}), Linux {kernel}, load \
         {:.2}",
        load_at_begin[0]
    )
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
pub(super) fn rows(before: &Results, after: &Results, ignored: f64) -> Result<Vec<Row>> {
    if before.suite != after.suite {
        bail!("A is of the suite `{}`, B of `{}`: not to compare", before.suite, after.suite);
    }
    let alike = is_same_machine(&before.machine, &after.machine);
    let find = |results: &Results, name: &str| {
        results.figures.iter().find(|figure| figure.name == name).cloned()
    };
    let row = |before: Option<&Figure>, after: Option<&Figure>, change| {
        let any = before.or(after);
        Row {
            name: any.map(|figure| figure.name.clone()).unwrap_or_default(),
            unit: any.map(|figure| figure.unit.clone()).unwrap_or_default(),
            before: before.map(|figure| figure.median),
            after: after.map(|figure| figure.median),
            change,
        }
    };
    let mut rows = Vec::new();
    for one in &before.figures {
        let other = find(after, &one.name);
        let change =
            other.as_ref().map_or(Change::Gone, |other| change(one, other, alike, ignored));
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
            let [a, b] = [row.before, row.after].map(|value| shown(value, &row.unit));
            let change = match (row.before, row.after) {
                (Some(a), Some(b)) if a != 0.0 => format!("{:+.1}%", (b - a) / a.abs() * 100.0),
                _ => "-".to_owned(),
            };
            writeln!(f, "{:name$}  {a:>16}  {b:>16}  {change:>8}  {}", row.name, row.change)?;
        }
        Ok(())
    }
}

/// A value with its unit.
fn shown(value: Option<f64>, unit: &str) -> String {
    let Some(value) = value else { return "-".to_owned() };
    let (number, unit) = for_people(value, unit);
    format!("{number} {unit}").trim_end().to_owned()
}
