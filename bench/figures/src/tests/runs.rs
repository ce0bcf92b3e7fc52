//! Several suites in a row, by a program in place of theirs that ends as it is told to.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use tempfile::TempDir;

use super::parsed;
use crate::command::{Setting, measure};
use crate::page::ABOUT;
use crate::results::{Results, Run, Statistics};
use crate::suites::{Extent, Interrupted, Suite};

/// Runs all suites into this folder, `path` with these words of a shell.
fn all(folder: &Path, path: &str) -> anyhow::Result<Vec<Results>> {
    let stage = TempDir::new().unwrap();
    for (suite, _) in ABOUT {
        let run = Run::begin(suite, &[], Statistics::Off);
        run.end(Some(&stage.path().join(suite))).unwrap();
    }
    let program = stage.path().join("program");
    // Its last argument is where the figures go.
    let script = format!(
        "#!/bin/sh\nfor word; do json=$word; done\n\
         if [ $2 = path ]; then echo {{}} > \"${{json%.json}}.partial.json\"; {path}; fi\n\
         cp {}/$2 \"$json\"\n",
        stage.path().display()
    );
    std::fs::write(&program, script).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o700)).unwrap();
    let words = [Path::new("all"), Path::new("--folder"), folder];
    let extent: Extent = parsed(words);
    let suites = Suite::all(&extent).unwrap();
    measure(&suites, &Setting { folder: folder.to_owned(), program: &|| Ok(program.clone()) })
}

#[test]
#[ignore = "needs root, as every benchmark; run by `cargo xtask test` as root"]
fn a_suite_that_fails_ends_no_other_and_keeps_what_it_had() {
    let folder = TempDir::new().unwrap();
    let there = |name: &str| folder.path().join(name).exists();
    let error = all(folder.path(), "exit 2").unwrap_err();
    assert_eq!(error.to_string(), format!("of {} suites these failed: path", ABOUT.len()));
    for (suite, _) in ABOUT {
        assert_eq!(there(&format!("{suite}.json")), suite != "path", "{suite}");
    }
    assert!(there("path.partial.json"));
    assert_eq!(all(folder.path(), ":").unwrap().len(), ABOUT.len());
    assert!(there("path.json") && !there("path.partial.json"));
}

#[test]
#[ignore = "needs root, as every benchmark; run by `cargo xtask test` as root"]
fn nothing_is_measured_after_an_interrupt() {
    // One that it took by itself, and one that came before it could.
    for end in ["exit 130", "kill -INT $$"] {
        let folder = TempDir::new().unwrap();
        let error = all(folder.path(), end).unwrap_err();
        assert!(error.is::<Interrupted>(), "{end}: {error:#}");
        // `path` is the third of all.
        assert!(folder.path().join("programs.json").exists(), "{end}");
        assert!(!folder.path().join("network.json").exists(), "{end}");
    }
}
