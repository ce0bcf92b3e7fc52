//! A container's environment: literal values, fields of the pod, and ConfigMaps and Secrets.
//!
//! Guarantee: an error names the variable and the object that is missing; the caller turns it into
//! `CreateContainerConfigError`. Service variables are not set: names are resolved by DNS.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    ConfigMap, Container, EnvFromSource, EnvVar, EnvVarSource, ObjectFieldSelector, Pod,
    ResourceFieldSelector, Secret,
};
use kube::api::Api;

use super::expand::expand;
use super::resources::thousandths;
use crate::network::Addresses;

/// A container's environment cannot be put together.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ResolveEnvFailed {
    #[error("{kind} {name:?} not found")]
    NotFound { kind: &'static str, name: String },
    #[error("couldn't find key {key} in {kind} {namespace}/{name}")]
    NoKey { kind: &'static str, namespace: String, name: String, key: String },
    #[error("reading {kind} {name:?}: {source}")]
    Read { kind: &'static str, name: String, source: Box<kube::Error> },
    #[error("environment variable {variable}: {what} is not supported")]
    Unsupported { variable: String, what: String },
}

/// What a pod's fields are read from besides the pod itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PodPlace<'a> {
    pub(crate) node: &'a str,
    pub(crate) node_ips: Addresses,
    pub(crate) pod_ips: Addresses,
}

/// Bytes by key, of a ConfigMap or a Secret.
pub(crate) type Entries = BTreeMap<String, Vec<u8>>;

/// ConfigMaps and Secrets, read from the API when a container starts.
pub(crate) struct ConfigSource {
    client: kube::Client,
    namespace: String,
}

impl ConfigSource {
    pub(crate) fn new(client: kube::Client, namespace: &str) -> Self {
        Self { client, namespace: namespace.to_owned() }
    }

    /// The entries of a ConfigMap, or `None` when it may be missing and is.
    pub(crate) async fn config_map(
        &self,
        name: &str,
        optional: bool,
    ) -> Result<Option<Entries>, ResolveEnvFailed> {
        let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), &self.namespace);
        let found = present("configmap", name, optional, api.get_opt(name).await)?;
        Ok(found.map(|map| {
            let text = map.data.into_iter().flatten();
            let binary = map.binary_data.into_iter().flatten();
            text.map(|(key, value)| (key, value.into_bytes()))
                .chain(binary.map(|(key, value)| (key, value.0)))
                .collect()
        }))
    }

    /// The entries of a Secret, or `None` when it may be missing and is.
    pub(crate) async fn secret(
        &self,
        name: &str,
        optional: bool,
    ) -> Result<Option<Entries>, ResolveEnvFailed> {
        let api: Api<Secret> = Api::namespaced(self.client.clone(), &self.namespace);
        let found = present("secret", name, optional, api.get_opt(name).await)?;
        Ok(found.map(|secret| {
            let data = secret.data.into_iter().flatten();
            data.map(|(key, value)| (key, value.0)).collect()
        }))
    }

    fn no_key(&self, kind: &'static str, name: &str, key: &str) -> ResolveEnvFailed {
        ResolveEnvFailed::NoKey {
            kind,
            namespace: self.namespace.clone(),
            name: name.to_owned(),
            key: key.to_owned(),
        }
    }
}

fn present<T>(
    kind: &'static str,
    name: &str,
    optional: bool,
    found: Result<Option<T>, kube::Error>,
) -> Result<Option<T>, ResolveEnvFailed> {
    match found {
        Ok(None) if !optional => Err(ResolveEnvFailed::NotFound { kind, name: name.to_owned() }),
        Ok(found) => Ok(found),
        Err(source) => {
            Err(ResolveEnvFailed::Read { kind, name: name.to_owned(), source: source.into() })
        }
    }
}

/// The container's own variables, later ones over earlier ones; the image's are not in it.
pub(crate) async fn resolve_env(
    pod: &Pod,
    container: &Container,
    place: PodPlace<'_>,
    source: &ConfigSource,
) -> Result<BTreeMap<String, String>, ResolveEnvFailed> {
    let mut values = BTreeMap::new();
    for from in container.env_from.iter().flatten() {
        let prefix = from.prefix.as_deref().unwrap_or_default();
        for (key, value) in env_from(from, source).await? {
            let value = String::from_utf8_lossy(&value).into_owned();
            values.insert(format!("{prefix}{key}"), value);
        }
    }
    for variable in container.env.iter().flatten() {
        let value = match (&variable.value, &variable.value_from) {
            (_, Some(from)) => value_from(pod, container, place, source, variable, from).await?,
            (literal, None) => Some(expand(literal.as_deref().unwrap_or_default(), &values)),
        };
        if let Some(value) = value {
            values.insert(variable.name.clone(), value);
        }
    }
    Ok(values)
}

async fn env_from(
    from: &EnvFromSource,
    source: &ConfigSource,
) -> Result<Entries, ResolveEnvFailed> {
    let mut entries = Entries::new();
    if let Some(map) = &from.config_map_ref {
        let found = source.config_map(&map.name, map.optional == Some(true)).await?;
        entries.extend(found.into_iter().flatten());
    }
    if let Some(secret) = &from.secret_ref {
        let found = source.secret(&secret.name, secret.optional == Some(true)).await?;
        entries.extend(found.into_iter().flatten());
    }
    Ok(entries)
}

async fn value_from(
    pod: &Pod,
    container: &Container,
    place: PodPlace<'_>,
    source: &ConfigSource,
    variable: &EnvVar,
    from: &EnvVarSource,
) -> Result<Option<String>, ResolveEnvFailed> {
    if let Some(key) = &from.config_map_key_ref {
        let optional = key.optional == Some(true);
        let mut entries = source.config_map(&key.name, optional).await?;
        let value = entries.as_mut().and_then(|entries| entries.remove(&key.key));
        return match value {
            None if !optional => Err(source.no_key("ConfigMap", &key.name, &key.key)),
            value => Ok(value.map(|value| String::from_utf8_lossy(&value).into_owned())),
        };
    }
    if let Some(key) = &from.secret_key_ref {
        let optional = key.optional == Some(true);
        let mut entries = source.secret(&key.name, optional).await?;
        let value = entries.as_mut().and_then(|entries| entries.remove(&key.key));
        return match value {
            None if !optional => Err(source.no_key("Secret", &key.name, &key.key)),
            value => Ok(value.map(|value| String::from_utf8_lossy(&value).into_owned())),
        };
    }
    let unsupported =
        |what: String| ResolveEnvFailed::Unsupported { variable: variable.name.clone(), what };
    if let Some(field) = &from.field_ref {
        let value = pod_field(pod, place, field);
        return value.map(Some).ok_or_else(|| unsupported(format!("field {}", field.field_path)));
    }
    if let Some(field) = &from.resource_field_ref {
        let value = resource_field(container, field);
        return value.map(Some).ok_or_else(|| unsupported(format!("resource {}", field.resource)));
    }
    Err(unsupported("this kind of source".to_owned()))
}

/// The value of a field of the pod, or `None` when the agent does not know the path.
pub(crate) fn pod_field(
    pod: &Pod,
    place: PodPlace<'_>,
    field: &ObjectFieldSelector,
) -> Option<String> {
    let meta = &pod.metadata;
    let spec = pod.spec.as_ref();
    let value = match field.field_path.as_str() {
        "metadata.name" => meta.name.clone(),
        "metadata.namespace" => meta.namespace.clone(),
        "metadata.uid" => meta.uid.clone(),
        "spec.nodeName" => Some(place.node.to_owned()),
        "spec.serviceAccountName" => spec.and_then(|spec| spec.service_account_name.clone()),
        "status.hostIP" => Some(place.node_ips.v4.to_string()),
        "status.hostIPs" => Some(place.node_ips.joined()),
        "status.podIP" => Some(place.pod_ips.v4.to_string()),
        "status.podIPs" => Some(place.pod_ips.joined()),
        path => {
            let (map, key) = path.strip_suffix("']")?.split_once("['")?;
            let map = match map {
                "metadata.labels" => &meta.labels,
                "metadata.annotations" => &meta.annotations,
                _ => return None,
            };
            map.as_ref().and_then(|map| map.get(key).cloned())
        }
    };
    Some(value.unwrap_or_default())
}

fn resource_field(container: &Container, field: &ResourceFieldSelector) -> Option<String> {
    let (kind, name) = field.resource.split_once('.')?;
    let resources = container.resources.as_ref()?;
    let quantities = match kind {
        "limits" => resources.limits.as_ref()?,
        "requests" => resources.requests.as_ref()?,
        _ => return None,
    };
    let amount = thousandths(quantities.get(name)?)?;
    let divisor = field.divisor.as_ref().and_then(thousandths).filter(|d| *d > 0).unwrap_or(1000);
    // Rounded up, as the API documents.
    Some(((amount + divisor - 1) / divisor).to_string())
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn fields_of_the_pod() {
        let pod: Pod = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "web", "namespace": "shop", "uid": "u-1",
                         "labels": {"app": "nifty"}},
            "spec": {"containers": []},
        }))
        .unwrap();
        let place = PodPlace {
            node: "node2",
            node_ips: Ipv4Addr::new(172, 30, 0, 12).into(),
            pod_ips: Addresses {
                v4: Ipv4Addr::new(10, 240, 1, 5),
                v6: "fd00:10:240:1::5".parse().ok(),
            },
        };
        for (path, expected) in [
            ("metadata.name", Some("web")),
            ("metadata.namespace", Some("shop")),
            ("metadata.uid", Some("u-1")),
            ("metadata.labels['app']", Some("nifty")),
            ("metadata.labels['none']", Some("")),
            ("status.podIP", Some("10.240.1.5")),
            ("status.podIPs", Some("10.240.1.5,fd00:10:240:1::5")),
            ("status.hostIP", Some("172.30.0.12")),
            ("status.hostIPs", Some("172.30.0.12")),
            ("spec.nodeName", Some("node2")),
            ("spec.restartPolicy", None),
        ] {
            let field = ObjectFieldSelector { api_version: None, field_path: path.to_owned() };
            assert_eq!(pod_field(&pod, place, &field).as_deref(), expected, "{path}");
        }
    }
}
