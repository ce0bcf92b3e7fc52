//! An interrupted suite removes what it made.
//!
//! Guarantees: after SIGINT or SIGTERM the suite unwinds at its next [`check`], so that what it
//! holds is dropped; the status is 130 then. `cargo xtask bench` sees to it that SIGTERM comes when
//! xtask is killed.
//!
//! Does not: end what is under way between two checks.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind, set_hook, take_hook};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;

use tokio::signal::unix::{SignalKind, signal};

/// What a shell calls the end of a program that was interrupted.
const STATUS: u8 = 130;

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

fn is_interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
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
    // What an interrupt ended, a program that writes rules for example, is not told as a failure.
    let told = take_hook();
    set_hook(Box::new(move |panic| {
        if !is_interrupted() {
            told(panic);
        }
    }));
    match catch_unwind(AssertUnwindSafe(suite)) {
        _ if is_interrupted() => {
            eprintln!("error: interrupted; what was made is removed");
            STATUS
        }
        Ok(()) => 0,
        Err(panic) => resume_unwind(panic),
    }
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
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            INTERRUPTED.store(true, Ordering::Relaxed);
        });
    });
    watching.recv().unwrap();
}
