//! What must hold before an agent may start. Each failure is one line that says what to do.
//!
//! Guarantees: nothing is made or changed.

use std::{
    fs, io,
    os::unix::{fs::MetadataExt, net::UnixStream},
    path::{Path, PathBuf},
};

use bowline_api::quantity::Quantity;
use nix::sys::{
    socket::{getsockopt, sockopt::PeerCredentials},
    statfs::{CGROUP2_SUPER_MAGIC, statfs},
};

use crate::{
    config::{Config, DNS_ADDRESS, DNS_ADDRESS_V6},
    datapath::missing_features,
    dns::InvalidDnsOption,
    network::masquerade,
};

/// The agent cannot run here.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PreflightFailed {
    #[error("the agent needs root: start it with sudo")]
    NotRoot,
    #[error("kernel {release} is too old: 5.10 or newer is needed; it lacks {missing}")]
    OldKernel { release: String, missing: String },
    #[error(
        "{} is not a cgroup v2 directory: mount cgroup2 or name one with --socket-cgroup",
        .0.display()
    )]
    NoCgroup2(PathBuf),
    #[error("there is no containerd at {}: install and start it", .0.display())]
    NoContainerd(PathBuf),
    #[error("containerd at {} does not answer ({source}): start it", socket.display())]
    ContainerdStopped { socket: PathBuf, source: io::Error },
    #[error(
        "containerd cannot see what the agent mounts under {}: start the agent in the mount \
         namespace of containerd (no PrivateMounts, no `ip netns exec`)",
        .0.display()
    )]
    OtherMounts(PathBuf),
    #[error("{value:?} is not a quantity for {option}, such as 4 or 16Gi")]
    BadQuantity { option: &'static str, value: String },
    #[error(transparent)]
    Dns(#[from] InvalidDnsOption),
    #[error("--masquerade needs the program nft: install nftables")]
    NoNft,
    #[error("{0:?} cannot be the name of a node: lower case letters, digits, '-' and '.' only")]
    BadName(String),
}

/// Checks everything that can be checked without making anything.
pub(crate) fn check(config: &Config) -> Result<(), PreflightFailed> {
    check_name(&config.node_name)?;
    let own = [DNS_ADDRESS.into(), DNS_ADDRESS_V6.into(), config.cluster_dns.into()];
    config.dns.check(&own, &config.cluster_domain)?;
    for (option, value) in
        [("--node-cpu", &config.node_cpu), ("--node-memory", &config.node_memory)]
    {
        if let Some(value) = value
            && value.parse::<Quantity>().map_or(true, |q| q.is_negative() || q.is_zero())
        {
            return Err(PreflightFailed::BadQuantity { option, value: value.clone() });
        }
    }
    if !nix::unistd::geteuid().is_root() {
        return Err(PreflightFailed::NotRoot);
    }
    check_kernel(kernel_release(), missing_features())?;
    if config.masquerade && !is_in_path(masquerade::PROGRAM) {
        return Err(PreflightFailed::NoNft);
    }
    let cgroup = &config.socket_cgroup;
    if !statfs(cgroup).is_ok_and(|stat| stat.filesystem_type() == CGROUP2_SUPER_MAGIC) {
        return Err(PreflightFailed::NoCgroup2(cgroup.clone()));
    }
    check_containerd(&config.containerd_socket, &config.run_dir)
}

fn check_name(name: &str) -> Result<(), PreflightFailed> {
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    let sound = name.len() <= 253
        && edge(name.chars().next())
        && edge(name.chars().last())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "-.".contains(c));
    if sound { Ok(()) } else { Err(PreflightFailed::BadName(name.to_owned())) }
}

fn is_in_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
}

fn check_containerd(socket: &Path, run_dir: &Path) -> Result<(), PreflightFailed> {
    let stream = UnixStream::connect(socket).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => PreflightFailed::NoContainerd(socket.to_owned()),
        _ => PreflightFailed::ContainerdStopped { socket: socket.to_owned(), source },
    })?;
    let Ok(peer) = getsockopt(&stream, PeerCredentials) else { return Ok(()) };
    let namespace = |pid: &str| fs::metadata(format!("/proc/{pid}/ns/mnt")).map(|m| m.ino());
    // A peer in another PID namespace (0) cannot be looked up; then nobody can tell.
    match (namespace("self"), namespace(&peer.pid().to_string())) {
        (Ok(own), Ok(theirs)) if own != theirs => {
            Err(PreflightFailed::OtherMounts(run_dir.to_owned()))
        }
        _ => Ok(()),
    }
}

/// The release of the running kernel.
pub(crate) fn kernel_release() -> String {
    nix::sys::utsname::uname()
        .map(|uname| uname.release().to_string_lossy().into_owned())
        .unwrap_or_default()
}

/// The name of a kernel says little: it counts what it has.
fn check_kernel(release: String, missing: String) -> Result<(), PreflightFailed> {
    if missing.is_empty() { Ok(()) } else { Err(PreflightFailed::OldKernel { release, missing }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_kernel_is_told_what_it_lacks() {
        check_kernel("5.10.0-32-cloud-amd64".to_owned(), String::new()).unwrap();
        let missing = "redirect-peer (Linux 5.10)".to_owned();
        let error = check_kernel("5.4.0".to_owned(), missing).unwrap_err().to_string();
        let expected = "kernel 5.4.0 is too old: 5.10 or newer is needed; it lacks redirect-peer";
        assert!(error.starts_with(expected), "{error}");
    }

    #[test]
    fn a_containerd_that_is_missing_or_stopped_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("containerd.sock");
        let missing = check_containerd(&socket, dir.path()).unwrap_err().to_string();
        assert_eq!(
            missing,
            format!("there is no containerd at {}: install and start it", socket.display())
        );
        drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
        let stopped = check_containerd(&socket, dir.path()).unwrap_err().to_string();
        assert!(stopped.starts_with("containerd at") && stopped.contains("refused"), "{stopped}");
        drop(fs::remove_file(&socket));
        let _living = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        check_containerd(&socket, dir.path()).unwrap();
    }

    #[test]
    fn what_was_asked_for_is_checked_before_the_machine_is() {
        let config = Config::new("node1", "https://172.30.0.1:6443");
        let bad = |change: fn(&mut Config)| {
            let mut config = config.clone();
            change(&mut config);
            check(&config).unwrap_err().to_string()
        };
        assert!(bad(|c| c.node_cpu = Some("four".to_owned())).contains("--node-cpu"));
        assert!(bad(|c| c.node_memory = Some("-1Gi".to_owned())).contains("--node-memory"));
        assert!(bad(|c| c.node_name = "Node1".to_owned()).contains("\"Node1\""));
    }
}
