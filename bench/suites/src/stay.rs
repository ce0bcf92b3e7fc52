//! On which CPU things are measured.

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

/// From now on this thread and those that it starts stay on the last CPU: what they measure then
/// finds its memory where the batch before left it.
pub(crate) fn stay() {
    let last = std::thread::available_parallelism().map_or(1, usize::from) - 1;
    let mut cpus = CpuSet::new();
    cpus.set(last).unwrap();
    // A machine that does not allow it is measured without.
    let _ = sched_setaffinity(Pid::from_raw(0), &cpus);
}
