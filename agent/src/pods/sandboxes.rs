//! What a pod needs of the node's network, as a seam: the worker is tested without one.

use futures::FutureExt as _;
use futures::future::BoxFuture;

use crate::network::{PodIdentity, PodNetwork, Sandbox};

/// Namespaces and addresses of pods. All calls can be repeated.
pub(crate) trait Sandboxes: Send + Sync + 'static {
    fn set_up<'a>(&'a self, pod: &'a PodIdentity) -> BoxFuture<'a, Result<Sandbox, String>>;
    fn tear_down<'a>(&'a self, uid: &'a str) -> BoxFuture<'a, Result<(), String>>;
    /// Pod UIDs with what they have.
    fn list(&self) -> Vec<(String, Sandbox)>;
}

impl Sandboxes for PodNetwork {
    fn set_up<'a>(&'a self, pod: &'a PodIdentity) -> BoxFuture<'a, Result<Sandbox, String>> {
        async move { PodNetwork::set_up(self, pod).await.map_err(|error| error.to_string()) }
            .boxed()
    }

    fn tear_down<'a>(&'a self, uid: &'a str) -> BoxFuture<'a, Result<(), String>> {
        async move { PodNetwork::tear_down(self, uid).await.map_err(|error| error.to_string()) }
            .boxed()
    }

    fn list(&self) -> Vec<(String, Sandbox)> {
        self.sandboxes()
    }
}
