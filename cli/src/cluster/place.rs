//! Where a local cluster is: the names and paths that follow from its name and directory.
//!
//! Guarantees: pure, except for [`find`] and [`only`], which read the register of clusters
//! (`/run/bowline/clusters/<name>`, a symbolic link to the cluster's directory).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

/// Parent of the directories that clusters get when the user names none.
const DEFAULT_PARENT: &str = "/var/lib/bowline";

/// Register of the clusters of this machine.
const REGISTER: &str = "/run/bowline/clusters";

/// What the groups of all clusters stand in, in each control group hierarchy.
pub(crate) const CGROUP: &str = "bowline";

/// Longest cluster name; namespace and link names are made of it.
const MAX_NAME: usize = 32;

/// A name that cannot be a cluster's.
#[derive(Debug, Error, PartialEq, Eq)]
#[error(
    "cluster name `{0}` is not valid: use up to {MAX_NAME} lower-case letters, digits and `-`, \
     beginning with a letter"
)]
pub(crate) struct InvalidName(String);

/// Why no cluster could be chosen.
#[derive(Debug, Error)]
pub(crate) enum NoCluster {
    #[error("no local cluster here: start one with `bowline up`{0}")]
    None(&'static str),
    #[error("several local clusters here ({}): choose one with --name", .0.join(", "))]
    Several(Vec<String>),
    #[error("no local cluster `{0}`: start it with `bowline up --name {0}`")]
    Unknown(String),
    #[error(transparent)]
    InvalidName(#[from] InvalidName),
}

/// Names and paths of one cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) name: String,
    pub(crate) dir: PathBuf,
}

impl Place {
    /// A cluster's place, by default under `/var/lib/bowline`.
    pub(crate) fn new(name: &str, dir: Option<&Path>) -> Result<Self, InvalidName> {
        let valid = name.len() <= MAX_NAME
            && name.starts_with(|first: char| first.is_ascii_lowercase())
            && !name.ends_with('-')
            && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
        if !valid {
            return Err(InvalidName(name.to_owned()));
        }
        let dir = dir.map_or_else(|| Path::new(DEFAULT_PARENT).join(name), Path::to_path_buf);
        Ok(Self { name: name.to_owned(), dir })
    }

    pub(crate) fn record(&self) -> PathBuf {
        self.dir.join("cluster.json")
    }

    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.dir.join("admin.kubeconfig")
    }

    pub(crate) fn server_data(&self) -> PathBuf {
        self.dir.join("server")
    }

    pub(crate) fn token_file(&self) -> PathBuf {
        self.dir.join("server/join-token")
    }

    pub(crate) fn containerd(&self) -> PathBuf {
        self.dir.join("containerd")
    }

    pub(crate) fn containerd_socket(&self) -> PathBuf {
        self.dir.join("containerd/containerd.sock")
    }

    pub(crate) fn node_dir(&self, node: &str) -> PathBuf {
        self.dir.join("nodes").join(node)
    }

    pub(crate) fn bpffs(&self, node: &str) -> PathBuf {
        self.node_dir(node).join("bpf")
    }

    pub(crate) fn log(&self, process: &str) -> PathBuf {
        self.dir.join("logs").join(format!("{process}.log"))
    }

    /// The namespace that holds the bridge and the server's inner listener.
    pub(crate) fn bridge_namespace(&self) -> String {
        format!("bl-{}-net", self.name)
    }

    pub(crate) fn node_namespace(&self, node: &str) -> String {
        format!("bl-{}-{node}", self.name)
    }

    /// Whether a network namespace of this name belongs to this cluster, and to no other one.
    pub(crate) fn owns_namespace(&self, namespace: &str) -> bool {
        let own = namespace.strip_prefix("bl-").and_then(|rest| rest.strip_prefix(&*self.name));
        let Some(suffix) = own.and_then(|rest| rest.strip_prefix('-')) else { return false };
        let number = suffix.strip_prefix("node").unwrap_or_default();
        suffix == "net" || (!number.is_empty() && number.chars().all(|c| c.is_ascii_digit()))
    }

    /// The cluster's cgroup below the root of a hierarchy.
    pub(crate) fn cgroup(&self) -> PathBuf {
        Path::new(CGROUP).join(&self.name)
    }

    /// containerd's namespace of a node.
    pub(crate) fn containerd_namespace(&self, node: &str) -> String {
        format!("bowline-{}-{node}", self.name)
    }

    /// This cluster's entry in the register.
    pub(crate) fn register_entry(&self) -> PathBuf {
        Path::new(REGISTER).join(&self.name)
    }
}

/// Names in the register.
pub(crate) fn registered() -> Vec<String> {
    let Ok(entries) = fs::read_dir(REGISTER) else { return Vec::new() };
    let mut names: Vec<String> =
        entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
}

/// The place of a registered cluster.
pub(crate) fn find(name: &str) -> Result<Place, NoCluster> {
    let place = Place::new(name, None)?;
    match fs::read_link(place.register_entry()) {
        Ok(dir) => Ok(Place { dir, ..place }),
        Err(_) => Err(NoCluster::Unknown(name.to_owned())),
    }
}

/// The cluster of that name, or the only one of this machine. `or`: what else one can do where
/// there is none, as the end of a line.
pub(crate) fn only(name: Option<&str>, or: &'static str) -> Result<Place, NoCluster> {
    if let Some(name) = name {
        return find(name);
    }
    let mut names = registered();
    match (names.pop(), names.is_empty()) {
        (None, _) => Err(NoCluster::None(or)),
        (Some(name), true) => find(&name),
        (Some(name), false) => {
            names.push(name);
            Err(NoCluster::Several(names))
        }
    }
}

/// Enters a cluster into the register; fails with `AlreadyExists` when the name is taken.
pub(crate) fn register(place: &Place) -> io::Result<()> {
    fs::create_dir_all(REGISTER)?;
    std::os::unix::fs::symlink(&place.dir, place.register_entry())
}

/// Takes a cluster out of the register; directories that are empty then go too.
pub(crate) fn unregister(place: &Place) -> io::Result<bool> {
    let removed = match fs::remove_file(place.register_entry()) {
        Ok(()) => true,
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(error) => return Err(error),
    };
    for dir in Path::new(REGISTER).ancestors().take(2) {
        // Not empty means that another cluster is here; that is no error.
        if fs::remove_dir(dir).is_err() {
            break;
        }
    }
    Ok(removed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for valid in ["demo", "a", "e2e-7", "x1"] {
            assert!(Place::new(valid, None).is_ok(), "{valid}");
        }
        for invalid in ["", "-a", "a-", "Demo", "a/b", "a.b", "1a", &"a".repeat(33)] {
            assert!(Place::new(invalid, None).is_err(), "{invalid}");
        }
    }

    #[test]
    fn paths_follow_from_name_and_directory() {
        let place = Place::new("demo", None).unwrap();
        assert_eq!(place.dir, Path::new("/var/lib/bowline/demo"));
        let place = Place::new("demo", Some(Path::new("/tmp/x"))).unwrap();
        assert_eq!(place.kubeconfig(), Path::new("/tmp/x/admin.kubeconfig"));
        assert_eq!(place.bpffs("node2"), Path::new("/tmp/x/nodes/node2/bpf"));
        assert_eq!(place.node_namespace("node2"), "bl-demo-node2");
        assert_eq!(place.cgroup(), Path::new("bowline/demo"));
    }

    #[test]
    fn a_namespace_belongs_to_one_cluster() {
        let place = Place::new("a", None).unwrap();
        for own in ["bl-a-net", "bl-a-node1", "bl-a-node12"] {
            assert!(place.owns_namespace(own), "{own}");
        }
        for foreign in ["bl-a-node1-net", "bl-a-b-net", "bl-ab-net", "bl-a-node", "a-net", "bl-a"] {
            assert!(!place.owns_namespace(foreign), "{foreign}");
        }
    }
}
