//! The number by which the kernel tells a program which network namespace a socket is in.
//!
//! Guarantees: it is the one that `bpf_get_netns_cookie` gives in the namespace of the calling
//! thread, on every kernel that the data plane runs on; what finding it out takes is gone
//! afterwards.

use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::Path;

use nix::libc;
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};

use super::syscall::{self, AttachPoint, instruction};

/// The cookie of the calling thread's network namespace. `cgroup` is any directory of the cgroup2
/// hierarchy that this process is in.
pub(super) fn cookie(cgroup: &Path) -> io::Result<u64> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    // Linux 5.14, socket(7).
    match socket_cookie(socket.as_fd(), libc::SO_NETNS_COOKIE) {
        Err(error) if error.raw_os_error() == Some(libc::ENOPROTOOPT) => told(cgroup, &socket),
        answered => answered,
    }
}

/// A number that the kernel has for a socket (`SO_COOKIE`) or for its network namespace
/// (`SO_NETNS_COOKIE`).
pub(super) fn socket_cookie(socket: BorrowedFd<'_>, option: i32) -> io::Result<u64> {
    let (mut cookie, mut length) = (0_u64, size_of::<u64>() as libc::socklen_t);
    // SAFETY: the kernel writes as many bytes as `length` says to a value of that size.
    let status = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if status == 0 { Ok(cookie) } else { Err(io::Error::last_os_error()) }
}

/// Has a program of our own tell it, which sees this one socket connect and is gone then. No packet
/// is sent.
fn told(cgroup: &Path, socket: &UdpSocket) -> io::Result<u64> {
    // Whoever it belongs to, this process is below it.
    let whole = cgroup.ancestors().take_while(|directory| is_cgroup2(directory)).last();
    let whole = std::fs::File::open(whole.unwrap_or(cgroup))?;
    let notes = syscall::create_array(size_of::<u64>(), 1)?;
    let number = socket_cookie(socket.as_fd(), libc::SO_COOKIE)?;
    let connect = AttachPoint::Connect4;
    let program = syscall::load_program(Some(connect), &note_of(number, notes.as_fd()))?;
    let link = syscall::create_link(program.as_fd(), whole.as_raw_fd() as u32, connect)?;
    // The program has run by the time that this fails for want of a route.
    let _ = socket.connect((Ipv4Addr::LOCALHOST, 9));
    drop(link);
    let mut noted = [0; size_of::<u64>()];
    syscall::lookup(notes.as_fd(), &0_u32.to_ne_bytes(), &mut noted)?;
    match u64::from_ne_bytes(noted) {
        0 => Err(io::Error::other("no program saw this process connect: it is in another cgroup")),
        cookie => Ok(cookie),
    }
}

fn is_cgroup2(directory: &Path) -> bool {
    statfs(directory).is_ok_and(|found| found.filesystem_type() == CGROUP2_SUPER_MAGIC)
}

/// A program that notes the cookie of the namespace in which the socket with this number connects,
/// and allows whatever any socket does.
fn note_of(socket: u64, notes: BorrowedFd<'_>) -> [u64; 12] {
    use instruction::{ALLOW, EXIT, call, constant, copy, skip_unless_equal, store, value_of};
    const GET_SOCKET_COOKIE: u64 = 46;
    const GET_NETNS_COOKIE: u64 = 122;
    let [number, number_more] = constant(2, socket);
    let [place, place_more] = value_of(1, notes);
    [
        copy(6, 1),
        call(GET_SOCKET_COOKIE),
        number,
        number_more,
        skip_unless_equal(0, 2, 5),
        copy(1, 6),
        call(GET_NETNS_COOKIE),
        place,
        place_more,
        store(1, 0),
        ALLOW,
        EXIT,
    ]
}

#[cfg(test)]
mod tests {
    use super::super::tests::cgroup2;
    use super::*;

    /// As kernels below 5.14 must find it out, on one that also knows the other way.
    #[test]
    #[ignore = "needs root; run by `cargo xtask test` as root"]
    fn a_program_of_ours_tells_the_same_as_the_socket_option() {
        let in_new_namespace = || {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            // Neither a route nor the loopback device is there.
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
            (told(&cgroup2(), &socket).unwrap(), cookie(&cgroup2()).unwrap())
        };
        let [first, second] =
            [(); 2].map(|()| std::thread::spawn(in_new_namespace).join().unwrap());
        assert_eq!(first.0, first.1);
        assert_eq!(second.0, second.1);
        assert_ne!(first.0, second.0);
    }

    #[test]
    fn a_directory_of_no_cgroup_is_an_error_that_says_so() {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        assert!(told(Path::new("/nowhere"), &socket).is_err());
        assert!(!is_cgroup2(Path::new("/proc")));
    }
}
