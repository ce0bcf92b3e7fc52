//! `bowline down`: removes a local cluster, whatever state it is in.
//!
//! Guarantees: works from the names alone, so also after SIGKILL of everything and of `up` at any
//! point; goes on past errors and reports them all; a second time is no error. Touches nothing
//! that another cluster or anybody else made.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use super::place::{self, Place};
use super::record::Record;
use super::{cgroups, containerd, mounts, namespaces};
use crate::output;

/// What `up` makes in a cluster's directory, with `cluster.json` last: it is what the next `down`
/// goes by.
const ENTRIES: [&str; 7] = [
    "nodes",
    "containerd",
    "server",
    "logs",
    "admin.kubeconfig",
    "cluster.json.new",
    "cluster.json",
];

/// Remove a local cluster with everything that `up` made for it.
///
/// Works after any kind of crash, and twice.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  bowline down
  bowline down --name demo
  bowline down --name other --dir /srv/other")]
pub(crate) struct Args {
    /// Name of the cluster
    #[arg(long, default_value = "demo")]
    name: String,
    /// Directory of the cluster [default: where `up` put it]
    #[arg(long)]
    dir: Option<PathBuf>,
}

/// Removes the cluster and says so.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let mut place = Place::new(&args.name, args.dir.as_deref())?;
    if !nix::unistd::geteuid().is_root() {
        bail!("`bowline down` needs root: run it with sudo");
    }
    if args.dir.is_none()
        && let Ok(registered) = place::find(&args.name)
    {
        place = registered;
    }
    Ok(if remove(&place)? {
        output::line(&format!("cluster {} is removed", place.name))
    } else {
        let others = others(&place.name, place::registered());
        output::line(&format!("no cluster {}: nothing to remove{others}", place.name))
    }?)
}

/// Those that may have been meant, as the end of a line.
fn others(name: &str, registered: Vec<String>) -> String {
    let others = registered.into_iter().filter(|other| other != name);
    let others: Vec<String> = others.map(|it| format!("{it} (--name {it})")).collect();
    if others.is_empty() { String::new() } else { format!("; there is: {}", others.join(", ")) }
}

/// Removes everything of a cluster; says whether there was anything.
pub(crate) fn remove(place: &Place) -> anyhow::Result<bool> {
    let registered = fs::read_link(place.register_entry()).is_ok_and(|dir| dir == place.dir);
    let record = match Record::read(place) {
        // The names are enough for a cluster that is known to be ours.
        Err(_) if registered => None,
        other => other?,
    };
    check_owner(place, record.as_ref())?;
    let mut work = Work::default();
    let table = work.noted(mounts::read()).unwrap_or_default();

    let trees = cgroups::trees(place, &table);
    work.found |= !trees.is_empty() || record.is_some();
    work.noted(cgroups::kill_all(&trees));
    // Before everything else: a process that was just being started cannot join a group that is
    // gone, so from here on nothing new appears.
    for tree in &trees {
        work.noted(cgroups::remove(tree));
    }
    cgroups::remove_parents(&table);
    // Asked now: the addresses lie in directories that go below.
    let sockets = containerd::shim_sockets(place);
    // Mounts are listed by their real path; the directory may have been given by another.
    let real = fs::canonicalize(&place.dir).unwrap_or_else(|_| place.dir.clone());
    // Without a record and without the register nothing says that the directory is a cluster's:
    // what is mounted there may be anybody's.
    let ours = record.is_some() || registered;
    let unmounted = if ours { work.noted(mounts::remove_under(&real)) } else { None };
    work.found |= unmounted.is_some_and(|count| count > 0);
    for namespace in namespaces::existing(place) {
        work.found = true;
        work.noted(namespaces::remove(&namespace));
    }
    work.noted(namespaces::unmount_pins());
    for path in sockets.iter().chain(&containerd::runc_directories(place)) {
        work.noted(remove_path(path));
    }
    // Not while something may be mounted there: that would clear what is mounted.
    if unmounted.is_some() {
        work.remove_directory(place, record.as_ref());
    }
    work.finish(place)
}

/// A directory that holds another cluster is not ours to clear.
fn check_owner(place: &Place, record: Option<&Record>) -> anyhow::Result<()> {
    let Some(record) = record else {
        let elsewhere = place::find(&place.name).ok().filter(|found| found.dir != place.dir);
        return elsewhere.map_or(Ok(()), |found| refuse_elsewhere(place, &found));
    };
    if record.name != place.name {
        bail!(
            "{} belongs to cluster `{}`, not to `{}`: give the right --name or --dir",
            place.dir.display(),
            record.name,
            place.name,
        );
    }
    Ok(())
}

/// The name's cluster lies in another directory: half of it would be left if the names were
/// enough.
fn refuse_elsewhere(place: &Place, found: &Place) -> anyhow::Result<()> {
    bail!(
        "cluster `{}` is in {}, not in {}: give the right --dir or none",
        place.name,
        found.dir.display(),
        place.dir.display(),
    )
}

/// Removal in progress: what was found and what went wrong.
#[derive(Default)]
struct Work {
    found: bool,
    errors: Vec<String>,
}

impl Work {
    /// Keeps the error of a step, so that the next ones still run.
    fn noted<T>(&mut self, result: anyhow::Result<T>) -> Option<T> {
        result.map_err(|error| self.errors.push(format!("{error:#}"))).ok()
    }

    /// Clears the cluster's directory.
    fn remove_directory(&mut self, place: &Place, record: Option<&Record>) {
        self.found = true;
        for entry in ENTRIES {
            // The record stays when something is left: the next `down` goes by it.
            if entry == "cluster.json" && !self.errors.is_empty() {
                return;
            }
            let path = place.dir.join(entry);
            self.noted(remove_path(&path));
        }
        let own = [place.dir.clone()];
        let made = record.map_or(&own[..], |record| &record.made_directories);
        let pins = made.iter().any(|dir| dir == Path::new(namespaces::PINS));
        let _held = pins.then(|| self.noted(namespaces::hold_pins()));
        for dir in made {
            // Not empty means that somebody else uses it now; that is no error.
            drop(fs::remove_dir(dir));
        }
    }

    fn finish(mut self, place: &Place) -> anyhow::Result<bool> {
        if !self.errors.is_empty() {
            let name = &place.name;
            let what = self.errors.join("; ");
            bail!("cluster {name} is not removed completely: {what}: run `down` again");
        }
        let unregistered = place::unregister(place).context("cannot take it out of the register");
        let unregistered = self.noted(unregistered);
        match self.errors.pop() {
            Some(error) => bail!("{error}"),
            None => Ok(self.found || unregistered == Some(true)),
        }
    }
}

/// Removes a file, a link or a whole directory; nothing there is fine.
fn remove_path(path: &Path) -> anyhow::Result<()> {
    let result = match fs::symlink_metadata(path) {
        Ok(data) if data.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match result {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_every_kind_are_removed_and_absence_is_fine() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("tree/below")).unwrap();
        fs::write(dir.path().join("file"), "").unwrap();
        std::os::unix::fs::symlink("/nonexistent", dir.path().join("link")).unwrap();
        for name in ["tree", "file", "link", "absent"] {
            remove_path(&dir.path().join(name)).unwrap();
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_link_is_removed_not_what_it_points_to() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("kept")).unwrap();
        std::os::unix::fs::symlink(dir.path().join("kept"), dir.path().join("link")).unwrap();
        remove_path(&dir.path().join("link")).unwrap();
        assert!(dir.path().join("kept").is_dir());
    }

    struct Mounted(PathBuf);

    impl Drop for Mounted {
        fn drop(&mut self) {
            mounts::remove(&self.0).unwrap();
        }
    }

    #[test]
    #[ignore = "needs root; run by `cargo xtask test` as root"]
    fn a_directory_that_is_no_clusters_keeps_its_mounts_and_files() {
        let dir = tempfile::tempdir().unwrap();
        let (point, file) = (dir.path().join("mounted"), dir.path().join("logs"));
        fs::create_dir(&point).unwrap();
        fs::write(&file, "").unwrap();
        mounts::make_bpffs(&point).unwrap();
        let mounted = Mounted(point.clone());
        let place = Place::new("never-made", Some(dir.path())).unwrap();
        assert!(!remove(&place).unwrap());
        assert!(mounts::read().unwrap().iter().any(|mount| mount.target == point));
        assert!(file.exists());
        drop(mounted);
    }

    #[test]
    fn clusters_that_may_have_been_meant_are_named() {
        let all = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        assert_eq!(others("demo", all(&["demo"])), "");
        assert_eq!(others("demo", all(&["trial"])), "; there is: trial (--name trial)");
    }

    #[test]
    fn errors_are_collected() {
        let mut work = Work::default();
        assert_eq!(work.noted(Ok(1)), Some(1));
        assert_eq!(work.noted::<()>(Err(anyhow::anyhow!("first"))), None);
        assert_eq!(work.noted::<()>(Err(anyhow::anyhow!("second"))), None);
        let place = Place::new("never-made", None).unwrap();
        let error = work.finish(&place).unwrap_err().to_string();
        assert!(error.contains("first; second"), "{error}");
    }
}
