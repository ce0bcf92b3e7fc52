//! Which user and groups a container runs as.
//!
//! Order: the container's security context, the pod's, the image. Names are looked up in the
//! image's own `/etc/passwd` and `/etc/group`.

use k8s_openapi::api::core::v1::{Container, Pod};

use crate::runtime::{Rootfs, read_from_layers};

/// Numeric identity of a process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ProcessUser {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
}

/// A container's user cannot be found out.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum ResolveUserFailed {
    #[error("the image's user {0:?} is not in its /etc/passwd")]
    UnknownUser(String),
    #[error("the image's group {0:?} is not in its /etc/group")]
    UnknownGroup(String),
    #[error("container has runAsNonRoot and image will run as root")]
    IsRoot,
    #[error("{0} {1} is out of range")]
    OutOfRange(&'static str, i64),
}

pub(crate) fn resolve_user(
    pod: &Pod,
    container: &Container,
    image_user: &str,
    rootfs: &Rootfs,
) -> Result<ProcessUser, ResolveUserFailed> {
    let of_container = container.security_context.as_ref();
    let of_pod = pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref());
    let wanted_uid = of_container
        .and_then(|context| context.run_as_user)
        .or_else(|| of_pod.and_then(|context| context.run_as_user));
    let wanted_gid = of_container
        .and_then(|context| context.run_as_group)
        .or_else(|| of_pod.and_then(|context| context.run_as_group));
    let passwd = || read_from_layers(rootfs, "/etc/passwd").unwrap_or_default();
    let group = || read_from_layers(rootfs, "/etc/group").unwrap_or_default();
    let mut user = match wanted_uid {
        Some(uid) => {
            let uid = id("runAsUser", uid)?;
            ProcessUser { uid, gid: primary_group(&passwd(), uid), groups: Vec::new() }
        }
        None => image_identity(image_user, passwd, group)?,
    };
    if let Some(gid) = wanted_gid {
        user.gid = id("runAsGroup", gid)?;
    }
    let non_root = of_container
        .and_then(|context| context.run_as_non_root)
        .or_else(|| of_pod.and_then(|context| context.run_as_non_root));
    if non_root == Some(true) && user.uid == 0 {
        return Err(ResolveUserFailed::IsRoot);
    }
    for gid in of_pod.iter().flat_map(|context| context.supplemental_groups.iter().flatten()) {
        user.groups.push(id("supplementalGroups", *gid)?);
    }
    if let Some(gid) = of_pod.and_then(|context| context.fs_group) {
        user.groups.push(id("fsGroup", gid)?);
    }
    Ok(user)
}

fn id(field: &'static str, value: i64) -> Result<u32, ResolveUserFailed> {
    u32::try_from(value).map_err(|_| ResolveUserFailed::OutOfRange(field, value))
}

fn image_identity(
    image_user: &str,
    passwd: impl Fn() -> String,
    group: impl Fn() -> String,
) -> Result<ProcessUser, ResolveUserFailed> {
    let (name, group_name) = match image_user.split_once(':') {
        Some((name, group_name)) => (name, Some(group_name).filter(|name| !name.is_empty())),
        None => (image_user, None),
    };
    let (uid, mut gid) = if name.is_empty() {
        (0, 0)
    } else if let Ok(uid) = name.parse() {
        (uid, primary_group(&passwd(), uid))
    } else {
        entries(&passwd())
            .find(|entry| entry.name == name)
            .map(|entry| (entry.id, entry.next_id.unwrap_or(0)))
            .ok_or_else(|| ResolveUserFailed::UnknownUser(name.to_owned()))?
    };
    if let Some(wanted) = group_name {
        gid = match wanted.parse() {
            Ok(gid) => gid,
            Err(_) => entries(&group())
                .find(|entry| entry.name == wanted)
                .map(|entry| entry.id)
                .ok_or_else(|| ResolveUserFailed::UnknownGroup(wanted.to_owned()))?,
        };
    }
    Ok(ProcessUser { uid, gid, groups: Vec::new() })
}

fn primary_group(passwd: &str, uid: u32) -> u32 {
    entries(passwd).find(|entry| entry.id == uid).and_then(|entry| entry.next_id).unwrap_or(0)
}

struct Entry<'a> {
    name: &'a str,
    id: u32,
    /// The fourth field: in `/etc/passwd` the user's group.
    next_id: Option<u32>,
}

fn entries(file: &str) -> impl Iterator<Item = Entry<'_>> {
    file.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let id = fields.nth(1)?.parse().ok()?;
        Some(Entry { name, id, next_id: fields.next().and_then(|field| field.parse().ok()) })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0::/root:/bin/sh\nweb:x:101:103::/:/bin/false\n";
    const GROUP: &str = "root:x:0:\nadm:x:4:web\n";

    #[test]
    fn identities_of_images() {
        let user = |uid, gid| Ok(ProcessUser { uid, gid, groups: vec![] });
        for (text, expected) in [
            ("", user(0, 0)),
            ("web", user(101, 103)),
            ("101", user(101, 103)),
            ("5000", user(5000, 0)),
            ("web:adm", user(101, 4)),
            ("web:77", user(101, 77)),
            ("web:", user(101, 103)),
            ("nobody", Err(ResolveUserFailed::UnknownUser("nobody".into()))),
            ("0:none", Err(ResolveUserFailed::UnknownGroup("none".into()))),
        ] {
            let found = image_identity(text, || PASSWD.into(), || GROUP.into());
            assert_eq!(found, expected, "{text}");
        }
    }

    #[test]
    fn the_pod_says_more_than_the_image() {
        let pod: Pod = serde_json::from_value(serde_json::json!({"spec": {
            "containers": [],
            "securityContext": {"runAsUser": 7, "fsGroup": 9, "supplementalGroups": [8]},
        }}))
        .unwrap();
        let mut container = Container::default();
        let rootfs = Rootfs { lower_dirs: vec![], mounts: vec![] };
        let user = resolve_user(&pod, &container, "web", &rootfs).unwrap();
        assert_eq!(user, ProcessUser { uid: 7, gid: 0, groups: vec![8, 9] });
        let context = container.security_context.get_or_insert_default();
        context.run_as_user = Some(0);
        context.run_as_non_root = Some(true);
        let refused = resolve_user(&pod, &container, "", &rootfs);
        assert_eq!(refused, Err(ResolveUserFailed::IsRoot));
    }
}
