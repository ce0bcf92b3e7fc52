//! A client that speaks protobuf with the messages that `k8s-pb` generates from upstream's
//! definitions: what typed clients of other languages send and read. It needs no root.

use std::fmt::Debug;

use anyhow::{Context, Result, bail, ensure};
use bowline_tests::Server;
use http::{Method, Request};
use k8s_pb::api::coordination::v1 as coordination;
use k8s_pb::api::core::v1 as core;
use k8s_pb::apimachinery::pkg::apis::meta::v1 as meta;
use k8s_pb::apimachinery::pkg::runtime::{TypeMeta, Unknown};
use k8s_pb::apimachinery::pkg::util::intstr::IntOrString;
use k8s_pb::{Metadata, Resource};
use kube::client::Body;
use prost::Message;

const FORM: &str = "application/vnd.kubernetes.protobuf";
const MAGIC: &[u8] = b"k8s\0";
const SPACE: &str = "/namespaces/default";
/// Controllers write, too: what met a newer version is done again.
const TRIES: usize = 5;

/// What a test needs of a kind.
trait Kind:
    Message + Default + Clone + PartialEq + Debug + Resource + Metadata<Ty = meta::ObjectMeta>
{
}
impl<K> Kind for K where
    K: Message + Default + Clone + PartialEq + Debug + Resource + Metadata<Ty = meta::ObjectMeta>
{
}

struct Wire {
    client: kube::Client,
}

/// An answer in its envelope.
struct Answer {
    kind: String,
    status: u16,
    raw: Vec<u8>,
}

impl Answer {
    /// The message; written anew it is the same, so that nothing in it is unknown to upstream.
    fn read<M: Message + Default>(&self) -> Result<M> {
        ensure!(self.status < 300, "status {}: {:?}", self.status, self.status());
        let message = M::decode(self.raw.as_slice())?;
        ensure!(message.encode_to_vec() == self.raw, "{} is not what upstream writes", self.kind);
        Ok(message)
    }

    fn status(&self) -> Result<meta::Status> {
        ensure!(self.kind == "Status", "a {}", self.kind);
        Ok(meta::Status::decode(self.raw.as_slice())?)
    }
}

/// A message in the envelope of its kind.
fn sealed(api_version: &str, kind: &str, message: &impl Message) -> Vec<u8> {
    let unknown = Unknown {
        type_meta: Some(TypeMeta {
            api_version: Some(api_version.to_owned()),
            kind: Some(kind.to_owned()),
        }),
        raw: Some(message.encode_to_vec()),
        ..Unknown::default()
    };
    [MAGIC, &unknown.encode_to_vec()].concat()
}

fn opened(bytes: &[u8]) -> Result<(String, Vec<u8>)> {
    let bytes = bytes.strip_prefix(MAGIC).context("no envelope")?;
    let unknown = Unknown::decode(bytes)?;
    let kind = unknown.type_meta.and_then(|types| types.kind).context("no kind")?;
    Ok((kind, unknown.raw.unwrap_or_default()))
}

impl Wire {
    async fn bytes(&self, method: Method, path: &str, body: Vec<u8>) -> Result<(u16, Vec<u8>)> {
        let accept =
            if path.contains("watch=") { format!("{FORM};stream=watch") } else { FORM.into() };
        let request = Request::builder().method(method).uri(path).header("Accept", &accept);
        let request = request.header("Content-Type", FORM).body(Body::from(body))?;
        let response = self.client.send(request).await?;
        let form = response.headers().get("Content-Type").context("no type")?.to_str()?;
        ensure!(form == accept, "{path} is {form}");
        let status = response.status().as_u16();
        Ok((status, response.into_body().collect_bytes().await?.to_vec()))
    }

    async fn call(&self, method: Method, path: &str, body: Vec<u8>) -> Result<Answer> {
        let what = format!("{method} {path}");
        let (status, bytes) = self.bytes(method, path, body).await.with_context(|| what.clone())?;
        let (kind, raw) = opened(&bytes).context(what)?;
        Ok(Answer { kind, status, raw })
    }

    async fn get<M: Message + Default>(&self, path: &str) -> Result<M> {
        self.call(Method::GET, path, Vec::new()).await?.read()
    }

    /// Changes of a collection after a version, until the server ends the watch after a second.
    async fn changes<K: Kind>(&self, path: &str, version: &str) -> Result<Vec<(String, K)>> {
        let path = format!("{path}?watch=true&timeoutSeconds=1&resourceVersion={version}");
        let (_, bytes) = self.bytes(Method::GET, &path, Vec::new()).await?;
        let mut rest = bytes.as_slice();
        let mut changes = Vec::new();
        while let Some((length, tail)) = rest.split_first_chunk() {
            let length = usize::try_from(u32::from_be_bytes(*length))?;
            let (frame, tail) = tail.split_at_checked(length).context("half a frame")?;
            rest = tail;
            let event = meta::WatchEvent::decode(frame)?;
            let (kind, raw) = opened(&event.object.and_then(|it| it.raw).context("no object")?)?;
            let answer = Answer { kind, status: 200, raw };
            ensure!(answer.kind == K::KIND, "a {} in the watch", answer.kind);
            changes.push((event.r#type.unwrap_or_default(), answer.read()?));
        }
        ensure!(rest.is_empty(), "{} bytes are left", rest.len());
        Ok(changes)
    }

    /// Reads, changes and writes an object, again when somebody was faster.
    async fn update<K: Kind>(&self, path: &str, change: impl Fn(&mut K)) -> Result<(K, K)> {
        for _ in 0..TRIES {
            let before: K = self.get(path).await?;
            let mut after = before.clone();
            change(&mut after);
            let body = sealed(K::API_VERSION, K::KIND, &after);
            let answer = self.call(Method::PUT, path, body).await?;
            if answer.status != 409 {
                return Ok((before, answer.read()?));
            }
        }
        bail!("{TRIES} conflicts at {path}")
    }
}

fn named(name: &str) -> Option<meta::ObjectMeta> {
    Some(meta::ObjectMeta { name: Some(name.to_owned()), ..Default::default() })
}

fn text(text: &str) -> Option<String> {
    Some(text.to_owned())
}

fn version(object: &impl Kind) -> &str {
    object.metadata().and_then(|metadata| metadata.resource_version.as_deref()).unwrap_or_default()
}

fn label<K: Kind>(object: &mut K) {
    if let Some(metadata) = object.metadata_mut() {
        metadata.labels.insert("zoo".to_owned(), "yes".to_owned());
    }
}

fn is_labelled(object: &impl Kind) -> bool {
    object.metadata().is_some_and(|metadata| metadata.labels.contains_key("zoo"))
}

/// The lines in which two objects differ.
fn differing(one: &impl Debug, other: &impl Debug) -> String {
    let (one, other) = (format!("{one:#?}"), format!("{other:#?}"));
    let pairs = one.lines().zip(other.lines()).filter(|(one, other)| one != other);
    pairs.map(|(one, other)| format!("\n-{one}\n+{other}")).take(20).collect()
}

/// One kind: made, read, listed, written unchanged and changed, deleted, and all of it watched.
/// `take` gives an object's part that the client wrote.
async fn lives<K: Kind, L: Message + Default, P: PartialEq + Debug>(
    wire: &Wire,
    root: &str,
    sample: K,
    listed: impl Fn(L) -> (Option<meta::ListMeta>, Vec<K>),
    take: impl Fn(&K) -> P,
) -> Result<()> {
    let collection = format!("{root}/{}", K::URL_PATH_SEGMENT);
    let (metadata, _) = listed(wire.get(&collection).await?);
    let start = metadata.and_then(|it| it.resource_version).context("a list without a version")?;

    let body = sealed(K::API_VERSION, K::KIND, &sample);
    let made: K = wire.call(Method::POST, &collection, body.clone()).await?.read()?;
    ensure!(take(&made) == take(&sample), "{:?} was made {:?}", take(&sample), take(&made));
    let again = wire.call(Method::POST, &collection, body).await?;
    let status = again.status()?;
    ensure!(status.reason == text("AlreadyExists") && status.code == Some(409), "{status:?}");

    let name = made.metadata().and_then(|it| it.name.clone()).context("no name")?;
    let path = format!("{collection}/{name}");
    let (before, after) = wire.update::<K>(&path, |_| ()).await?;
    ensure!(before == after, "written unchanged it changes: {}", differing(&before, &after));
    let (before, after) = wire.update::<K>(&path, label).await?;
    ensure!(is_labelled(&after) && version(&before) != version(&after), "{after:?}");
    let (_, items) = listed(wire.get(&format!("{collection}?labelSelector=zoo")).await?);
    let [found] = items.as_slice() else { bail!("{} are listed", items.len()) };
    ensure!(take(found) == take(&after), "{found:?} is listed");

    let now = meta::DeleteOptions { grace_period_seconds: Some(0), ..Default::default() };
    let gone = wire.call(Method::DELETE, &path, sealed("v1", "DeleteOptions", &now)).await?;
    ensure!(gone.status == 200, "{:?}", gone.status()?);
    let status = wire.call(Method::GET, &path, Vec::new()).await?.status()?;
    ensure!(status.reason == text("NotFound") && status.code == Some(404), "{status:?}");
    watched(wire, &collection, &start, &made).await
}

async fn watched<K: Kind>(wire: &Wire, collection: &str, start: &str, made: &K) -> Result<()> {
    let uid = |object: &K| object.metadata().and_then(|it| it.uid.clone());
    let changes = wire.changes::<K>(collection, start).await?;
    let changes: Vec<_> = changes.into_iter().filter(|(_, it)| uid(it) == uid(made)).collect();
    let types: Vec<&str> = changes.iter().map(|(kind, _)| kind.as_str()).collect();
    let [(_, first), between @ .., (_, last)] = changes.as_slice() else { bail!("{types:?}") };
    ensure!(first == made, "what was made is watched as {first:?}");
    ensure!(types.first() == Some(&"ADDED") && types.last() == Some(&"DELETED"), "{types:?}");
    ensure!(!between.is_empty() && types[1..types.len() - 1].iter().all(|it| *it == "MODIFIED"));
    ensure!(between.iter().any(|(_, it)| is_labelled(it)) && is_labelled(last), "no label");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn generated_messages_are_understood_both_ways() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let mut server = Server::start(directory.path())?;
    let wire = Wire { client: server.client().await? };
    let core_root = format!("/api/v1{SPACE}");

    let listed = |list: core::PodList| (list.metadata, list.items);
    let containers =
        |pod: &core::Pod| pod.spec.as_ref().map(|spec| spec.containers[0].image.clone());
    lives(&wire, &core_root, pod(), listed, containers).await.context("pods")?;
    let listed = |list: core::ServiceList| (list.metadata, list.items);
    let ports = |it: &core::Service| {
        it.spec.as_ref().map(|spec| (spec.ports.clone(), spec.selector.clone()))
    };
    lives(&wire, &core_root, service(), listed, ports).await.context("services")?;
    let listed = |list: core::NodeList| (list.metadata, list.items);
    let unschedulable = |node: &core::Node| node.spec.as_ref().map(|spec| spec.unschedulable);
    lives(&wire, "/api/v1", node(), listed, unschedulable).await.context("nodes")?;
    let listed = |list: core::EventList| (list.metadata, list.items);
    let told = |it: &core::Event| (it.reason.clone(), it.count, it.event_time, it.last_timestamp);
    lives(&wire, &core_root, event(), listed, told).await.context("events")?;
    let listed = |list: coordination::LeaseList| (list.metadata, list.items);
    let root = format!("/apis/coordination.k8s.io/v1{SPACE}");
    lives(&wire, &root, lease(), listed, |it| it.spec.clone()).await.context("leases")
}

/// It waits for a gate, so that nobody but the test changes it.
fn pod() -> core::Pod {
    let container = core::Container {
        name: text("main"),
        image: text("registry.example/main:1"),
        ..Default::default()
    };
    let spec = core::PodSpec {
        containers: vec![container],
        scheduling_gates: vec![core::PodSchedulingGate { name: text("example.com/wait") }],
        ..Default::default()
    };
    core::Pod { metadata: named("gated"), spec: Some(spec), status: None }
}

fn service() -> core::Service {
    let port = core::ServicePort {
        name: text("http"),
        protocol: text("TCP"),
        port: Some(80),
        target_port: Some(IntOrString { r#type: Some(1), int_val: Some(0), str_val: text("web") }),
        // Upstream's writers leave no plain number out.
        node_port: Some(0),
        ..Default::default()
    };
    let spec = core::ServiceSpec {
        ports: vec![port],
        selector: [("app".to_owned(), "web".to_owned()), ("a".to_owned(), "b".to_owned())].into(),
        ..Default::default()
    };
    core::Service { metadata: named("web"), spec: Some(spec), status: None }
}

fn node() -> core::Node {
    let spec = core::NodeSpec { unschedulable: Some(true), ..Default::default() };
    core::Node { metadata: named("elsewhere"), spec: Some(spec), status: None }
}

fn event() -> core::Event {
    let involved = core::ObjectReference {
        kind: text("Pod"),
        name: text("gated"),
        namespace: text("default"),
        ..Default::default()
    };
    core::Event {
        metadata: named("told"),
        involved_object: Some(involved),
        reason: text("Told"),
        message: text("once"),
        count: Some(7),
        last_timestamp: Some(meta::Time { seconds: Some(1_767_225_600), nanos: Some(0) }),
        // Upstream's writers leave out nothing that is no pointer.
        event_time: Some(meta::MicroTime::default()),
        reporting_component: text(""),
        reporting_instance: text(""),
        ..Default::default()
    }
}

fn lease() -> coordination::Lease {
    let spec = coordination::LeaseSpec {
        holder_identity: text("me"),
        lease_duration_seconds: Some(15),
        renew_time: Some(meta::MicroTime {
            seconds: Some(1_767_225_600),
            nanos: Some(123_456_000),
        }),
        lease_transitions: Some(0),
        ..Default::default()
    };
    coordination::Lease { metadata: named("held"), spec: Some(spec) }
}
