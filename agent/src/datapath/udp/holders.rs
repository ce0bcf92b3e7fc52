//! The processes of the node: where their network is, and which of them holds a socket.
//!
//! Guarantees: a process that ends meanwhile is passed over, and so is a cgroup that is removed. A
//! network namespace that was seen stays reachable, whoever in it ends.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::libc;

/// A process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Process(i32);

/// A descriptor of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Descriptor {
    process: Process,
    number: i32,
}

/// The processes below a cgroup, by network namespace.
#[derive(Debug, Default)]
pub(super) struct Processes {
    /// By the namespace's inode: the namespace, and who is in it.
    namespaces: BTreeMap<u64, (File, Vec<Process>)>,
}

impl Processes {
    /// All below a cgroup2 directory.
    pub(super) fn below(cgroup: &Path) -> io::Result<Self> {
        let mut found = Self::default();
        let mut directories = vec![cgroup.to_path_buf()];
        while let Some(directory) = directories.pop() {
            // A cgroup may be removed at any time.
            let Ok(members) = fs::read_to_string(directory.join("cgroup.procs")) else { continue };
            for process in members.lines().filter_map(|line| line.parse().ok()) {
                found.add(Process(process))?;
            }
            let Ok(entries) = fs::read_dir(&directory) else { continue };
            let children =
                entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
            directories.extend(children.map(|entry| entry.path()));
        }
        Ok(found)
    }

    /// Threads of one process may live in several namespaces, and may end at any time.
    fn add(&mut self, process: Process) -> io::Result<()> {
        let Ok(threads) = fs::read_dir(format!("/proc/{}/task", process.0)) else { return Ok(()) };
        for thread in threads.flatten() {
            let path = thread.path().join("ns/net");
            let Ok(inode) = fs::metadata(&path).map(|found| found.ino()) else { continue };
            if let Some((_, members)) = self.namespaces.get_mut(&inode) {
                if members.last() != Some(&process) {
                    members.push(process);
                }
                continue;
            }
            match File::open(&path).and_then(|file| Ok((file.metadata()?.ino(), file))) {
                Ok((inode, file)) => drop(self.namespaces.insert(inode, (file, vec![process]))),
                Err(error) if no_more_files(&error) => return Err(error),
                Err(_) => {}
            }
        }
        Ok(())
    }

    /// Each network namespace, with the processes in it.
    pub(super) fn namespaces(&self) -> impl Iterator<Item = (&File, &[Process])> {
        self.namespaces.values().map(|(file, members)| (file, members.as_slice()))
    }

    /// Who holds the socket, wherever he is.
    pub(super) fn holder_of(&self, inode: u32) -> Option<Descriptor> {
        let all = self.namespaces.values().flat_map(|(_, members)| members);
        all.into_iter().find_map(|process| process.socket(inode))
    }
}

impl Process {
    /// The descriptor by which the process holds the socket with this inode.
    pub(super) fn socket(self, inode: u32) -> Option<Descriptor> {
        let wanted = format!("socket:[{inode}]");
        let descriptors = fs::read_dir(format!("/proc/{}/fd", self.0)).ok()?;
        descriptors.flatten().find_map(|entry| {
            let target = fs::read_link(entry.path()).ok()?;
            let number = entry.file_name().to_str()?.parse().ok()?;
            (target.as_os_str() == wanted.as_str()).then_some(Descriptor { process: self, number })
        })
    }
}

impl Descriptor {
    /// A descriptor of our own for the same open file (pidfd_getfd(2), Linux 5.6).
    pub(super) fn duplicate(self) -> io::Result<OwnedFd> {
        let process = owned(|| {
            // SAFETY: the call takes two integers.
            unsafe { libc::syscall(libc::SYS_pidfd_open, self.process.0, 0) }
        })?;
        owned(|| {
            use std::os::fd::AsRawFd;
            // SAFETY: the call takes three integers.
            unsafe { libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), self.number, 0) }
        })
    }
}

/// Whether this process has too many files open, which says nothing about what was opened.
fn no_more_files(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
}

fn owned(call: impl FnOnce() -> libc::c_long) -> io::Result<OwnedFd> {
    let result = call();
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just made this descriptor for us and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(result as i32) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;

    #[test]
    fn a_socket_is_found_by_its_inode_and_shared() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let inode = nix::sys::stat::fstat(&socket).unwrap().st_ino as u32;
        let mut processes = Processes::default();
        processes.add(Process(std::process::id() as i32)).unwrap();
        let holder = processes.holder_of(inode).unwrap();
        let duplicate = UdpSocket::from(holder.duplicate().unwrap());
        assert_eq!(duplicate.local_addr().unwrap(), socket.local_addr().unwrap());
        assert_eq!(processes.holder_of(1), None);
    }

    #[test]
    #[ignore = "needs root; run by `cargo xtask test` as root"]
    fn a_namespace_stays_reachable_when_the_thread_that_led_to_it_ends() {
        use nix::sched::{CloneFlags, setns, unshare};
        use std::sync::mpsc::channel;
        let (there, seen) = (channel(), channel::<()>());
        let thread = std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            let own = fs::metadata("/proc/thread-self/ns/net").unwrap().ino();
            there.0.send((own, UdpSocket::bind("0.0.0.0:0").unwrap())).unwrap();
            let _ = seen.1.recv();
        });
        let (inode, _socket) = there.1.recv().unwrap();
        let mut processes = Processes::default();
        processes.add(Process(std::process::id() as i32)).unwrap();
        seen.0.send(()).unwrap();
        thread.join().unwrap();
        let found =
            processes.namespaces().find(|(file, _)| file.metadata().unwrap().ino() == inode);
        let (file, members) = found.unwrap();
        assert_eq!(members, [Process(std::process::id() as i32)]);
        std::thread::scope(|scope| {
            scope.spawn(|| setns(file, CloneFlags::CLONE_NEWNET).unwrap()).join().unwrap();
        });
    }
}
