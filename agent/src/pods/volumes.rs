//! Volumes: emptyDir on disk, configMap, secret and hostPath.
//!
//! Guarantees: what cannot be provided is refused with a message that names volume and reason, and
//! no container of the pod starts without it. Contents of ConfigMaps and Secrets are written once,
//! before the first container; later changes of the objects do not reach a running pod, and
//! containers can only read them. On the node volumes are open to root alone.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _, chown};
use std::path::{Component, Path, PathBuf};

use k8s_openapi::api::core::v1::{
    Container, HostPathVolumeSource, KeyToPath, Pod, Volume, VolumeMount,
};

use super::env::{ConfigSource, Entries, ResolveEnvFailed};
use super::oci::BindMount;

const CONFIG_MODE: i32 = 0o644;

/// A volume of the pod cannot be provided.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MountVolumeFailed {
    #[error(
        "volume {volume:?}: volumes of this kind are not supported; use emptyDir on disk, \
             configMap, secret or hostPath"
    )]
    Unsupported { volume: String },
    #[error("volume {volume:?}: {source}")]
    Source { volume: String, source: ResolveEnvFailed },
    #[error("volume {volume:?}: references non-existent key {key:?}")]
    NoKey { volume: String, key: String },
    #[error("volume {volume:?}: the path {path:?} leads out of the volume")]
    BadPath { volume: String, path: String },
    #[error("volume {volume:?}: hostPath {path} is not a {kind}")]
    HostPath { volume: String, path: String, kind: String },
    #[error("volume {volume:?}: {path}: {source}", path = path.display())]
    Write { volume: String, path: PathBuf, source: std::io::Error },
    #[error("container {container:?} mounts volume {volume:?}, which the pod does not have")]
    NoVolume { container: String, volume: String },
}

/// A volume of a pod, on the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ProvidedVolume {
    pub(crate) path: PathBuf,
    /// Whatever a mount says.
    pub(crate) read_only: bool,
}

/// The volumes of a pod by name.
pub(crate) type Volumes = BTreeMap<String, ProvidedVolume>;

/// Makes what is missing of a pod's volumes under `dir`.
pub(crate) async fn provide_volumes(
    pod: &Pod,
    dir: &Path,
    source: &ConfigSource,
) -> Result<Volumes, MountVolumeFailed> {
    let mut volumes = Volumes::new();
    let spec = pod.spec.as_ref();
    let group = spec.and_then(|spec| spec.security_context.as_ref()?.fs_group);
    for volume in spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
        let path = provide(volume, dir, group, source).await?;
        // An agent that takes the pod over must find what was written, not what a container left.
        let read_only = volume.config_map.is_some() || volume.secret.is_some();
        volumes.insert(volume.name.clone(), ProvidedVolume { path, read_only });
    }
    Ok(volumes)
}

async fn provide(
    volume: &Volume,
    dir: &Path,
    group: Option<i64>,
    source: &ConfigSource,
) -> Result<PathBuf, MountVolumeFailed> {
    let name = &volume.name;
    let own = dir.join(name);
    let read = |source| MountVolumeFailed::Source { volume: name.clone(), source };
    if let Some(host) = &volume.host_path {
        return host_path(name, host);
    }
    if own.is_dir() {
        return Ok(own);
    }
    if let Some(empty) = &volume.empty_dir {
        if empty.medium.as_deref().is_some_and(|medium| !medium.is_empty()) {
            return Err(MountVolumeFailed::Unsupported { volume: name.clone() });
        }
        put_in_place(name, &own, |new| make_dir(name, new, 0o777, group))?;
    } else if let Some(map) = &volume.config_map {
        let entries = source.config_map(&map.name, map.optional == Some(true)).await;
        let entries = entries.map_err(read)?.unwrap_or_default();
        let mode = map.default_mode.unwrap_or(CONFIG_MODE);
        let optional = map.optional == Some(true);
        put_in_place(name, &own, |new| {
            make_dir(name, new, 0o755, group)?;
            write_entries(name, new, &entries, map.items.as_deref(), mode, optional)
        })?;
    } else if let Some(secret) = &volume.secret {
        let secret_name = secret.secret_name.as_deref().unwrap_or_default();
        let optional = secret.optional == Some(true);
        let entries = source.secret(secret_name, optional).await.map_err(read)?;
        let mode = secret.default_mode.unwrap_or(CONFIG_MODE);
        let entries = entries.unwrap_or_default();
        put_in_place(name, &own, |new| {
            make_dir(name, new, 0o755, group)?;
            write_entries(name, new, &entries, secret.items.as_deref(), mode, optional)
        })?;
    } else {
        return Err(MountVolumeFailed::Unsupported { volume: name.clone() });
    }
    Ok(own)
}

fn write_failed(volume: &str, path: &Path, source: std::io::Error) -> MountVolumeFailed {
    MountVolumeFailed::Write { volume: volume.to_owned(), path: path.to_owned(), source }
}

/// Makes a volume beside its place, and moves it there when it is whole.
fn put_in_place(
    volume: &str,
    own: &Path,
    make: impl FnOnce(&Path) -> Result<(), MountVolumeFailed>,
) -> Result<(), MountVolumeFailed> {
    // No volume has a dot in its name.
    let new = own.with_extension("new");
    let cleared = match fs::remove_dir_all(&new) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    };
    let parent = own.parent().unwrap_or(own);
    cleared
        .and_then(|()| fs::DirBuilder::new().recursive(true).mode(0o700).create(parent))
        .map_err(|source| write_failed(volume, &new, source))?;
    make(&new)?;
    fs::rename(&new, own).map_err(|source| write_failed(volume, own, source))
}

fn make_dir(
    volume: &str,
    path: &Path,
    mode: u32,
    group: Option<i64>,
) -> Result<(), MountVolumeFailed> {
    let made = fs::create_dir(path)
        .and_then(|()| match group.and_then(|group| u32::try_from(group).ok()) {
            // New files then belong to the group as well.
            Some(group) => chown(path, None, Some(group)).map(|()| 0o2070),
            None => Ok(0),
        })
        .and_then(|extra| fs::set_permissions(path, fs::Permissions::from_mode(mode | extra)));
    made.map_err(|source| write_failed(volume, path, source))
}

fn write_entries(
    volume: &str,
    dir: &Path,
    entries: &Entries,
    items: Option<&[KeyToPath]>,
    mode: i32,
    optional: bool,
) -> Result<(), MountVolumeFailed> {
    let Some(items) = items else {
        for (key, value) in entries {
            write_entry(volume, dir, key, value, mode)?;
        }
        return Ok(());
    };
    for item in items {
        match entries.get(&item.key) {
            Some(value) => write_entry(volume, dir, &item.path, value, item.mode.unwrap_or(mode))?,
            None if optional => {}
            None => {
                return Err(MountVolumeFailed::NoKey {
                    volume: volume.to_owned(),
                    key: item.key.clone(),
                });
            }
        }
    }
    Ok(())
}

fn write_entry(
    volume: &str,
    dir: &Path,
    relative: &str,
    value: &[u8],
    mode: i32,
) -> Result<(), MountVolumeFailed> {
    let path = dir.join(inside(volume, relative)?);
    let mode = u32::try_from(mode).unwrap_or(0o644);
    let write = || {
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(&path, value)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))
    };
    write().map_err(|source| write_failed(volume, &path, source))
}

/// The path, if it names something below the volume's root.
fn inside<'a>(volume: &str, path: &'a str) -> Result<&'a Path, MountVolumeFailed> {
    let relative = Path::new(path);
    let plain = relative.components().all(|part| matches!(part, Component::Normal(_)));
    if plain && !path.is_empty() {
        Ok(relative)
    } else {
        Err(MountVolumeFailed::BadPath { volume: volume.to_owned(), path: path.to_owned() })
    }
}

fn host_path(volume: &str, host: &HostPathVolumeSource) -> Result<PathBuf, MountVolumeFailed> {
    let path = PathBuf::from(&host.path);
    let failed = |source| write_failed(volume, &path, source);
    let kind = host.type_.as_deref().unwrap_or_default();
    let fits = match kind {
        "DirectoryOrCreate" => {
            fs::create_dir_all(&path).map_err(failed)?;
            path.is_dir()
        }
        "FileOrCreate" => {
            if !path.exists() {
                fs::write(&path, []).map_err(failed)?;
            }
            path.is_file()
        }
        "Directory" => path.is_dir(),
        "File" => path.is_file(),
        _ => path.exists(),
    };
    if fits {
        return Ok(path);
    }
    let kind = if kind.is_empty() { "path that exists" } else { kind };
    Err(MountVolumeFailed::HostPath {
        volume: volume.to_owned(),
        path: host.path.clone(),
        kind: kind.to_owned(),
    })
}

/// A container's volume mounts as bind mounts.
pub(crate) fn container_mounts(
    container: &Container,
    volumes: &Volumes,
) -> Result<Vec<BindMount>, MountVolumeFailed> {
    let mounts = container.volume_mounts.iter().flatten();
    mounts.map(|mount| container_mount(container, mount, volumes)).collect()
}

fn container_mount(
    container: &Container,
    mount: &VolumeMount,
    volumes: &Volumes,
) -> Result<BindMount, MountVolumeFailed> {
    let volume = volumes.get(&mount.name).ok_or_else(|| MountVolumeFailed::NoVolume {
        container: container.name.clone(),
        volume: mount.name.clone(),
    })?;
    let root = &volume.path;
    let host = match mount.sub_path.as_deref().filter(|path| !path.is_empty()) {
        Some(sub_path) => sub_directory(&mount.name, root, sub_path)?,
        None => root.clone(),
    };
    Ok(BindMount {
        host,
        container: mount.mount_path.clone(),
        read_only: volume.read_only || mount.read_only == Some(true),
    })
}

/// A path below a volume; missing directories are made. Symbolic links are refused, because a
/// container that writes to the volume could point them anywhere on the node.
fn sub_directory(volume: &str, root: &Path, sub_path: &str) -> Result<PathBuf, MountVolumeFailed> {
    let mut path = root.to_owned();
    for part in inside(volume, sub_path)?.components() {
        path.push(part);
        match fs::symlink_metadata(&path) {
            Ok(meta) if meta.is_symlink() => {
                return Err(MountVolumeFailed::BadPath {
                    volume: volume.to_owned(),
                    path: sub_path.to_owned(),
                });
            }
            Ok(_) => {}
            Err(_) => {
                fs::create_dir(&path).map_err(|source| write_failed(volume, &path, source))?;
            }
        }
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("bowline-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        dir
    }

    #[test]
    fn entries_and_items() {
        let dir = scratch("entries");
        let entries = Entries::from([("a".into(), b"1".to_vec()), ("b".into(), b"2".to_vec())]);
        write_entries("v", &dir, &entries, None, 0o600, false).unwrap();
        assert_eq!(fs::read(dir.join("a")).unwrap(), b"1");
        assert_eq!(fs::metadata(dir.join("b")).unwrap().permissions().mode() & 0o777, 0o600);
        let item =
            |key: &str, path: &str| [KeyToPath { key: key.into(), path: path.into(), mode: None }];
        write_entries("v", &dir, &entries, Some(&item("a", "x/y")), 0o644, false).unwrap();
        assert_eq!(fs::read(dir.join("x/y")).unwrap(), b"1");
        let missing = write_entries("v", &dir, &entries, Some(&item("c", "c")), 0o644, false);
        assert!(matches!(missing, Err(MountVolumeFailed::NoKey { .. })));
        let out = write_entries("v", &dir, &entries, Some(&item("a", "../z")), 0o644, false);
        assert!(matches!(out, Err(MountVolumeFailed::BadPath { .. })));
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn a_volume_is_whole_or_not_there_and_open_to_root_alone() {
        let dir = scratch("whole");
        let own = dir.join("volumes/v");
        let entries = Entries::from([("a".into(), b"1".to_vec())]);
        let items = [KeyToPath { key: "b".into(), path: "b".into(), mode: None }];
        let write = |items| {
            put_in_place("v", &own, |new| {
                make_dir("v", new, 0o755, None)?;
                write_entries("v", new, &entries, items, 0o644, false)
            })
        };
        write(Some(&items[..])).unwrap_err();
        assert!(!own.exists());
        write(None).unwrap();
        assert_eq!(fs::read(own.join("a")).unwrap(), b"1");
        let left: Vec<_> = fs::read_dir(dir.join("volumes")).unwrap().collect();
        assert_eq!(left.len(), 1);
        let mode = fs::metadata(dir.join("volumes")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        fs::remove_dir_all(&dir).unwrap();
    }

    #[tokio::test]
    async fn what_is_there_stays_and_containers_only_read_it() {
        let dir = scratch("stays");
        let pod: Pod = serde_json::from_value(serde_json::json!({"spec": {
            "containers": [{"name": "c", "volumeMounts": [
                {"name": "map", "mountPath": "/m"}, {"name": "scratch", "mountPath": "/s"}]}],
            "volumes": [{"name": "map", "configMap": {"name": "m"}},
                        {"name": "scratch", "emptyDir": {}}],
        }}))
        .unwrap();
        // As an earlier agent left it: asking the API, which is not there, would fail.
        fs::create_dir_all(dir.join("map")).unwrap();
        fs::write(dir.join("map/key"), "old").unwrap();
        let service = tower::service_fn(async |_: http::Request<kube::client::Body>| {
            Err::<http::Response<kube::client::Body>, _>(std::io::Error::other("no API"))
        });
        let source = ConfigSource::new(kube::Client::new(service, "default"), "default");
        let volumes = provide_volumes(&pod, &dir, &source).await.unwrap();
        assert_eq!(fs::read(dir.join("map/key")).unwrap(), b"old");
        let container = &pod.spec.as_ref().unwrap().containers[0];
        let mounts = container_mounts(container, &volumes).unwrap();
        let modes: Vec<_> = mounts.iter().map(|m| (m.container.as_str(), m.read_only)).collect();
        assert_eq!(modes, [("/m", true), ("/s", false)]);
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn sub_paths_stay_inside() {
        let dir = scratch("subpath");
        assert_eq!(sub_directory("v", &dir, "a/b").unwrap(), dir.join("a/b"));
        std::os::unix::fs::symlink("/etc", dir.join("link")).unwrap();
        for bad in ["link", "link/x", "../up", "/abs", ""] {
            assert!(sub_directory("v", &dir, bad).is_err(), "{bad}");
        }
        fs::remove_dir_all(&dir).unwrap();
    }
}
