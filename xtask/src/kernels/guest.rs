//! One guest: boots, is watched until it ends, and what it said.

use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::release::Kernel;

/// What became of a guest.
pub(crate) struct Report {
    /// As `--kernel` names it.
    pub(crate) kernel: String,
    /// Everything it said: what the tests printed, and what the kernel did.
    pub(crate) output: String,
    version: String,
    ended: bool,
    facts: Facts,
}

/// What the lines of a guest's tests come to.
#[derive(Debug, Default, PartialEq, Eq)]
struct Facts {
    /// The status of the test binary, if it got that far.
    status: Option<i32>,
    tests: u32,
    rows: u32,
    programs: String,
    features: Vec<String>,
}

impl Facts {
    /// Reads `bowline-fact NAME VALUE` lines, the harness's summary, and the last word. The
    /// harness prints a test's name without an end of line, so a fact may stand behind it.
    fn read(text: &str) -> Self {
        let mut facts = Self::default();
        for line in text.lines().map(str::trim) {
            if let Some(status) = line.strip_prefix("guest: status ") {
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

impl Report {
    /// Whether the guest itself said that all is well, and how much of it there was.
    pub(crate) fn passed(&self) -> bool {
        self.ended && self.facts.status == Some(0) && self.facts.tests > 0
    }

    /// The table's row.
    pub(crate) fn cells(&self) -> [String; 6] {
        let verdict = match self.facts.status {
            _ if self.passed() => "ok",
            _ if !self.ended => "FAILED: it did not end in time",
            Some(0) => "FAILED: it ran no test",
            Some(_) => "FAILED",
            None => "FAILED: it ended before its last line",
        };
        [
            self.version.clone(),
            self.facts.programs.clone(),
            self.facts.rows.to_string(),
            self.facts.tests.to_string(),
            self.facts.features.join(","),
            verdict.to_owned(),
        ]
    }
}

/// Boots the kernel and waits until it powers off, for at most `patience`.
pub(crate) fn boot(kernel: &Kernel, image: &Path, patience: Duration) -> Result<Report> {
    let (console, tests) =
        (kernel.directory.join("console.log"), kernel.directory.join("tests.log"));
    for log in [&console, &tests] {
        std::fs::write(log, "").with_context(|| format!("cannot write {}", log.display()))?;
    }
    let child = Command::new("qemu-system-x86_64")
        .args(["-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", "max"])
        .args(["-m", "1024M", "-smp", "1", "-nodefaults", "-no-reboot", "-nographic"])
        .arg("-kernel")
        .arg(&kernel.image)
        .arg("-initrd")
        .arg(image)
        .args(["-append", "console=ttyS0 loglevel=4 panic=-1 mitigations=off"])
        .arg("-serial")
        .arg(format!("file:{}", console.display()))
        .arg("-serial")
        .arg(format!("file:{}", tests.display()))
        .stdin(Stdio::null())
        .spawn()
        .context("cannot start qemu-system-x86_64")?;
    let ended = wait(child, patience)?.is_some();
    let read = |path: &Path| {
        let bytes = std::fs::read(path).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    let (said, kernel_said) = (read(&tests), read(&console));
    Ok(Report {
        kernel: kernel.name.to_owned(),
        version: kernel.version.clone(),
        ended,
        facts: Facts::read(&said),
        output: format!("{said}\n{kernel_said}"),
    })
}

/// Waits for the process; ends it when it takes too long, and gives nothing then.
fn wait(mut child: Child, patience: Duration) -> Result<Option<ExitStatus>> {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if start.elapsed() > patience {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[cfg(test)]
mod tests {
    use super::{Facts, Report};

    const GOOD: &str = "guest: release 5.10.0\r\n\
        running 3 tests\r\n\
        test kernels::features ... bowline-fact programs 11/11\r\n\
        bowline-fact feature tcx\r\n\
        ok\r\n\
        test packets::a ... bowline-fact rows 12\r\nok\r\n\
        test packets::b ... bowline-fact rows 3\r\nok\r\n\
        test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 9 filtered out\r\n\
        guest: status 0\r\n";

    fn report(text: &str, ended: bool) -> Report {
        Report {
            kernel: "5.10".to_owned(),
            output: String::new(),
            version: "5.10.0".to_owned(),
            ended,
            facts: Facts::read(text),
        }
    }

    #[test]
    fn facts_are_read_from_what_tests_print() {
        let report = report(GOOD, true);
        assert!(report.passed());
        assert_eq!(report.cells(), ["5.10.0", "11/11", "15", "3", "tcx", "ok"]);
    }

    #[test]
    fn only_the_last_word_makes_a_pass() {
        assert!(!report(GOOD, false).passed(), "it was ended");
        assert!(!report(&GOOD.replace("status 0", "status 101"), true).passed());
        let panicked = &GOOD[..GOOD.find("guest: status").unwrap()];
        assert!(!report(panicked, true).passed(), "the kernel panicked");
        assert!(!report("guest: status 0", true).passed(), "no test ran");
    }
}
