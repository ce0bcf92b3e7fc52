//! The operating system that a pod is for: what Windows has, and what it has not.
//!
//! Guarantees: a manifest for either system is checked alike; nothing here says that a node with
//! Windows exists.

use serde_json::Value;

use super::containers::{each, text};
use super::names::subdomain;
use super::{Errors, Path};

const SYSTEMS: &[&str] = &["linux", "windows"];
const CREDENTIAL_KIB: usize = 64;
const DOMAIN_LENGTH: usize = 256;
const USER_LENGTH: usize = 104;
const NETBIOS_LENGTH: usize = 15;
const DNS_PART_LENGTH: usize = 63;
const NOT_FOR_WINDOWS: &str = "cannot be set for a windows pod";
/// What a pod for Windows cannot have in its spec, and in its security context.
const POD_FIELDS: &[&str] = &["hostUsers", "hostPID", "hostIPC", "shareProcessNamespace"];
const POD_CONTEXT_FIELDS: &[&str] = &[
    "appArmorProfile",
    "seLinuxOptions",
    "seccompProfile",
    "fsGroup",
    "fsGroupChangePolicy",
    "sysctls",
    "runAsUser",
    "runAsGroup",
    "supplementalGroups",
    "supplementalGroupsPolicy",
    "seLinuxChangePolicy",
];
const CONTAINER_CONTEXT_FIELDS: &[&str] = &[
    "appArmorProfile",
    "seLinuxOptions",
    "seccompProfile",
    "capabilities",
    "readOnlyRootFilesystem",
    "privileged",
    "allowPrivilegeEscalation",
    "procMount",
    "runAsUser",
    "runAsGroup",
];

/// Checks the system that the pod `spec` is for, and that it asks for nothing of the other.
pub(super) fn operating_system(errors: &mut Errors, spec: &Value, path: &Path) {
    let os = &spec["os"];
    if os.is_null() {
        return;
    }
    match text(os, "name") {
        "" => errors.required(&path.child("os").child("name"), ""),
        "linux" => linux(errors, spec, path),
        "windows" => windows(errors, spec, path),
        _ => errors.unsupported(&path.child("os"), &os["name"], SYSTEMS),
    }
}

fn linux(errors: &mut Errors, spec: &Value, path: &Path) {
    let mut check = |holder: &Value, path: &Path| {
        if !holder["securityContext"]["windowsOptions"].is_null() {
            let path = path.child("securityContext").child("windowsOptions");
            errors.forbidden(&path, "windows options cannot be set for a linux pod");
        }
    };
    check(spec, path);
    each(spec, path, check);
}

fn windows(errors: &mut Errors, spec: &Value, path: &Path) {
    let context = path.child("securityContext");
    // `false` is what is not there, but for what can be unset.
    let is_set = |value: &Value, field: &str| match value {
        Value::Null => false,
        Value::Bool(false) => !matches!(field, "hostPID" | "hostIPC"),
        Value::Array(list) => !list.is_empty(),
        _ => true,
    };
    for field in POD_FIELDS.iter().filter(|field| is_set(&spec[**field], field)) {
        errors.forbidden(&path.child(field), NOT_FOR_WINDOWS);
    }
    let of_pod = &spec["securityContext"];
    for field in POD_CONTEXT_FIELDS.iter().filter(|field| is_set(&of_pod[**field], field)) {
        errors.forbidden(&context.child(field), NOT_FOR_WINDOWS);
    }
    each(spec, path, |container, path| {
        let (own, path) = (&container["securityContext"], path.child("securityContext"));
        for field in CONTAINER_CONTEXT_FIELDS.iter().filter(|field| is_set(&own[**field], field)) {
            errors.forbidden(&path.child(field), NOT_FOR_WINDOWS);
        }
    });
}

/// Containers that are processes of the host are all of the pod's, in the host's network.
pub(super) fn host_processes(errors: &mut Errors, spec: &Value, path: &Path) {
    let flag =
        |holder: &Value| holder["securityContext"]["windowsOptions"]["hostProcess"].as_bool();
    let of_pod = flag(spec);
    let (mut all, mut of_host) = (0_usize, 0_usize);
    each(spec, path, |container, path| {
        all += 1;
        let own = flag(container);
        of_host += usize::from(own.or(of_pod) == Some(true));
        if let (Some(of_pod), Some(own)) = (of_pod, own)
            && of_pod != own
        {
            let path = ["securityContext", "windowsOptions", "hostProcess"]
                .iter()
                .fold(path.clone(), |path, field| path.child(field));
            let why = format!(
                "pod hostProcess value must be identical if both are specified, was {of_pod}"
            );
            errors.invalid(&path, &Value::from(own), &why);
        }
    });
    if of_host == 0 {
        return;
    }
    if of_host != all {
        let why = "If pod contains any hostProcess containers then all containers must be \
                   HostProcess containers";
        errors.invalid_text(path, "", why);
    }
    if spec["hostNetwork"] != true {
        let why = "hostNetwork must be true if pod contains any hostProcess containers";
        errors.invalid(&path.child("hostNetwork"), &Value::from(false), why);
    }
}

pub(super) fn windows_options(errors: &mut Errors, options: &Value, path: &Path) {
    if let Some(name) = options["gmsaCredentialSpecName"].as_str() {
        errors.complain(&path.child("gmsaCredentialSpecName"), name, subdomain(name));
    }
    if let Some(credential) = options["gmsaCredentialSpec"].as_str() {
        let path = path.child("gmsaCredentialSpec");
        if credential.is_empty() {
            errors.invalid_text(&path, credential, "gmsaCredentialSpec cannot be an empty string");
        } else if credential.len() > CREDENTIAL_KIB * 1024 {
            let why = format!("gmsaCredentialSpec size must be under {CREDENTIAL_KIB} KiB");
            errors.invalid_text(&path, credential, &why);
        }
    }
    if let Some(user) = options["runAsUserName"].as_str() {
        errors.complain(&path.child("runAsUserName"), user, user_name(user));
    }
}

/// `DOMAIN\user`, or a user alone.
fn user_name(name: &str) -> Vec<String> {
    let only = |why: &str| vec![format!("runAsUserName {why}")];
    if name.is_empty() {
        return only("cannot be an empty string");
    }
    if name.chars().any(|letter| letter.is_ascii_control()) {
        return only("cannot contain control characters");
    }
    let (domain, user) = match name.split_once('\\') {
        Some((_, rest)) if rest.contains('\\') => {
            return only("cannot contain more than one backslash");
        }
        Some((domain, user)) => (Some(domain), user),
        None => (None, name),
    };
    let mut complaints = Vec::new();
    if domain.is_some_and(|domain| domain.len() >= DOMAIN_LENGTH) {
        complaints.push(format!(
            "runAsUserName's Domain length must be under {DOMAIN_LENGTH} characters"
        ));
    }
    if domain.is_some_and(|domain| !is_netbios(domain) && !is_dns(domain)) {
        complaints
            .push("runAsUserName's Domain doesn't match the NetBios nor the DNS format".to_owned());
    }
    if user.is_empty() {
        complaints.push("runAsUserName's User cannot be empty".to_owned());
    } else if user.len() > USER_LENGTH {
        complaints.push(format!(
            "runAsUserName's User length must not be longer than {USER_LENGTH} characters"
        ));
    }
    if !user.is_empty() && user.bytes().all(|byte| matches!(byte, b'.' | b' ')) {
        complaints.push("runAsUserName's User cannot contain only periods or spaces".to_owned());
    }
    if user.contains(|letter| "\"/\\:;|=,+*?<>@[]".contains(letter)) {
        complaints.push(
            "runAsUserName's User cannot contain the following characters: \"/\\:;|=,+*?<>@[]"
                .to_owned(),
        );
    }
    complaints
}

fn is_netbios(domain: &str) -> bool {
    let allowed = |letter: char| !"\\/:*?\"<>|".contains(letter);
    (1..=NETBIOS_LENGTH).contains(&domain.chars().count())
        && !domain.starts_with('.')
        && domain.chars().all(allowed)
}

fn is_dns(domain: &str) -> bool {
    domain.split('.').all(|part| {
        (1..=DNS_PART_LENGTH).contains(&part.len())
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !part.starts_with('-')
            && !part.ends_with('-')
    })
}
