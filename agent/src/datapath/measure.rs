//! What programs cost: those of sockets by the kernel's own account, those of packets by running
//! them again and again.
//!
//! Guarantees: reads what the kernel counted while its statistics were on (see
//! [`aya::sys::enable_stats`]); attaches only to the cgroup that it is given, and only as long as
//! the value lives. Used by benchmarks, never by a running agent.

mod repeat;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use super::Datapath;
use super::programs::SOCKET_PROGRAMS;
use super::syscall;
use super::syscall::instruction::{ALLOW, EXIT};
pub use repeat::{Instructions, Repeat, Repeated};

/// How often a program ran, and how long all in all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Runs {
    pub count: u64,
    pub time: Duration,
}

impl Runs {
    /// From the kernel's description of an open program.
    fn of(program: BorrowedFd<'_>) -> io::Result<Self> {
        let path = format!("/proc/self/fdinfo/{}", program.as_raw_fd());
        let text = std::fs::read_to_string(path)?;
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|value| value.trim().parse().ok())
                .ok_or_else(|| io::Error::other(format!("no {name} in a program's fdinfo")))
        };
        Ok(Self { count: field("run_cnt:")?, time: Duration::from_nanos(field("run_time_ns:")?) })
    }
}

impl Datapath {
    /// What the socket program `name` (for example `connect4`) has cost so far.
    pub fn socket_program_runs(&self, name: &'static str) -> io::Result<Runs> {
        Runs::of(self.programs.fd(name).map_err(io::Error::other)?)
    }
}

/// Programs that do nothing, at the hooks of the socket programs: what remains is what calling a
/// program and measuring it cost.
#[derive(Debug)]
pub struct EmptyPrograms(Vec<(&'static str, OwnedFd, OwnedFd)>);

impl EmptyPrograms {
    /// Attached to a cgroup2 directory until they are dropped.
    pub fn attach(cgroup: &Path) -> io::Result<Self> {
        let directory = File::open(cgroup)?;
        let target = directory.as_raw_fd() as u32;
        let programs = SOCKET_PROGRAMS.into_iter().map(|(name, point)| {
            let program = syscall::load_program(Some(point), &[ALLOW, EXIT])?;
            let link = syscall::create_link(program.as_fd(), target, point)?;
            Ok((name, program, link))
        });
        programs.collect::<io::Result<_>>().map(Self)
    }

    /// As [`Datapath::socket_program_runs`].
    pub fn runs(&self, name: &str) -> io::Result<Runs> {
        match self.0.iter().find(|(known, ..)| *known == name) {
            Some((_, program, _)) => Runs::of(program.as_fd()),
            None => Err(io::Error::other(format!("no socket program {name}"))),
        }
    }
}
