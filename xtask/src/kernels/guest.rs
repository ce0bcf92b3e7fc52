//! One guest: boots, is watched until it ends, and what it said.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::image;
use super::release::{Kernel, NEWEST};

/// What became of a guest.
pub(crate) struct Report {
    /// As `--kernel` names it.
    pub(crate) kernel: &'static str,
    /// Everything it said: what the tests printed, and what the kernel did.
    pub(crate) output: String,
    version: String,
    ended: bool,
    /// No test was left out on request.
    whole: bool,
    facts: Facts,
}

/// Rows of packet tables that a guest runs at least when nothing is left out: nearly all that there
/// are, so that lost ones show.
const ROWS: u32 = 1_117;

/// Programs that there are at least.
const PROGRAMS: u32 = 11;

/// The head of the table that the test `statistics` prints.
const SIZES: &str = "program instructions verified";

/// What the lines of a guest's tests come to.
#[derive(Debug, Default, PartialEq, Eq)]
struct Facts {
    /// The status of the test binary, if it got that far.
    status: Option<i32>,
    tests: u32,
    rows: u32,
    programs: String,
    features: Vec<String>,
    /// What the test `statistics` prints: a line for each program.
    sizes: Vec<String>,
    /// It found no golden numbers of this kernel.
    not_compared: bool,
}

impl Facts {
    /// Reads `bowline-fact NAME VALUE` lines, the table of programs' sizes, the harness's summary,
    /// and the last word. The harness prints a test's name without an end of line, so a fact may
    /// stand behind it.
    fn read(text: &str) -> Self {
        let mut facts = Self::default();
        let mut in_sizes = false;
        for line in text.lines().map(str::trim) {
            in_sizes &= !line.is_empty();
            if in_sizes {
                facts.sizes.push(line.to_owned());
            } else if line.ends_with(SIZES) {
                in_sizes = true;
            } else if line.starts_with("NOT COMPARED") {
                facts.not_compared = true;
            } else if let Some(status) = line.strip_prefix("guest: status ") {
                facts.status = status.parse().ok();
            } else if let Some(rest) = line.strip_prefix("test result: ") {
                let passed = rest.split(['.', ';']).find_map(|part| part.strip_suffix(" passed"));
                facts.tests += passed.and_then(|count| count.trim().parse().ok()).unwrap_or(0);
            } else if let Some((_, fact)) = line.split_once("bowline-fact ") {
                let (name, value) = fact.split_once(' ').unwrap_or((fact, ""));
                match name {
                    "rows" => facts.rows += value.parse::<u32>().unwrap_or(0),
                    "programs" => value.clone_into(&mut facts.programs),
                    "feature" => facts.features.push(value.to_owned()),
                    _ => {}
                }
            }
        }
        facts
    }
}

impl Facts {
    /// Whether so many programs as there are were loaded and attached, and all that we know of.
    fn has_all_programs(&self) -> bool {
        let numbers = self.programs.split_once('/');
        let numbers =
            numbers.and_then(|(at_work, all)| Some((at_work.parse().ok()?, all.parse().ok()?)));
        numbers.is_some_and(|(at_work, all): (u32, u32)| at_work == all && all >= PROGRAMS)
    }
}

impl Report {
    /// Whether the guest itself said that all is well, and how much of it there was.
    pub(crate) fn passed(&self) -> bool {
        self.failure().is_none()
    }

    /// How many tests passed.
    pub(crate) fn tests(&self) -> u32 {
        self.facts.tests
    }

    fn is_newest(&self) -> bool {
        self.kernel == NEWEST
    }

    /// How large each program is, as the newest kernel says it: what growth is judged by.
    pub(crate) fn newest_sizes(&self) -> &[String] {
        if self.is_newest() { &self.facts.sizes } else { &[] }
    }

    fn failure(&self) -> Option<&'static str> {
        match self.facts.status {
            _ if !self.ended => Some("FAILED: it did not end in time"),
            None => Some("FAILED: it ended before its last line"),
            Some(0) if self.facts.tests == 0 => Some("FAILED: it ran no test"),
            Some(0) if self.whole && self.facts.rows < ROWS => {
                Some("FAILED: rows of packet tables are missing")
            }
            Some(0) if self.whole && !self.facts.has_all_programs() => {
                Some("FAILED: programs are missing")
            }
            Some(0) if self.whole && self.facts.sizes.is_empty() => {
                Some("FAILED: the sizes of programs are missing")
            }
            Some(0) if self.is_newest() && self.facts.not_compared => {
                Some("FAILED: no golden sizes of this kernel's programs")
            }
            Some(0) => None,
            Some(_) => Some("FAILED"),
        }
    }

    /// The table's row.
    pub(crate) fn cells(&self) -> [String; 6] {
        [
            self.version.clone(),
            self.facts.programs.clone(),
            self.facts.rows.to_string(),
            self.facts.tests.to_string(),
            self.facts.features.join(","),
            self.failure().unwrap_or("ok").to_owned(),
        ]
    }
}

/// A guest at work. Dropping it ends it.
pub(crate) struct Guest<'a> {
    kernel: &'a Kernel,
    machine: Child,
    started: Instant,
}

impl<'a> Guest<'a> {
    /// Boots the kernel.
    pub(crate) fn start(kernel: &'a Kernel, base: &[u8], filters: &[&str]) -> Result<Self> {
        eprintln!("booting {} ({})", kernel.name, kernel.version);
        let image = image::of(kernel, base, filters)?;
        // The kernel's own test of its timer fails when the host is so busy that ticks come late.
        // The last two save emulated work that no test looks at.
        let options = "console=ttyS0 loglevel=4 panic=-1 mitigations=off no_timer_check \
            init_on_alloc=0 cgroup_disable=memory";
        let mut qemu = Command::new("qemu-system-x86_64");
        qemu.args(["-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", "max"])
            .args(["-m", "1024M", "-smp", "1", "-nodefaults", "-no-reboot", "-nographic"])
            .args(["-append", options])
            .arg("-kernel")
            .arg(&kernel.image)
            .arg("-initrd")
            .arg(&image);
        for log in [console_log(kernel), tests_log(kernel)] {
            std::fs::write(&log, "").with_context(|| format!("cannot write {}", log.display()))?;
            qemu.arg("-serial").arg(format!("file:{}", log.display()));
        }
        let machine = qemu.stdin(Stdio::null()).spawn().context("cannot start qemu")?;
        Ok(Self { kernel, machine, started: Instant::now() })
    }

    /// Waits until it powers off, and reads what it said. `patience` counts from the start; `whole`
    /// says that it was to run all that guests run.
    pub(crate) fn finish(mut self, patience: Duration, whole: bool) -> Result<Report> {
        let mut ended = false;
        while !ended && self.started.elapsed() < patience {
            std::thread::sleep(Duration::from_millis(50));
            ended = self.machine.try_wait()?.is_some();
        }
        let read = |path: PathBuf| {
            let bytes = std::fs::read(path).unwrap_or_default();
            String::from_utf8_lossy(&bytes).into_owned()
        };
        let (said, kernel_said) = (read(tests_log(self.kernel)), read(console_log(self.kernel)));
        Ok(Report {
            kernel: self.kernel.name,
            version: self.kernel.version.clone(),
            ended,
            whole,
            facts: Facts::read(&said),
            output: format!("{said}\n{kernel_said}"),
        })
    }
}

impl Drop for Guest<'_> {
    fn drop(&mut self) {
        // Both fail when it has ended already.
        let _ = self.machine.kill();
        let _ = self.machine.wait();
    }
}

/// What the kernel says.
fn console_log(kernel: &Kernel) -> PathBuf {
    kernel.directory.join("console.log")
}

/// What the tests say.
fn tests_log(kernel: &Kernel) -> PathBuf {
    kernel.directory.join("tests.log")
}

#[cfg(test)]
pub(crate) mod tests {
    use super::{Facts, NEWEST, Report};

    const GOOD: &str = "guest: release 5.10.0\r\n\
        running 3 tests\r\n\
        test kernels::features ... bowline-fact programs 11/11\r\n\
        bowline-fact feature tcx\r\n\
        ok\r\n\
        test packets::a ... bowline-fact rows 1109\r\nok\r\n\
        test packets::b ... bowline-fact rows 8\r\nok\r\n\
        test statistics::c ... program instructions verified\r\n\
        linux 5.10\r\n\
        connect4 1507 6624\r\n\
        to_pod 3305 13430\r\n\
        \r\n\
        ok\r\n\
        test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 9 filtered out\r\n\
        guest: status 0\r\n";

    fn report(text: &str, ended: bool) -> Report {
        Report {
            kernel: "5.10",
            output: String::new(),
            version: "5.10.0".to_owned(),
            ended,
            whole: true,
            facts: Facts::read(text),
        }
    }

    /// Of a guest that passed so many tests.
    pub(crate) fn passed(kernel: &'static str, tests: u32) -> Report {
        let text = GOOD.replace("ok. 3 passed", &format!("ok. {tests} passed"));
        Report { kernel, ..report(&text, true) }
    }

    #[test]
    fn facts_are_read_from_what_tests_print() {
        let report = report(GOOD, true);
        assert!(report.passed());
        assert_eq!(report.cells(), ["5.10.0", "11/11", "1117", "3", "tcx", "ok"]);
        let sizes = ["linux 5.10", "connect4 1507 6624", "to_pod 3305 13430"];
        assert_eq!(report.facts.sizes, sizes);
        assert!(report.newest_sizes().is_empty(), "only the newest kernel's are shown");
    }

    #[test]
    fn only_the_last_word_makes_a_pass() {
        assert!(!report(GOOD, false).passed(), "it was ended");
        assert!(!report(&GOOD.replace("status 0", "status 101"), true).passed());
        let panicked = &GOOD[..GOOD.find("guest: status").unwrap()];
        assert!(!report(panicked, true).passed(), "the kernel panicked");
        assert!(!report("guest: status 0", true).passed(), "no test ran");
    }

    #[test]
    fn a_guest_that_did_less_than_all_does_not_pass_unless_that_was_asked_for() {
        for (from, to, word) in [
            ("rows 1109", "rows 1108", "rows"),
            ("rows 1109", "rows 0", "rows"),
            ("bowline-fact rows", "rows", "rows"),
            ("programs 11/11", "programs 10/11", "programs"),
            ("programs 11/11", "programs 10/10", "programs"),
            ("bowline-fact programs", "programs", "programs"),
            ("program instructions verified", "nothing", "sizes"),
        ] {
            let less = GOOD.replace(from, to);
            let whole = report(&less, true);
            let [.., verdict] = whole.cells();
            assert!(!whole.passed() && verdict.contains(word), "{from} to {to}: {verdict}");
            assert!(Report { whole: false, ..report(&less, true) }.passed(), "{from} to {to}");
        }
    }

    #[test]
    fn the_newest_kernel_needs_golden_sizes() {
        let unknown = GOOD.replace("13430\r\n\r\nok", "13430\r\n\r\nNOT COMPARED: no\r\nok");
        assert_ne!(unknown, GOOD);
        let report = |kernel, whole| Report { kernel, whole, ..report(&unknown, true) };
        assert!(report("5.10", true).passed(), "older ones are told by those that have some");
        for whole in [true, false] {
            let newest = report(NEWEST, whole);
            let [.., verdict] = newest.cells();
            assert!(!newest.passed() && verdict.contains("golden"), "{verdict}");
            assert_eq!(newest.newest_sizes().len(), 3);
        }
    }
}
