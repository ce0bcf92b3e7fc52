//! `bowline net top`: services and pods by what they have to do just now.
//!
//! Guarantees: reads only. A person at a terminal sees a live screen, which leaves the terminal as
//! it was however it ends; a pipe, a file and a terminal that cannot move its cursor get a table
//! each interval. What cannot be read for a moment, as while an agent is replaced, is said and
//! tried again.

mod columns;
mod screen;
pub(super) mod told;
mod view;

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use bowline_agent::NAMES_FILE;
use bowline_agent::datapath::NodeTraffic;
use clap::ValueEnum;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::source::Source;
use crate::output::{self, Format};
use columns::{Column, column_names, columns, reason_columns};
use told::Told;
use view::{Before, Line, Sample, View};

/// For how long reading may fail before it ends the command.
const PATIENCE: Duration = Duration::from_secs(10);

/// Between two looks at whether to end.
const PAUSE: Duration = Duration::from_millis(100);

/// What to show, and how often.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:
  bowline net top --node node1
  bowline net top --all-nodes --sort bytes
  bowline net top --node node1 --services --interval 0.5
  bowline net top --node node1 --pods --count 3 | cat
  bowline net top --node node1 --count 1 -o json

Keys: c, p, b and d sort by connections, packets, bytes and drops; Tab shows services, pods or both;
arrows and Page keys scroll; q, Esc and Ctrl-C leave.

A service's packets and bytes are those that were translated one by one: after connect() was
balanced, a connection's packets carry addresses of pods and count for these. A pod's are those of
its link, as its kernel counts them, both ways; its connections those that it made and took; its
drops those at its link, and what its listeners and UDP sockets had no room for. What the data plane
refused is a service's drops; with services and pods both shown there is also a line for each reason
of the whole node, if there is any. JSON and YAML have these in any case.")]
pub(super) struct Args {
    /// What comes first
    #[arg(long, value_enum, default_value_t)]
    sort: By,
    /// Seconds between two looks, which rates are for
    #[arg(long, value_name = "SECONDS", default_value = "2", value_parser = interval)]
    interval: Duration,
    /// Show pods only
    #[arg(long, conflicts_with = "services")]
    pods: bool,
    /// Show services only
    #[arg(long)]
    services: bool,
    /// End after it was shown so often
    #[arg(long, value_name = "TIMES")]
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
}

/// The order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum By {
    #[default]
    Connections,
    Packets,
    Bytes,
    Drops,
}

/// Which tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shown {
    Both,
    Services,
    Pods,
}

impl Shown {
    fn services(self) -> bool {
        self != Self::Pods
    }

    fn pods(self) -> bool {
        self != Self::Services
    }

    /// Drops by their reason are the node's: neither of services alone nor of pods.
    fn reasons(self) -> bool {
        self == Self::Both
    }
}

fn interval(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    match (0.1..=3600.0).contains(&seconds) {
        true => Ok(Duration::from_secs_f64(seconds)),
        false => Err("not in 0.1..=3600".to_owned()),
    }
}

impl Args {
    fn shown(&self) -> Shown {
        match (self.services, self.pods) {
            (true, _) => Shown::Services,
            (_, true) => Shown::Pods,
            _ => Shown::Both,
        }
    }
}

/// Where it comes from. Every source is a node; several have names.
pub(super) enum From {
    Here(Vec<Source>),
    Told(Told),
}

/// Shows it until it is told to end.
pub(super) fn run(
    args: &Args,
    from: &From,
    numeric: bool,
    format: Format,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let (before, last) = (Before::default(), View::default());
    let mut nodes = Nodes { from, numeric, before, last, failing_since: None };
    if format.is_table() && is_live() {
        return screen::run(args, &mut nodes, stop);
    }
    // The rates of the first table are for its interval.
    nodes.look()?;
    let mut left = args.count.unwrap_or(u64::MAX);
    while left > 0 && rest(args.interval, stop) {
        let mut view = nodes.look()?;
        view.sort(args.sort);
        print(&view, args.shown(), format)?;
        left -= 1;
    }
    Ok(())
}

/// Whether somebody looks at a terminal that can be drawn on.
fn is_live() -> bool {
    let dumb = std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb");
    !dumb && std::io::stdout().is_terminal() && std::io::stdin().is_terminal()
}

/// False when it is time to end.
fn rest(time: Duration, stop: &CancellationToken) -> bool {
    let end = Instant::now() + time;
    while !stop.is_cancelled() {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return true;
        }
        std::thread::sleep(left.min(PAUSE));
    }
    false
}

/// The nodes that are looked at.
struct Nodes<'a> {
    from: &'a From,
    numeric: bool,
    before: Before,
    /// What was shown last.
    last: View,
    failing_since: Option<Instant>,
}

impl Nodes<'_> {
    /// Whose they are.
    fn title(&self) -> String {
        let sources = match self.from {
            From::Here(sources) => sources,
            From::Told(told) => {
                return match told.names()[..] {
                    [only] => only.to_owned(),
                    ref all => format!("{} nodes", all.len()),
                };
            }
        };
        match &sources[..] {
            [Source { node: Some(node), .. }] => node.name.clone(),
            [Source { bpffs, .. }] => bpffs.display().to_string(),
            all => format!("{} nodes", all.len()),
        }
    }

    /// Reads all of them. A node that cannot be read is said in the view; when none could be for
    /// too long, or at the first look, that is a failure.
    fn look(&mut self) -> anyhow::Result<View> {
        let sources = match self.from {
            From::Here(sources) => sources,
            From::Told(told) => return told.view(),
        };
        let mut sample = Sample::new(Instant::now());
        let mut failures = Vec::new();
        for source in sources {
            let name = source.node.as_ref().map(|node| node.name.as_str());
            let name = name.filter(|_| sources.len() > 1);
            let read = NodeTraffic::read(&source.bpffs, &source.run_dir.join(NAMES_FILE));
            match read.map_err(anyhow::Error::from) {
                Ok(traffic) => sample.add(name, traffic, self.numeric),
                Err(error) => failures.push(match name {
                    Some(name) => error.context(name.to_owned()),
                    None => error,
                }),
            }
        }
        let problem = failures.first().map(|error| format!("{error:#}"));
        if failures.len() < sources.len() {
            self.failing_since = None;
            self.last = self.before.view(sample);
        } else if let Some(error) = failures.into_iter().next() {
            let since = *self.failing_since.get_or_insert_with(Instant::now);
            if self.before.is_nothing() || since.elapsed() > PATIENCE {
                return Err(error);
            }
        }
        Ok(View { problem, ..self.last.clone() })
    }
}

fn print(view: &View, shown: Shown, format: Format) -> anyhow::Result<()> {
    match format {
        Format::Json => return Ok(output::line(&serde_json::to_string(&view.only(shown))?)?),
        Format::Yaml => {
            return Ok(output::text(&format!("---\n{}", output::yaml(&view.only(shown))?))?);
        }
        Format::Table | Format::Wide => {}
    }
    if let Some(problem) = &view.problem {
        tracing::warn!("{problem}");
    }
    Ok(output::text(&tables(view, shown))?)
}

fn tables(view: &View, shown: Shown) -> String {
    let with_node = |lines: &[Line]| lines.iter().any(|line| line.node.is_some());
    let mut text = String::new();
    let mut add = |kind: &str, lines: &[Line], all: Vec<Column>| {
        let mut table = output::Table::new(column_names(&all, kind));
        for line in lines {
            table.row(all.iter().map(|column| column.cell(line)));
        }
        text.push_str(&table.render(true));
        text.push('\n');
    };
    let whole = |lines: &[Line]| columns(usize::MAX, with_node(lines), By::default());
    if shown.services() {
        add("service", &view.services, whole(&view.services));
    }
    if shown.pods() {
        add("pod", &view.pods, whole(&view.pods));
    }
    if shown.reasons() && !view.drops.is_empty() {
        add("reason", &view.drops, reason_columns(usize::MAX));
    }
    text
}

/// What is shown, for scripts.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Document<'a> {
    time: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    services: Option<&'a [Line]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pods: Option<&'a [Line]>,
    drops: &'a [Line],
}

impl View {
    fn only(&self, shown: Shown) -> Document<'_> {
        Document {
            time: &self.time,
            problem: self.problem.as_deref(),
            services: shown.services().then_some(&*self.services),
            pods: shown.pods().then_some(&*self.pods),
            drops: &self.drops,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_have_bounds() {
        assert_eq!(interval("0.5"), Ok(Duration::from_millis(500)));
        for bad in ["0", "0.05", "3601", "x", "-1", "NaN", "inf"] {
            assert!(interval(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn reasons_are_shown_beside_both_and_where_there_are_any() {
        let line = |name: &str| Line { name: name.to_owned(), ..Line::default() };
        let dropped = View {
            services: vec![line("default/web:80/TCP")],
            pods: vec![line("default/web")],
            drops: vec![line("no-backend socket")],
            ..View::default()
        };
        let quiet = View { drops: Vec::new(), ..dropped.clone() };
        for (view, shown, expected) in [
            (&dropped, Shown::Both, &["SERVICE", "POD", "REASON"][..]),
            (&quiet, Shown::Both, &["SERVICE", "POD"]),
            (&dropped, Shown::Services, &["SERVICE"]),
            (&dropped, Shown::Pods, &["POD"]),
        ] {
            let text = tables(view, shown);
            let heads = text.split("\n\n").filter_map(|table| table.split_whitespace().next());
            assert_eq!(heads.collect::<Vec<_>>(), expected, "{text}");
        }
    }

    #[test]
    fn rest_ends_when_it_is_time_to_stop() {
        let stop = CancellationToken::new();
        assert!(rest(Duration::from_millis(1), &stop));
        stop.cancel();
        assert!(!rest(Duration::from_secs(60), &stop));
    }
}
