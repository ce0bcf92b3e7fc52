//! The private containerd of a cluster: its configuration, and what it leaves outside of its own
//! directories.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;

use super::place::Place;

/// Where shims keep their sockets and runc its state, whatever containerd's own directories are.
pub(crate) const SHARED_DIRECTORIES: [&str; 3] =
    ["/run/containerd/s", "/run/containerd/runc", "/run/containerd"];

/// Directory of containerd's task bundles below its state directory.
const BUNDLES: &str = "state/io.containerd.runtime.v2.task";

/// Longest directory of a cluster: paths of unix sockets end at 107 bytes.
pub(crate) const MAX_DIRECTORY: usize = 70;

/// Not needed by the agent. The names differ between containerd 1.x and 2.x; unknown ones are
/// ignored.
const DISABLED_PLUGINS: [&str; 12] = [
    "io.containerd.grpc.v1.cri",
    "io.containerd.cri.v1.images",
    "io.containerd.cri.v1.runtime",
    "io.containerd.podsandbox.controller.v1.podsandbox",
    "io.containerd.nri.v1.nri",
    "io.containerd.internal.v1.opt",
    "io.containerd.internal.v1.tracing",
    "io.containerd.tracing.processor.v1.otlp",
    "io.containerd.snapshotter.v1.aufs",
    "io.containerd.snapshotter.v1.btrfs",
    "io.containerd.snapshotter.v1.devmapper",
    "io.containerd.snapshotter.v1.zfs",
];

/// Writes the configuration file.
pub(crate) fn write_config(place: &Place) -> anyhow::Result<()> {
    let path = place.containerd().join("config.toml");
    fs::write(&path, config(place)).with_context(|| format!("cannot write {}", path.display()))
}

fn config(place: &Place) -> String {
    let quoted = |path: &Path| format!("{:?}", path.display().to_string());
    let dir = place.containerd();
    let socket = place.containerd_socket();
    let disabled: Vec<String> = DISABLED_PLUGINS.iter().map(|it| format!("  {it:?},\n")).collect();
    format!(
        "version = 2\nroot = {}\nstate = {}\noom_score = 0\ndisabled_plugins = [\n{}]\n\n\
         [grpc]\naddress = {}\n\n[ttrpc]\naddress = {}\n\n[debug]\nlevel = \"info\"\n",
        quoted(&dir.join("root")),
        quoted(&dir.join("state")),
        disabled.concat(),
        quoted(&socket),
        quoted(&socket.with_extension("ttrpc")),
    )
}

/// Sockets of shims that were alive when the cluster ended. Ask before the state is unmounted.
pub(crate) fn shim_sockets(place: &Place) -> Vec<PathBuf> {
    let bundles = place.containerd().join(BUNDLES);
    let namespaces = directories(&bundles);
    let containers = namespaces.iter().flat_map(|namespace| directories(namespace));
    let sockets = containers.filter_map(|bundle| {
        let text = fs::read_to_string(bundle.join("address"))
            .or_else(|_| fs::read_to_string(bundle.join("bootstrap.json")))
            .ok()?;
        socket_in(&text)
    });
    // Only what lies where shims put sockets: the file is not trusted with the choice.
    sockets.filter(|socket| socket.starts_with(SHARED_DIRECTORIES[0])).collect()
}

/// The path after `unix://`, in a plain address or in JSON.
fn socket_in(text: &str) -> Option<PathBuf> {
    let (_, rest) = text.split_once("unix://")?;
    let end = rest.find(['"', '\n', ' ']).unwrap_or(rest.len());
    Some(PathBuf::from(&rest[..end]))
}

fn directories(parent: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(parent) else { return Vec::new() };
    entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
}

/// runc's state directories of the cluster's containerd namespaces.
pub(crate) fn runc_directories(place: &Place) -> Vec<PathBuf> {
    let prefix = place.containerd_namespace("node");
    let mut found = directories(Path::new(SHARED_DIRECTORIES[1]));
    found.retain(|path| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let number = name.strip_prefix(&prefix).unwrap_or_default();
        !number.is_empty() && number.chars().all(|c| c.is_ascii_digit())
    });
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_lies_in_the_cluster_directory() {
        let place = Place::new("x", Some(Path::new("/d"))).unwrap();
        let config = config(&place);
        assert!(config.starts_with("version = 2\nroot = \"/d/containerd/root\"\n"), "{config}");
        assert!(config.contains("state = \"/d/containerd/state\""), "{config}");
        assert!(config.contains("address = \"/d/containerd/containerd.sock\""), "{config}");
        assert!(config.contains("address = \"/d/containerd/containerd.ttrpc\""), "{config}");
    }

    #[test]
    fn socket_paths_of_both_generations_are_understood() {
        let socket = Some(PathBuf::from("/run/containerd/s/0f"));
        assert_eq!(socket_in("unix:///run/containerd/s/0f"), socket);
        let json = r#"{"version":3,"address":"unix:///run/containerd/s/0f","protocol":"ttrpc"}"#;
        assert_eq!(socket_in(json), socket);
        assert_eq!(socket_in("/run/containerd/s/0f"), None);
    }

    #[test]
    fn sockets_elsewhere_are_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let place = Place::new("x", Some(dir.path())).unwrap();
        for (id, address) in [("a", "unix:///run/containerd/s/1"), ("b", "unix:///etc/x")] {
            let bundle = place.containerd().join(BUNDLES).join("ns").join(id);
            fs::create_dir_all(&bundle).unwrap();
            fs::write(bundle.join("address"), address).unwrap();
        }
        assert_eq!(shim_sockets(&place), [PathBuf::from("/run/containerd/s/1")]);
    }
}
