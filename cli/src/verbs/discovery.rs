//! What the server offers: names of types as people write them, mapped to paths.

use anyhow::{Context, bail};
use futures::future::try_join_all;
use serde::Deserialize;
use serde_json::Value;

use super::client::{Connection, escape};

const JSON: &str = "application/json";

/// What `get all` stands for, in the order in which it is shown.
const ALL: [&str; 5] = ["pods", "replicationcontrollers", "services", "deployments", "replicasets"];

/// Everything that the server offers.
#[derive(Debug, Default)]
pub(crate) struct Catalog {
    resources: Vec<Resource>,
}

/// A type of object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Resource {
    #[serde(skip)]
    pub(crate) group: String,
    #[serde(skip)]
    pub(crate) version: String,
    #[serde(rename = "name")]
    pub(crate) plural: String,
    singular_name: String,
    pub(crate) kind: String,
    short_names: Vec<String>,
    pub(crate) namespaced: bool,
    /// It has the subresource `scale`.
    #[serde(skip)]
    pub(crate) has_scale: bool,
}

impl Catalog {
    /// Asks the server.
    pub(crate) async fn read(connection: &Connection) -> anyhow::Result<Self> {
        let groups = connection.get("/apis", JSON).await?;
        let versions = versions(&groups);
        let lists = versions.iter().map(|version| list(connection, version));
        let resources = try_join_all(lists).await?.into_iter().flatten().collect();
        Ok(Self { resources })
    }

    /// The types that a word of the command line stands for.
    pub(crate) fn find(&self, word: &str) -> anyhow::Result<Vec<&Resource>> {
        if word.eq_ignore_ascii_case("all") {
            let found = ALL.iter().filter_map(|plural| {
                self.resources.iter().find(|resource| resource.plural == *plural)
            });
            return Ok(found.collect());
        }
        let word = word.to_lowercase();
        match self.resources.iter().find(|resource| resource.is_called(&word)) {
            Some(resource) => Ok(vec![resource]),
            None => bail!("the server has no type `{word}`: `pods`, `svc` and `deploy` are types"),
        }
    }

    /// The type of a manifest.
    pub(crate) fn find_kind(&self, api_version: &str, kind: &str) -> anyhow::Result<&Resource> {
        let found = self
            .resources
            .iter()
            .find(|resource| resource.kind == kind && resource.api_version() == api_version);
        found.with_context(|| format!("the server has no kind {kind} in {api_version}"))
    }
}

/// All versions, in the order in which a word is looked up: those that the groups prefer first.
fn versions(groups: &Value) -> Vec<String> {
    let groups = || groups["groups"].as_array().into_iter().flatten();
    let preferred = groups().map(|group| &group["preferredVersion"]);
    let others = groups().flat_map(|group| group["versions"].as_array().into_iter().flatten());
    let mut versions = vec!["v1".to_owned()];
    for version in preferred.chain(others).filter_map(|it| it["groupVersion"].as_str()) {
        if !versions.iter().any(|known| known == version) {
            versions.push(version.to_owned());
        }
    }
    versions
}

async fn list(connection: &Connection, api_version: &str) -> anyhow::Result<Vec<Resource>> {
    let list = connection.get(&root(api_version), JSON).await?;
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let mut resources = Vec::new();
    let entries = || list["resources"].as_array().into_iter().flatten();
    for entry in entries() {
        let resource = Resource::deserialize(entry).context("the server's discovery is invalid")?;
        // Names with a slash are subresources.
        if !resource.plural.contains('/') {
            let (group, version) = (group.to_owned(), version.to_owned());
            let scale = format!("{}/scale", resource.plural);
            let has_scale = entries().any(|entry| entry["name"] == scale.as_str());
            resources.push(Resource { group, version, has_scale, ..resource });
        }
    }
    Ok(resources)
}

fn root(api_version: &str) -> String {
    let prefix = if api_version.contains('/') { "/apis" } else { "/api" };
    format!("{prefix}/{api_version}")
}

impl Resource {
    /// Whether a lower-case word names this type: `pods`, `pod`, `po`, or with the group behind.
    fn is_called(&self, word: &str) -> bool {
        let (name, group) = match word.split_once('.') {
            Some((name, group)) => (name, Some(group)),
            None => (word, None),
        };
        let kind = self.kind.to_lowercase();
        let named = name == self.plural
            || name == self.singular_name
            || name == kind
            || self.short_names.iter().any(|short| short == name);
        let versioned = format!("{}.{}", self.version, self.group);
        named && group.is_none_or(|group| group == self.group || group == versioned)
    }

    pub(crate) fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.clone()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// How a command calls an object of this type: `pod/x`, `deployment.apps/x`.
    pub(crate) fn label(&self, name: &str) -> String {
        let kind = self.kind.to_lowercase();
        if self.group.is_empty() {
            format!("{kind}/{name}")
        } else {
            format!("{kind}.{}/{name}", self.group)
        }
    }

    /// The path of the collection; over all namespaces when `namespace` is `None`.
    pub(crate) fn collection(&self, namespace: Option<&str>) -> String {
        let root = root(&self.api_version());
        match namespace.filter(|_| self.namespaced) {
            Some(namespace) => format!("{root}/namespaces/{}/{}", escape(namespace), self.plural),
            None => format!("{root}/{}", self.plural),
        }
    }

    /// The path of one object.
    pub(crate) fn object(&self, namespace: &str, name: &str) -> anyhow::Result<String> {
        Ok(format!("{}/{}", self.collection(Some(namespace)), segment(name)?))
    }
}

/// A name as the last part of a path. One that leaves the path where it is, or leads up, would
/// stand for the whole collection.
pub(crate) fn segment(name: &str) -> anyhow::Result<String> {
    match name {
        "" | "." | ".." => bail!("`{name}` is no name of an object"),
        name => Ok(escape(name)),
    }
}

/// `metadata.name` of an object.
pub(crate) fn name_of(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}

#[cfg(test)]
pub(crate) fn sample() -> Catalog {
    let resource = |group: &str, plural: &str, kind: &str, short: &str, namespaced| Resource {
        group: group.to_owned(),
        version: "v1".to_owned(),
        plural: plural.to_owned(),
        singular_name: String::new(),
        kind: kind.to_owned(),
        short_names: vec![short.to_owned()],
        namespaced,
        has_scale: kind == "Deployment",
    };
    Catalog {
        resources: vec![
            resource("", "pods", "Pod", "po", true),
            resource("", "services", "Service", "svc", true),
            resource("", "nodes", "Node", "no", false),
            resource("apps", "deployments", "Deployment", "deploy", true),
        ],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_has_many_names() {
        let catalog = sample();
        let words = [
            "deployments",
            "deployment",
            "Deployment",
            "deploy",
            "deployments.apps",
            "deploy.v1.apps",
        ];
        for word in words {
            let found = catalog.find(word).unwrap();
            assert_eq!(found.len(), 1, "{word}");
            assert_eq!(found[0].kind, "Deployment", "{word}");
        }
        assert!(catalog.find("deployments.extensions").is_err());
        let error = catalog.find("things").unwrap_err().to_string();
        assert!(error.contains("no type `things`"), "{error}");
    }

    #[test]
    fn all_is_what_runs() {
        let catalog = sample();
        let kinds: Vec<_> =
            catalog.find("all").unwrap().iter().map(|it| it.kind.as_str()).collect();
        assert_eq!(kinds, ["Pod", "Service", "Deployment"]);
    }

    #[test]
    fn the_preferred_version_of_a_kind_comes_first() {
        let version = |of: &str| serde_json::json!({ "groupVersion": of });
        let groups = serde_json::json!({ "groups": [
            { "preferredVersion": version("autoscaling/v2"),
                "versions": [version("autoscaling/v2"), version("autoscaling/v1")] },
            { "preferredVersion": version("apps/v1"), "versions": [version("apps/v1")] },
        ] });
        let versions = versions(&groups);
        assert_eq!(versions, ["v1", "autoscaling/v2", "apps/v1", "autoscaling/v1"]);
        let scaler = |version: &str| Resource {
            group: "autoscaling".to_owned(),
            version: version.to_owned(),
            plural: "horizontalpodautoscalers".to_owned(),
            kind: "HorizontalPodAutoscaler".to_owned(),
            short_names: vec!["hpa".to_owned()],
            ..Resource::default()
        };
        let catalog = Catalog { resources: vec![scaler("v2"), scaler("v1")] };
        for (word, version) in [("hpa", "v2"), ("hpa.v1.autoscaling", "v1")] {
            assert_eq!(catalog.find(word).unwrap()[0].version, version, "{word}");
        }
        let found = catalog.find_kind("autoscaling/v1", "HorizontalPodAutoscaler").unwrap();
        assert_eq!(found.version, "v1");
    }

    #[test]
    fn paths() {
        let catalog = sample();
        let path = |word: &str| catalog.find(word).unwrap()[0].object("ns", "x").unwrap();
        assert_eq!(path("pod"), "/api/v1/namespaces/ns/pods/x");
        assert_eq!(path("node"), "/api/v1/nodes/x");
        assert_eq!(path("deploy"), "/apis/apps/v1/namespaces/ns/deployments/x");
        assert_eq!(
            catalog.find("deploy").unwrap()[0].collection(None),
            "/apis/apps/v1/deployments"
        );
        assert_eq!(catalog.find("deploy").unwrap()[0].label("x"), "deployment.apps/x");
    }

    #[test]
    fn no_path_of_an_object_is_that_of_its_collection() {
        let catalog = sample();
        for name in ["", ".", ".."] {
            assert!(catalog.find("pod").unwrap()[0].object("ns", name).is_err(), "`{name}`");
        }
    }
}
