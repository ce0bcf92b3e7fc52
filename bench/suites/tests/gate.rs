//! The suites of the data plane run to their end, and measure what the gate checks.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use bowline_tests::command::{command, finish};
use serde_json::Value;

/// Each as briefly as it can be: what is measured so is not looked at.
const BRIEFLY: [(&str, &[&str]); 4] = [
    ("path", &["--services", "1", "--services", "1000", "--rounds", "5", "--slices", "1"]),
    ("network", &["--rounds", "5", "--turn", "4"]),
    ("sockets", &["--rounds", "5", "--batches", "5", "--calls", "50", "--pairs", "100"]),
    ("programs", &["--rounds", "5", "--turns", "1", "--runs", "100"]),
];

fn document(file: &Path) -> Result<Value> {
    let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
    Ok(serde_json::from_str(&text)?)
}

/// The texts at `field` of each of these.
fn each<'a>(all: &'a Value, field: &str) -> BTreeSet<&'a str> {
    all.as_array().into_iter().flatten().filter_map(|one| one[field].as_str()).collect()
}

#[test]
#[ignore = "needs root; run by `cargo xtask test` as root"]
fn the_suites_of_the_data_plane_measure_what_the_gate_checks() -> Result<()> {
    let gate = document(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../gate.json"))?;
    let folder = tempfile::tempdir()?;
    for (suite, briefly) in BRIEFLY {
        let file = folder.path().join(format!("{suite}.json"));
        let mut bench = command(env!("CARGO_BIN_EXE_bowline-bench"));
        let ended = finish(bench.args(["measure", suite]).args(briefly).arg("--json").arg(&file))?;
        let said = String::from_utf8_lossy(&ended.stderr);
        ensure!(ended.status.success(), "{suite} ended with {}: {said}", ended.status);
        let results = document(&file)?;
        let (found, checked) = (&results["figures"], &gate["suites"][suite]["checks"]);
        let names = each(found, "name");
        ensure!(!names.is_empty(), "{suite} measured nothing");
        let missing: Vec<&str> = each(checked, "figure").difference(&names).copied().collect();
        ensure!(missing.is_empty(), "{suite} does not measure {missing:?}");
        ensure!(!checked.is_null(), "the gate checks nothing of {suite}");
    }
    Ok(())
}
