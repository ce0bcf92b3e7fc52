//! A terminal for a program: what is on its screen, what was written to it, and keys.

use std::fs::File;
use std::io::{Read, Write};
use std::num::NonZero;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bowline_tests::command::{command, output};
use nix::pty::{Winsize, openpty};
use nix::sys::termios::{LocalFlags, Termios, tcgetattr};

const PATIENCE: Duration = Duration::from_secs(20);

/// How a program enters the screen of its own, and leaves it; how it hides the cursor, and shows
/// it.
pub(crate) const ENTERS: &str = "\x1b[?1049h";
pub(crate) const LEAVES: &str = "\x1b[?1049l";
const HIDES: &str = "\x1b[?25l";
const SHOWS: &str = "\x1b[?25h";

fn cells(count: u16) -> Result<NonZero<u16>> {
    NonZero::new(count).context("no terminal")
}

/// A program at a terminal of its own.
pub(crate) struct Terminal {
    pub(crate) child: Child,
    keys: File,
    /// Kept open, so that the terminal outlives the program.
    inside: File,
    before: Termios,
    screen: Arc<Mutex<(vt100::Parser, Vec<u8>)>>,
}

impl Terminal {
    pub(crate) fn start(wanted: Command, rows: u16, columns: u16) -> Result<Self> {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        let pair = openpty(&size, None)?;
        let (keys, inside) = (File::from(pair.master), File::from(pair.slave));
        let before = tcgetattr(&inside)?;
        ensure!(before.local_flags.contains(LocalFlags::ECHO | LocalFlags::ICANON));
        // In a session of its own it is this terminal that it finds as its own.
        let mut command = command("setsid");
        command.arg("--ctty").arg(wanted.get_program()).args(wanted.get_args());
        command.env("TERM", "xterm-256color").env_remove("NO_COLOR");
        for (name, value) in wanted.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        let streams = [inside.try_clone()?, inside.try_clone()?, inside.try_clone()?];
        let [stdin, stdout, stderr] = streams.map(Stdio::from);
        let child = command.stdin(stdin).stdout(stdout).stderr(stderr).spawn()?;
        let parser = vt100::Parser::new(cells(rows)?, cells(columns)?, 0);
        let screen = Arc::new(Mutex::new((parser, Vec::new())));
        let (theirs, mut from) = (screen.clone(), keys.try_clone()?);
        // It ends with the terminal.
        std::thread::spawn(move || {
            let mut some = [0; 4096];
            while let Ok(count) = from.read(&mut some)
                && count > 0
            {
                let mut screen = theirs.lock().unwrap_or_else(PoisonError::into_inner);
                screen.0.process(&some[..count]);
                screen.1.extend(&some[..count]);
            }
        });
        Ok(Self { child, keys, inside, before, screen })
    }

    pub(crate) fn contents(&self) -> String {
        self.screen.lock().unwrap_or_else(PoisonError::into_inner).0.screen().contents()
    }

    /// All that it wrote.
    pub(crate) fn raw(&self) -> String {
        let screen = self.screen.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&screen.1).into_owned()
    }

    pub(crate) fn until(&mut self, what: &str, is: impl Fn(&str) -> bool) -> Result<()> {
        let start = Instant::now();
        while !is(&self.contents()) {
            if let Some(status) = self.child.try_wait()? {
                bail!("it ended with {status} before {what}: {}", self.raw());
            }
            ensure!(start.elapsed() < PATIENCE, "not {what} in:\n{}", self.contents());
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    pub(crate) fn shows(&mut self, word: &str) -> Result<()> {
        self.until(&format!("it shows `{word}`"), |screen| screen.contains(word))
    }

    pub(crate) fn hides(&mut self, word: &str) -> Result<()> {
        self.until(&format!("it hides `{word}`"), |screen| !screen.contains(word))
    }

    pub(crate) fn press(&mut self, keys: &str) -> Result<()> {
        Ok(self.keys.write_all(keys.as_bytes())?)
    }

    /// As when somebody changes the size of a window; the kernel tells the program.
    pub(crate) fn resize(&mut self, rows: u16, columns: u16) -> Result<()> {
        // What it draws then has room here.
        let mut screen = self.screen.lock().unwrap_or_else(PoisonError::into_inner);
        screen.0.screen_mut().set_size(cells(rows)?, cells(columns)?);
        drop(screen);
        let mut stty = command("stty");
        stty.args(["rows", &rows.to_string(), "columns", &columns.to_string()]);
        output(stty.stdin(self.inside.try_clone()?)).map(drop)
    }

    pub(crate) fn end(&mut self) -> Result<ExitStatus> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                // What it wrote last is still on its way.
                std::thread::sleep(Duration::from_millis(200));
                return Ok(status);
            }
            ensure!(start.elapsed() < PATIENCE, "it does not end:\n{}", self.contents());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    pub(crate) fn ended_well(mut self, by: &str) -> Result<()> {
        let status = self.end()?;
        ensure!(status.success(), "{status} after {by}: {}", self.raw());
        self.is_restored().with_context(|| by.to_owned())
    }

    /// The settings are those from before, the screen is the first one, and the cursor is there.
    pub(crate) fn is_restored(&self) -> Result<()> {
        self.has_its_settings()?;
        let raw = self.raw();
        ensure!(raw.contains(ENTERS), "it had no screen of its own: {raw:?}");
        ensure!(raw.rfind(LEAVES) > raw.rfind(ENTERS), "it left its screen on: {raw:?}");
        ensure!(raw.rfind(SHOWS) > raw.rfind(HIDES), "it left no cursor: {raw:?}");
        Ok(())
    }

    pub(crate) fn has_its_settings(&self) -> Result<()> {
        let now = tcgetattr(&self.inside)?;
        ensure!(now.local_flags == self.before.local_flags, "{:?}", now.local_flags);
        ensure!(now.input_flags == self.before.input_flags, "{:?}", now.input_flags);
        ensure!(now.output_flags == self.before.output_flags, "{:?}", now.output_flags);
        Ok(())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // Of one that ended nothing is left to end.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
