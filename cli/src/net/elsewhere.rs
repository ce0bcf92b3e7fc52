//! What a node's own maps do not know and others do: on which node a pod is, and that a service has
//! no address.
//!
//! Guarantees: asked only when something was not found, and only of a local cluster; what cannot be
//! asked leaves the error as it was.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, anyhow};
use k8s_openapi::api::core::v1::Service;
use kube::Api;

use super::ends::{self, NoSuch};
use super::listen;
use super::source::Source;
use crate::verbs::client::connect_file;

/// How long the API may take to say what a service is.
const PATIENCE: Duration = Duration::from_secs(3);

/// The same error, with what the nodes of the cluster know of its name.
pub(super) fn explained(error: anyhow::Error, nodes: &[Source]) -> anyhow::Error {
    let better = match error.downcast_ref::<NoSuch>() {
        Some(NoSuch::Pod { name, .. }) => node_of(name, nodes)
            .map(|node| anyhow!("this node has no pod {name}: it is on {node} (--node {node})")),
        Some(NoSuch::End { name, .. }) if is_headless(name, nodes) => {
            Some(anyhow!("{name} is headless: it has no address; give a pod, or POD:PORT"))
        }
        Some(NoSuch::Service { name, .. }) if is_headless(name, nodes) => {
            Some(anyhow!("{name} is headless: nothing is balanced for it; use --pod or --address"))
        }
        _ => None,
    };
    better.unwrap_or(error)
}

/// The node that has the pod.
fn node_of<'a>(pod: &str, nodes: &'a [Source]) -> Option<&'a str> {
    let has_it = |node: &&Source| {
        // A node without a data plane has no pods to name.
        let snapshot = listen::snapshot(&node.bpffs, &node.run_dir).ok();
        snapshot.is_some_and(|snapshot| ends::clients(pod, &snapshot).is_ok())
    };
    Some(nodes.iter().find(has_it)?.node.as_ref()?.name.as_str())
}

fn is_headless(service: &str, nodes: &[Source]) -> bool {
    let local = nodes.iter().find_map(|node| node.node.as_ref());
    local.is_some_and(|local| {
        let asked = crate::wait(cluster_ip(service, &local.kubeconfig));
        asked.is_ok_and(|address| address.as_deref() == Some("None"))
    })
}

/// The service's address as the API has it.
async fn cluster_ip(service: &str, kubeconfig: &Path) -> anyhow::Result<Option<String>> {
    let asked = async {
        let client = connect_file(kubeconfig).await?.client;
        let (namespace, name) =
            service.split_once('/').unwrap_or((ends::DEFAULT_NAMESPACE, service));
        let object = Api::<Service>::namespaced(client, namespace).get(name).await?;
        anyhow::Ok(object.spec.and_then(|spec| spec.cluster_ip))
    };
    tokio::time::timeout(PATIENCE, asked).await.context("the API says nothing")?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_knows_stays_as_it_was() {
        let name = "default/web".to_owned();
        let error = NoSuch::Pod { name, nearest: String::new() };
        let text = explained(error.into(), &[]).to_string();
        assert_eq!(text, "this node has no pod default/web");
        assert_eq!(explained(anyhow!("else"), &[]).to_string(), "else");
    }
}
