mod command;
mod runs;

use std::path::PathBuf;

use crate::compare::{self, Change};
use crate::results::{
    Better, Figure, Relation, Results, Run, Statistics, Verdict, median, quantile,
};
use crate::{Outcome, page, read};

/// Arguments as a command line has them, after the command's name.
fn parsed<A: clap::Args, W: Into<std::ffi::OsString> + Clone>(
    words: impl IntoIterator<Item = W>,
) -> A {
    #[derive(clap::Parser)]
    struct CommandLine<A: clap::Args> {
        #[command(flatten)]
        args: A,
    }
    <CommandLine<A> as clap::Parser>::try_parse_from(words).unwrap().args
}

fn figure(samples: &[f64]) -> Figure {
    Figure::new("f", "ratio", Better::More, samples.to_vec())
}

#[test]
fn the_median_is_the_middle_or_between_two() {
    assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
    assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
    assert!(median(&[]).is_nan());
}

#[test]
fn quantiles_are_samples() {
    let samples: Vec<f64> = (1..=200).rev().map(f64::from).collect();
    assert_eq!([0.5, 0.99, 1.0].map(|part| quantile(&samples, part)), [100.0, 198.0, 200.0]);
    assert_eq!(quantile(&[7.0], 0.99), 7.0);
    assert!(quantile(&[], 0.5).is_nan());
}

#[test]
fn the_interval_follows_from_how_many_samples_there_are() {
    let ordered = |count: u32| figure(&(1..=count).map(f64::from).collect::<Vec<_>>()).interval;
    // Which samples hold the median with 93.75% is in every table of the sign test.
    let table = [
        (1, None),
        (4, None),
        (5, Some([1.0, 5.0])),
        (8, Some([1.0, 8.0])),
        (9, Some([2.0, 8.0])),
        (15, Some([4.0, 12.0])),
        (100, Some([41.0, 60.0])),
    ];
    for (count, expected) in table {
        assert_eq!(ordered(count), expected, "{count} samples");
    }
    assert_eq!(figure(&[5.0, 1.0, 4.0, 2.0, 3.0]).interval, Some([1.0, 5.0]), "in any order");
}

#[test]
fn a_goal_inside_the_interval_is_too_noisy_to_tell() {
    let samples = [1.05, 1.1, 1.2, 1.25, 1.3];
    let table = [
        (1.0, Some(false), Verdict::Reached),
        (1.05, Some(false), Verdict::Reached),
        (1.1, Some(true), Verdict::TooNoisy),
        (1.25, Some(true), Verdict::TooNoisy),
        (1.4, Some(false), Verdict::Missed),
    ];
    for (goal, noisy, verdict) in table {
        let found = figure(&samples).goal(goal);
        assert_eq!((found.noisy, found.verdict()), (noisy, Some(verdict)), "goal {goal}");
    }
    let less = Figure::new("f", "ns", Better::Less, samples.to_vec()).goal(1.0);
    assert_eq!(less.verdict(), Some(Verdict::Missed));
    assert_eq!(less.judgement(), "goal at most 1: MISSED");
    assert_eq!(figure(&samples).judgement(), "");
}

#[test]
fn without_a_goal_a_tenth_is_too_wide_and_few_samples_say_nothing() {
    assert_eq!(figure(&[1.0, 1.0, 1.0, 1.0, 1.2]).noisy, Some(true));
    assert_eq!(figure(&[1.0, 1.0, 1.0, 1.0, 1.05]).noisy, Some(false));
    let once = figure(&[0.5]).goal(0.9);
    assert_eq!((once.noisy, once.verdict()), (None, Some(Verdict::Missed)));
}

#[test]
fn what_a_run_writes_has_all_that_the_format_promises() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("a.json");
    let mut run = Run::begin("path", &[("rounds", 5.into())], Statistics::WhereNeeded);
    let samples = [1.0, 0.9, 1.1, 0.95, 1.0];
    let rates = samples.map(|ratio| ratio * 2e4);
    let way = figure(&samples).goal(0.99).beside("direct", Relation::Ratio);
    run.extend([way.from("operations a second", &rates)]);
    assert_eq!(run.figures().len(), 1);
    assert!(run.machine().load_at_begin.iter().all(|load| *load >= 0.0));
    run.end(Some(&file)).unwrap();
    let text = std::fs::read_to_string(&file).unwrap();
    let found: serde_json::Value = serde_json::from_str(&text).unwrap();
    let machine = &found["machine"];
    assert!(machine["kernel"].as_str().is_some_and(|kernel| kernel.contains('.')), "{text}");
    assert!(machine["cpus"].as_u64().is_some_and(|cpus| cpus > 0), "{text}");
    assert!(machine["memory_bytes"].as_u64().is_some_and(|bytes| bytes > 1 << 20), "{text}");
    assert_eq!(machine["load_at_end"].as_array().map(Vec::len), Some(3), "{text}");
    let on = ["on", "where-needed"].contains(&machine["bpf_statistics"].as_str().unwrap());
    assert!(on, "{text}");
    assert_eq!(machine["version"], env!("CARGO_PKG_VERSION"));
    let figure = &found["figures"][0];
    assert_eq!(figure["samples"], serde_json::json!(samples), "in the order of the rounds");
    assert_eq!(figure["baseline"], serde_json::json!({"name": "direct", "relation": "ratio"}));
    assert_eq!(figure["better"], "more");
    assert_eq!([&figure["median"], &figure["min"], &figure["max"]], [1.0, 0.9, 1.1]);
    assert_eq!((&figure["goal"], &figure["noisy"]), (&0.99.into(), &true.into()));
    assert_eq!(figure["absolute"]["samples"], serde_json::json!(rates));
}

/// A run of one suite with these figures.
fn results(suite: &str, figures: Vec<Figure>) -> Results {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("run.json");
    let mut run = Run::begin(suite, &[], Statistics::Off);
    run.extend(figures);
    run.end(Some(&file)).unwrap();
    read::results(&file).unwrap()
}

fn named(name: &str, better: impl Into<Option<Better>>, samples: [f64; 5]) -> Figure {
    Figure::new(name, "ratio", better, samples.to_vec()).beside("direct", Relation::Ratio)
}

const LOW: [f64; 5] = [0.90, 0.91, 0.92, 0.93, 0.94];
const MIDDLE: [f64; 5] = [0.94, 0.95, 0.96, 0.97, 0.98];
const HIGH: [f64; 5] = [1.0, 1.01, 1.02, 1.03, 1.04];

#[test]
fn compare_tells_what_changed_beyond_the_noise() {
    let before = results(
        "path",
        vec![
            named("more, falls", Better::More, HIGH),
            named("less, falls", Better::Less, HIGH),
            named("touches", Better::More, MIDDLE),
            named("another's", None, HIGH),
            Figure::new("once", "s", Better::Less, vec![1.0]),
            named("gone", Better::More, HIGH),
        ],
    );
    let after = results(
        "path",
        vec![
            named("more, falls", Better::More, LOW),
            named("less, falls", Better::Less, LOW),
            named("touches", Better::More, LOW),
            named("another's", None, LOW),
            Figure::new("once", "s", Better::Less, vec![9.0]),
            named("new", Better::More, HIGH),
        ],
    );
    let rows = compare::rows(&before, &after, 0.05).unwrap();
    let changes: Vec<Change> = rows.iter().map(|row| row.change).collect();
    use Change::{Gone, New, Other, Same, TooFew, Worse};
    let expected = [Worse, Change::Better, Same, Other, TooFew, Gone, New];
    assert_eq!(changes, expected);
}

#[test]
fn what_two_runs_of_one_build_differ_by_is_not_told() {
    let cost = |samples: [f64; 5]| {
        let figure = Figure::new("cost", "ns", Better::Less, samples.to_vec());
        let figure = figure.beside("nothing", Relation::Difference);
        let raw = samples.map(|cost| cost + 100.0);
        results("programs", vec![figure.from("ns", &raw)])
    };
    let changes = |ignored: f64| {
        let (before, after) =
            (cost([8.0, 8.1, 8.2, 8.1, 8.0]), cost([12.0, 12.1, 12.2, 12.0, 12.1]));
        compare::rows(&before, &after, ignored).unwrap()[0].change
    };
    // Half as much again, but of what was measured a twenty-seventh.
    assert_eq!((changes(0.05), changes(0.03)), (Change::Same, Change::Worse));
}

#[test]
fn a_difference_is_not_judged_when_its_baseline_changed_too() {
    let cost = |baseline: f64, samples: [f64; 5]| {
        let figure = Figure::new("cost", "ns", Better::Less, samples.to_vec());
        let raw = samples.map(|cost| cost + baseline);
        let figure = figure.beside("nothing", Relation::Difference).from("ns", &raw);
        results("programs", vec![figure])
    };
    let before = cost(100.0, [50.0, 51.0, 52.0, 51.0, 50.0]);
    let change = |baseline: f64| {
        let after = cost(baseline, [80.0, 81.0, 82.0, 81.0, 80.0]);
        compare::rows(&before, &after, 0.05).unwrap()[0].change
    };
    assert_eq!((change(101.0), change(150.0)), (Change::Worse, Change::OtherSpeed));
}

#[test]
fn what_is_no_ratio_is_not_judged_on_another_machine() {
    let one = |samples: [f64; 5]| {
        let cost = Figure::new("cost", "ns", Better::Less, samples.to_vec());
        results("sockets", vec![cost, named("ratio", Better::Less, samples)])
    };
    let (before, mut after) = (one(LOW), one(HIGH));
    let changes = |before: &Results, after: &Results| {
        let rows = compare::rows(before, after, 0.05).unwrap();
        rows.iter().map(|row| row.change).collect::<Vec<_>>()
    };
    assert_eq!(changes(&before, &after), [Change::Worse; 2]);
    after.machine.cpu = "another".to_owned();
    assert_eq!(changes(&before, &after), [Change::OtherMachine, Change::Worse]);
}

#[test]
fn runs_with_other_parameters_or_units_are_not_judged() {
    let of = |samples: [f64; 5], unit: &str| {
        let time = Figure::new("time", unit, Better::Less, samples.to_vec());
        results("path", vec![named("ratio", Better::Less, samples), time])
    };
    let changes = |before: &Results, after: &Results| {
        let rows = compare::rows(before, after, 0.05).unwrap();
        rows.iter().map(|row| row.change).collect::<Vec<_>>()
    };
    let (before, mut after) = (of(LOW, "s"), of(HIGH, "s"));
    assert_eq!(changes(&before, &after), [Change::Worse; 2]);
    let other = of(HIGH, "ms");
    assert_eq!(changes(&before, &other), [Change::Worse, Change::OtherUnit]);
    after.parameters.insert("rounds".to_owned(), 5.into());
    assert_eq!(changes(&before, &after), [Change::OtherParameters; 2]);
}

#[test]
fn a_file_that_is_none_is_one_line() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("x.json");
    let said = |text: &str| {
        std::fs::write(&file, text).unwrap();
        let error = format!("{:#}", read::results(&file).unwrap_err());
        assert_eq!(error.lines().count(), 1, "{error}");
        error.replace(&file.display().to_string(), "FILE")
    };
    let missing = read::results(&directory.path().join("none.json")).unwrap_err();
    assert!(format!("{missing:#}").starts_with("cannot read "), "{missing:#}");
    assert!(said("{").starts_with("FILE is not JSON: "));
    assert_eq!(said("[1]"), "FILE is no bowline-bench file: its `format` is null");
    let expected = "FILE has version 2 of bowline-bench; this build reads 1: measure again";
    assert_eq!(said(r#"{"format": "bowline-bench", "version": 2}"#), expected);
    let broken = said(r#"{"format": "bowline-bench", "version": 1}"#);
    assert!(
        broken.starts_with("FILE is not as bowline-bench should be: missing field"),
        "{broken}"
    );
    let (path, sockets) = (results("path", vec![]), results("sockets", vec![]));
    let error = compare::rows(&path, &sockets, 0.05).err().unwrap();
    let expected = "A is of the suite `path`, B of `sockets`: not to compare";
    assert_eq!(error.to_string(), expected);
}

#[test]
fn compare_fails_with_one_status_for_worse_and_another_for_what_it_cannot_read() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    for (name, samples) in [("high", HIGH), ("low", LOW)] {
        let mut run = Run::begin("path", &[], Statistics::Off);
        run.extend([named("f", Better::More, samples)]);
        run.end(Some(&at(name))).unwrap();
    }
    std::fs::write(at("none"), "{}").unwrap();
    let compared = |before: &str, after: &str| {
        let words = [PathBuf::from("compare"), at(before), at(after)];
        Outcome::status(compare::run(&parsed(words)))
    };
    assert_eq!(compared("low", "high"), (0, None));
    let worse = "1 of 1 figures got worse beyond the noise".to_owned();
    assert_eq!(compared("high", "low"), (1, Some(worse)));
    for (before, after) in [("high", "none"), ("absent", "high")] {
        assert_eq!(compared(before, after).0, 2, "{before} and {after}");
    }
}

/// Whether each tag is closed where it should be.
fn is_well_formed(page: &str) -> bool {
    let mut open = Vec::new();
    for tag in page.split('<').skip(1) {
        let Some((tag, _)) = tag.split_once('>') else { return false };
        let name = tag.split_whitespace().next().unwrap_or_default();
        match name.strip_prefix('/') {
            Some(name) if open.pop() != Some(name) => return false,
            Some(_) => {}
            None if tag.ends_with('/') || ["!doctype", "meta"].contains(&name) => {}
            None => open.push(name),
        }
    }
    open.is_empty()
}

#[test]
fn the_page_shows_each_figure_once_and_the_goals_as_a_table() {
    let at = |count: u32, line: &str, samples: [f64; 5]| {
        named(&format!("{line}, {count} services"), Better::More, samples).at(
            "to the <limit>",
            line,
            count,
            "services",
        )
    };
    let figures = vec![
        at(1, "hooks", HIGH).goal(0.99),
        at(1_000, "hooks", LOW).goal(0.99),
        at(1, "rules & others", LOW),
        at(1_000, "rules & others", LOW),
        named("alone & well", Better::More, HIGH),
        named("a count of one", Better::More, HIGH).at("one count", "x", 7, "pods"),
        Figure::new("none of it", "MB", Better::Less, vec![0.0; 5]).goal(1.0),
        Figure::new("once", "s", None, vec![3.5]),
        Figure::new("below", "ns", Better::Less, vec![-2.0, -1.0, 0.5, 1.0, 2.0]),
    ];
    let page = page::page(&[results("path", figures.clone()), results("api", vec![])]);
    assert!(is_well_formed(&page), "{page}");
    assert!(!page.contains("NaN") && !page.contains("inf"), "{page}");
    for figure in &figures {
        let title = format!("<title>{}: ", figure.name.replace('&', "&amp;"));
        assert_eq!(page.matches(&title).count(), 1, "{}", figure.name);
    }
    // One plot of lines, and one of dots for each of the units ratio, MB, s and ns.
    assert_eq!(page.matches("<svg").count(), 5);
    assert_eq!(page.matches("<polyline").count(), 2);
    assert_eq!(page.matches("<h3>to the &lt;limit&gt;</h3>").count(), 1);
    let rows = ["hooks, 1 services", "hooks, 1000 services", "none of it"];
    for row in rows {
        assert_eq!(page.matches(&format!("<tr><td>{row}</td>")).count(), 1, "{row}");
    }
    assert!(page.contains("<td class=\"reached\">at least 0.99: reached</td>"), "{page}");
    assert!(page.contains("<td class=\"missed\">at least 0.99: MISSED</td>"), "{page}");
    assert!(!page.contains("http"), "the page needs nothing but itself");
}

#[test]
fn a_plot_of_lines_goes_by_the_count_and_shows_goals_and_noise() {
    let at = |count: u32, samples: [f64; 5]| {
        let name = format!("f, {count}");
        let figure = Figure::new(name, "bytes a second", Better::More, samples.to_vec());
        figure.at("streams", "hooks", count, "services")
    };
    let wide = [0.5, 0.6, 0.9, 1.2, 1.3];
    let figures = vec![at(1_000, HIGH).goal(0.9), at(1, wide), at(100, LOW)];
    let page = page::page(&[results("path", figures)]);
    assert!(is_well_formed(&page), "{page}");
    let between = |text: &str, from: &str, to: &str| {
        let (_, rest) = text.split_once(from).unwrap();
        rest.split_once(to).unwrap().0.to_owned()
    };
    let corners = between(&page, "<polyline points=\"", "\"");
    let corner = |corner: &str| corner.split_once(',').unwrap().0.parse().unwrap();
    let across: Vec<f64> = corners.split_whitespace().map(corner).collect();
    assert_eq!(across.len(), 3);
    assert!(across.is_sorted(), "from few to many: {corners}");
    // The noisy one is a ring, the others are dots; one has a goal.
    assert_eq!(page.matches("r=\"3.5\" style=\"fill: none").count(), 1, "{page}");
    assert_eq!(page.matches("<line class=\"goal\"").count(), 1, "{page}");
    // The heading is in what the ticks are in.
    assert_eq!(page.matches("<small>Gbit/s over services:").count(), 1, "{page}");
    assert!(!page.contains("bytes a second"), "{page}");
}

#[test]
fn the_page_is_of_all_that_is_in_the_folder_and_can_be_read() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    for suite in ["path", "api"] {
        let mut run = Run::begin(suite, &[("rounds", 5.into())], Statistics::Off);
        run.extend([named("f", Better::More, HIGH)]);
        run.end(Some(&at(&format!("{suite}.json")))).unwrap();
    }
    std::fs::write(at("cluster.json"), "{}").unwrap();
    let (file, left_out) = page::write(folder.path()).unwrap();
    let page = std::fs::read_to_string(file).unwrap();
    for (suite, count) in [("path", 1), ("api", 1), ("cluster", 0)] {
        assert_eq!(page.matches(&format!("<h2 id=\"{suite}\">")).count(), count, "{suite}");
    }
    assert_eq!(left_out.len(), 1);
    assert!(left_out[0].contains("cluster.json is no bowline-bench file"), "{left_out:?}");
}

#[test]
fn what_an_earlier_commit_left_is_told_from_what_is_new() {
    let of = |suite: &str, commit: &str, begun| {
        let mut results = results(suite, vec![named("f", Better::More, HIGH)]);
        results.machine.commit = Some(commit.repeat(40));
        results.machine.changed = Some(false);
        Results { begun, ..results }
    };
    let all = [of("path", "a", 1_795_826_278), of("network", "b", 1_795_833_322)];
    let says = "Of another commit than `network`, the newest here (commit bbbbbbbbbbbb, \
                2026-11-28 02:35 UTC): not to be read beside it.";
    assert_eq!(all[0].outdated(&all).as_deref(), Some(says));
    assert_eq!(all[1].outdated(&all), None);
    let (page, tables) = (page::page(&all), crate::summary::tables(&all));
    for text in [&page, &tables] {
        assert_eq!(text.matches("Of another commit than").count(), 1, "{text}");
        for word in ["commit aaaaaaaaaaaa", "commit bbbbbbbbbbbb", "2026-11-28 00:37 UTC"] {
            assert!(text.contains(word), "no {word} in {text}");
        }
    }
    let same = [of("path", "a", 1), of("network", "a", 2)];
    assert!(!page::page(&same).contains("Of another commit"));
}

/// How much brighter one colour is than another, by WCAG 2's formula.
fn contrast(one: &str, other: &str) -> f64 {
    let luminance = |colour: &str| {
        let part = |at: usize| {
            let part = f64::from(u8::from_str_radix(&colour[at..at + 2], 16).unwrap()) / 255.0;
            if part <= 0.039_28 { part / 12.92 } else { ((part + 0.055) / 1.055).powf(2.4) }
        };
        0.2126 * part(1) + 0.7152 * part(3) + 0.0722 * part(5)
    };
    let [one, other] = [one, other].map(|colour| luminance(colour) + 0.05);
    one.max(other) / one.min(other)
}

#[test]
fn every_colour_can_be_read_on_light_and_on_dark() {
    assert!((contrast("#000000", "#ffffff") - 21.0).abs() < 1e-9);
    for [light, dark] in crate::plot::COLOURS {
        assert!(contrast(light, "#ffffff") > 4.5, "{light} on white");
        for ground in ["#121212", "#1c1b22", "#0d1117"] {
            assert!(contrast(dark, ground) > 4.5, "{dark} on {ground}");
        }
    }
}

#[test]
fn a_summary_has_a_table_a_plot_and_every_goal() {
    let at = |count: u32, line: &str, samples| {
        let figure = named(&format!("{line} {count}"), Better::More, samples);
        figure.at("TCP connect/request/close, 1 at once, to it", line, count, "services").goal(0.95)
    };
    let figures = vec![
        at(1, "hooks", HIGH),
        at(1, "rules", LOW),
        at(1_000, "hooks", MIDDLE),
        named("alone", Better::Less, LOW).goal(0.5),
        named("without a goal", Better::Less, LOW),
    ];
    let all = [results("path", figures)];
    let tables = crate::summary::tables(&all);
    for line in [
        "| TCP connect/request/close, 1 at once, to it | 1 | 1000 |",
        "| hooks | 1.020 | 0.960? |",
        "| rules | 0.920 |  |",
        "| alone | 0.920 | 0.900 .. 0.940 | at most 0.5: MISSED |",
    ] {
        assert!(tables.lines().any(|it| it == line), "no {line} in {tables}");
    }
    assert!(!tables.contains("without a goal"), "{tables}");
    let directory = tempfile::tempdir().unwrap();
    crate::summary::write(directory.path(), &all).unwrap();
    let plot = std::fs::read_to_string(directory.path().join("summary.svg")).unwrap();
    assert_eq!(plot.matches("<svg").count(), plot.matches("</svg>").count());
    assert_eq!(plot.matches("http").count(), 1, "its namespace, and nothing to be loaded");
    for word in ["hooks", "rules", "prefers-color-scheme: dark", "xmlns="] {
        assert!(plot.contains(word), "no {word} in {plot}");
    }
}
