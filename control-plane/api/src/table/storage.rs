//! Columns and cells of volumes, claims, storage classes and storage drivers.

use jiff::Timestamp;
use serde_json::Value;

use super::Column;
use super::columns::{AGE, NAME, boolean, number as integer, text, wide};
use super::format::{age, annotation, list, name, name_of_default, text_or};
use crate::object::STORAGE_CLASS_ANNOTATION;

const ATTRIBUTES_CLASS: Column =
    text("VolumeAttributesClass", "The class of the volume's changeable attributes.");
const VOLUME_MODE: Column = wide("VolumeMode", "Whether the volume is a device or a file system.");

pub(crate) const PERSISTENT_VOLUME: &[Column] = &[
    NAME,
    text("Capacity", "How much the volume holds."),
    text("Access Modes", "How the volume can be mounted."),
    text("Reclaim Policy", "What becomes of the volume once its claim is gone."),
    text("Status", "Whether the volume is free, bound or released."),
    text("Claim", "The claim that the volume is bound to."),
    text("StorageClass", "The class that the volume belongs to."),
    ATTRIBUTES_CLASS,
    text("Reason", "Why the volume failed, in one word."),
    AGE,
    VOLUME_MODE,
];

pub(crate) const PERSISTENT_VOLUME_CLAIM: &[Column] = &[
    NAME,
    text("Status", "Whether the claim has a volume."),
    text("Volume", "The volume that the claim is bound to."),
    text("Capacity", "How much the bound volume holds."),
    text("Access Modes", "How the bound volume can be mounted."),
    text("StorageClass", "The class that the claim asks for."),
    ATTRIBUTES_CLASS,
    AGE,
    VOLUME_MODE,
];

pub(crate) const STORAGE_CLASS: &[Column] = &[
    NAME,
    text("Provisioner", "Who makes volumes of the class."),
    text("ReclaimPolicy", "What becomes of such a volume once its claim is gone."),
    text("VolumeBindingMode", "When a volume is made and bound."),
    text("AllowVolumeExpansion", "Whether a claim may grow."),
    AGE,
];

pub(crate) const VOLUME_ATTACHMENT: &[Column] = &[
    NAME,
    Column { format: "name", ..text("Attacher", "The driver that attaches the volume.") },
    text("PV", "The volume."),
    text("Node", "The node that the volume is attached to."),
    boolean("Attached", "Whether the volume is attached."),
    AGE,
];

pub(crate) const CSI_DRIVER: &[Column] = &[
    NAME,
    boolean("AttachRequired", "Whether volumes are attached before they are mounted."),
    boolean("PodInfoOnMount", "Whether the driver is told of the pod at a mount."),
    boolean("StorageCapacity", "Whether the scheduler looks at the capacity that is left."),
    text("TokenRequests", "The audiences of the tokens that the driver gets."),
    boolean("RequiresRepublish", "Whether mounts are repeated from time to time."),
    text("Modes", "The kinds of volumes that the driver has."),
    AGE,
];

pub(crate) const CSI_NODE: &[Column] =
    &[NAME, integer("Drivers", "How many drivers the node has."), AGE];

pub(crate) const CSI_STORAGE_CAPACITY: &[Column] = &[
    NAME,
    text("StorageClassName", "The class that the capacity is for."),
    text("Capacity", "How much is left."),
];

fn class(object: &Value) -> Value {
    let class = annotation(object, STORAGE_CLASS_ANNOTATION);
    Value::from(class.unwrap_or_else(|| text_or(object, "/spec/storageClassName", "")))
}

fn phase(object: &Value) -> Value {
    let deleted = crate::object::deletion_timestamp(object).is_some();
    Value::from(if deleted { "Terminating" } else { text_or(object, "/status/phase", "") })
}

/// In short, each mode once.
fn access_modes(object: &Value, pointer: &str) -> String {
    let modes = list(object, pointer);
    let short = [
        ("ReadWriteOnce", "RWO"),
        ("ReadOnlyMany", "ROX"),
        ("ReadWriteMany", "RWX"),
        ("ReadWriteOncePod", "RWOP"),
    ];
    let present = short.iter().filter(|(mode, _)| modes.iter().any(|one| one == mode));
    present.map(|(_, short)| *short).collect::<Vec<_>>().join(",")
}

fn unless_unset(object: &Value, pointer: &str) -> Value {
    // An empty name is one that was set.
    Value::from(object.pointer(pointer).and_then(Value::as_str).unwrap_or("<unset>"))
}

pub(crate) fn persistent_volume(object: &Value, now: Timestamp) -> Vec<Value> {
    let claim = &object["spec"]["claimRef"];
    let claim = if claim.is_object() {
        format!("{}/{}", text_or(claim, "/namespace", ""), text_or(claim, "/name", ""))
    } else {
        String::new()
    };
    vec![
        name(object),
        Value::from(text_or(object, "/spec/capacity/storage", "0")),
        Value::from(access_modes(object, "/spec/accessModes")),
        Value::from(text_or(object, "/spec/persistentVolumeReclaimPolicy", "")),
        phase(object),
        Value::from(claim),
        class(object),
        unless_unset(object, "/spec/volumeAttributesClassName"),
        Value::from(text_or(object, "/status/reason", "")),
        age(object, now),
        unless_unset(object, "/spec/volumeMode"),
    ]
}

pub(crate) fn persistent_volume_claim(object: &Value, now: Timestamp) -> Vec<Value> {
    let volume = text_or(object, "/spec/volumeName", "");
    let (capacity, modes) = if volume.is_empty() {
        ("", String::new())
    } else {
        let capacity = text_or(object, "/status/capacity/storage", "0");
        (capacity, access_modes(object, "/status/accessModes"))
    };
    vec![
        name(object),
        phase(object),
        Value::from(volume),
        Value::from(capacity),
        Value::from(modes),
        class(object),
        unless_unset(object, "/spec/volumeAttributesClassName"),
        age(object, now),
        unless_unset(object, "/spec/volumeMode"),
    ]
}

pub(crate) fn storage_class(object: &Value, now: Timestamp) -> Vec<Value> {
    let marks = [
        "storageclass.kubernetes.io/is-default-class",
        "storageclass.beta.kubernetes.io/is-default-class",
    ];
    vec![
        name_of_default(object, &marks),
        Value::from(text_or(object, "/provisioner", "")),
        Value::from(text_or(object, "/reclaimPolicy", "Delete")),
        Value::from(text_or(object, "/volumeBindingMode", "Immediate")),
        Value::from(object["allowVolumeExpansion"] == true),
        age(object, now),
    ]
}

pub(crate) fn volume_attachment(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![
        name(object),
        Value::from(text_or(object, "/spec/attacher", "")),
        Value::from(text_or(object, "/spec/source/persistentVolumeName", "")),
        Value::from(text_or(object, "/spec/nodeName", "")),
        Value::from(object["status"]["attached"] == true),
        age(object, now),
    ]
}

pub(crate) fn csi_driver(object: &Value, now: Timestamp) -> Vec<Value> {
    let spec = &object["spec"];
    let flag = |field: &str| Value::from(spec[field] == true);
    let modes = list(spec, "/volumeLifecycleModes").iter().filter_map(Value::as_str);
    let modes = modes.collect::<Vec<_>>().join(",");
    let audiences = list(spec, "/tokenRequests").iter().map(|one| text_or(one, "/audience", ""));
    let audiences = audiences.collect::<Vec<_>>().join(",");
    let tokens = if spec["tokenRequests"].is_array() { audiences.as_str() } else { "<unset>" };
    vec![
        name(object),
        Value::from(spec["attachRequired"] != false),
        flag("podInfoOnMount"),
        flag("storageCapacity"),
        Value::from(tokens),
        flag("requiresRepublish"),
        Value::from(if modes.is_empty() { "<none>" } else { &modes }),
        age(object, now),
    ]
}

pub(crate) fn csi_node(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![name(object), Value::from(list(object, "/spec/drivers").len()), age(object, now)]
}

pub(crate) fn csi_storage_capacity(object: &Value, _: Timestamp) -> Vec<Value> {
    vec![
        name(object),
        Value::from(text_or(object, "/storageClassName", "")),
        unless_unset(object, "/capacity"),
    ]
}
