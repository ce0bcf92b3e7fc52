//! Defaults of volumes, claims, storage classes and storage drivers.

use serde_json::{Map, Value, json};

use super::{child, default, default_text};
use crate::object::child_mut;

pub(crate) fn persistent_volume(volume: &mut Value) {
    default_text(child_mut(volume, "status"), "phase", "Pending");
    let spec = child_mut(volume, "spec");
    default_text(spec, "persistentVolumeReclaimPolicy", "Retain");
    default(spec, "volumeMode", "Filesystem");
    source(spec);
}

/// What the kinds of storage default to.
pub(super) fn source(spec: &mut Map<String, Value>) {
    if let Some(path) = child(spec, "hostPath") {
        default(path, "type", "");
    }
    if let Some(iscsi) = child(spec, "iscsi") {
        default_text(iscsi, "iscsiInterface", "default");
    }
    if let Some(rbd) = child(spec, "rbd") {
        default_text(rbd, "pool", "rbd");
        default_text(rbd, "user", "admin");
        default_text(rbd, "keyring", "/etc/ceph/keyring");
    }
    if let Some(disk) = child(spec, "azureDisk") {
        default(disk, "cachingMode", "ReadWrite");
        default(disk, "kind", "Shared");
        default(disk, "fsType", "ext4");
        default(disk, "readOnly", false);
    }
    if let Some(scale_io) = child(spec, "scaleIO") {
        default_text(scale_io, "storageMode", "ThinProvisioned");
        default_text(scale_io, "fsType", "xfs");
    }
}

pub(crate) fn persistent_volume_claim(claim: &mut Value) {
    default_text(child_mut(claim, "status"), "phase", "Pending");
    default(child_mut(claim, "spec"), "volumeMode", "Filesystem");
}

pub(crate) fn initialize_persistent_volume_claim(claim: &mut Value) {
    data_sources(child_mut(claim, "spec"), &Value::Null);
}

/// Both names of the data source are set whichever of them an update names.
pub(crate) fn carry_over_persistent_volume_claim(new: &mut Value, old: &Value) {
    data_sources(child_mut(new, "spec"), &old["spec"]);
}

/// `dataSource` and `dataSourceRef` are the old and the new name of one field. What neither may
/// name is not refused but left out, as it was before there were two, unless `old` has one already:
/// the old name is for claims and snapshots, and no name is for another namespace.
fn data_sources(spec: &mut Map<String, Value>, old: &Value) {
    for field in ["dataSource", "dataSourceRef"] {
        if spec.get(field).is_some_and(Value::is_null) {
            spec.remove(field);
        }
    }
    let elsewhere = |reference: &Value| {
        reference["namespace"].as_str().is_some_and(|namespace| !namespace.is_empty())
    };
    if old["dataSourceRef"].is_null() && spec.get("dataSourceRef").is_some_and(elsewhere) {
        spec.remove("dataSourceRef");
    }
    let kept = !old["dataSource"].is_null() || !old["dataSourceRef"].is_null();
    match (spec.get("dataSource").cloned(), spec.get("dataSourceRef").cloned()) {
        (Some(source), None) if kept || is_claim_or_snapshot(&source) => {
            spec.insert("dataSourceRef".to_owned(), source);
        }
        (Some(_), None) => {
            spec.remove("dataSource");
        }
        (None, Some(reference)) if !elsewhere(&reference) => {
            let mut source = reference;
            if let Some(map) = source.as_object_mut() {
                map.remove("namespace");
            }
            spec.insert("dataSource".to_owned(), source);
        }
        _ => {}
    }
}

fn is_claim_or_snapshot(source: &Value) -> bool {
    let group = source["apiGroup"].as_str().unwrap_or_default();
    match source["kind"].as_str().unwrap_or_default() {
        "PersistentVolumeClaim" => group.is_empty(),
        "VolumeSnapshot" => group == "snapshot.storage.k8s.io",
        _ => false,
    }
}

pub(crate) fn storage_class(class: &mut Value) {
    let Some(map) = class.as_object_mut() else { return };
    default(map, "reclaimPolicy", "Delete");
    default(map, "volumeBindingMode", "Immediate");
}

pub(crate) fn volume_attachment(attachment: &mut Value) {
    default(child_mut(attachment, "status"), "attached", false);
    let spec = child_mut(attachment, "spec");
    if let Some(inline) = child(spec, "source").and_then(|one| child(one, "inlineVolumeSpec")) {
        source(inline);
    }
}

pub(crate) fn csi_driver(driver: &mut Value) {
    let spec = child_mut(driver, "spec");
    default(spec, "attachRequired", true);
    for field in ["podInfoOnMount", "requiresRepublish", "seLinuxMount", "storageCapacity"] {
        default(spec, field, false);
    }
    default(spec, "fsGroupPolicy", "ReadWriteOnceWithFSType");
    if spec.get("volumeLifecycleModes").and_then(Value::as_array).is_none_or(Vec::is_empty) {
        spec.insert("volumeLifecycleModes".to_owned(), json!(["Persistent"]));
    }
}
