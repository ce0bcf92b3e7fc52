//! Typed clients: bodies and answers in protobuf.
//!
//! The bytes are taken apart here by numbers of fields, with nothing of the server's.

use super::*;
use bytes::Bytes;

const PB: &str = "application/vnd.kubernetes.protobuf";
/// What client-go's typed clients accept.
const TYPED: &str = "application/vnd.kubernetes.protobuf,application/json";
const METADATA: &str = "application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;g=meta.k8s.io\
                        ;v=v1,application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,\
                        application/json";
const METADATA_LIST: &str =
    "application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";

/// What came back, undecoded.
struct Raw {
    code: u16,
    media_type: String,
    body: Bytes,
}

async fn send(server: &Server, call: Call) -> Raw {
    let (head, body) = call.response(&server.api.router()).await.into_parts();
    let media_type = head.headers["content-type"].to_str().unwrap().to_owned();
    let body = body.collect().await.unwrap().to_bytes();
    Raw { code: head.status.as_u16(), media_type, body }
}

fn varint(bytes: &mut &[u8]) -> u64 {
    let mut value = 0;
    for shift in (0..).step_by(7) {
        let (byte, rest) = bytes.split_first().unwrap();
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            break;
        }
    }
    value
}

/// The values of a field, numbers as the bytes that they were in.
fn all(mut message: &[u8], wanted: u64) -> Vec<&[u8]> {
    let mut found = Vec::new();
    while !message.is_empty() {
        let tag = varint(&mut message);
        let before = message;
        let value = match tag & 7 {
            0 => {
                varint(&mut message);
                &before[..before.len() - message.len()]
            }
            2 => {
                let length = varint(&mut message) as usize;
                let (value, rest) = message.split_at(length);
                message = rest;
                value
            }
            other => panic!("{other}"),
        };
        if tag >> 3 == wanted {
            found.push(value);
        }
    }
    found
}

/// What is at a path of fields, nothing when it is absent.
fn at<'a>(message: &'a [u8], path: &[u64]) -> &'a [u8] {
    path.iter().fold(message, |message, field| all(message, *field).first().copied().unwrap_or(&[]))
}

#[track_caller]
fn text(message: &[u8], path: &[u64]) -> String {
    String::from_utf8(at(message, path).to_vec()).unwrap()
}

/// The version, the kind and the message of an envelope.
#[track_caller]
fn open(body: &[u8]) -> (String, String, &[u8]) {
    let envelope = body.strip_prefix(b"k8s\0").expect("an envelope");
    (text(envelope, &[1, 1]), text(envelope, &[1, 2]), at(envelope, &[2]))
}

/// The message of a kind, in an answer of the right type.
#[track_caller]
fn opened<'a>(raw: &'a Raw, code: u16, version: &str, kind: &str) -> &'a [u8] {
    assert_eq!((raw.code, raw.media_type.as_str()), (code, PB), "{:?}", raw.body);
    let (found_version, found_kind, message) = open(&raw.body);
    assert_eq!((found_version.as_str(), found_kind.as_str()), (version, kind));
    message
}

/// The code and the reason of a failure.
#[track_caller]
fn failure(raw: &Raw) -> (u16, String) {
    let status = opened(raw, raw.code, "v1", "Status");
    assert_eq!(text(status, &[2]), "Failure");
    let mut code = at(status, &[6]);
    assert_eq!(varint(&mut code), u64::from(raw.code));
    (raw.code, text(status, &[4]))
}

fn envelope(version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
    let part = |number: u8, bytes: &[u8]| [&[number << 3 | 2, bytes.len() as u8], bytes].concat();
    let types = [part(1, version.as_bytes()), part(2, kind.as_bytes())].concat();
    [b"k8s\0".to_vec(), part(1, &types), part(2, raw)].concat()
}

fn typed(method: &str, path: &str) -> Call {
    call(method, path).header("accept", TYPED).header("content-type", PB)
}

#[tokio::test]
async fn objects_are_made_read_changed_and_removed() {
    let server = server().await;
    // `{ "metadata": { "name": "a" }, "data": { "key": "value" } }`, as it is on the wire.
    let body = envelope("v1", "ConfigMap", b"\x0a\x03\x0a\x01a\x12\x0c\x0a\x03key\x12\x05value");
    let made = send(&server, typed("POST", CONFIGMAPS).raw(body.clone())).await;
    let message = opened(&made, 201, "v1", "ConfigMap");
    assert_eq!((text(message, &[1, 1]), text(message, &[1, 3])), ("a".into(), "default".into()));
    assert_eq!((text(message, &[2, 1]), text(message, &[2, 2])), ("key".into(), "value".into()));
    let path = format!("{CONFIGMAPS}/a");
    let json = call("GET", &path).send(&server).await.expect(200);
    assert_eq!(json["data"], json!({ "key": "value" }));
    assert_eq!(text(message, &[1, 5]), json["metadata"]["uid"]);
    let got = send(&server, typed("GET", &path)).await;
    assert_eq!(got.body, made.body);
    // The answer is a body, too: with another value, which is as long.
    let mut changed = got.body.to_vec();
    let place = changed.windows(5).position(|part| part == b"value").unwrap();
    changed[place..place + 5].copy_from_slice(b"other");
    let put = send(&server, typed("PUT", &path).raw(changed.clone())).await;
    assert_eq!(text(opened(&put, 200, "v1", "ConfigMap"), &[2, 2]), "other");
    assert_eq!(
        failure(&send(&server, typed("PUT", &path).raw(changed)).await),
        (409, "Conflict".into())
    );
    let twice = send(&server, typed("POST", CONFIGMAPS).raw(body)).await;
    assert_eq!(failure(&twice), (409, "AlreadyExists".into()));
    let patch = call("PATCH", &path)
        .header("accept", TYPED)
        .header("content-type", "application/merge-patch+json")
        .json(&json!({ "data": { "key": "patched" } }));
    let patched = send(&server, patch).await;
    assert_eq!(text(opened(&patched, 200, "v1", "ConfigMap"), &[2, 2]), "patched");
    // `{ "preconditions": { "uid": "u" } }`
    let options = |uid: &str| {
        let uid = [&[0x12, uid.len() as u8 + 2, 0x0a, uid.len() as u8], uid.as_bytes()].concat();
        envelope("v1", "DeleteOptions", &uid)
    };
    let kept = send(&server, typed("DELETE", &path).raw(options("u"))).await;
    assert_eq!(failure(&kept), (409, "Conflict".into()));
    let uid = json["metadata"]["uid"].as_str().unwrap();
    let gone = send(&server, typed("DELETE", &path).raw(options(uid))).await;
    let status = opened(&gone, 200, "v1", "Status");
    assert_eq!((text(status, &[2]), text(status, &[5, 1])), ("Success".into(), "a".into()));
    assert_eq!(failure(&send(&server, typed("GET", &path)).await), (404, "NotFound".into()));
}

#[tokio::test]
async fn pods_are_bound_scaled_and_evicted() {
    let server = server().await;
    call("POST", PODS).json(&pod("p")).send(&server).await.expect(201);
    // `{ "target": { "kind": "Node", "name": "n" } }`
    let binding = envelope("v1", "Binding", b"\x12\x09\x0a\x04Node\x1a\x01n");
    let bound = send(&server, typed("POST", &format!("{PODS}/p/binding")).raw(binding)).await;
    assert_eq!(text(opened(&bound, 201, "v1", "Status"), &[2]), "Success");
    let got = send(&server, typed("GET", &format!("{PODS}/p"))).await;
    let message = opened(&got, 200, "v1", "Pod");
    assert_eq!(
        (text(message, &[2, 10]), text(message, &[2, 2, 2])),
        ("n".into(), "registry/image:1".into())
    );
    let eviction = envelope("policy/v1", "Eviction", b"\x0a\x03\x0a\x01p");
    let evicted = send(&server, typed("POST", &format!("{PODS}/p/eviction")).raw(eviction)).await;
    assert_eq!(text(opened(&evicted, 201, "v1", "Status"), &[2]), "Success");

    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": { "name": "d" },
        "spec": {
            "selector": { "matchLabels": { "app": "d" } },
            "template": { "metadata": pod("d")["metadata"], "spec": pod("d")["spec"] },
        },
    });
    call("POST", deployments).json(&deployment).send(&server).await.expect(201);
    let path = format!("{deployments}/d/scale");
    let got = send(&server, typed("GET", &path)).await;
    let scale = opened(&got, 200, "autoscaling/v1", "Scale");
    assert_eq!((at(scale, &[2, 1]), text(scale, &[3, 2])), (&[1][..], "app=d".into()));
    // `{ "metadata": { "name": "d" }, "spec": { "replicas": 0 } }`: a zero that is meant.
    let none = envelope("autoscaling/v1", "Scale", b"\x0a\x03\x0a\x01d\x12\x02\x08\x00");
    let put = send(&server, typed("PUT", &path).raw(none)).await;
    assert_eq!(at(opened(&put, 200, "autoscaling/v1", "Scale"), &[2, 1]), [0]);
    let json = call("GET", &format!("{deployments}/d")).send(&server).await.expect(200);
    assert_eq!(json["spec"]["replicas"], 0);
}

#[tokio::test]
async fn lists_have_their_items() {
    let server = server().await;
    for name in ["a", "b", "c"] {
        let made = configmap(name, json!({ "tier": "x" }));
        call("POST", CONFIGMAPS).json(&made).send(&server).await.expect(201);
    }
    let names = |list: &[u8]| -> Vec<String> {
        all(list, 2).into_iter().map(|item| text(item, &[1, 1])).collect()
    };
    let raw = send(&server, typed("GET", &format!("{CONFIGMAPS}?limit=2"))).await;
    let list = opened(&raw, 200, "v1", "ConfigMapList");
    assert_eq!(names(list), ["a", "b"]);
    assert_eq!(text(all(list, 2)[1], &[2, 2]), "value");
    let json = call("GET", &format!("{CONFIGMAPS}?limit=2")).send(&server).await.expect(200);
    assert_eq!(text(list, &[1, 2]), json["metadata"]["resourceVersion"]);
    assert_eq!((at(list, &[1, 4]), at(list, &[1, 3]).is_empty()), (&[1][..], false));
    let empty = send(&server, typed("GET", &format!("{CONFIGMAPS}?labelSelector=none"))).await;
    assert_eq!(names(opened(&empty, 200, "v1", "ConfigMapList")), [""; 0]);

    let raw = send(&server, call("GET", CONFIGMAPS).header("accept", METADATA_LIST)).await;
    let list = opened(&raw, 200, "meta.k8s.io/v1", "PartialObjectMetadataList");
    assert_eq!(names(list), ["a", "b", "c"]);
    assert_eq!((text(list, &[2, 1, 11, 1]), at(list, &[2, 2])), ("tier".into(), &[][..]));
    let one = call("GET", &format!("{CONFIGMAPS}/a")).header("accept", METADATA);
    let raw = send(&server, one).await;
    let one = opened(&raw, 200, "meta.k8s.io/v1", "PartialObjectMetadata");
    assert_eq!((text(one, &[1, 1]), at(one, &[2])), ("a".into(), &[][..]));
    // Failures are whole objects, for which this client left JSON.
    let absent = call("GET", &format!("{CONFIGMAPS}/x")).header("accept", METADATA);
    assert_eq!(absent.send(&server).await.failure(), (404, "NotFound"));

    let removed = send(&server, typed("DELETE", CONFIGMAPS)).await;
    assert_eq!(names(opened(&removed, 200, "v1", "ConfigMapList")), ["a", "b", "c"]);
}

/// The events of a watch, frame by frame.
struct Frames {
    body: Body,
    rest: Vec<u8>,
}

impl Frames {
    async fn open(server: &Server, call: Call) -> Self {
        let response = call.response(&server.api.router()).await;
        assert_eq!(response.status(), 200);
        let media_type = response.headers()["content-type"].to_str().unwrap();
        assert_eq!(media_type, "application/vnd.kubernetes.protobuf;stream=watch");
        Self { body: response.into_body(), rest: Vec::new() }
    }

    /// The type of the next event, and the version, the kind and the message of its object.
    async fn next(&mut self) -> Option<(String, String, String, Vec<u8>)> {
        loop {
            if let Some((length, frame)) = self.rest.split_at_checked(4)
                && let Some((event, rest)) =
                    frame.split_at_checked(u32::from_be_bytes(length.try_into().unwrap()) as usize)
            {
                let (version, kind, message) = open(at(event, &[2, 1]));
                let next = (text(event, &[1]), version, kind, message.to_vec());
                self.rest = rest.to_vec();
                return Some(next);
            }
            let frame = tokio::time::timeout(Duration::from_secs(5), self.body.frame());
            match frame.await.expect("an event") {
                Some(data) => self.rest.extend_from_slice(&data.unwrap().into_data().unwrap()),
                None => {
                    assert!(self.rest.is_empty(), "whole frames only");
                    return None;
                }
            }
        }
    }

    /// The type, the object's kind and its name.
    async fn brief(&mut self) -> (String, String, String) {
        let (event, _, kind, message) = self.next().await.expect("an event");
        (event, kind, text(&message, &[1, 1]))
    }
}

fn brief(event: &str, kind: &str, name: &str) -> (String, String, String) {
    (event.to_owned(), kind.to_owned(), name.to_owned())
}

#[tokio::test]
async fn watches_are_frames() {
    let server = server().await;
    let create = |name: &str| call("POST", CONFIGMAPS).json(&configmap(name, json!({})));
    create("a").send(&server).await.expect(201);
    let path = format!(
        "{CONFIGMAPS}?watch=true&sendInitialEvents=true&allowWatchBookmarks=true\
         &resourceVersionMatch=NotOlderThan"
    );
    let mut whole = Frames::open(&server, call("GET", &path).header("accept", TYPED)).await;
    let mut again = Frames::open(&server, call("GET", &path).header("accept", TYPED)).await;
    let accept = "application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
    let mut metadata = Frames::open(&server, call("GET", &path).header("accept", accept)).await;
    for frames in [&mut whole, &mut again] {
        assert_eq!(frames.brief().await, brief("ADDED", "ConfigMap", "a"));
    }
    assert_eq!(metadata.brief().await, brief("ADDED", "PartialObjectMetadata", "a"));
    let (event, version, kind, bookmark) = whole.next().await.unwrap();
    assert_eq!((event, version, kind), brief("BOOKMARK", "v1", "ConfigMap"));
    assert_eq!(text(&bookmark, &[1, 12, 1]), "k8s.io/initial-events-end");
    assert!(!at(&bookmark, &[1, 6]).is_empty());
    let (event, version, kind, _) = metadata.next().await.unwrap();
    assert_eq!(
        (event, version, kind),
        brief("BOOKMARK", "meta.k8s.io/v1", "PartialObjectMetadata")
    );
    again.next().await.unwrap();

    create("b").send(&server).await.expect(201);
    let merge = ("content-type", "application/merge-patch+json");
    let patch = call("PATCH", &format!("{CONFIGMAPS}/b")).header(merge.0, merge.1);
    patch.json(&json!({ "data": { "key": "new" } })).send(&server).await.expect(200);
    call("DELETE", &format!("{CONFIGMAPS}/b")).send(&server).await.expect(200);
    for frames in [&mut whole, &mut again] {
        assert_eq!(frames.brief().await, brief("ADDED", "ConfigMap", "b"));
        let (event, _, _, changed) = frames.next().await.unwrap();
        assert_eq!((event, text(&changed, &[2, 2])), ("MODIFIED".into(), "new".into()));
        assert_eq!(frames.brief().await, brief("DELETED", "ConfigMap", "b"));
    }
    for event in ["ADDED", "MODIFIED", "DELETED"] {
        assert_eq!(metadata.brief().await, brief(event, "PartialObjectMetadata", "b"));
    }
}

#[tokio::test]
async fn a_watch_from_the_future_and_one_from_the_past_fail_in_protobuf() {
    let server = server().await;
    let path = format!("{CONFIGMAPS}?watch=true&resourceVersion=100000");
    let early = send(&server, call("GET", &path).header("accept", TYPED)).await;
    assert_eq!(failure(&early), (504, "Timeout".into()));
    call("POST", CONFIGMAPS).json(&configmap("a", json!({}))).send(&server).await.expect(201);
    let merge = ("content-type", "application/merge-patch+json");
    // More than the cache keeps.
    for n in 0..2200 {
        let patch = call("PATCH", &format!("{CONFIGMAPS}/a")).header(merge.0, merge.1);
        patch.json(&json!({ "data": { "n": n.to_string() } })).send(&server).await.expect(200);
    }
    let path = format!("{CONFIGMAPS}?watch=true&resourceVersion=1");
    let mut late = Frames::open(&server, call("GET", &path).header("accept", TYPED)).await;
    let (event, version, kind, status) = late.next().await.unwrap();
    assert_eq!((event, version, kind), brief("ERROR", "v1", "Status"));
    assert_eq!(text(&status, &[4]), "Expired");
    assert!(late.next().await.is_none());
}

#[tokio::test]
async fn accept_chooses_the_form_or_is_refused() {
    let server = server().await;
    call("POST", CONFIGMAPS).json(&configmap("a", json!({}))).send(&server).await.expect(201);
    let table = "as=Table;g=meta.k8s.io;v=v1";
    let (one, many) = (format!("{CONFIGMAPS}/a"), CONFIGMAPS.to_owned());
    let watch = format!("{CONFIGMAPS}?watch=true&timeoutSeconds=1");
    let stream = format!("{PB};stream=watch");
    for (path, accept, code, media_type) in [
        (&one, TYPED.to_owned(), 200, PB),
        (&one, format!("application/json,{PB}"), 200, "application/json"),
        (&one, format!("application/json;q=0.1,{PB};q=0.2"), 200, PB),
        (&one, format!("{PB};q=0.1,*/*;q=0.2"), 200, "application/json"),
        (&one, "application/yaml".to_owned(), 200, "application/yaml"),
        (&one, "image/png".to_owned(), 406, "application/json"),
        (&many, PB.to_owned(), 200, PB),
        (&many, format!("{PB};{table}"), 406, "application/json"),
        (&many, format!("{PB};{table},{PB}"), 200, PB),
        (&many, format!("{PB};{table},application/json;{table}"), 200, "application/json"),
        (&many, format!("application/yaml;{table}"), 200, "application/yaml"),
        (&watch, PB.to_owned(), 200, stream.as_str()),
        (&watch, stream.clone(), 200, stream.as_str()),
        (&watch, format!("{PB};{table},application/json;{table}"), 200, "application/json"),
        (&watch, "application/yaml".to_owned(), 406, "application/yaml"),
        (&watch, format!("application/yaml,{TYPED}"), 200, stream.as_str()),
    ] {
        let raw = send(&server, call("GET", path).header("accept", &accept)).await;
        assert_eq!((raw.code, raw.media_type.as_str()), (code, media_type), "{path} {accept}");
    }
    // What is refused leaves no trace.
    let made = call("POST", CONFIGMAPS).header("accept", "image/png");
    let refused = made.json(&configmap("b", json!({}))).send(&server).await;
    assert_eq!(refused.failure(), (406, "NotAcceptable"));
    assert_eq!(call("GET", &format!("{CONFIGMAPS}/b")).send(&server).await.code, 404);
    // Nobody gets so far without a name, and learns why in his own encoding.
    let stranger = send(&server, typed("GET", &one).by(None)).await;
    assert_eq!(failure(&stranger), (401, "Unauthorized".into()));
    let document = call("GET", "/openapi/v3/api/v1").header("accept", PB);
    assert_eq!(failure(&send(&server, document).await), (406, "NotAcceptable".into()));
}

#[tokio::test]
async fn bodies_that_cannot_be_read_are_told_apart() {
    let server = server().await;
    let body = envelope("v1", "ConfigMap", b"\x0a\x03\x0a\x01a");
    for (media_type, body, code, reason) in [
        ("application/vnd.kubernetes.protobuf; charset=x", body.clone(), 201, ""),
        ("application/protobuf", body.clone(), 415, "UnsupportedMediaType"),
        ("application/cbor", body.clone(), 415, "UnsupportedMediaType"),
        ("application/json", body.clone(), 400, "BadRequest"),
        (PB, b"{}".to_vec(), 400, "BadRequest"),
        (PB, body[..body.len() - 1].to_vec(), 400, "BadRequest"),
        (PB, envelope("v1", "Unheard", b""), 400, "BadRequest"),
        (PB, envelope("v1", "Secret", b"\x0a\x03\x0a\x01a"), 400, "BadRequest"),
    ] {
        let call = call("POST", CONFIGMAPS).header("accept", PB).header("content-type", media_type);
        let raw = send(&server, call.raw(body)).await;
        if code == 201 {
            opened(&raw, 201, "v1", "ConfigMap");
        } else {
            assert_eq!(failure(&raw), (code, reason.to_owned()), "{media_type}");
        }
    }
    let options = call("DELETE", &format!("{CONFIGMAPS}/a")).header("content-type", "text/plain");
    assert_eq!(options.raw("x").send(&server).await.failure(), (415, "UnsupportedMediaType"));
    let patch = call("PATCH", &format!("{CONFIGMAPS}/a")).header("content-type", PB).raw("x");
    assert_eq!(patch.send(&server).await.failure(), (415, "UnsupportedMediaType"));
}

#[tokio::test]
async fn every_version_of_a_kind_has_its_message() {
    let server = server().await;
    // The collection, its version, and the fields of the reference and of the text.
    let versions = [
        ("/apis/events.k8s.io/v1/namespaces/default/events", "events.k8s.io/v1", 8, 10),
        ("/api/v1/namespaces/default/events", "v1", 2, 4),
    ];
    let mut watches = Vec::new();
    for (path, ..) in versions {
        let watch = call("GET", &format!("{path}?watch=true")).header("accept", TYPED);
        watches.push(Frames::open(&server, watch).await);
    }
    let event = json!({
        "metadata": { "name": "e" }, "involvedObject": { "name": "p", "namespace": "default" },
        "message": "It runs.", "reportingComponent": "c", "reportingInstance": "i",
    });
    call("POST", versions[1].0).json(&event).send(&server).await.expect(201);
    for ((path, version, about, note), mut watch) in versions.into_iter().zip(watches) {
        let said = |message: &[u8]| (text(message, &[about, 3]), text(message, &[note]));
        let expected = ("p".to_owned(), "It runs.".to_owned());
        let own = format!("{path}/e");
        let got = send(&server, typed("GET", &own)).await;
        assert_eq!(said(opened(&got, 200, version, "Event")), expected, "{version}");
        let list = send(&server, typed("GET", path)).await;
        assert_eq!(said(at(opened(&list, 200, version, "EventList"), &[2])), expected);
        // The answer is a body, too, which changes nothing.
        let put = send(&server, typed("PUT", &own).raw(got.body.to_vec())).await;
        assert_eq!((put.code, put.body), (200, got.body), "{version}");
        let (event, of, kind, message) = watch.next().await.unwrap();
        assert_eq!((event.as_str(), of.as_str(), kind.as_str()), ("ADDED", version, "Event"));
        assert_eq!(said(&message), expected);
    }
}
