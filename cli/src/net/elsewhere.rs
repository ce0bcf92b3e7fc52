//! What a node's own maps do not know and others do: on which node a pod is, and that a service has
//! no address.
//!
//! Guarantees: asked only when something was not found, of the nodes and the API of its cluster as
//! far as they are known; what cannot be asked leaves the error as it was.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, anyhow};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Api;
use kube::api::ListParams;

use super::ends::{self, NoSuch};
use super::explain::SERVICE_NAME;
use super::listen;
use super::source::Source;
use crate::verbs::client::connect_file;

/// How long the API may take to say what a service is.
const PATIENCE: Duration = Duration::from_secs(3);

/// Endpoints that are named at most.
const NAMED: usize = 8;

/// The same error, with what the nodes of the cluster know of its name.
pub(super) fn explained(error: anyhow::Error, nodes: &[Source]) -> anyhow::Error {
    let better = match error.downcast_ref::<NoSuch>() {
        Some(NoSuch::Pod { name, .. }) => node_of(name, nodes)
            .map(|node| anyhow!("this node has no pod {name}: it is on {node} (--node {node})")),
        Some(NoSuch::End { name, .. }) => headless(name, nodes).map(|slices| {
            let endpoints = endpoints(&slices);
            anyhow!("{name} is headless: it has no virtual IP, its name leads to {endpoints}")
        }),
        Some(NoSuch::Service { name, .. }) => headless(name, nodes).map(|_| {
            anyhow!("{name} is headless: nothing is balanced for it; use --pod or --address")
        }),
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

/// The slices of a service without a virtual address.
fn headless(service: &str, nodes: &[Source]) -> Option<Vec<EndpointSlice>> {
    let known = nodes.iter().find_map(|node| node.node.as_ref())?;
    crate::wait(asked(service, &known.kubeconfig)).ok().flatten()
}

/// The same as the API has it; nothing if the service has an address.
async fn asked(service: &str, kubeconfig: &Path) -> anyhow::Result<Option<Vec<EndpointSlice>>> {
    let asked = async {
        let client = connect_file(kubeconfig).await?.client;
        let (namespace, name) =
            service.split_once('/').unwrap_or((ends::DEFAULT_NAMESPACE, service));
        let object = Api::<Service>::namespaced(client.clone(), namespace).get(name).await?;
        if object.spec.and_then(|spec| spec.cluster_ip).as_deref() != Some("None") {
            return Ok(None);
        }
        let labelled = ListParams::default().labels(&format!("{SERVICE_NAME}={name}"));
        let slices = Api::<EndpointSlice>::namespaced(client, namespace).list(&labelled).await?;
        anyhow::Ok(Some(slices.items))
    };
    tokio::time::timeout(PATIENCE, asked).await.context("the API says nothing")?
}

/// Where its name leads, and how to ask about that.
fn endpoints(slices: &[EndpointSlice]) -> String {
    let mut all = BTreeSet::new();
    let mut example = None;
    for slice in slices {
        let port = slice.ports.iter().flatten().find_map(|port| port.port);
        for endpoint in slice.endpoints.iter().flatten() {
            let pod = endpoint.target_ref.as_ref().and_then(|target| target.name.as_deref());
            let is_ready = endpoint.conditions.as_ref().and_then(|it| it.ready) != Some(false);
            for address in &endpoint.addresses {
                let named = pod.map_or_else(String::new, |pod| format!(" ({pod})"));
                let state = if is_ready { "" } else { ", not ready" };
                all.insert(format!("{address}{named}{state}"));
                let port = port.map_or_else(|| "PORT".to_owned(), |port| port.to_string());
                example.get_or_insert_with(|| format!("{}:{port}", pod.unwrap_or(address)));
            }
        }
    }
    let Some(example) = example else { return "nothing: it has no endpoints".to_owned() };
    let more = match all.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let named: Vec<String> = all.into_iter().take(NAMED).collect();
    format!("{}{more}: give one of them, as {example}", named.join(", "))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_nobody_knows_stays_as_it_was() {
        let name = "default/web".to_owned();
        let error = NoSuch::Pod { name, nearest: String::new() };
        let text = explained(error.into(), &[]).to_string();
        assert_eq!(text, "this node has no pod default/web");
        assert_eq!(explained(anyhow!("else"), &[]).to_string(), "else");
    }

    #[test]
    fn endpoints_are_named_with_how_to_ask_about_them() {
        let slice = |endpoints: serde_json::Value| -> EndpointSlice {
            serde_json::from_value(json!({
                "addressType": "IPv4", "endpoints": endpoints, "ports": [{ "port": 9376 }],
            }))
            .unwrap()
        };
        let one = |last: usize, ready: bool| {
            json!({
                "addresses": [format!("10.240.0.{last}")], "conditions": { "ready": ready },
                "targetRef": { "kind": "Pod", "name": format!("web-{last}") },
            })
        };
        let two = slice(json!([one(2, true), one(1, false)]));
        let expected = "10.240.0.1 (web-1), not ready, 10.240.0.2 (web-2): give one of them, as \
                        web-2:9376";
        assert_eq!(endpoints(&[two]), expected);
        let foreign = slice(json!([{ "addresses": ["192.0.2.1"] }]));
        let expected = "192.0.2.1: give one of them, as 192.0.2.1:9376";
        assert_eq!(endpoints(&[foreign]), expected);
        let many = slice((1..=9).map(|last| one(last, true)).collect());
        let text = endpoints(&[many]);
        assert!(text.contains("(web-8) and 1 more: give one"), "{text}");
        assert_eq!(endpoints(&[]), "nothing: it has no endpoints");
    }
}
