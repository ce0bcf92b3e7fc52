//! Running other programs: one line that says what runs, and an error that says what failed.

use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{SigSet, Signal, killpg};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Pid;

/// A command line as a person would type it.
pub(crate) fn shown(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(command.get_args().map(|a| a.to_string_lossy().into_owned()));
    words.join(" ")
}

/// Run it with our own standard streams; a non-zero status is an error.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let line = shown(command);
    eprintln!("+ {line}");
    let status = command.status().with_context(|| format!("cannot start `{line}`"))?;
    checked(&line, status)
}

/// Runs it like [`run`], in a group of its own to which interrupts are sent on: what the program
/// made it removes then, and we wait for that. Who is killed sends nothing: that the program ends
/// then, too, is to be asked for when it is started.
pub(crate) fn run_to_its_end(command: &mut Command) -> Result<()> {
    let line = shown(command);
    eprintln!("+ {line}");
    let child = in_a_group(command).with_context(|| format!("cannot start `{line}`"))?;
    let mut interrupts = SigSet::empty();
    interrupts.add(Signal::SIGINT);
    interrupts.add(Signal::SIGTERM);
    interrupts.thread_block()?;
    let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
    let signals = SignalFd::with_flags(&interrupts, flags)?;
    let ended = wait(child, || {
        let signal = signals.read_signal()?;
        Ok(signal.map(|signal| Signal::try_from(signal.ssi_signo as i32)).transpose()?)
    });
    interrupts.thread_unblock()?;
    checked(&line, ended?)
}

fn in_a_group(command: &mut Command) -> std::io::Result<Child> {
    command.stdin(Stdio::null()).process_group(0).spawn()
}

/// Waits for it, and sends what `interrupt` gives to its group.
fn wait(
    mut child: Child,
    mut interrupt: impl FnMut() -> Result<Option<Signal>>,
) -> Result<ExitStatus> {
    let group = Pid::from_raw(i32::try_from(child.id())?);
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if let Some(signal) = interrupt()? {
            // It may have ended just now.
            let _ = killpg(group, signal);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn checked(line: &str, status: ExitStatus) -> Result<()> {
    if !status.success() {
        bail!("`{line}` failed: {status}");
    }
    Ok(())
}

/// Runs it like [`run`], and gives what it prints on standard output.
pub(crate) fn printed(command: &mut Command) -> Result<String> {
    let line = shown(command);
    eprintln!("+ {line}");
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output();
    let output = output.with_context(|| format!("cannot start `{line}`"))?;
    checked(&line, output.status)?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Becomes the program; returns only when that failed.
pub(crate) fn become_program(command: &mut Command) -> anyhow::Error {
    let line = shown(command);
    eprintln!("+ {line}");
    anyhow::Error::new(command.exec()).context(format!("cannot start `{line}`"))
}

/// Run it silently and give its standard output; its standard error goes into the error.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let line = shown(command);
    let output =
        command.stdin(Stdio::null()).output().with_context(|| format!("cannot start `{line}`"))?;
    if !output.status.success() {
        let reason = String::from_utf8_lossy(&output.stderr);
        bail!("`{line}` failed: {}: {}", output.status, reason.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interrupt_is_the_programs_to_end() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        // Its own child is in its group, and is interrupted, too.
        let script = "trap 'wait; echo cleaned > \"$1\"; exit 7' TERM
                      sh -c 'echo > \"$0\"; exec sleep 30' \"$0\" & wait";
        let mut shell = Command::new("sh");
        shell.arg("-c").arg(script).arg(at("begun")).arg(at("ended"));
        let mut sent = false;
        let status = wait(in_a_group(&mut shell).unwrap(), || {
            let now = !sent && at("begun").exists();
            sent |= now;
            Ok(now.then_some(Signal::SIGTERM))
        });
        assert_eq!(status.unwrap().code(), Some(7));
        assert_eq!(std::fs::read_to_string(at("ended")).unwrap(), "cleaned\n");
    }
}
