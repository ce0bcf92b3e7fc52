//! A suite's program: started, interrupted with us, and waited for.
//!
//! Guarantees: it runs in a group of its own, to which our interrupts are sent on; what it made it
//! removes then, and we wait for that. Who is killed sends nothing: the program asks the kernel for
//! a signal of that itself ([`ends_with_parent`]).

use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::{SigSet, Signal, killpg};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Pid;

/// The status of a suite's program that an interrupt ended: what a shell calls it.
pub const INTERRUPTED: u8 = 130;

/// Whether a program ended by an interrupt: by itself, or before it listened to any.
pub(crate) fn was_interrupted(status: ExitStatus) -> bool {
    let signals = [Signal::SIGINT, Signal::SIGTERM].map(|signal| Some(signal as i32));
    status.code() == Some(INTERRUPTED.into()) || signals.contains(&status.signal())
}

/// From now on this process is told by SIGTERM when the one that started it ends.
pub fn ends_with_parent() -> nix::Result<()> {
    nix::sys::prctl::set_pdeathsig(Signal::SIGTERM)
}

/// Runs a program to its end, whatever that is.
pub(crate) fn run(command: &mut Command) -> Result<ExitStatus> {
    let child = in_a_group(command);
    let child =
        child.with_context(|| format!("cannot start {}", command.get_program().display()))?;
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
    ended
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
