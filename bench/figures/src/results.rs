//! What every suite of `bowline bench` writes: the machine, the parameters, and each figure
//! with all its samples, in one format that `compare` and `--gate` read.
//!
//! Guarantees: one sample a round, in the order of the rounds; median, interval and the judgement
//! of noise follow from the samples alone. Shared by the suites, which write it, and by xtask,
//! which reads it.
//!
//! **The interval.** So many rounds tell where the true median is only within two of the samples,
//! in order of size: the narrowest pair, as far from the least as from the most, that holds it with
//! a probability of at least 93.75%. That is what the least and the most of five samples give, so
//! fewer than five give no interval. No shape of the noise is assumed, only that rounds are alike.
//!
//! **Too noisy to tell.** With a goal: the goal lies inside the interval, so that the true median
//! may be on either side of it. (An interval that is merely wider than the distance to the goal may
//! still end before it, and then it does tell.) Without a goal: the interval is wider than a tenth
//! of the median. Without an interval nothing is known about noise.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub const FORMAT: &str = "bowline-bench";
/// Grows with every change that an older reader would misread.
pub const VERSION: u32 = 1;
/// What the least and the most of five samples hold the median with.
const CONFIDENCE: f64 = 0.9375;
/// Without a goal, an interval wider than this part of the median is too wide to tell.
const WIDE: f64 = 0.1;

/// Where the figures were measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    pub kernel: String,
    pub cpu: String,
    pub cpus: u32,
    pub memory_bytes: u64,
    /// How the first CPU chooses its frequency, where the kernel decides that.
    pub governor: Option<String>,
    /// Of the last 1, 5 and 15 minutes.
    pub load_at_begin: [f64; 3],
    pub load_at_end: [f64; 3],
    /// Whether the kernel's statistics of BPF programs, which cost time in each of them, were on.
    pub bpf_statistics: Statistics,
    /// bowline's version.
    pub version: String,
    /// The commit that was measured, where git knows it; and whether files differed from it.
    pub commit: Option<String>,
    pub changed: Option<bool>,
}

impl Machine {
    /// What was measured and where, in one line.
    pub fn shown(&self) -> String {
        let Self { kernel, cpu, cpus, memory_bytes, version, .. } = self;
        let commit = self.measured();
        let memory = *memory_bytes as f64 / 1e9;
        format!("bowline {version}, {commit}; {cpus} CPUs ({cpu}), {memory:.0} GB, Linux {kernel}")
    }

    /// The commit that was measured, in words.
    fn measured(&self) -> String {
        let commit = self.commit.as_deref().unwrap_or("unknown");
        let commit = commit.get(..12).unwrap_or(commit);
        let changed = if self.changed == Some(true) { " with changes" } else { "" };
        format!("commit {commit}{changed}")
    }
}

/// The kernel's statistics of BPF programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Statistics {
    Off,
    /// For everybody, by the administrator.
    On,
    /// By the suite, for those figures that come from them.
    WhereNeeded,
}

/// Which way is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Better {
    More,
    Less,
}

/// How a figure came from what was measured and the same of the baseline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Relation {
    /// One divided by the other, in the same round.
    Ratio,
    /// One less the other, in the same round.
    Difference,
}

/// What a figure is beside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Baseline {
    pub name: String,
    pub relation: Relation,
}

/// What was measured before it became a ratio or a difference, a sample a round.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Absolute {
    pub unit: String,
    pub samples: Vec<f64>,
}

/// Where a figure stands in a plot of lines.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// What the plot shows.
    pub plot: String,
    pub line: String,
    /// How many, and of what.
    pub at: f64,
    pub of: String,
}

/// One figure of a suite.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// Unique in its suite.
    pub name: String,
    pub unit: String,
    /// Nothing for what says something of the machine or of others, not of bowline.
    pub better: Option<Better>,
    /// At least or at most so much, as `better` says.
    pub goal: Option<f64>,
    pub baseline: Option<Baseline>,
    /// Nothing for what stands alone.
    #[serde(alias = "spot")]
    pub point: Option<Point>,
    pub samples: Vec<f64>,
    pub absolute: Option<Absolute>,
    pub median: f64,
    pub min: f64,
    pub max: f64,
    /// Where the true median is, see above.
    pub interval: Option<[f64; 2]>,
    /// Too noisy to tell, see above; nothing where that is not known.
    pub noisy: Option<bool>,
}

/// What the samples say about a goal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Reached,
    Missed,
    TooNoisy,
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Reached => "reached",
            Self::Missed => "MISSED",
            Self::TooNoisy => "too noisy to tell",
        })
    }
}

impl Figure {
    /// From a sample a round.
    pub fn new(
        name: impl Into<String>,
        unit: &str,
        better: impl Into<Option<Better>>,
        samples: Vec<f64>,
    ) -> Self {
        let mut figure = Self {
            name: name.into(),
            unit: unit.to_owned(),
            better: better.into(),
            goal: None,
            baseline: None,
            point: None,
            median: median(&samples),
            min: samples.iter().copied().fold(f64::INFINITY, f64::min),
            max: samples.iter().copied().fold(f64::NEG_INFINITY, f64::max),
            interval: interval(&samples),
            samples,
            absolute: None,
            noisy: None,
        };
        figure.noisy = figure.is_noisy();
        figure
    }

    pub fn goal(mut self, goal: impl Into<Option<f64>>) -> Self {
        self.goal = goal.into();
        self.noisy = self.is_noisy();
        self
    }

    pub fn beside(mut self, name: &str, relation: Relation) -> Self {
        self.baseline = Some(Baseline { name: name.to_owned(), relation });
        self
    }

    pub fn from(mut self, unit: &str, samples: &[f64]) -> Self {
        self.absolute = Some(Absolute { unit: unit.to_owned(), samples: samples.to_vec() });
        self
    }

    pub fn at(mut self, plot: &str, line: &str, count: u32, of: &str) -> Self {
        let [plot, line, of] = [plot, line, of].map(str::to_owned);
        self.point = Some(Point { plot, line, at: f64::from(count), of });
        self
    }

    fn is_noisy(&self) -> Option<bool> {
        let [low, high] = self.interval?;
        Some(match self.goal {
            Some(goal) => low < goal && goal < high,
            None => high - low > WIDE * self.median.abs(),
        })
    }

    /// Nothing without a goal.
    pub fn verdict(&self) -> Option<Verdict> {
        let (goal, better) = (self.goal?, self.better?);
        let reached = match better {
            Better::More => self.median >= goal,
            Better::Less => self.median <= goal,
        };
        Some(match (self.noisy, reached) {
            (Some(true), _) => Verdict::TooNoisy,
            (_, true) => Verdict::Reached,
            (_, false) => Verdict::Missed,
        })
    }

    /// The goal and what became of it, for people: `goal at least 0.99: reached`; nothing without
    /// a goal.
    pub fn judgement(&self) -> String {
        self.judged().map_or_else(String::new, |judged| format!("goal {judged}"))
    }

    /// The same where everything is a goal: `at least 0.99: reached`.
    pub(crate) fn judged(&self) -> Option<String> {
        let (goal, verdict) = (self.goal?, self.verdict()?);
        let side = if self.better == Some(Better::More) { "least" } else { "most" };
        Some(format!("at {side} {goal}: {verdict}"))
    }
}

/// A value as people read it, and its unit; ratios have none.
pub fn for_people(value: f64, unit: &str) -> (String, &str) {
    match unit {
        "ratio" => (format!("{value:.3}"), ""),
        "bytes a second" => (three_digits(value * 8.0 / 1e9), "Gbit/s"),
        "operations a second" => (three_digits(value), "/s"),
        unit => (three_digits(value), unit),
    }
}

/// A value with its unit, as people read it.
pub fn shown(value: f64, unit: &str) -> String {
    let (number, unit) = for_people(value, unit);
    format!("{number} {unit}").trim_end().to_owned()
}

/// Three digits that say something, and no point behind large numbers.
fn three_digits(value: f64) -> String {
    match value.abs() {
        large if large >= 100.0 => format!("{value:.0}"),
        middle if middle >= 10.0 => format!("{value:.1}"),
        middle if middle >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// The middle one; of two, what is between them.
pub fn median(samples: &[f64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let (half, odd) = (sorted.len() / 2, sorted.len() % 2 == 1);
    match sorted.get(half) {
        None => f64::NAN,
        Some(middle) if odd => *middle,
        Some(middle) => f64::midpoint(sorted[half - 1], *middle),
    }
}

/// The sample that so large a part of all is not above.
pub fn quantile(samples: &[f64], part: f64) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let place = (sorted.len() as f64 * part).ceil() as usize;
    sorted.get(place.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

/// Where the true median is, by the order of the samples.
fn interval(samples: &[f64]) -> Option<[f64; 2]> {
    let count = samples.len();
    let mut sorted = samples.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let mut found = None;
    // The chance that exactly `place`, then that at most `place` samples are below the median.
    let (mut exactly, mut below) = (0.5_f64.powi(i32::try_from(count).ok()?), 0.0);
    for place in 0..count / 2 {
        below += exactly;
        if 1.0 - 2.0 * below < CONFIDENCE {
            break;
        }
        found = Some([sorted[place], sorted[count - 1 - place]]);
        exactly *= (count - place) as f64 / (place + 1) as f64;
    }
    found
}

/// One run of one suite.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Results {
    pub format: String,
    pub version: u32,
    pub suite: String,
    pub parameters: BTreeMap<String, Value>,
    /// Seconds since 1970.
    pub begun: u64,
    /// How long the run took.
    pub seconds: f64,
    pub machine: Machine,
    pub figures: Vec<Figure>,
}

impl Results {
    /// How many figures the machine was too noisy to tell, in words.
    pub fn noise(&self) -> String {
        let all = self.figures.len();
        match self.figures.iter().filter(|figure| figure.noisy == Some(true)).count() {
            0 => format!("{all} figures, none of them too noisy to tell"),
            noisy => format!("{noisy} of {all} figures were too noisy to tell"),
        }
    }

    /// When it began, for people.
    pub fn when(&self) -> String {
        let begun = i64::try_from(self.begun).ok();
        let begun = begun.and_then(|seconds| Timestamp::from_second(seconds).ok());
        begun.unwrap_or_default().strftime("%Y-%m-%d %H:%M UTC").to_string()
    }

    /// That the newest of all in a folder, which an earlier run may have left there, is of another
    /// commit; nothing if it is of the same.
    pub(crate) fn outdated(&self, all: &[Self]) -> Option<String> {
        let newest = all.iter().max_by_key(|results| results.begun)?;
        let commit = |of: &Self| (of.machine.commit.clone(), of.machine.changed);
        (commit(self) != commit(newest)).then(|| {
            let (suite, measured) = (&newest.suite, newest.machine.measured());
            format!(
                "Of another commit than `{suite}`, the newest here ({measured}, {}): not to be \
                 read beside it.",
                newest.when()
            )
        })
    }
}

/// A run that is not over.
pub struct Run {
    results: Results,
    since: Instant,
}

impl Run {
    /// Looks at the machine before anything loads it. `statistics` are the kernel's of programs, as
    /// far as the suite needs them.
    pub fn begin(suite: &str, parameters: &[(&str, Value)], statistics: Statistics) -> Self {
        let begun = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
        let parameters =
            parameters.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        let results = Results {
            format: FORMAT.to_owned(),
            version: VERSION,
            suite: suite.to_owned(),
            parameters,
            begun,
            seconds: 0.0,
            machine: machine(statistics),
            figures: Vec::new(),
        };
        Self { results, since: Instant::now() }
    }

    pub fn extend(&mut self, figures: impl IntoIterator<Item = Figure>) {
        self.results.figures.extend(figures);
    }

    pub fn figures(&self) -> &[Figure] {
        &self.results.figures
    }

    pub fn machine(&self) -> &Machine {
        &self.results.machine
    }

    /// Ends it, and writes it to the file if there is to be one.
    pub fn end(mut self, file: Option<&Path>) -> std::io::Result<()> {
        self.write(file)
    }

    /// What there is so far outlasts whatever ends the run: it is written beside the file, if there
    /// is to be one.
    pub fn keep(&mut self, file: Option<&Path>) -> std::io::Result<()> {
        self.write(file.map(partial).as_deref())
    }

    fn write(&mut self, file: Option<&Path>) -> std::io::Result<()> {
        self.results.machine.load_at_end = load();
        self.results.seconds = self.since.elapsed().as_secs_f64();
        let Some(file) = file else { return Ok(()) };
        let text = serde_json::to_string_pretty(&self.results)? + "\n";
        let named = |error| std::io::Error::other(format!("{}: {error}", file.display()));
        std::fs::write(file, text).map_err(named)
    }
}

/// Where the figures are of a run that did not come to its end, beside those of one that did.
pub(crate) fn partial(file: &Path) -> PathBuf {
    file.with_extension("partial.json")
}

fn read(path: &str) -> Option<String> {
    std::fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

fn load() -> [f64; 3] {
    let text = read("/proc/loadavg").unwrap_or_default();
    let mut numbers = text.split_whitespace().map(|word| word.parse().unwrap_or(0.0));
    [(); 3].map(|()| numbers.next().unwrap_or(0.0))
}

fn git(arguments: &[&str]) -> Option<String> {
    let mut git = std::process::Command::new("git");
    git.arg("-C").arg(env!("CARGO_MANIFEST_DIR")).args(arguments);
    let output = git.stdin(std::process::Stdio::null()).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}

/// This one, now.
fn machine(needed: Statistics) -> Machine {
    let of = |text: Option<String>, name: &str| {
        text?.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            (key.trim() == name).then(|| value.trim().to_owned())
        })
    };
    let kilobytes = of(read("/proc/meminfo"), "MemTotal");
    let kilobytes = kilobytes.and_then(|text| text.strip_suffix(" kB")?.parse::<u64>().ok());
    let statistics = read("/proc/sys/kernel/bpf_stats_enabled").is_some_and(|text| text != "0");
    let changes = git(&["status", "--porcelain", "--untracked-files=no"]);
    Machine {
        kernel: read("/proc/sys/kernel/osrelease").unwrap_or_default(),
        cpu: of(read("/proc/cpuinfo"), "model name").unwrap_or_else(|| "unknown".to_owned()),
        cpus: std::thread::available_parallelism().map_or(1, |count| count.get() as u32),
        memory_bytes: kilobytes.unwrap_or(0) * 1024,
        governor: read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        load_at_begin: load(),
        load_at_end: [0.0; 3],
        bpf_statistics: if statistics { Statistics::On } else { needed },
        version: env!("CARGO_PKG_VERSION").to_owned(),
        commit: git(&["rev-parse", "HEAD"]),
        changed: changes.map(|changes| !changes.is_empty()),
    }
}
