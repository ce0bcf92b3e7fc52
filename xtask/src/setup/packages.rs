//! The Debian packages, and what each of them is for.

use std::process::Command;

use anyhow::{Result, bail};

use super::Scope;
use crate::{process, workspace};

/// One package and its reason.
pub(crate) struct Package {
    pub(crate) name: &'static str,
    pub(crate) purpose: &'static str,
    /// Only needed to compile BPF, which another compiler may be able to do.
    bpf_compiler: bool,
    /// Only needed to boot other kernels.
    kernels: bool,
}

const fn package(name: &'static str, purpose: &'static str) -> Package {
    Package { name, purpose, bpf_compiler: false, kernels: false }
}

const fn compiler(name: &'static str, purpose: &'static str) -> Package {
    Package { name, purpose, bpf_compiler: true, kernels: false }
}

const fn guest(name: &'static str, purpose: &'static str) -> Package {
    Package { name, purpose, bpf_compiler: false, kernels: true }
}

const PACKAGES: &[Package] = &[
    package("containerd", "the container runtime that agents drive"),
    package("runc", "starts the containers for containerd"),
    package("protobuf-compiler", "compiles containerd's gRPC interface during the build"),
    package("busybox-static", "the shell and tools inside the demo's images"),
    package("docker-registry", "the OCI registry from which the demo's nodes pull"),
    package("umoci", "makes OCI images without a daemon"),
    package("skopeo", "pushes the images to the registry"),
    package("iproute2", "ip: looks at namespaces and cuts a link in tests"),
    package("iputils-ping", "ping: full-size packets and fragments between pods in tests"),
    package("ethtool", "shows the offloads of links in tests"),
    package("traceroute", "shows every hop between pods in tests"),
    package("util-linux", "nsenter, setpriv and unshare for tests"),
    package("nftables", "nft: shows that no rule exists"),
    package("iptables", "iptables-save: shows that no rule exists"),
    package("dnsutils", "dig: asks the cluster's DNS by hand"),
    package("openssl", "makes a certificate for a secret in a test"),
    package("curl", "a client of services in tests"),
    package("iperf3", "a client of services in tests, and a load"),
    package("python3", "a client of services in tests that uses plain sockets"),
    package("python3-venv", "makes the environment of the Python client of Kubernetes for a test"),
    package(
        "prometheus",
        "scrapes the server and the agents in a test; promtool checks what they say",
    ),
    package("tshark", "reads captures in a test"),
    package("dnsmasq-base", "dnsmasq: stands for the DNS servers of others in tests"),
    guest("qemu-system-x86", "boots old and new kernels, emulated in software"),
    guest("kmod", "depmod: the order in which a kernel's modules load"),
    guest("xz-utils", "unpacks kernel modules"),
    guest("binutils", "strip: makes the guests' test binary small"),
    compiler("rustc-web", "a Rust compiler with a BPF back end"),
    compiler("libstd-rust-web-dev-bpf", "Rust's core library, built for BPF"),
    package("llvm-22-dev", "LLVM, against which bpf-linker is built"),
    package("libpolly-22-dev", "a part of LLVM that linking it needs"),
    package("libzstd-dev", "compression library that LLVM needs"),
    package("zlib1g-dev", "compression library that LLVM needs"),
];

/// Packages that are not installed; those of the BPF compiler only when there is no other,
/// those of guests only for them.
pub(crate) fn missing(have_bpf_compiler: bool, scope: Scope) -> Result<Vec<&'static Package>> {
    if workspace::find_program("dpkg-query").is_none() {
        let names: Vec<_> = PACKAGES.iter().map(|p| p.name).collect();
        bail!(
            "this is not a Debian system: install what these Debian packages hold by hand and \
             run again with --skip-setup: {}",
            names.join(" ")
        );
    }
    let have_linker = workspace::find_program("bpf-linker").is_some();
    Ok(missing_of(have_bpf_compiler, have_linker, scope, is_installed))
}

fn missing_of(
    have_bpf_compiler: bool,
    have_linker: bool,
    scope: Scope,
    is_installed: impl Fn(&str) -> bool,
) -> Vec<&'static Package> {
    PACKAGES
        .iter()
        .filter(|p| scope == Scope::Kernels || !p.kernels)
        .filter(|p| !(p.bpf_compiler && have_bpf_compiler))
        .filter(|p| !(have_linker && is_for_linker(p)))
        .filter(|p| !is_installed(p.name))
        .collect()
}

/// Needed to build bpf-linker, and for nothing once it is there and has its shared libraries.
fn is_for_linker(package: &Package) -> bool {
    package.name.ends_with("-dev") && !package.bpf_compiler
}

fn is_installed(name: &str) -> bool {
    process::output(Command::new("dpkg-query").args(["-W", "-f", "${db:Status-Status}", name]))
        .is_ok_and(|status| status.trim() == "installed")
}

/// Install what is missing, with apt, without a question.
pub(crate) fn install(have_bpf_compiler: bool, scope: Scope) -> Result<()> {
    let missing = missing(have_bpf_compiler, scope)?;
    if missing.is_empty() {
        eprintln!("packages: all there");
        return Ok(());
    }
    eprintln!("packages to install:");
    for package in &missing {
        eprintln!("  {:<24} {}", package.name, package.purpose);
    }
    if !workspace::is_root() {
        let names: Vec<_> = missing.iter().map(|p| p.name).collect();
        bail!("installing packages needs root: run `apt-get install {}`", names.join(" "));
    }
    apt_calls(&missing).iter().try_for_each(|args| apt(args))
}

/// What apt-get is asked for: nothing when nothing is missing.
fn apt_calls<'a>(missing: &[&'a Package]) -> Vec<Vec<&'a str>> {
    if missing.is_empty() {
        return Vec::new();
    }
    let mut install = vec!["install", "-q", "-y", "--no-install-recommends"];
    install.extend(missing.iter().map(|p| p.name));
    vec![vec!["update", "-q"], install]
}

fn apt(args: &[&str]) -> Result<()> {
    process::run(Command::new("apt-get").env("DEBIAN_FRONTEND", "noninteractive").args(args))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const SCOPES: [Scope; 3] = [Scope::Demo, Scope::Test, Scope::Kernels];

    #[test]
    fn every_package_has_one_entry_and_a_purpose() {
        let names: BTreeSet<&str> = PACKAGES.iter().map(|package| package.name).collect();
        assert_eq!(names.len(), PACKAGES.len());
        for package in PACKAGES {
            assert!(package.purpose.split(' ').count() >= 3, "{}", package.name);
        }
    }

    #[test]
    fn where_all_is_there_nothing_is_installed() {
        for scope in SCOPES {
            let missing = missing_of(false, false, scope, |_| true);
            assert!(missing.is_empty() && apt_calls(&missing).is_empty());
        }
    }

    #[test]
    fn what_is_missing_is_installed_and_nothing_else() {
        let missing = missing_of(true, true, Scope::Test, |name| name != "runc");
        let install = ["install", "-q", "-y", "--no-install-recommends", "runc"];
        assert_eq!(apt_calls(&missing), [vec!["update", "-q"], install.into()]);
        let count = |compiler, linker, scope| missing_of(compiler, linker, scope, |_| false).len();
        assert_eq!(count(false, false, Scope::Kernels), PACKAGES.len());
        let guests = PACKAGES.iter().filter(|package| package.kernels).count();
        assert_eq!(count(false, false, Scope::Test), PACKAGES.len() - guests);
        let compilers = PACKAGES.iter().filter(|package| package.bpf_compiler).count();
        assert_eq!(count(true, false, Scope::Test), PACKAGES.len() - guests - compilers);
        let for_linker = PACKAGES.iter().filter(|package| is_for_linker(package)).count();
        assert_eq!(count(false, true, Scope::Test), PACKAGES.len() - guests - for_linker);
    }
}
