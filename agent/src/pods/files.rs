//! The pod's own `/etc/hosts`, `/etc/hostname` and `/etc/resolv.conf`.

use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::path::Path;

use k8s_openapi::api::core::v1::{Pod, PodSpec};

use super::oci::BindMount;
use crate::network::Addresses;

const NODE_RESOLV_CONF: &str = "/etc/resolv.conf";
const HOSTNAME_CHARS_MAX: usize = 63;

/// How pods of this cluster resolve names.
#[derive(Clone, Debug)]
pub(crate) struct ClusterDns {
    pub(crate) address: Ipv4Addr,
    pub(crate) domain: String,
}

/// What `hostname` says in the pod: the name it asks for, or its own as far as it fits.
pub(crate) fn hostname(pod: &Pod) -> String {
    let wanted = pod.spec.as_ref().and_then(|spec| spec.hostname.clone());
    let name = wanted.or_else(|| pod.metadata.name.clone()).unwrap_or_default();
    let cut: String = name.chars().take(HOSTNAME_CHARS_MAX).collect();
    cut.trim_end_matches(['-', '.']).to_owned()
}

fn is_host_network(spec: &PodSpec) -> bool {
    spec.host_network == Some(true)
}

pub(crate) fn hosts_file(pod: &Pod, addresses: Addresses, domain: &str) -> String {
    let mut text = String::from(
        "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n\
         fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\n\
         fe00::2\tip6-allrouters\n",
    );
    let spec = pod.spec.as_ref();
    let host = hostname(pod);
    let subdomain = spec.and_then(|spec| spec.subdomain.as_deref()).filter(|name| !name.is_empty());
    for address in addresses.iter() {
        let _ = match subdomain {
            Some(subdomain) => {
                let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
                writeln!(text, "{address}\t{host}.{subdomain}.{namespace}.svc.{domain}\t{host}")
            }
            None => writeln!(text, "{address}\t{host}"),
        };
    }
    for alias in spec.iter().flat_map(|spec| spec.host_aliases.iter().flatten()) {
        let names = alias.hostnames.as_deref().unwrap_or_default().join("\t");
        let _ = writeln!(text, "{}\t{names}", alias.ip);
    }
    text
}

/// What resolvers of pods can do (the same bounds as kubelet's).
const NAMESERVERS_MAX: usize = 3;
const SEARCHES_MAX: usize = 32;
const SEARCH_CHARS_MAX: usize = 2048;

/// The pod's `resolv.conf`, by its DNS policy and its DNS configuration. `node` is the node's own
/// file: pods with the policy `Default` get it, and the search lists of the others end with its.
/// What exceeds the bounds of resolvers is left out.
pub(crate) fn resolv_conf(pod: &Pod, dns: &ClusterDns, node: &str) -> String {
    let spec = pod.spec.clone().unwrap_or_default();
    let own = parse_resolv_conf(node);
    let mut resolver = match spec.dns_policy.as_deref().unwrap_or("ClusterFirst") {
        "None" => Resolver::default(),
        "Default" => own,
        "ClusterFirst" if is_host_network(&spec) => own,
        _ => {
            let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
            let domain = &dns.domain;
            let mut searches =
                vec![format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.clone()];
            searches.extend(own.searches);
            Resolver {
                servers: vec![dns.address.to_string()],
                searches,
                options: vec!["ndots:5".to_owned()],
            }
        }
    };
    if let Some(extra) = spec.dns_config {
        resolver.servers.extend(extra.nameservers.into_iter().flatten());
        resolver.searches.extend(extra.searches.into_iter().flatten());
        for option in extra.options.into_iter().flatten() {
            let name = option.name.unwrap_or_default();
            resolver.options.retain(|given| given.split(':').next() != Some(name.as_str()));
            resolver.options.push(match option.value {
                Some(value) => format!("{name}:{value}"),
                None => name,
            });
        }
    }
    resolver.bound();
    resolver.text()
}

/// The lines of a `resolv.conf` that matter.
#[derive(Default)]
struct Resolver {
    servers: Vec<String>,
    searches: Vec<String>,
    options: Vec<String>,
}

impl Resolver {
    /// Leaves out what comes twice, and what is too much.
    fn bound(&mut self) {
        for list in [&mut self.servers, &mut self.searches] {
            let mut seen = std::collections::BTreeSet::new();
            list.retain(|item| seen.insert(item.trim_end_matches('.').to_owned()));
        }
        self.servers.truncate(NAMESERVERS_MAX);
        self.searches.truncate(SEARCHES_MAX);
        while self.searches.join(" ").len() > SEARCH_CHARS_MAX {
            self.searches.pop();
        }
    }

    fn text(&self) -> String {
        let mut text = String::new();
        for server in &self.servers {
            let _ = writeln!(text, "nameserver {server}");
        }
        for (word, list) in [("search", &self.searches), ("options", &self.options)] {
            if !list.is_empty() {
                let _ = writeln!(text, "{word} {}", list.join(" "));
            }
        }
        text
    }
}

/// Of several search lists the last one counts; options add up (resolv.conf(5)).
fn parse_resolv_conf(text: &str) -> Resolver {
    let mut resolver = Resolver::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => resolver.servers.extend(words.next().map(str::to_owned)),
            Some("search" | "domain") => resolver.searches = words.map(str::to_owned).collect(),
            Some("options") => resolver.options.extend(words.map(str::to_owned)),
            _ => {}
        }
    }
    resolver
}

/// Writes the files and returns how they appear in the pod's containers.
pub(crate) fn write_files(
    dir: &Path,
    pod: &Pod,
    addresses: Addresses,
    dns: &ClusterDns,
) -> std::io::Result<Vec<BindMount>> {
    std::fs::create_dir_all(dir)?;
    let node = std::fs::read_to_string(NODE_RESOLV_CONF).unwrap_or_default();
    let files = [
        ("hosts", hosts_file(pod, addresses, &dns.domain)),
        ("hostname", format!("{}\n", hostname(pod))),
        ("resolv.conf", resolv_conf(pod, dns, &node)),
    ];
    files
        .into_iter()
        .map(|(name, text)| {
            let host = dir.join(name);
            // In place, for a container that runs already sees this very file; and not again, for
            // it would find it empty in between.
            if std::fs::read_to_string(&host).ok().as_ref() != Some(&text) {
                std::fs::write(&host, text)?;
            }
            Ok(BindMount { host, container: format!("/etc/{name}"), read_only: true })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(spec: serde_json::Value) -> Pod {
        let mut spec = spec;
        spec["containers"] = serde_json::json!([]);
        serde_json::from_value(
            serde_json::json!({"metadata": {"name": "web", "namespace": "shop"}, "spec": spec}),
        )
        .unwrap()
    }

    fn dns() -> ClusterDns {
        ClusterDns { address: Ipv4Addr::new(10, 9, 0, 10), domain: "cluster.local".into() }
    }

    #[test]
    fn resolvers() {
        let node = "# written by a person\nnameserver 192.0.2.1\nsearch example\noptions edns0\n";
        let cluster = "nameserver 10.9.0.10\n\
                       search shop.svc.cluster.local svc.cluster.local cluster.local example\n\
                       options ndots:5\n";
        let more = "nameserver 10.9.0.10\nnameserver 192.0.2.9\n\
                    search shop.svc.cluster.local svc.cluster.local cluster.local example other\n\
                    options timeout:1 ndots:2\n";
        let own = "nameserver 192.0.2.1\nsearch example\noptions edns0\n";
        for (spec, expected) in [
            (serde_json::json!({}), cluster),
            (serde_json::json!({"dnsPolicy": "Default"}), own),
            (serde_json::json!({"hostNetwork": true}), own),
            (
                serde_json::json!({"hostNetwork": true, "dnsPolicy": "ClusterFirstWithHostNet"}),
                cluster,
            ),
            (
                serde_json::json!({"dnsConfig": {
                    "nameservers": ["192.0.2.9"],
                    "searches": ["other", "cluster.local."],
                    "options": [{"name": "timeout", "value": "1"}, {"name": "ndots", "value": "2"}],
                }}),
                more,
            ),
            (serde_json::json!({"dnsPolicy": "None"}), ""),
            (
                serde_json::json!({"dnsPolicy": "None", "dnsConfig": {"nameservers": ["192.0.2.9"],
                    "options": [{"name": "ndots", "value": "1"}]}}),
                "nameserver 192.0.2.9\noptions ndots:1\n",
            ),
        ] {
            assert_eq!(resolv_conf(&pod(spec.clone()), &dns(), node), expected, "{spec}");
        }
    }

    #[test]
    fn resolvers_stay_within_their_bounds() {
        let domains: Vec<String> =
            (0..40).map(|n| format!("{n}.{}.example", "x".repeat(60))).collect();
        let servers: Vec<String> = (1..=5).map(|n| format!("192.0.2.{n}")).collect();
        let spec = serde_json::json!({"dnsPolicy": "None",
            "dnsConfig": {"nameservers": servers, "searches": domains}});
        let text = resolv_conf(&pod(spec), &dns(), "");
        assert_eq!(text.matches("nameserver").count(), 3);
        let search = text.lines().find_map(|line| line.strip_prefix("search ")).unwrap();
        assert!(search.len() <= 2048, "{}", search.len());
        assert!((20..=32).contains(&search.split(' ').count()));
    }

    #[test]
    fn the_last_search_list_of_the_node_counts() {
        let node = "domain a\nsearch b c\n;search d\n# search e\noptions x\noptions y\n";
        let spec = serde_json::json!({"dnsPolicy": "Default"});
        assert_eq!(resolv_conf(&pod(spec), &dns(), node), "search b c\noptions x y\n");
    }

    #[test]
    fn hosts_name_the_pod() {
        let text = hosts_file(
            &pod(serde_json::json!({"hostname": "db-0", "subdomain": "db",
                "hostAliases": [{"ip": "192.0.2.7", "hostnames": ["x", "y"]}]})),
            Addresses { v4: Ipv4Addr::new(10, 240, 0, 4), v6: "fd00:10:240::4".parse().ok() },
            "cluster.local",
        );
        assert!(text.contains("10.240.0.4\tdb-0.db.shop.svc.cluster.local\tdb-0\n"), "{text}");
        assert!(text.contains("fd00:10:240::4\tdb-0.db.shop.svc.cluster.local\tdb-0\n"), "{text}");
        assert!(text.contains("192.0.2.7\tx\ty\n"), "{text}");
    }

    #[test]
    fn long_names_are_cut_to_a_host_name() {
        let mut long = pod(serde_json::json!({}));
        long.metadata.name = Some(format!("{}-{}", "a".repeat(62), "b".repeat(20)));
        assert_eq!(hostname(&long), "a".repeat(62));
    }
}
