//! The kernels: where Debian has them, and what of them a guest needs.
//!
//! Names of packages are looked up when one is downloaded, so that a security update needs no
//! change here. Which kernel is the newest is looked up again after a week.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};

use crate::debian::Suite;
use crate::{process, workspace};

/// A line of kernels and the suite that carries it.
pub(crate) struct Release {
    pub(crate) name: &'static str,
    suite: &'static str,
}

/// The one that moves.
pub(crate) const NEWEST: &str = "newest";

/// How long what was the newest kernel counts as such.
const FRESH: Duration = Duration::from_secs(7 * DAY);
const DAY: u64 = 24 * 60 * 60;

/// From the floor to the newest that Debian builds for a stable release.
pub(crate) const RELEASES: [Release; 4] = [
    Release { name: "5.10", suite: "bullseye-security" },
    Release { name: "6.1", suite: "bookworm-security" },
    Release { name: "6.12", suite: "trixie-security" },
    Release { name: NEWEST, suite: "trixie-backports" },
];

/// What `--kernel` takes.
pub(crate) const NAMES: [&str; 4] =
    [RELEASES[0].name, RELEASES[1].name, RELEASES[2].name, RELEASES[3].name];

/// The small kernels: built for virtual machines, with few drivers.
const PACKAGE: &str = "linux-image-cloud-amd64";

/// Modules that the data plane and its tests use; what these depend on comes with them.
const MODULES: [&str; 8] =
    ["veth", "bridge", "vxlan", "sch_ingress", "cls_bpf", "act_bpf", "tcp_diag", "udp_diag"];

/// A kernel that is ready to boot.
pub(crate) struct Kernel {
    /// As `--kernel` names it.
    pub(crate) name: &'static str,
    /// Its own name for itself, as `uname -r` gives it.
    pub(crate) version: String,
    pub(crate) image: PathBuf,
    /// Decompressed modules in the order in which they load.
    pub(crate) modules: Vec<PathBuf>,
    pub(crate) directory: PathBuf,
}

impl Release {
    /// Downloads and unpacks the kernel, unless it is there and no newer one is to be looked for.
    /// What is there is taken where looking fails.
    pub(crate) fn prepare(&self, update: bool) -> Result<Kernel> {
        let directory = workspace::target().join("kernels").join(self.name);
        let age = age(&directory.join(COMPLETE));
        if update || age.is_none_or(|age| self.is_stale(age)) {
            let looked = self.look(&directory, update);
            let looked =
                looked.with_context(|| format!("kernel {} from Debian {}", self.name, self.suite));
            match looked {
                Err(error) if age.is_some() && !update => {
                    eprintln!("WARNING: no newer kernel was looked for: {error:#}");
                }
                looked => looked?,
            }
        }
        let kernel = self.ready(directory)?;
        let days = self::age(&kernel.directory.join(COMPLETE)).unwrap_or_default().as_secs() / DAY;
        eprintln!("kernel {}: {}, looked up {days} days ago", self.name, kernel.version);
        Ok(kernel)
    }

    /// Whether a kernel that was looked up so long ago may not be the one any more.
    fn is_stale(&self, age: Duration) -> bool {
        self.name == NEWEST && age > FRESH
    }

    /// The kernel that lies in this directory.
    fn ready(&self, directory: PathBuf) -> Result<Kernel> {
        let read = |file: &str| {
            let path = directory.join(file);
            std::fs::read_to_string(&path)
                .with_context(|| format!("cannot read {}", path.display()))
        };
        Ok(Kernel {
            name: self.name,
            version: read(COMPLETE)?,
            image: directory.join("vmlinuz"),
            modules: read("modules")?.lines().map(|name| directory.join(name)).collect(),
            directory,
        })
    }

    /// Downloads what Debian has now, unless it is what is there (`anew`: also then). Until all of
    /// it is here, what was there stays.
    fn look(&self, directory: &Path, anew: bool) -> Result<()> {
        eprintln!("looking for kernel {} in Debian {}", self.name, self.suite);
        let fresh = directory.with_extension("new");
        if fresh.exists() {
            std::fs::remove_dir_all(&fresh)?;
        }
        std::fs::create_dir_all(&fresh)?;
        let suite = Suite::open(&fresh.join("apt"), self.suite)?;
        let mut packages = suite.dependencies(PACKAGE)?;
        // Newer kernels come as several packages; only those with a version in their names count.
        packages.retain(|name| {
            let numbered = name.bytes().any(|byte| byte.is_ascii_digit());
            name.starts_with("linux-") && name.contains("-cloud-") && numbered
        });
        packages.sort_unstable();
        packages.dedup();
        let names = packages.join("\n");
        let complete = directory.join(COMPLETE);
        let known = std::fs::read_to_string(directory.join(NAMES_OF_PACKAGES));
        if !anew && complete.is_file() && known.is_ok_and(|known| known == names) {
            std::fs::write(&complete, std::fs::read(&complete)?)?;
            return Ok(std::fs::remove_dir_all(&fresh)?);
        }
        eprintln!("downloading {}", packages.join(", "));
        let list: Vec<&str> = packages.iter().map(String::as_str).collect();
        let unpacked = suite.unpack(&list)?;
        let (version, modules) = take_modules(&unpacked, &fresh)?;
        let image = find(&unpacked, &|name| name.starts_with("vmlinuz"))
            .context("the packages hold no kernel")?;
        std::fs::copy(image, fresh.join("vmlinuz"))?;
        suite.remove()?;
        std::fs::write(fresh.join("modules"), modules.join("\n"))?;
        std::fs::write(fresh.join(NAMES_OF_PACKAGES), names)?;
        // Written last: what is not complete is downloaded again.
        std::fs::write(fresh.join(COMPLETE), version)?;
        if directory.exists() {
            std::fs::remove_dir_all(directory)?;
        }
        Ok(std::fs::rename(fresh, directory)?)
    }
}

/// Holds the kernel's version; as old as the last look for a newer one.
const COMPLETE: &str = "complete";
/// Holds the names of the packages that a kernel was taken from.
const NAMES_OF_PACKAGES: &str = "packages";

/// How long ago a file was written, if it is there.
fn age(path: &Path) -> Option<Duration> {
    let written = std::fs::metadata(path).ok()?.modified().ok()?;
    Some(SystemTime::now().duration_since(written).unwrap_or_default())
}

/// Copies the wanted modules, decompressed and numbered in the order to load them in.
fn take_modules(unpacked: &Path, directory: &Path) -> Result<(String, Vec<String>)> {
    let net = find(unpacked, &|name| name == "modules.builtin")
        .context("the packages hold no modules")?;
    let tree = net.parent().context("modules lie in a directory")?;
    let version = tree.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let base = tree.ancestors().find(|path| path.ends_with("lib")).and_then(Path::parent);
    let base = base.context("modules lie below lib")?;
    process::output(Command::new("depmod").arg("-b").arg(base).arg(&version))?;
    let order = load_order(&std::fs::read_to_string(tree.join("modules.dep"))?);
    let mut names = Vec::new();
    for path in order {
        let file = path.rsplit('/').next().unwrap_or_default();
        let name = file.trim_end_matches(".xz");
        let bytes = if file.ends_with(".xz") {
            let mut xz = Command::new("xz");
            xz.arg("-dc").arg(tree.join(&path)).stderr(std::process::Stdio::inherit());
            let output = xz.output().context("cannot start xz")?;
            anyhow::ensure!(output.status.success(), "xz cannot unpack {path}: {}", output.status);
            output.stdout
        } else {
            std::fs::read(tree.join(&path))?
        };
        std::fs::write(directory.join(name), bytes)?;
        names.push(name.to_owned());
    }
    Ok((version, names))
}

/// The paths of [`MODULES`] and of what they need, each after what it needs itself. In
/// `modules.dep` a line names a module and all that must be there before, the first one last.
fn load_order(dependencies: &str) -> Vec<String> {
    let mut order: Vec<String> = Vec::new();
    for wanted in MODULES {
        let line = dependencies.lines().find_map(|line| {
            let (path, needs) = line.split_once(':')?;
            let name = path.rsplit('/').next()?.split('.').next()?;
            (name.replace('-', "_") == wanted).then_some((path, needs))
        });
        // What a kernel has built in has no module.
        let Some((path, needs)) = line else { continue };
        for path in needs.split_whitespace().rev().chain([path]) {
            if !order.iter().any(|known| known == path) {
                order.push(path.to_owned());
            }
        }
    }
    order
}

/// The first file below `directory` whose name is wanted.
fn find(directory: &Path, wanted: &dyn Fn(&str) -> bool) -> Option<PathBuf> {
    let mut entries: Vec<PathBuf> =
        std::fs::read_dir(directory).ok()?.filter_map(|entry| Some(entry.ok()?.path())).collect();
    entries.sort_unstable();
    let is_wanted = |path: &PathBuf| {
        path.is_file() && path.file_name().is_some_and(|name| wanted(&name.to_string_lossy()))
    };
    entries.iter().find(|path| is_wanted(path)).cloned().or_else(|| {
        let inside = |path: &PathBuf| path.is_dir() && !path.is_symlink();
        entries.iter().filter(|path| inside(path)).find_map(|path| find(path, wanted))
    })
}

#[cfg(test)]
mod tests {
    use super::{FRESH, RELEASES, load_order};
    use std::time::Duration;

    #[test]
    fn only_the_newest_kernel_gets_old() {
        let second = Duration::from_secs(1);
        let stale = |age| RELEASES.iter().filter(move |one| one.is_stale(age)).map(|one| one.name);
        assert_eq!(stale(FRESH).count(), 0);
        assert_eq!(stale(FRESH + second).collect::<Vec<_>>(), ["newest"]);
    }

    #[test]
    fn modules_come_after_what_they_need() {
        let text = "kernel/net/802/stp.ko.xz: kernel/net/llc/llc.ko.xz\n\
                    kernel/net/bridge/bridge.ko.xz: kernel/net/802/stp.ko.xz \
                    kernel/net/llc/llc.ko.xz\n\
                    kernel/net/ipv4/tcp_diag.ko.xz: kernel/net/ipv4/inet_diag.ko.xz\n\
                    kernel/net/sched/sch-ingress.ko.xz:\n";
        let order = load_order(text);
        let names: Vec<&str> = order.iter().filter_map(|path| path.rsplit('/').next()).collect();
        let expected = [
            "llc.ko.xz",
            "stp.ko.xz",
            "bridge.ko.xz",
            "sch-ingress.ko.xz",
            "inet_diag.ko.xz",
            "tcp_diag.ko.xz",
        ];
        assert_eq!(names, expected);
    }
}
