//! What the scheduler watches, as one stream.

use futures::stream::{BoxStream, SelectAll};
use futures::{Stream, StreamExt};
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use kube::core::Resource;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client};
use serde::de::DeserializeOwned;

#[expect(clippy::large_enum_variant, reason = "moved once, from the stream into the loop")]
pub(crate) enum Seen {
    Pod(Event<Pod>),
    Node(Event<Node>),
    Service(Event<Service>),
}

pub(crate) fn all(client: Client) -> SelectAll<BoxStream<'static, Seen>> {
    futures::stream::select_all([
        follow(client.clone()).map(Seen::Pod).boxed(),
        follow(client.clone()).map(Seen::Node).boxed(),
        follow(client).map(Seen::Service).boxed(),
    ])
}

/// Events of one kind; errors are logged and retried with back-off.
fn follow<K>(client: Client) -> impl Stream<Item = Event<K>> + Send + 'static
where
    K: Resource<DynamicType = ()>
        + Clone
        + std::fmt::Debug
        + DeserializeOwned
        + Send
        + Sync
        + 'static,
{
    watcher::watcher(Api::<K>::all(client), watcher::Config::default())
        .default_backoff()
        .filter_map(|event| async {
            event.inspect_err(|error| tracing::warn!(%error, "a watch failed and is retried")).ok()
        })
}
