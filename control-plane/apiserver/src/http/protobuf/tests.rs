//! Golden bytes, and what holds of every message.
//!
//! The digests of `golden.txt` are of what `protoc` makes, with Kubernetes' published files, of the
//! objects of [`full`]; the other bytes are what clients and servers sent.

use super::schema::{Field, Kind, Many, Schema};
use super::*;
use crate::http::protobuf;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, json};
use sha2::{Digest, Sha256};
use std::time::{Duration, Instant};

/// From hexadecimal, as clients print what they send.
fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(|b| !b.is_ascii_whitespace()).collect();
    let pair = |pair: &[u8]| std::str::from_utf8(pair).unwrap().to_owned();
    digits.chunks(2).map(|two| u8::from_str_radix(&pair(two), 16).unwrap()).collect()
}

/// Writes an object as what it says that it is.
fn written(object: &Value) -> Bytes {
    let (version, kind) = (object["apiVersion"].as_str(), object["kind"].as_str());
    protobuf::object(version.unwrap(), kind.unwrap(), object).unwrap()
}

#[track_caller]
fn error(body: &[u8]) -> String {
    let status = read(body).unwrap_err();
    assert_eq!((status.code, status.reason), (400, "BadRequest"));
    status.message
}

const NAMESPACE: &str = "6b3873000a0f0a02763112094e616d657370616365121b0a130a03666f6f12001a002200
    2a00320038004200 12001a020a00 1a002200";

const DEPLOYMENT: &str =
    "6b3873000a150a07617070732f7631120a4465706c6f796d656e7412bc010a210a04776562
    3212001a0022002a003200380042005a0b0a036170701204776562321288010802120d0a0b0a03617070120477656232
    1a6d0a1d0a0012001a0022002a003200380042005a0b0a03617070120477656232124c122e0a056e67696e7812056e67
    696e782a00320a0a001000185022002a0042006a007200800100880100900100a201001a00320042004a005200580060
    0068008201008a01009a0100c2010022020a00280038001a0c0800100018002000280038001a002200";

#[test]
fn objects_as_clients_send_them() {
    let namespace = json!({
        "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "foo" },
    });
    assert_eq!(read(&hex(NAMESPACE)).unwrap(), namespace);
    assert_eq!(written(&namespace), hex(NAMESPACE));
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": { "name": "web2", "labels": { "app": "web2" } },
        "spec": {
            "replicas": 2,
            "selector": { "matchLabels": { "app": "web2" } },
            "template": {
                "metadata": { "labels": { "app": "web2" } },
                "spec": { "containers": [{
                    "name": "nginx", "image": "nginx", "ports": [{ "containerPort": 80 }],
                }] },
            },
        },
    });
    assert_eq!(read(&hex(DEPLOYMENT)).unwrap(), deployment);
    assert_eq!(written(&deployment), hex(DEPLOYMENT));
}

/// What a field's value is called in the golden objects: no two are alike.
struct Numbers(i64);

impl Numbers {
    fn next(&mut self) -> i64 {
        self.0 += 1;
        self.0
    }
}

fn value(schema: &Schema, field: &Field, numbers: &mut Numbers) -> Value {
    let number = numbers.next();
    let time = jiff::Timestamp::from_second(1_700_000_000 + number).unwrap();
    match field.kind {
        Kind::Text => json!(format!("text {number}")),
        // Long ones and negative ones, too.
        Kind::Int if number % 3 == 0 => json!(-number),
        Kind::Int => json!(number * 1000),
        Kind::Bool => json!(true),
        Kind::Bytes => json!(STANDARD.encode(format!("bytes {number}"))),
        Kind::Time => json!(time.to_string()),
        Kind::MicroTime => json!(format!("{:.6}", time + Duration::from_micros(number as u64))),
        Kind::Quantity => json!(format!("{number}m")),
        Kind::IntOrText if number % 2 == 0 => json!(number),
        Kind::IntOrText => json!(format!("{number}%")),
        Kind::Json => json!({ "number": number }),
        Kind::Texts => json!(["one", format!("text {number}")]),
        Kind::Message(place) => Value::Object(fields(schema, schema.message(place), numbers)),
    }
}

/// Every field of a message, with something in it.
fn fields(schema: &Schema, message: &schema::Message, numbers: &mut Numbers) -> Map<String, Value> {
    let mut object = Map::new();
    for field in &message.fields {
        let mut one = || value(schema, field, numbers);
        match field.many {
            Many::One if field.is_inline() => {
                let Value::Object(inner) = one() else { panic!("{}", field.number) };
                object.extend(inner);
            }
            Many::One => {
                object.insert(field.name.to_owned(), one());
            }
            Many::List => {
                object.insert(field.name.to_owned(), json!([one(), one()]));
            }
            Many::Map => {
                object.insert(field.name.to_owned(), json!({ "a": one(), "b": one() }));
            }
        }
    }
    object
}

/// An object with every field set.
fn full(version: &str, kind: &str) -> Value {
    let schema = Schema::get();
    let message = schema.find(version, kind).unwrap();
    let mut object = fields(schema, message, &mut Numbers(0));
    object.insert("apiVersion".to_owned(), json!(version));
    object.insert("kind".to_owned(), json!(kind));
    Value::Object(object)
}

#[test]
fn every_message_comes_back_as_it_went() {
    for (version, kind) in Schema::get().names() {
        let object = full(version, kind);
        let bytes = written(&object);
        assert_eq!(read(&bytes).unwrap(), object, "{version} {kind}");
        assert_eq!(written(&read(&bytes).unwrap()), bytes, "{version} {kind}");
    }
}

#[test]
fn what_is_empty_stays_so() {
    for (version, kind) in Schema::get().names() {
        let empty = written(&json!({ "apiVersion": version, "kind": kind }));
        let object = read(&empty).unwrap();
        assert_eq!(written(&object), empty, "{version} {kind}: {object}");
    }
    let pod = written(&json!({ "apiVersion": "v1", "kind": "Pod" }));
    let expected = json!({ "apiVersion": "v1", "kind": "Pod" });
    assert_eq!(read(&pod).unwrap(), expected);
}

#[test]
fn golden_bytes_of_every_kind() {
    let golden = include_str!("golden.txt");
    let mut kinds = 0;
    for line in golden.lines().filter(|line| !line.starts_with('#')) {
        let [version, kind, digest] = line.split(' ').collect::<Vec<_>>()[..] else {
            panic!("{line}");
        };
        let object = full(version, kind);
        let bytes = written(&object);
        let found: String = Sha256::digest(&bytes).iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(found, digest, "{version} {kind}");
        kinds += 1;
    }
    assert!(kinds > 45, "{kinds}");
}

#[test]
fn values_that_are_not_what_they_seem() {
    let scale =
        |spec: Value| json!({ "apiVersion": "autoscaling/v1", "kind": "Scale", "spec": spec });
    // None, a whole number with a fraction, another type.
    for (replicas, read_as) in [
        (json!(null), json!(null)),
        (json!(3.0), json!({ "replicas": 3 })),
        (json!("3"), json!(null)),
    ] {
        let bytes = written(&scale(json!({ "replicas": replicas })));
        assert_eq!(read(&bytes).unwrap()["spec"], read_as, "{replicas}");
    }
    let lease = |time: &str| {
        let spec = json!({ "renewTime": time, "acquireTime": "2024-01-02T03:04:05.678901234Z" });
        json!({ "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "spec": spec })
    };
    for (time, read_as) in [
        ("2024-01-02T03:04:05Z", json!("2024-01-02T03:04:05.000000Z")),
        ("2024-01-02T03:04:05.1234567+02:00", json!("2024-01-02T01:04:05.123456Z")),
        ("1969-12-31T23:59:59.5Z", json!("1969-12-31T23:59:59.500000Z")),
        ("0001-01-01T00:00:00Z", json!(null)),
        ("yesterday", json!(null)),
    ] {
        let spec = &read(&written(&lease(time))).unwrap()["spec"];
        assert_eq!(spec["renewTime"], read_as, "{time}");
        assert_eq!(spec["acquireTime"], "2024-01-02T03:04:05.678901Z");
    }
    // Pointers have zeros; what is no pointer has none in JSON unless it always has.
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "spec": { "replicas": 0, "minReadySeconds": 0, "paused": false, "selector": {} },
        "status": { "replicas": 0, "collisionCount": 0 },
    });
    let read_back = read(&written(&deployment)).unwrap();
    assert_eq!(read_back["spec"], json!({ "replicas": 0, "selector": {} }));
    assert_eq!(read_back["status"], json!({ "collisionCount": 0 }));
    let replica_set = json!({ "apiVersion": "apps/v1", "kind": "ReplicaSet" });
    assert_eq!(read(&written(&replica_set)).unwrap()["status"], json!({ "replicas": 0 }));
}

#[test]
fn maps_are_written_by_their_keys() {
    let labels = |pairs: &[(&str, &str)]| {
        let labels: Map<String, Value> =
            pairs.iter().map(|(key, value)| ((*key).to_owned(), json!(value))).collect();
        written(
            &json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "labels": labels } }),
        )
    };
    let sorted = labels(&[("a", "1"), ("b", "2"), ("c", "")]);
    assert_eq!(sorted, labels(&[("c", ""), ("a", "1"), ("b", "2")]));
    let map = hex("5a060a016112013 1 5a060a016212013 2 5a050a01631200");
    assert!(sorted.windows(map.len()).any(|part| part == map), "{sorted:?}");
}

#[test]
fn lists_and_events_of_watches() {
    let pods: Vec<Value> =
        (0..3).map(|n| json!({ "metadata": { "name": n.to_string() } })).collect();
    let of = ListOf { version: "v1", kind: "Pod", list_kind: "PodList" };
    let metadata = json!({ "resourceVersion": "7", "remainingItemCount": 0 });
    let items = || pods.iter().map(Cow::Borrowed);
    let list = list(&of, &metadata, items(), 0).unwrap();
    let pod = |object: &Value| {
        let bytes = protobuf::object("v1", "Pod", object).unwrap();
        // Between the head of its envelope and the end of it.
        let raw = bytes[MAGIC.len() + 2 + 9..bytes.len() - 4].to_vec();
        assert_eq!(raw[0], 0x12);
        raw
    };
    let mut raw = hex("0a09 0a00 1201 37 1a00 2000");
    for object in &pods {
        raw.extend_from_slice(&pod(object));
    }
    let mut expected = b"k8s\0\x0a\x0d\x0a\x02v1\x12\x07PodList\x12".to_vec();
    assert!((128..16384).contains(&raw.len()));
    expected.extend_from_slice(&[raw.len() as u8 | 0x80, (raw.len() >> 7) as u8]);
    expected.extend_from_slice(&raw);
    expected.extend_from_slice(&hex("1a002200"));
    assert_eq!(list, expected);
    assert!(protobuf::list(&ListOf { kind: "Absent", ..of }, &metadata, items(), 0).is_none());
    let event = frame("ADDED", b"object");
    assert_eq!(event[..], *b"\0\0\0\x11\x0a\x05ADDED\x12\x08\x0a\x06object");
}

#[test]
fn ten_thousand_pods_are_written_without_moving_them() {
    let container = json!({
        "name": "c", "image": "registry/image:1", "imagePullPolicy": "IfNotPresent",
        "env": [{ "name": "KEY", "value": "value" }],
        "ports": [{ "containerPort": 80, "protocol": "TCP" }],
        "resources": { "requests": { "cpu": "100m", "memory": "64Mi" } },
        "volumeMounts": [{ "name": "token", "mountPath": "/var/run", "readOnly": true }],
    });
    let pod = json!({
        "metadata": {
            "name": "pod-with-a-name", "namespace": "default", "resourceVersion": "123456",
            "uid": "0b1f3b52-7d1a-4d4e-9c5b-0a1b2c3d4e5f", "labels": { "app": "web", "tier": "x" },
            "creationTimestamp": "2024-01-02T03:04:05Z",
        },
        "spec": { "containers": [container], "nodeName": "n1", "restartPolicy": "Always" },
        "status": {
            "phase": "Running", "podIP": "10.0.0.1",
            "conditions": [{ "type": "Ready", "status": "True" }],
            "containerStatuses": [{ "name": "c", "ready": true, "restartCount": 0 }],
        },
    });
    let of = ListOf { version: "v1", kind: "Pod", list_kind: "PodList" };
    let length = |count: usize| {
        let started = Instant::now();
        let pods = std::iter::repeat_n(&pod, count).map(Cow::Borrowed);
        let list = list(&of, &json!({}), pods, 0).unwrap();
        println!("{count} pods: {} bytes in {:?}", list.len(), started.elapsed());
        assert!(started.elapsed() < Duration::from_secs(20));
        list.len()
    };
    // Each takes as much as the first, but for the length of the whole.
    let one = length(2) - length(1);
    assert!((10_000 * one..10_000 * one + 64).contains(&length(10_000)));
}

#[test]
fn what_is_not_known_is_skipped() {
    let object = |raw: &str| {
        let raw = hex(raw);
        let mut body = hex("6b3873000a0f0a02763112094e616d657370616365");
        body.extend_from_slice(&[0x12, raw.len() as u8]);
        body.extend_from_slice(&raw);
        read(&body)
    };
    let expected = json!({
        "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "foo" },
    });
    let name = "0a050a03666f6f";
    for unknown in [
        "7800",                    // a number
        "7a0161",                  // bytes
        "7d01020304",              // four of them
        "790102030405060708",      // eight
        "7b 0800 120161 13 14 7c", // a group with one in it
        "f8ffffff0f00",            // the largest number that a field can have
    ] {
        assert_eq!(object(&format!("{name}{unknown}")).unwrap(), expected, "{unknown}");
        assert_eq!(object(&format!("{unknown}{name}")).unwrap(), expected, "{unknown}");
    }
    // The last of a value counts, and messages are merged.
    let twice = object("0a050a03626172 0a05 0a03666f6f 0a021200").unwrap();
    assert_eq!(twice, expected);
    for malformed in ["7c", "7b", "7b0b7c", "7e", "00", "0800", "0a", "0a05", "0aff", "7d010203"] {
        assert!(object(malformed).is_err(), "{malformed}");
    }
}

#[test]
fn what_is_not_understood_is_an_error() {
    let malformed = "the body of the request cannot be decoded: it is cut off or not protobuf";
    assert_eq!(error(b"{}"), malformed);
    assert_eq!(error(b""), malformed);
    assert_eq!(error(&hex("6b3873000a0f0a02763112094e616d")), malformed);
    let unknown = error(&hex("6b3873000a0c0a02763112064861624c6974"));
    assert!(unknown.contains("no kind \"HabLit\" is registered for version \"v1\""), "{unknown}");
    assert!(error(MAGIC).contains("no kind \"\""));
    // A text that is none.
    let mut body = hex("6b3873000a0f0a02763112094e616d657370616365");
    body.extend_from_slice(&hex("1205 0a03 0a01ff"));
    assert_eq!(error(&body), malformed);
}

/// Numbers that look random and are the same in each run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound as u64) as usize
    }
}

#[test]
fn whatever_comes_is_read_or_refused_and_soon() {
    let started = Instant::now();
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let head = b"k8s\0\x0a\x09\x0a\x02v1\x12\x03Pod".to_vec();
    for _ in 0..2000 {
        let mut body = head.clone();
        let raw: Vec<u8> = (0..random.below(200)).map(|_| random.below(256) as u8).collect();
        if random.below(2) == 0 {
            body.extend_from_slice(&[0x12, (raw.len() & 0x7f) as u8]);
        }
        body.extend_from_slice(&raw);
        let _ = read(&body);
        let _ = read(&raw);
    }
    let pod = written(&full("v1", "Pod"));
    for _ in 0..200 {
        let _ = read(&pod[..random.below(pod.len())]);
        let mut changed = pod.to_vec();
        for _ in 0..=random.below(4) {
            let place = random.below(changed.len());
            changed[place] = random.below(256) as u8;
        }
        let _ = read(&changed);
    }
    // Groups in groups, and the smallest parts that there are.
    for part in [&[0x7b][..], &[0x1a, 0], &[0x0a, 0], &[0x22, 2, 0x7b, 0x7c]] {
        let raw = part.repeat(500_000);
        let mut body = hex("6b3873000a0f0a02763112094e616d657370616365 12");
        let mut length = raw.len();
        while length > 0x7f {
            body.push(length as u8 | 0x80);
            length >>= 7;
        }
        body.push(length as u8);
        body.extend_from_slice(&raw);
        let _ = read(&body);
    }
    assert!(started.elapsed() < Duration::from_secs(30), "{:?}", started.elapsed());
}
