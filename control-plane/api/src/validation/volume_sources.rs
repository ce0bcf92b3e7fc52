//! The kinds of storage that a persistent volume can be.

use serde_json::Value;

use super::containers::{list, text};
use super::equality::says_nothing;
use super::names::{label, subdomain};
use super::{Errors, Path};

/// Each kind with the fields that it cannot do without.
pub(super) const SOURCES: &[(&str, &[&str])] = &[
    ("hostPath", &["path"]),
    ("gcePersistentDisk", &["pdName"]),
    ("awsElasticBlockStore", &["volumeID"]),
    ("glusterfs", &["endpoints", "path"]),
    ("flocker", &[]),
    ("nfs", &["server", "path"]),
    ("rbd", &["monitors", "image"]),
    ("quobyte", &["volume"]),
    ("cephfs", &["monitors"]),
    ("iscsi", &["targetPortal", "iqn"]),
    ("cinder", &["volumeID"]),
    ("fc", &[]),
    ("flexVolume", &["driver"]),
    ("azureFile", &["secretName", "shareName"]),
    ("vsphereVolume", &["volumePath"]),
    ("photonPersistentDisk", &["pdID"]),
    ("portworxVolume", &["volumeID"]),
    ("azureDisk", &["diskName", "diskURI"]),
    ("scaleIO", &["gateway", "system", "volumeName"]),
    ("local", &["path"]),
    ("storageos", &["volumeName"]),
    ("csi", &["driver", "volumeHandle"]),
];

const HOST_PATH_TYPES: &[&str] = &[
    "",
    "BlockDevice",
    "CharDevice",
    "Directory",
    "DirectoryOrCreate",
    "File",
    "FileOrCreate",
    "Socket",
];
const CSI_DRIVER_NAME_LENGTH: usize = 63;
/// What an iSCSI volume and its portal may be called together.
pub(super) const INITIATOR_LENGTH: usize = 64;
const TENANT_LENGTH: usize = 64;

/// Checks that `spec` has one kind of storage and that it is complete. `name` is the volume's.
pub(super) fn volume_source(errors: &mut Errors, spec: &Value, path: &Path, name: &str) {
    let mut count = 0;
    for (field, required) in SOURCES.iter().filter(|(field, _)| !spec[*field].is_null()) {
        count += 1;
        if count > 1 {
            errors.forbidden(&path.child(field), "may not specify more than 1 volume type");
            continue;
        }
        let source = &spec[*field];
        // Clients know this one's problems under another name.
        let shown = if *field == "gcePersistentDisk" { "persistentDisk" } else { field };
        let path_of_source = path.child(shown);
        for missing in required.iter().filter(|one| says_nothing(&source[**one])) {
            errors.required(&path_of_source.child(missing), "");
        }
        match *field {
            "iscsi" => iscsi(errors, source, &path_of_source, name),
            "csi" => csi(errors, source, &path_of_source),
            field => storage(errors, field, source, &path_of_source),
        }
        if matches!(*field, "cinder" | "storageos") {
            secret_reference(errors, source, "secretRef", &path_of_source);
        }
        if *field == "local" && spec["nodeAffinity"].is_null() {
            let why = "Local volume requires node affinity";
            errors.required(&path.child("nodeAffinity"), why);
        }
    }
    if count == 0 {
        errors.required(path, "must specify a volume type");
    }
}

/// Checks what a kind of storage is asked for in a volume and in a pod alike.
pub(super) fn storage(errors: &mut Errors, field: &str, source: &Value, path: &Path) {
    match field {
        "hostPath" | "local" | "nfs" => file_path(errors, field, source, path),
        "azureFile" | "azureDisk" => azure(errors, field, source, path),
        field => network(errors, field, source, path),
    }
}

fn file_path(errors: &mut Errors, field: &str, source: &Value, path: &Path) {
    let place = text(source, "path");
    if field == "nfs" {
        if !place.starts_with('/') {
            errors.invalid_text(&path.child("path"), place, "must be an absolute path");
        }
        return;
    }
    if place.split('/').any(|part| part == "..") {
        errors.invalid_text(&path.child("path"), place, "must not contain '..'");
    }
    if field == "hostPath" && !place.is_empty() {
        errors.one_of(&path.child("type"), &source["type"], HOST_PATH_TYPES);
    }
}

/// A range of numbers that a field must be in, if it is there.
pub(super) fn within(
    errors: &mut Errors,
    value: &Value,
    path: &Path,
    allowed: (i64, i64),
    why: &str,
) {
    if value.as_i64().is_some_and(|number| number < allowed.0 || number > allowed.1) {
        errors.invalid(path, value, why);
    }
}

pub(super) const LUN: &str = "must be between 0 and 255, inclusive";

fn network(errors: &mut Errors, field: &str, source: &Value, path: &Path) {
    match field {
        "gcePersistentDisk" | "awsElasticBlockStore" => {
            let why = "must be between 1 and 255, inclusive";
            let path = path.child("partition");
            // Zero is the whole disk.
            within(errors, &source["partition"], &path, (0, 255), why);
        }
        "glusterfs" => {
            if let Some(namespace) = source["endpointsNamespace"].as_str() {
                let path = path.child("endpointsNamespace");
                errors.complain(&path, namespace, label(namespace));
            }
        }
        "flocker" => flocker(errors, source, path),
        "quobyte" => quobyte(errors, source, path),
        "storageos" => {
            for field in ["volumeName", "volumeNamespace"] {
                let name = text(source, field);
                if !name.is_empty() {
                    errors.complain(&path.child(field), name, label(name));
                }
            }
        }
        "fc" => fibre_channel(errors, source, path),
        "flexVolume" => flex_options(errors, source, path),
        _ => {}
    }
}

fn flocker(errors: &mut Errors, source: &Value, path: &Path) {
    let (name, uuid) = (text(source, "datasetName"), text(source, "datasetUUID"));
    if name.is_empty() && uuid.is_empty() {
        errors.required(path, "one of datasetName and datasetUUID is required");
    }
    if !name.is_empty() && !uuid.is_empty() {
        let why = "datasetName and datasetUUID can not be specified simultaneously";
        errors.invalid_text(path, "resource", why);
    }
    if name.contains('/') {
        errors.invalid_text(&path.child("datasetName"), name, "must not contain '/'");
    }
}

fn quobyte(errors: &mut Errors, source: &Value, path: &Path) {
    let why = "must be a host:port pair or multiple pairs separated by commas";
    let registry = text(source, "registry");
    if registry.is_empty() {
        errors.required(&path.child("registry"), why);
    } else if text(source, "tenant").len() > TENANT_LENGTH {
        let why = "must be a UUID and may not exceed a length of 64 characters";
        errors.required(&path.child("tenant"), why);
    } else {
        for _ in registry.split(',').filter(|pair| !is_host_and_port(pair)) {
            errors.invalid_text(&path.child("registry"), registry, why);
        }
    }
}

fn is_host_and_port(pair: &str) -> bool {
    match pair.rsplit_once(':') {
        // An IPv6 address stands in brackets.
        Some((host, _)) => !host.contains(':') || (host.starts_with('[') && host.ends_with(']')),
        None => false,
    }
}

fn fibre_channel(errors: &mut Errors, source: &Value, path: &Path) {
    let targets = list(source, "targetWWNs");
    let identifiers = list(source, "wwids");
    if targets.is_empty() && identifiers.is_empty() {
        let why = "must specify either targetWWNs or wwids, but not both";
        errors.required(&path.child("targetWWNs"), why);
    }
    if !targets.is_empty() && !identifiers.is_empty() {
        let why = "targetWWNs and wwids can not be specified simultaneously";
        errors.invalid(&path.child("targetWWNs"), &source["targetWWNs"], why);
    }
    if targets.is_empty() {
        return;
    }
    if source["lun"].is_null() {
        errors.required(&path.child("lun"), "lun is required if targetWWNs is specified");
    }
    within(errors, &source["lun"], &path.child("lun"), (0, 255), LUN);
}

fn flex_options(errors: &mut Errors, source: &Value, path: &Path) {
    for (key, _) in source["options"].as_object().into_iter().flatten() {
        let namespace = key.split_once('/').map_or(key.as_str(), |(namespace, _)| namespace);
        let namespace = format!(".{}", namespace.to_lowercase());
        if namespace.ends_with(".kubernetes.io") || namespace.ends_with(".k8s.io") {
            let why = "kubernetes.io and k8s.io namespaces are reserved";
            errors.invalid_text(&path.child("options").key(key), key, why);
        }
    }
}

fn azure(errors: &mut Errors, field: &str, source: &Value, path: &Path) {
    if field == "azureFile" {
        if source["secretNamespace"] == "" {
            errors.required(&path.child("secretNamespace"), "");
        }
        return;
    }
    let modes = &["None", "ReadOnly", "ReadWrite"];
    errors.one_of(&path.child("cachingMode"), &source["cachingMode"], modes);
    errors.one_of(&path.child("kind"), &source["kind"], &["Dedicated", "Managed", "Shared"]);
    let (start, form) = match text(source, "kind") {
        "" => return,
        "Managed" => (
            "/subscriptions/",
            "/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/\
             disks/{disk-id}",
        ),
        _ => (
            "https://",
            "https://{account-name}.blob.core.windows.net/{container-name}/{disk-name}.vhd",
        ),
    };
    if !text(source, "diskURI").starts_with(start) {
        errors.unsupported(&path.child("diskURI"), &source["diskURI"], &[form]);
    }
}

fn iscsi(errors: &mut Errors, source: &Value, path: &Path, name: &str) {
    let portal = text(source, "targetPortal");
    let initiator = source["initiatorName"].as_str();
    if initiator.is_some() && name.len() + 1 + portal.len() > INITIATOR_LENGTH {
        let why = "Total length of <volume name>:<iscsi.targetPortal> must be under 64 \
                   characters if iscsi.initiatorName is specified.";
        errors.invalid_text(&path.child("targetportal"), portal, why);
    }
    let target = text(source, "iqn");
    if !target.is_empty() && !is_iscsi_name(target) {
        errors.invalid_text(&path.child("iqn"), target, "must be valid format");
    }
    within(errors, &source["lun"], &path.child("lun"), (0, 255), LUN);
    let secret = &source["secretRef"];
    let authenticates = source["chapAuthDiscovery"] == true || source["chapAuthSession"] == true;
    if authenticates && secret.is_null() {
        errors.required(&path.child("secretRef"), "");
    }
    if !secret.is_null() && text(secret, "name").is_empty() {
        errors.required(&path.child("secretRef").child("name"), "");
    }
    if let Some(initiator) = initiator.filter(|name| !is_iscsi_name(name)) {
        let known = ["iqn", "eui", "naa"].iter().any(|start| initiator.starts_with(start));
        let why = if known {
            "must be valid format"
        } else {
            "must be valid format starting with iqn, eui, or naa"
        };
        errors.invalid_text(&path.child("initiatorname"), initiator, why);
    }
}

/// `iqn.2001-04.com.example:storage`, `eui.` and 16 characters, or `naa.` and 32.
pub(super) fn is_iscsi_name(name: &str) -> bool {
    let plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric());
    if let Some(rest) = name.strip_prefix("eui.") {
        return rest.len() == 16 && plain(rest);
    }
    if let Some(rest) = name.strip_prefix("naa.") {
        return rest.len() == 32 && plain(rest);
    }
    let digits = |text: &str, count: usize| {
        text.len() == count && text.bytes().all(|byte| byte.is_ascii_digit())
    };
    let parts = || {
        let (date, rest) = name.strip_prefix("iqn.")?.split_once('.')?;
        let (year, month) = date.split_once('-')?;
        let (authority, own) = rest.split_once(':')?;
        Some((year, month, authority, own))
    };
    parts().is_some_and(|(year, month, authority, own)| {
        let named = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.');
        let free = |c: char| !matches!(c, ',' | ';' | '*' | '&' | '$' | '|') && !c.is_whitespace();
        digits(year, 4)
            && digits(month, 2)
            && !authority.is_empty()
            && authority.bytes().all(named)
            && !own.is_empty()
            && own.chars().all(free)
    })
}

fn csi(errors: &mut Errors, source: &Value, path: &Path) {
    csi_driver_name(errors, text(source, "driver"), &path.child("driver"));
    for field in [
        "controllerPublishSecretRef",
        "controllerExpandSecretRef",
        "nodePublishSecretRef",
        "nodeExpandSecretRef",
    ] {
        secret_reference(errors, source, field, path);
        for (part, rule) in [("name", subdomain as fn(&str) -> _), ("namespace", label)] {
            let value = text(&source[field], part);
            if !value.is_empty() {
                errors.complain(&path.child(field).child(part), value, rule(value));
            }
        }
    }
}

/// Checks the form of a storage driver's name; that there is one is for the caller to check.
pub(super) fn csi_driver_name(errors: &mut Errors, name: &str, path: &Path) {
    if name.len() > CSI_DRIVER_NAME_LENGTH {
        errors.too_long(path, CSI_DRIVER_NAME_LENGTH);
    }
    errors.complain(path, name, subdomain(&name.to_lowercase()));
}

/// A secret of some namespace: volumes have none of their own.
fn secret_reference(errors: &mut Errors, source: &Value, field: &str, path: &Path) {
    let reference = &source[field];
    if reference.is_null() {
        return;
    }
    for part in ["name", "namespace"] {
        if text(reference, part).is_empty() {
            errors.required(&path.child(field).child(part), "");
        }
    }
}
