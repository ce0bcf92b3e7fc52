//! Interrupts as something to wait for, so that who is interrupted can clean up.

use std::io;
use std::process::ExitCode;

use anyhow::Result;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// What a shell calls the end of a program that was interrupted.
const STATUS: u8 = 130;

/// Does a program's work, which is told of interrupts and then removes what it made, and says on
/// standard error how it failed. The status is 130 after an interrupt, and `failed` after anything
/// else that went wrong.
pub async fn end_of(
    failed: u8,
    work: impl AsyncFnOnce(watch::Receiver<bool>) -> Result<()>,
) -> ExitCode {
    let interrupted = match watch_interrupts() {
        Ok(interrupted) => interrupted,
        Err(error) => {
            eprintln!("error: cannot watch signals: {error}");
            return ExitCode::from(failed);
        }
    };
    let ended = work(interrupted.clone()).await;
    match ended {
        _ if *interrupted.borrow() => {
            eprintln!("error: interrupted; what was made is removed");
            ExitCode::from(STATUS)
        }
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(failed)
        }
    }
}

/// True as soon as this process was sent SIGINT or SIGTERM, which end it no more from now on.
fn watch_interrupts() -> io::Result<watch::Receiver<bool>> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let (tell, interrupted) = watch::channel(false);
    tokio::spawn(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        tell.send_replace(true);
        // Nobody hears of the end of this task.
        std::future::pending::<()>().await;
    });
    Ok(interrupted)
}
