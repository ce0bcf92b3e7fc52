//! The gate, and how suites are asked.

use std::path::{Path, PathBuf};

use anyhow::bail;

use super::{HIGH, LOW, MIDDLE, named, parsed, results};
use crate::command::Setting;
use crate::results::{Better, Figure, Run, Statistics};
use crate::suites::{Extent, Suite};
use crate::{Outcome, gate, page};

/// Where nothing can be measured.
fn setting() -> Setting<'static> {
    Setting { folder: PathBuf::new(), program: &|| bail!("nothing is measured here") }
}

/// A gate with these checks of the suite `path`.
fn gate_of(checks: &str) -> anyhow::Result<gate::Gate> {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("gate.json");
    let text = format!(
        r#"{{"format": "bowline-bench-gate", "version": 1,
            "suites": {{"path": {{"arguments": ["--quick"], "checks": [{checks}]}}}}}}"#
    );
    std::fs::write(&file, text).unwrap();
    gate::gate(&file)
}

#[test]
fn the_gate_fails_with_a_line_for_each_violation() {
    let gate = gate_of(
        r#"{"figure": "good", "at_least": 0.99, "tolerance": 0.01},
           {"figure": "bad", "at_least": 0.99, "tolerance": 0.01},
           {"figure": "within", "at_least": 0.99, "tolerance": 0.05},
           {"figure": "dear", "at_most": 1, "tolerance": 0.01},
           {"figure": "cost", "at_most": 9, "tolerance": 0},
           {"figure": "absent", "at_most": 9, "tolerance": 0},
           {"figure": "cost", "unit": "ns", "at_most": 9, "tolerance": 0},
           {"figure": "cost", "unit": "ms", "at_most": 9, "tolerance": 0},
           {"figure": "memory", "unit": "MB", "at_most": 120, "tolerance": 10},
           {"figure": "good", "unit": "ns", "at_least": 0.99, "tolerance": 0}"#,
    );
    let found = results(
        "path",
        vec![
            named("good", Better::More, HIGH),
            named("bad", Better::More, LOW),
            named("within", Better::More, MIDDLE),
            named("dear", Better::Less, HIGH),
            Figure::new("cost", "ns", Better::Less, vec![1.0]),
            Figure::new("memory", "MB", Better::Less, vec![131.0; 5]),
        ],
    );
    let noise = "; the machine may have been too noisy";
    let expected = [
        "path: bad: 0.920 [0.900 .. 0.940], must be at least 0.99 with a tolerance of 0.01",
        &format!(
            "path: dear: 1.020 [1.000 .. 1.040], must be at most 1 with a tolerance of 0.01{noise}"
        ),
        "path: cost: no ratio, and the check has no unit: ns",
        "path: absent: no such figure",
        "path: cost: in ns, but the check is in ms",
        "path: memory: 131.000 MB [131.000 .. 131.000], must be at most 120 MB with a tolerance of \
         10",
        "path: good: in ratio, but the check is in ns",
    ];
    assert_eq!(gate.unwrap().violations(&found), expected);
}

#[test]
fn a_gate_with_violations_is_a_failure() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let text = r#"{"format": "bowline-bench-gate", "version": 1, "suites": {"path": {
        "arguments": [], "checks": [{"figure": "f", "at_least": 0.97, "tolerance": 0.02}]}}}"#;
    std::fs::write(at("gate.json"), text).unwrap();
    let check = |samples: [f64; 5]| {
        let mut run = Run::begin("path", &[], Statistics::Off);
        run.extend([named("f", Better::More, samples)]);
        run.end(Some(&at("run.json"))).unwrap();
        gate::run(&at("gate.json"), &[at("run.json")], &setting())
    };
    assert_eq!(Outcome::status(check(MIDDLE)), (0, None));
    let (failed, error) = Outcome::status(check(LOW));
    assert_eq!(failed, 1);
    assert!(error.is_some_and(|error| error.starts_with("1 of 1 checks of ")));
    let twice = gate::run(&at("gate.json"), &[at("run.json"), at("run.json")], &setting());
    let (refused, error) = Outcome::status(twice);
    assert_eq!(refused, 2);
    assert!(error.is_some_and(|error| error.ends_with("results of `path` already")));
}

#[test]
fn a_gate_that_could_not_run_is_refused() {
    let said = |checks: &str| {
        let error = gate_of(checks).err().map(|error| format!("{error:#}")).unwrap_or_default();
        assert_eq!(error.lines().count(), 1, "{error}");
        error
    };
    assert!(said("").ends_with("the suite `path` has no checks"));
    let bounds = "needs either `at_least` or `at_most`, and a tolerance >= 0";
    assert!(said(r#"{"figure": "f", "tolerance": 0}"#).ends_with(bounds));
    assert!(said(r#"{"figure": "f", "at_most": 1, "tolerance": -1}"#).ends_with(bounds));
    assert!(said(r#"{"figure": "f", "at_most": 1}"#).contains("missing field `tolerance`"));
    let unknown = r#"{"figure": "f", "at_most": 1, "tolerance": 0, "noise": 1}"#;
    assert!(said(unknown).contains("unknown field `noise`"));
}

#[test]
fn the_gate_of_the_repository_can_run() {
    gate::gate(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../gate.json"))).unwrap();
}

#[test]
fn every_suite_is_among_all_and_on_the_page() {
    let extent: Extent = parsed(["all", "--quick"]);
    let suites = Suite::all(&extent).unwrap();
    let mut all: Vec<&str> = suites.iter().map(Suite::name).collect();
    let mut told: Vec<&str> = page::ABOUT.iter().map(|(suite, _)| *suite).collect();
    let command = <Suite as clap::Subcommand>::augment_subcommands(clap::Command::new("bench"));
    let mut asked: Vec<&str> = command.get_subcommands().map(clap::Command::get_name).collect();
    for names in [&mut all, &mut told, &mut asked] {
        names.sort_unstable();
    }
    assert_eq!(all, asked);
    assert_eq!(told, asked);
}

#[test]
fn the_help_of_a_suite_is_of_its_own_rounds() {
    let command = <Suite as clap::Subcommand>::augment_subcommands(clap::Command::new("bench"));
    for (suite, rounds) in [("cluster", 7), ("api", 9), ("programs", 15), ("network", 25)] {
        let mut own = command.find_subcommand(suite).unwrap().clone();
        let help = own.render_long_help().to_string();
        assert!(help.contains(&format!("[default: {rounds}]")), "{help}");
        assert_eq!(help.matches("[default: ").count(), 2, "its folder's and its rounds': {help}");
    }
}

#[test]
fn each_suite_has_its_own_number_of_rounds() {
    let rounds = |words: &str| {
        let words: Vec<&str> = words.split_whitespace().collect();
        let numbers = Suite::parsed(words[0], &words[1..]).ok()?.call().numbers;
        numbers.into_iter().find_map(|(flag, number)| (flag == "rounds").then_some(number))
    };
    let table = [
        ("path", Some(14)),
        ("sockets", Some(9)),
        ("programming", Some(7)),
        ("cluster", Some(7)),
        ("api", Some(9)),
        ("programs", Some(15)),
        ("network", Some(25)),
        ("path --quick", Some(6)),
        ("api --quick", Some(5)),
        ("network --quick", Some(15)),
        ("api --rounds 6", Some(6)),
        ("api --rounds 4", None),
        ("api --rounds 6 --quick", None),
        ("path --services 1 --quick", None),
        ("path --services 0", None),
        ("path --services 32000", Some(14)),
        ("path --services 32001", None),
    ];
    for (words, expected) in table {
        assert_eq!(rounds(words), expected, "{words}");
    }
}
