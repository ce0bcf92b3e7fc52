//! Interrupts as something to wait for, so that who is interrupted can clean up.

use std::io;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// What a shell calls the end of a program that was interrupted.
pub const STATUS: u8 = 130;

/// True as soon as this process was sent SIGINT or SIGTERM, which end it no more from now on.
pub fn watch_interrupts() -> io::Result<watch::Receiver<bool>> {
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
