//! As whom pods and containers run, and what they may do.

use serde_json::{Value, json};

use super::{in_container, in_spec};

pub(super) const ALL: &[fn()] =
    &[identities, privileges, profiles, profiles_of_app_armor, sysctls, users_of_the_pod];

fn context(context: Value) -> Value {
    json!({"securityContext": context})
}

#[test]
fn identities() {
    let range = "must be between 0 and 2147483647, inclusive";
    in_spec(&[
        (
            context(json!({"runAsUser": 0, "runAsGroup": 2_147_483_647, "fsGroup": 1,
                "supplementalGroups": [1, 2], "fsGroupChangePolicy": "OnRootMismatch",
                "supplementalGroupsPolicy": "Strict", "seLinuxChangePolicy": "MountOption",
                "seLinuxOptions": {"level": "s0"}, "runAsNonRoot": true})),
            &[],
        ),
        (
            context(json!({"runAsUser": -1})),
            &[&format!(".securityContext.runAsUser: Invalid value: -1: {range}")],
        ),
        (
            context(json!({"runAsGroup": 2_147_483_648_i64})),
            &[&format!(".securityContext.runAsGroup: Invalid value: 2147483648: {range}")],
        ),
        (
            context(json!({"fsGroup": -5})),
            &[&format!(".securityContext.fsGroup: Invalid value: -5: {range}")],
        ),
        (
            context(json!({"supplementalGroups": [1, -2]})),
            &[&format!(".securityContext.supplementalGroups[1]: Invalid value: -2: {range}")],
        ),
        (
            context(json!({"fsGroupChangePolicy": "Never"})),
            &[".securityContext.fsGroupChangePolicy: Unsupported value: \"Never\": supported \
                 values: \"Always\", \"OnRootMismatch\""],
        ),
        (
            context(json!({"supplementalGroupsPolicy": "Some"})),
            &[".securityContext.supplementalGroupsPolicy: Unsupported value: \"Some\": \
                 supported values: \"Merge\", \"Strict\""],
        ),
        (
            context(json!({"seLinuxChangePolicy": "Some"})),
            &[".securityContext.seLinuxChangePolicy: Unsupported value: \"Some\": supported \
                 values: \"MountOption\", \"Recursive\""],
        ),
        (
            json!({"shareProcessNamespace": true, "hostPID": true}),
            &[".securityContext.shareProcessNamespace: Invalid value: true: \
                 ShareProcessNamespace and HostPID cannot both be enabled"],
        ),
    ]);
    in_container(&[
        (
            context(json!({"runAsUser": -1})),
            &[&format!(".securityContext.runAsUser: Invalid value: -1: {range}")],
        ),
        (
            context(json!({"runAsGroup": 4_294_967_295_i64})),
            &[&format!(".securityContext.runAsGroup: Invalid value: 4294967295: {range}")],
        ),
    ]);
}

#[test]
fn privileges() {
    in_container(&[
        (
            context(json!({"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
                "capabilities": {"add": ["NET_ADMIN"], "drop": ["ALL"]}, "runAsNonRoot": true})),
            &[],
        ),
        (context(json!({"privileged": true, "procMount": "Default"})), &[]),
        (
            context(json!({"privileged": true, "allowPrivilegeEscalation": false})),
            &[".securityContext: Invalid value: {\"allowPrivilegeEscalation\":false,\
                 \"privileged\":true}: cannot set `allowPrivilegeEscalation` to false and \
                 `privileged` to true"],
        ),
        (
            context(json!({"allowPrivilegeEscalation": false,
                "capabilities": {"add": ["CAP_SYS_ADMIN"]}})),
            &[".securityContext: Invalid value: {\"allowPrivilegeEscalation\":false,\
                 \"capabilities\":{\"add\":[\"CAP_SYS_ADMIN\"]}}: cannot set \
                 `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN"],
        ),
        (
            context(json!({"procMount": "Bare"})),
            &[".securityContext.procMount: Unsupported value: \"Bare\": supported values: \
                 \"Default\", \"Unmasked\""],
        ),
        (
            context(json!({"procMount": "Unmasked"})),
            &[".securityContext.procMount: Invalid value: \"Unmasked\": `hostUsers` must be \
                 false to use `Unmasked`"],
        ),
    ]);
}

#[test]
fn profiles() {
    let seccomp = |profile: Value| context(json!({"seccompProfile": profile}));
    let rows: &[super::Row<'_>] = &[
        (seccomp(json!({"type": "RuntimeDefault"})), &[]),
        (seccomp(json!({"type": "Localhost", "localhostProfile": "a/b.json"})), &[]),
        (
            seccomp(json!({})),
            &[".securityContext.seccompProfile.type: Required value: type is required when \
                 seccompProfile is set"],
        ),
        (
            seccomp(json!({"type": "Default"})),
            &[".securityContext.seccompProfile.type: Unsupported value: \"Default\": supported \
                 values: \"Localhost\", \"RuntimeDefault\", \"Unconfined\""],
        ),
        (
            seccomp(json!({"type": "Localhost"})),
            &[".securityContext.seccompProfile.localhostProfile: Required value: must be set \
                 when seccomp type is Localhost"],
        ),
        (
            seccomp(json!({"type": "Localhost", "localhostProfile": "/a"})),
            &[".securityContext.seccompProfile.localhostProfile: Invalid value: \"/a\": must be \
                 a relative path"],
        ),
        (
            seccomp(json!({"type": "Localhost", "localhostProfile": "a/../b"})),
            &[".securityContext.seccompProfile.localhostProfile: Invalid value: \"a/../b\": \
                 must not contain '..'"],
        ),
        (
            seccomp(json!({"type": "Unconfined", "localhostProfile": "a"})),
            &[".securityContext.seccompProfile.localhostProfile: Invalid value: {"],
        ),
    ];
    in_container(rows);
    in_spec(rows);
}

#[test]
fn profiles_of_app_armor() {
    let app_armor = |profile: Value| context(json!({"appArmorProfile": profile}));
    let at = ".securityContext.appArmorProfile";
    let long = "a".repeat(4096);
    let named = "must be set when AppArmor type is Localhost";
    let (kind, name) = (format!("{at}.type"), format!("{at}.localhostProfile"));
    let required = format!("{name}: Required value: {named}");
    let rows: &[super::Row<'_>] = &[
        (app_armor(json!({"type": "RuntimeDefault"})), &[]),
        (app_armor(json!({"type": "Localhost", "localhostProfile": "a"})), &[]),
        (
            app_armor(json!({})),
            &[&format!("{kind}: Required value: type is required when appArmorProfile is set")],
        ),
        (
            app_armor(json!({"type": "Strict"})),
            &[&format!(
                "{kind}: Unsupported value: \"Strict\": supported values: \"Localhost\", \
                 \"RuntimeDefault\", \"Unconfined\""
            )],
        ),
        (app_armor(json!({"type": "Localhost"})), &[&required]),
        (app_armor(json!({"type": "Localhost", "localhostProfile": ""})), &[&required]),
        (
            app_armor(json!({"type": "Localhost", "localhostProfile": " a"})),
            &[&format!("{name}: Invalid value: \" a\": must not be padded with whitespace")],
        ),
        (
            app_armor(json!({"type": "Localhost", "localhostProfile": long})),
            &[&format!("{name}: Too long: may not be more than 4095 bytes")],
        ),
        (
            app_armor(json!({"type": "Unconfined", "localhostProfile": "a"})),
            &[&format!(
                "{name}: Invalid value: \"a\": can only be set when AppArmor type is Localhost"
            )],
        ),
    ];
    in_container(rows);
    in_spec(rows);
}

#[test]
fn sysctls() {
    let list = |list: Value| context(json!({"sysctls": list}));
    let one = |name: &str| list(json!([{"name": name, "value": "1"}]));
    let with = |name: &str, field: &str| {
        let mut spec = one(name);
        spec[field] = json!(true);
        spec
    };
    let at = ".securityContext.sysctls[0].name";
    in_spec(&[
        (one("kernel.shm_rmid_forced"), &[]),
        (one("net/ipv4/tcp_syncookies"), &[]),
        (with("kernel.shmmax", "hostNetwork"), &[]),
        (list(json!([{"value": "1"}])), &[&format!("{at}: Required value")]),
        (
            one("Kernel.x"),
            &[&format!(
                "{at}: Invalid value: \"Kernel.x\": must have at most 253 characters and match \
                 regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$"
            )],
        ),
        (one("kernel..x"), &[&format!("{at}: Invalid value: \"kernel..x\": must have at most")]),
        (
            list(json!([{"name": "net.a", "value": "1"}, {"name": "net.a", "value": "2"}])),
            &[".securityContext.sysctls[1].name: Duplicate value: \"net.a\""],
        ),
        (
            with("net.core.somaxconn", "hostNetwork"),
            &[&format!(
                "{at}: Invalid value: \"net.core.somaxconn\": may not be specified when \
                 'hostNetwork' is true"
            )],
        ),
        (
            with("net/core/somaxconn", "hostNetwork"),
            &[&format!("{at}: Invalid value: \"net/core/somaxconn\": may not be specified when")],
        ),
        (
            with("kernel.msgmax", "hostIPC"),
            &[&format!(
                "{at}: Invalid value: \"kernel.msgmax\": may not be specified when 'hostIPC' is \
                 true"
            )],
        ),
    ]);
}

#[test]
fn users_of_the_pod() {
    let row = |change: Value| {
        let mut spec = json!({"hostUsers": false});
        json_patch::merge(&mut spec, &change);
        spec
    };
    in_spec(&[
        (
            row(json!({"containers": [{"name": "c", "image": "i",
                "securityContext": {"procMount": "Unmasked"}}]})),
            &[],
        ),
        (
            row(json!({"hostNetwork": true})),
            &[".hostNetwork: Forbidden: when `hostUsers` is false"],
        ),
        (row(json!({"hostPID": true})), &[".HostPID: Forbidden: when `hostUsers` is false"]),
        (row(json!({"hostIPC": true})), &[".HostIPC: Forbidden: when `hostUsers` is false"]),
        (
            row(json!({"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "v"}}],
                "containers": [{"name": "c", "image": "i",
                    "volumeDevices": [{"name": "v", "devicePath": "/dev/v"}]}]})),
            &[".containers[0].volumeDevices: Forbidden: when `hostUsers` is false"],
        ),
    ]);
}
