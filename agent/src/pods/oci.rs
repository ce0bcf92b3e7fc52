//! The OCI specification of a container. Pure.
//!
//! Isolation: own pid and mount namespaces; net, ipc, uts and `/dev/shm` are the pod's. Without
//! `privileged` a container has the usual capability set, no devices but the standard ones, and
//! masked kernel paths. There is no seccomp filter and no AppArmor profile yet: processes run
//! unconfined in that respect, whatever `seccompProfile` says.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{Container, Pod, SecurityContext};
use oci_spec::runtime::Spec;
use serde_json::{Value, json};

use super::expand::expand;
use super::images::ImageConfig;
use super::resources::CgroupLimits;
use super::users::ProcessUser;
use crate::network::Sandbox;

const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

const DEFAULT_CAPABILITIES: [&str; 14] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];

const ALL_CAPABILITIES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

const MASKED_PATHS: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

const READONLY_PATHS: [&str; 5] =
    ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// What processes of the node share memory by.
const HOST_SHM: &str = "/dev/shm";

/// A file or directory of the node that appears in the container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BindMount {
    pub(crate) host: PathBuf,
    pub(crate) container: String,
    pub(crate) read_only: bool,
}

/// Everything a specification is made of.
pub(crate) struct SpecParts<'a> {
    pub(crate) pod: &'a Pod,
    pub(crate) container: &'a Container,
    pub(crate) image: &'a ImageConfig,
    pub(crate) user: ProcessUser,
    pub(crate) sandbox: &'a Sandbox,
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) mounts: Vec<BindMount>,
    pub(crate) limits: CgroupLimits,
    pub(crate) cgroup: &'a Path,
}

/// The pod asks for something that no container can be made from.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BuildSpecFailed {
    #[error("no command specified")]
    NoCommand,
    #[error("container specification: {0}")]
    Invalid(#[from] serde_json::Error),
}

pub(crate) fn build_spec(parts: &SpecParts<'_>) -> Result<Spec, BuildSpecFailed> {
    let context = parts.container.security_context.clone().unwrap_or_default();
    let privileged = context.privileged == Some(true);
    let read_only = context.read_only_root_filesystem == Some(true);
    let spec = json!({
        "ociVersion": "1.0.2",
        "process": process(parts, &context, privileged)?,
        "root": {"path": "rootfs", "readonly": read_only},
        "mounts": mounts(parts, privileged),
        "linux": linux(parts, privileged),
    });
    Ok(serde_json::from_value(spec)?)
}

fn process(
    parts: &SpecParts<'_>,
    context: &SecurityContext,
    privileged: bool,
) -> Result<Value, BuildSpecFailed> {
    let args = command(parts.container, parts.image, &parts.env);
    if args.first().is_none_or(String::is_empty) {
        return Err(BuildSpecFailed::NoCommand);
    }
    let cwd = parts.container.working_dir.as_deref().filter(|dir| !dir.is_empty());
    let cwd = cwd.unwrap_or(&parts.image.working_dir);
    let all = if privileged { strings(&ALL_CAPABILITIES) } else { capabilities(context) };
    // A process that is not root gets nothing by itself, as execve() would have it.
    let held = if parts.user.uid == 0 { all.clone() } else { Vec::new() };
    let no_new = !privileged && context.allow_privilege_escalation == Some(false);
    Ok(json!({
        "terminal": false,
        "user": {
            "uid": parts.user.uid,
            "gid": parts.user.gid,
            "additionalGids": parts.user.groups,
        },
        "args": args,
        "env": environment(parts),
        "cwd": if cwd.is_empty() { "/" } else { cwd },
        "capabilities": {
            "bounding": all,
            "effective": held,
            "permitted": held,
            "inheritable": [],
            "ambient": [],
        },
        "rlimits": [
            {"type": "RLIMIT_NOFILE", "hard": parts.limits.open_files,
             "soft": parts.limits.open_files}
        ],
        "noNewPrivileges": no_new,
        "oomScoreAdj": parts.limits.oom_score_adj,
    }))
}

fn strings(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| format!("CAP_{name}")).collect()
}

/// The default set, with what the container adds and drops; `ALL` works in both lists.
fn capabilities(context: &SecurityContext) -> Vec<String> {
    let named = |list: Option<&Vec<String>>| -> Vec<String> {
        let upper = list.into_iter().flatten().map(|name| name.to_ascii_uppercase());
        upper.map(|name| name.strip_prefix("CAP_").unwrap_or(&name).to_owned()).collect()
    };
    let changes = context.capabilities.as_ref();
    let add = named(changes.and_then(|changes| changes.add.as_ref()));
    let drop = named(changes.and_then(|changes| changes.drop.as_ref()));
    let has = |list: &[String], name: &str| list.iter().any(|entry| entry == name);
    let mut set: Vec<String> = if has(&add, "ALL") {
        ALL_CAPABILITIES.map(str::to_owned).into()
    } else if has(&drop, "ALL") {
        Vec::new()
    } else {
        DEFAULT_CAPABILITIES.map(str::to_owned).into()
    };
    for name in add.iter().filter(|name| *name != "ALL") {
        if !has(&set, name) {
            set.push(name.clone());
        }
    }
    set.retain(|name| !has(&drop, name));
    set.iter().map(|name| format!("CAP_{name}")).collect()
}

/// What is run: the pod's command replaces the image's entrypoint and, with it, its arguments.
fn command(
    container: &Container,
    image: &ImageConfig,
    env: &BTreeMap<String, String>,
) -> Vec<String> {
    let given = |list: &Option<Vec<String>>| -> Option<Vec<String>> {
        let list = list.as_ref().filter(|list| !list.is_empty())?;
        Some(list.iter().map(|text| expand(text, env)).collect())
    };
    let (entrypoint, args) = match (given(&container.command), given(&container.args)) {
        (Some(command), args) => (command, args.unwrap_or_default()),
        (None, Some(args)) => (image.entrypoint.clone(), args),
        (None, None) => (image.entrypoint.clone(), image.cmd.clone()),
    };
    entrypoint.into_iter().chain(args).collect()
}

fn environment(parts: &SpecParts<'_>) -> Vec<String> {
    let mut env: Vec<String> = Vec::new();
    if !parts.image.env.iter().any(|entry| entry.starts_with("PATH=")) {
        env.push(DEFAULT_PATH.to_owned());
    }
    let overridden =
        |entry: &str| entry.split_once('=').is_some_and(|(name, _)| parts.env.contains_key(name));
    env.extend(parts.image.env.iter().cloned());
    env.retain(|entry| !overridden(entry));
    if !parts.env.contains_key("HOSTNAME") {
        env.push(format!("HOSTNAME={}", super::files::hostname(parts.pod)));
    }
    env.extend(parts.env.iter().map(|(name, value)| format!("{name}={value}")));
    env
}

fn host_ipc(pod: &Pod) -> bool {
    pod.spec.as_ref().is_some_and(|spec| spec.host_ipc == Some(true))
}

fn mounts(parts: &SpecParts<'_>, privileged: bool) -> Vec<Value> {
    let sys = if privileged { "rw" } else { "ro" };
    let shm = if host_ipc(parts.pod) { Path::new(HOST_SHM) } else { &parts.sandbox.shm };
    let mut mounts = vec![
        json!({"destination": "/proc", "type": "proc", "source": "proc",
               "options": ["nosuid", "noexec", "nodev"]}),
        json!({"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
               "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]}),
        json!({"destination": "/dev/pts", "type": "devpts", "source": "devpts",
               "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620",
                           "gid=5"]}),
        json!({"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue",
               "options": ["nosuid", "noexec", "nodev"]}),
        json!({"destination": "/dev/shm", "type": "bind", "source": shm,
               "options": ["rbind", "rprivate", "nosuid", "noexec", "nodev", "rw"]}),
        json!({"destination": "/sys", "type": "sysfs", "source": "sysfs",
               "options": ["nosuid", "noexec", "nodev", sys]}),
        json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
               "options": ["nosuid", "noexec", "nodev", "relatime", sys]}),
    ];
    // A mount at a shorter path must not hide one below it.
    let mut binds: Vec<&BindMount> = parts.mounts.iter().collect();
    binds.sort_by_key(|mount| mount.container.matches('/').count());
    for bind in binds {
        mounts.retain(|mount| mount["destination"] != json!(bind.container));
        mounts.push(json!({
            "destination": bind.container,
            "type": "bind",
            "source": bind.host,
            "options": ["rbind", "rprivate", if bind.read_only { "ro" } else { "rw" }],
        }));
    }
    mounts
}

fn linux(parts: &SpecParts<'_>, privileged: bool) -> Value {
    let limits = &parts.limits;
    let spec = parts.pod.spec.as_ref();
    let host_pid = spec.is_some_and(|spec| spec.host_pid == Some(true));
    let mut namespaces = vec![
        json!({"type": "mount"}),
        json!({"type": "cgroup"}),
        json!({"type": "network", "path": parts.sandbox.netns}),
        json!({"type": "uts", "path": parts.sandbox.uts}),
    ];
    if !host_pid {
        namespaces.push(json!({"type": "pid"}));
    }
    if !host_ipc(parts.pod) {
        namespaces.push(json!({"type": "ipc", "path": parts.sandbox.ipc}));
    }
    let mut cpu = json!({"shares": limits.cpu_shares, "period": limits.cpu_period});
    if let Some(quota) = limits.cpu_quota {
        cpu["quota"] = json!(quota);
    }
    let memory = limits.memory_limit.map_or(json!({}), |limit| json!({"limit": limit}));
    let masked: &[&str] = if privileged { &[] } else { &MASKED_PATHS };
    let readonly: &[&str] = if privileged { &[] } else { &READONLY_PATHS };
    let security = spec.and_then(|spec| spec.security_context.as_ref());
    let sysctls: BTreeMap<&str, &str> = security
        .into_iter()
        .flat_map(|context| context.sysctls.iter().flatten())
        .map(|sysctl| (sysctl.name.as_str(), sysctl.value.as_str()))
        .collect();
    json!({
        "namespaces": namespaces,
        "cgroupsPath": parts.cgroup,
        "resources": {
            "devices": [{"allow": privileged, "access": "rwm"}],
            "cpu": cpu,
            "memory": memory,
        },
        "maskedPaths": masked,
        "readonlyPaths": readonly,
        "sysctl": sysctls,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn build(pod: Value, image: &ImageConfig) -> Result<Value, BuildSpecFailed> {
        let pod: Pod = serde_json::from_value(pod).unwrap();
        let container = pod.spec.as_ref().unwrap().containers[0].clone();
        let env = container.env.iter().flatten();
        let mut mounts = vec![
            BindMount { host: "/h/deep".into(), container: "/a/b".into(), read_only: true },
            BindMount { host: "/h".into(), container: "/a".into(), read_only: false },
        ];
        mounts.extend(container.volume_mounts.iter().flatten().map(|mount| BindMount {
            host: "/h/shm".into(),
            container: mount.mount_path.clone(),
            read_only: false,
        }));
        let spec = build_spec(&SpecParts {
            pod: &pod,
            container: &container,
            image,
            user: ProcessUser::default(),
            sandbox: &Sandbox {
                addresses: std::net::Ipv4Addr::LOCALHOST.into(),
                netns: "/run/n".into(),
                ipc: "/run/i".into(),
                uts: "/run/u".into(),
                shm: "/run/s".into(),
            },
            env: env.map(|v| (v.name.clone(), v.value.clone().unwrap_or_default())).collect(),
            mounts,
            limits: CgroupLimits {
                memory_limit: Some(1 << 20),
                cpu_shares: 512,
                cpu_quota: container.resources.is_some().then_some(50_000),
                cpu_period: 100_000,
                ..CgroupLimits::default()
            },
            cgroup: Path::new("/pods/u/c"),
        })?;
        Ok(serde_json::to_value(spec).unwrap())
    }

    fn image() -> ImageConfig {
        ImageConfig {
            entrypoint: vec!["/entry".into()],
            cmd: vec!["default".into()],
            env: vec!["FROM=image".into(), "KEEP=1".into()],
            ..ImageConfig::default()
        }
    }

    fn pod(container: Value) -> Value {
        let mut container = container;
        container["name"] = json!("c");
        json!({"metadata": {"name": "web"}, "spec": {"containers": [container]}})
    }

    #[test]
    fn command_and_arguments() {
        for (container, expected) in [
            (json!({}), vec!["/entry", "default"]),
            (json!({"args": ["x"]}), vec!["/entry", "x"]),
            (json!({"command": ["/other"]}), vec!["/other"]),
            (json!({"command": ["/other"], "args": ["y"]}), vec!["/other", "y"]),
            (
                json!({"args": ["$(A)-$(B)"], "env": [{"name": "A", "value": "1"}]}),
                vec!["/entry", "1-$(B)"],
            ),
        ] {
            let spec = build(pod(container.clone()), &image()).unwrap();
            assert_eq!(spec["process"]["args"], json!(expected), "{container}");
        }
        let empty = build(pod(json!({})), &ImageConfig::default());
        assert!(matches!(empty, Err(BuildSpecFailed::NoCommand)));
    }

    #[test]
    fn environment_of_the_pod_wins() {
        let container = json!({"env": [{"name": "FROM", "value": "pod"}]});
        let spec = build(pod(container), &image()).unwrap();
        assert_eq!(
            spec["process"]["env"],
            json!([DEFAULT_PATH, "KEEP=1", "HOSTNAME=web", "FROM=pod"])
        );
    }

    #[test]
    fn namespaces_are_the_pods_and_binds_are_ordered() {
        let spec = build(pod(json!({})), &image()).unwrap();
        let namespaces = spec["linux"]["namespaces"].as_array().unwrap();
        for (kind, path) in [("network", "/run/n"), ("ipc", "/run/i"), ("uts", "/run/u")] {
            assert!(namespaces.contains(&json!({"type": kind, "path": path})), "{kind}");
        }
        for kind in ["pid", "mount", "cgroup"] {
            assert!(namespaces.contains(&json!({"type": kind})), "{kind}");
        }
        assert_eq!(namespaces.len(), 6);
        let mounts = spec["mounts"].as_array().unwrap();
        let at = |path: &str| mounts.iter().position(|m| m["destination"] == path).unwrap();
        assert!(at("/a") < at("/a/b"));
        assert_eq!(spec["linux"]["cgroupsPath"], "/pods/u/c");
        assert_eq!(spec["linux"]["resources"]["memory"]["limit"], 1 << 20);
    }

    #[test]
    fn shared_memory_is_the_pods_the_nodes_or_a_volume() {
        let shm = |pod: Value| {
            let spec = build(pod, &image()).unwrap();
            let mounts = spec["mounts"].as_array().unwrap().clone();
            let mut own = mounts.into_iter().filter(|mount| mount["destination"] == "/dev/shm");
            let mount = own.next().unwrap();
            assert_eq!((&mount["type"], own.next()), (&json!("bind"), None));
            let namespaces = spec["linux"]["namespaces"].as_array().unwrap();
            let has_ipc = namespaces.iter().any(|namespace| namespace["type"] == "ipc");
            (mount["source"].as_str().unwrap().to_owned(), has_ipc)
        };
        assert_eq!(shm(pod(json!({}))), ("/run/s".to_owned(), true));
        let mut of_the_node = pod(json!({}));
        of_the_node["spec"]["hostIPC"] = json!(true);
        assert_eq!(shm(of_the_node), ("/dev/shm".to_owned(), false));
        let mounts = json!([{"name": "memory", "mountPath": "/dev/shm"}]);
        assert_eq!(shm(pod(json!({"volumeMounts": mounts}))), ("/h/shm".to_owned(), true));
    }

    #[test]
    fn processors_are_limited_and_weighed() {
        let cpu = |container: Value| {
            build(pod(container), &image()).unwrap()["linux"]["resources"]["cpu"].take()
        };
        let limited = json!({"resources": {"limits": {"cpu": "500m"}}});
        assert_eq!(cpu(limited), json!({"shares": 512, "quota": 50_000, "period": 100_000}));
        assert_eq!(cpu(json!({})), json!({"shares": 512, "period": 100_000}));
    }

    #[test]
    fn capability_sets() {
        let caps = |context: Value| -> usize {
            let spec = build(pod(json!({"securityContext": context})), &image()).unwrap();
            spec["process"]["capabilities"]["bounding"].as_array().unwrap().len()
        };
        assert_eq!(caps(json!({})), 14);
        assert_eq!(caps(json!({"capabilities": {"drop": ["ALL"]}})), 0);
        assert_eq!(caps(json!({"capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN"]}})), 1);
        assert_eq!(caps(json!({"capabilities": {"add": ["net_admin"], "drop": ["KILL"]}})), 14);
        assert_eq!(caps(json!({"privileged": true})), 41);
        let unknown = pod(json!({"securityContext": {"capabilities": {"add": ["FLY"]}}}));
        assert!(matches!(build(unknown, &image()), Err(BuildSpecFailed::Invalid(_))));
    }
}
