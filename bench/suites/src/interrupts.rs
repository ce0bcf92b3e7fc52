//! An interrupted suite removes what it made.
//!
//! Guarantees: after SIGINT or SIGTERM the suite unwinds at its next [`check`], so that what it
//! holds is dropped; the status is 130 then, and 2 after a failure, which is told in one line. A
//! second signal ends it at once: what it made goes with the next suite.
//!
//! Does not: end what is under way between two checks.

use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind, resume_unwind, set_hook};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;

use bowline_figures::child;
use tokio::signal::unix::{SignalKind, signal};

const FAILED: u8 = 2;

static WAS_INTERRUPTED: AtomicBool = AtomicBool::new(false);

fn is_interrupted() -> bool {
    WAS_INTERRUPTED.load(Ordering::Relaxed)
}

/// Returns unless there was an interrupt.
pub(crate) fn check() {
    if is_interrupted() {
        resume_unwind(Box::new("interrupted"));
    }
}

/// Runs a suite to its end or to an interrupt; the exit status.
pub(crate) fn end_of(suite: impl FnOnce()) -> u8 {
    watch();
    set_hook(Box::new(tell));
    match catch_unwind(AssertUnwindSafe(suite)) {
        _ if is_interrupted() => {
            eprintln!("error: interrupted; what was made is removed");
            child::INTERRUPTED
        }
        Ok(()) => 0,
        Err(_) => FAILED,
    }
}

/// What failed, and where. What an interrupt ended, a program that writes rules for example, is not
/// told as a failure.
fn tell(panic: &PanicHookInfo<'_>) {
    if is_interrupted() {
        return;
    }
    let why = panic.payload_as_str().unwrap_or("a failure without words");
    let why: Vec<&str> = why.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let place = panic.location().map(|place| format!(" ({place})")).unwrap_or_default();
    eprintln!("error: {}{place}", why.join("; "));
}

/// From now on signals end this process no more, and checks see them.
fn watch() {
    let (ready, watching) = channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
        runtime.block_on(async {
            let mut interrupt = signal(SignalKind::interrupt()).unwrap();
            let mut terminate = signal(SignalKind::terminate()).unwrap();
            ready.send(()).unwrap();
            loop {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
                if WAS_INTERRUPTED.swap(true, Ordering::Relaxed) {
                    eprintln!("error: interrupted twice; the next suite removes what was made");
                    std::process::exit(i32::from(child::INTERRUPTED));
                }
            }
        });
    });
    watching.recv().unwrap();
}
