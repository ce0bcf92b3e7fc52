//! Programs of the machine that run beside a test and say what they see.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, bail};

/// A program that runs until this value is dropped, and what it prints.
pub struct Running {
    process: Child,
    output: BufReader<ChildStdout>,
}

impl Running {
    /// Starts it.
    pub fn start(mut command: Command) -> Result<Self> {
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let output = BufReader::new(process.stdout.take().context("no output")?);
        Ok(Self { process, output })
    }

    /// Starts it and waits until it prints a line that starts with these words.
    pub fn until(command: Command, words: &str) -> Result<Self> {
        let mut running = Self::start(command)?;
        let mut said = String::new();
        while running.output.read_line(&mut said)? > 0 {
            if said.lines().any(|line| line.starts_with(words)) {
                return Ok(running);
            }
        }
        bail!("a program did not say {words:?} but {said:?}")
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Closes its input and gives the rest of what it prints.
    pub fn rest(&mut self) -> Result<String> {
        drop(self.process.stdin.take());
        let mut text = String::new();
        self.output.read_to_string(&mut text)?;
        Ok(text)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.process.kill());
        drop(self.process.wait());
    }
}
