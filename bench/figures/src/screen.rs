//! How far a suite is. All suites show it, those of the agent, too.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// One moving line on a terminal, which is taken away at the end; elsewhere a line for each part
/// that begins.
pub struct Screen(ProgressBar);

impl Screen {
    pub fn open() -> Self {
        let bar = ProgressBar::new_spinner();
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}  {elapsed}") {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(100));
        Self(bar)
    }

    /// What is measured from now on.
    pub fn begin(&self, what: impl Into<String>) {
        let what = what.into();
        if self.0.is_hidden() {
            eprintln!("{what}");
        } else {
            self.0.set_message(what);
            self.0.reset_elapsed();
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
