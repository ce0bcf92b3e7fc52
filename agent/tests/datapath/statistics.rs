//! How large the programs are and what verifying them costs, so that growth is seen when it comes.
//!
//! `programs.golden` has a section for each of some series of kernels: for each program its
//! instructions and how many the verifier went through. Each kernel counts otherwise: on one of no
//! section the numbers are shown only.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use bowline_lab::world::World;

use crate::servers::{Connection, SERVICE, serve};

/// Per cent by which a number may differ from the golden one.
const TOLERANCE: u32 = 15;
/// Small programs may differ by so many instructions.
const SLACK: u32 = 16;

/// Instructions, and those that the verifier went through.
type Sizes = BTreeMap<String, (u32, u32)>;

fn series() -> String {
    let release = nix::sys::utsname::uname().unwrap().release().to_string_lossy().into_owned();
    release.split('.').take(2).collect::<Vec<_>>().join(".")
}

/// In the binary, because guests have no files.
const GOLDEN: &str = include_str!("programs.golden");

/// Sections by series.
fn render(sections: &BTreeMap<String, Sizes>) -> String {
    let mut text = String::new();
    for (series, sizes) in sections {
        writeln!(text, "linux {series}").unwrap();
        for (name, (instructions, verified)) in sizes {
            writeln!(text, "{name} {instructions} {verified}").unwrap();
        }
    }
    text
}

fn parse(text: &str) -> BTreeMap<String, Sizes> {
    let mut sections = BTreeMap::<String, Sizes>::new();
    let mut series = String::new();
    for line in text.lines() {
        match line.split(' ').collect::<Vec<_>>()[..] {
            ["linux", name] => name.clone_into(&mut series),
            [program, instructions, verified] => {
                let sizes = (instructions.parse().unwrap(), verified.parse().unwrap());
                sections.entry(series.clone()).or_default().insert(program.to_owned(), sizes);
            }
            _ => panic!("{line}"),
        }
    }
    sections
}

#[test]
fn the_golden_numbers_are_as_they_would_be_written() {
    assert_eq!(render(&parse(GOLDEN)), GOLDEN);
    assert!(parse(GOLDEN).len() >= 2, "of the development machine and of a guest");
}

fn is_near(found: u32, golden: u32) -> bool {
    found.abs_diff(golden) <= (golden * TOLERANCE / 100).max(SLACK)
}

#[test]
fn nearness_has_an_end() {
    assert!(is_near(1_150, 1_000) && is_near(850, 1_000) && is_near(26, 10));
    assert!(!is_near(1_151, 1_000) && !is_near(849, 1_000) && !is_near(27, 10));
}

#[test]
#[ignore = "needs root; run by `cargo xtask test` as root"]
fn programs_are_about_as_large_as_they_were() {
    let world = World::new();
    let _open = world.open();
    let programs = world.here.status().programs;
    let size = |program: bowline_agent::datapath::ProgramStatus| {
        (program.name, (program.instructions.unwrap(), program.verified.unwrap_or(0)))
    };
    let found: Sizes = programs.into_iter().map(size).collect();
    let section = BTreeMap::from([(series(), found.clone())]);
    println!("program instructions verified\n{}", render(&section));

    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/datapath/programs.golden");
        let mut all = parse(&std::fs::read_to_string(path).unwrap());
        all.extend(section);
        std::fs::write(path, render(&all)).unwrap();
        return;
    }
    let Some(golden) = parse(GOLDEN).remove(&series()) else {
        println!("NOT COMPARED: there are no golden numbers of Linux {}", series());
        return;
    };
    let names = |sizes: &Sizes| sizes.keys().cloned().collect::<Vec<_>>();
    let update = "if that is meant, run it with UPDATE_GOLDEN=1";
    assert_eq!(names(&found), names(&golden), "other programs: {update}");
    let moved: Vec<String> = found
        .iter()
        .filter(|(name, (instructions, verified))| {
            let (golden_instructions, golden_verified) = golden[*name];
            !is_near(*instructions, golden_instructions) || !is_near(*verified, golden_verified)
        })
        .map(|(name, now)| format!("{name}: {now:?}, was {:?}", golden[name]))
        .collect();
    assert!(moved.is_empty(), "more than {TOLERANCE}% from the golden: {moved:#?}; {update}");
}

/// `kernel.bpf_stats_enabled`, on as long as this lives.
struct Counted(String);

const STATISTICS: &str = "/proc/sys/kernel/bpf_stats_enabled";

impl Counted {
    fn begin() -> Self {
        let before = std::fs::read_to_string(STATISTICS).unwrap();
        std::fs::write(STATISTICS, "1").unwrap();
        Self(before)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        std::fs::write(STATISTICS, &self.0).unwrap();
    }
}

#[test]
#[ignore = "needs root; run by `cargo xtask test` as root"]
fn runs_show_while_the_kernel_counts_them() {
    const CONNECTIONS: u64 = 20;
    let world = World::new();
    let (_here, _there, _servers) = serve(&world);
    let counted = Counted::begin();
    let open = || (0..CONNECTIONS).for_each(|_| drop(Connection::open(SERVICE).unwrap()));
    world.client().namespace.run(open);
    let programs = world.here.status().programs;
    drop(counted);
    let connect = programs.iter().find(|program| program.name == "connect4").unwrap();
    assert!(connect.runs.unwrap() >= CONNECTIONS, "{connect:?}");
    assert!(connect.nanoseconds_per_run.is_some_and(|time| time > 0), "{connect:?}");
}
