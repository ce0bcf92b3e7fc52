use super::results::{Better, Figure, Relation, Run, Statistics, Verdict, median};

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
