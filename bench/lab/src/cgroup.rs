//! The cgroup whose sockets a node's data plane balances, and one beside it that is as deep.
//!
//! Guarantees: both go with their value, after everybody of this process has left them. Does not
//! move other processes.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub(crate) fn mount() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let line = mounts.lines().find(|line| line.contains(" - cgroup2 "))?;
    line.split(' ').nth(4).map(PathBuf::from)
}

/// A cgroup that this process or threads of it can enter, and leave again when it is dropped.
pub struct Cgroup {
    /// Where sockets are balanced that are made in it.
    pub path: PathBuf,
    /// A process whose threads enter `path` one by one is here, where nothing is balanced.
    around: PathBuf,
    home: PathBuf,
}

/// Where sockets are balanced, within the cgroup that is made.
const BALANCED: &str = "balanced";
/// Where they are not. It is as deep: the kernel counts what waits for what in each cgroup above a
/// thread, at each switch.
const BESIDE: &str = "beside";
/// So often it is tried to remove them, with such a pause: who left may not be gone yet.
const ATTEMPTS: u32 = 50;
const PAUSE: Duration = Duration::from_millis(20);

impl Cgroup {
    pub(crate) fn new(name: &str) -> Self {
        let mount = mount().unwrap();
        let own = fs::read_to_string("/proc/self/cgroup").unwrap();
        let own = own.lines().find_map(|line| line.strip_prefix("0::/")).unwrap();
        let around = mount.join(name);
        let path = around.join(BALANCED);
        fs::create_dir_all(&path).unwrap();
        Self { path, around, home: mount.join(own) }
    }

    /// Where nothing is balanced for threads that are like those in `path` otherwise.
    pub fn beside(&self) -> PathBuf {
        self.around.join(BESIDE)
    }

    /// From now on new sockets of this process are balanced.
    pub fn enter(&self) {
        fs::write(self.path.join("cgroup.procs"), std::process::id().to_string()).unwrap();
    }

    /// From now on threads of this process may enter by themselves. Nobody may be in it; and which
    /// processes are in it cannot be read any more, which moving connected UDP sockets needs.
    pub fn open_to_threads(&self) {
        fs::create_dir(self.beside()).unwrap();
        for path in [&self.path, &self.beside()] {
            fs::write(path.join("cgroup.type"), "threaded").unwrap();
        }
        fs::write(self.around.join("cgroup.procs"), std::process::id().to_string()).unwrap();
    }

    pub fn leave(&self) {
        fs::write(self.home.join("cgroup.procs"), std::process::id().to_string()).unwrap();
    }
}

/// From now on new sockets of this thread, and of those that it starts, are those of this cgroup,
/// which was [opened](Cgroup::open_to_threads) to them.
pub fn enter_as_thread(cgroup: &Path) {
    fs::write(cgroup.join("cgroup.threads"), "0").unwrap();
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        self.leave();
        for _ in 0..ATTEMPTS {
            if remove(&self.around).is_ok() {
                return;
            }
            std::thread::sleep(PAUSE);
        }
    }
}

/// A cgroup is removed as an empty directory, whatever files it shows.
pub(crate) fn remove(around: &Path) -> std::io::Result<()> {
    for name in [BALANCED, BESIDE] {
        let _ = fs::remove_dir(around.join(name));
    }
    fs::remove_dir(around)
}
