//! Figures of benchmarks: what a suite measured, how sure that is, and how it is shown.
//!
//! Every suite writes one format ([`results`]) into one folder; [`page`] makes a page of all that
//! is there, and a summary for a README; [`compare`] tells two runs apart, and [`command`] is the
//! command line. Not here: what a suite does, and how its program is built.

pub mod child;
pub mod command;
pub mod compare;
mod gate;
pub mod page;
mod plot;
pub mod read;
pub mod results;
pub mod screen;
mod suites;
mod summary;
pub mod table;
#[cfg(test)]
mod tests;

use std::process::ExitCode;

/// What comparing or checking found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Good,
    /// Something got worse or does not hold: in one line.
    Bad(String),
}

impl Outcome {
    /// The exit status, as diff and grep have it: 1 for what is bad, 2 for what could not be found
    /// out; and the line that says why.
    pub fn status(outcome: anyhow::Result<Self>) -> (u8, Option<String>) {
        match outcome {
            Ok(Self::Good) => (0, None),
            Ok(Self::Bad(why)) => (1, Some(why)),
            Err(error) => (2, Some(format!("{error:#}"))),
        }
    }

    /// Ends a program with it; the line goes to standard error.
    pub fn exit(outcome: anyhow::Result<Self>) -> ExitCode {
        let (status, error) = Self::status(outcome);
        if let Some(error) = error {
            eprintln!("error: {error}");
        }
        ExitCode::from(status)
    }
}
