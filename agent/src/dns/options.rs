//! What the DNS server is told: whom it asks about names of others, and its limits.
//!
//! Guarantees: what a flag of the agent says becomes a value or one line that says what is wrong
//! with it. Not here: whether the servers answer.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    str::FromStr,
    time::Duration,
};

use hickory_proto::rr::Name;

/// The port that a server has unless it is said.
const PORT: u16 = 53;

/// The options of a node's DNS server. Each limit has a flag of the agent.
#[derive(Debug, Clone)]
pub struct DnsOptions {
    /// `--dns-upstream`: servers for names outside the cluster's domain, in the order in which
    /// they are asked. Empty: such names are refused.
    pub upstream: Vec<DnsUpstream>,
    /// `--dns-stub-domain`: servers for the names of one domain, instead of `upstream`.
    pub stub_domains: Vec<StubDomain>,
    /// `--dns-cache-size`: answers of upstream servers that are kept at one time.
    pub cache_size: u64,
    /// `--dns-forwards`: questions that wait for upstream servers at one time.
    pub forwards: usize,
    /// `--dns-tcp-clients`: TCP connections at one time.
    pub tcp_clients: usize,
    /// `--dns-client-rate`: questions of one client in a second.
    pub client_rate: usize,
    /// `--dns-client-places`: TCP connections of one client, and questions of one client that
    /// wait for upstream servers, at one time.
    pub client_places: usize,
    /// `--dns-tcp-idle`: how long a TCP client may be silent.
    pub tcp_idle: Duration,
}

impl Default for DnsOptions {
    fn default() -> Self {
        Self {
            upstream: Vec::new(),
            stub_domains: Vec::new(),
            cache_size: 4096,
            forwards: 512,
            tcp_clients: 256,
            client_rate: 10_000,
            client_places: 64,
            tcp_idle: Duration::from_secs(10),
        }
    }
}

/// A text is no server or no domain with its server.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum InvalidDnsOption {
    #[error("{0:?} is no DNS server: give an address, or address:port, such as 10.1.2.3:53")]
    Server(String),
    #[error(
        "{0:?} is no stub domain: give DOMAIN=ADDRESS[:PORT], such as example.internal=10.1.2.3"
    )]
    StubDomain(String),
    #[error("{flag} {server}: the node's own DNS server would ask itself; name another server")]
    Itself { flag: &'static str, server: SocketAddr },
    #[error("--dns-stub-domain {domain}: the names of {cluster} are answered by each node itself")]
    Cluster { domain: String, cluster: String },
}

/// A DNS server, by its address; from `ADDRESS` or `ADDRESS:PORT`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct DnsUpstream(pub SocketAddr);

impl FromStr for DnsUpstream {
    type Err = InvalidDnsOption;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bare = || text.parse().map(|address: IpAddr| SocketAddr::from((address, PORT)));
        let address: Result<SocketAddr, _> = text.parse().or_else(|_| bare());
        match address {
            Ok(address) if address.port() != 0 && !address.ip().is_unspecified() => {
                Ok(Self(address))
            }
            _ => Err(InvalidDnsOption::Server(text.to_owned())),
        }
    }
}

impl fmt::Display for DnsUpstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A domain with a server of its own; from `DOMAIN=ADDRESS[:PORT]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StubDomain {
    pub(super) domain: Name,
    pub(super) server: DnsUpstream,
}

impl FromStr for StubDomain {
    type Err = InvalidDnsOption;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let failed = || InvalidDnsOption::StubDomain(text.to_owned());
        let (domain, server) = text.split_once('=').ok_or_else(failed)?;
        let domain = absolute(domain).filter(|domain| !domain.is_root()).ok_or_else(failed)?;
        Ok(Self { domain, server: server.parse()? })
    }
}

impl fmt::Display for StubDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.domain, self.server)
    }
}

impl DnsOptions {
    /// Checks the servers and domains against the node's own: `own` are addresses that lead to
    /// this very server, `cluster` is the cluster's domain.
    pub(crate) fn check(&self, own: &[IpAddr], cluster: &str) -> Result<(), InvalidDnsOption> {
        let stubs = self.stub_domains.iter().map(|stub| ("--dns-stub-domain", stub.server.0));
        let upstream = self.upstream.iter().map(|server| ("--dns-upstream", server.0));
        for (flag, server) in upstream.chain(stubs) {
            if server.port() == PORT && own.contains(&server.ip()) {
                return Err(InvalidDnsOption::Itself { flag, server });
            }
        }
        let Some(cluster) = absolute(cluster) else { return Ok(()) };
        match self.stub_domains.iter().find(|stub| cluster.zone_of(&stub.domain)) {
            Some(stub) => Err(InvalidDnsOption::Cluster {
                domain: stub.domain.to_string(),
                cluster: cluster.to_string(),
            }),
            None => Ok(()),
        }
    }
}

/// A domain as an absolute name, with or without its last dot.
pub(super) fn absolute(domain: &str) -> Option<Name> {
    let bare = domain.strip_suffix('.').unwrap_or(domain);
    if bare.is_empty() || bare.starts_with('.') {
        return None;
    }
    Name::from_ascii(format!("{}.", bare.to_ascii_lowercase())).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_and_domains() {
        for (text, expected) in [
            ("10.1.2.3", "10.1.2.3:53"),
            ("10.1.2.3:5353", "10.1.2.3:5353"),
            ("fd00::1", "[fd00::1]:53"),
            ("[fd00::1]:5353", "[fd00::1]:5353"),
        ] {
            let server: DnsUpstream = text.parse().unwrap();
            assert_eq!(server.0, expected.parse().unwrap(), "{text}");
        }
        let stub: StubDomain = "Example.Internal.=10.1.2.3".parse().unwrap();
        assert_eq!(stub.domain.to_string(), "example.internal.");
        for text in ["", "ns1", "10.1.2.3:0", "0.0.0.0", "10.1.2.3:53:53", "10.1.2"] {
            let error = text.parse::<DnsUpstream>().unwrap_err().to_string();
            assert!(error.contains("is no DNS server"), "{text}: {error}");
        }
        for text in ["10.1.2.3", "=10.1.2.3", ".=10.1.2.3", "a..b=10.1.2.3", "a.b="] {
            assert!(text.parse::<StubDomain>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_server_never_asks_itself() {
        let own: IpAddr = "169.254.20.10".parse().unwrap();
        let with = |upstream: &str, stub: &str| DnsOptions {
            upstream: vec![upstream.parse().unwrap()],
            stub_domains: vec![stub.parse().unwrap()],
            ..DnsOptions::default()
        };
        let check = |options: DnsOptions| options.check(&[own], "cluster.local");
        assert_eq!(check(with("10.0.0.1", "example=10.0.0.1")), Ok(()));
        assert_eq!(check(with("169.254.20.10:5353", "example=10.0.0.1")), Ok(()));
        for options in [
            with("169.254.20.10", "example=10.0.0.1"),
            with("10.0.0.1", "example=169.254.20.10"),
            with("10.0.0.1", "cluster.local=10.0.0.1"),
            with("10.0.0.1", "x.Cluster.local=10.0.0.1"),
        ] {
            let error = check(options).unwrap_err().to_string();
            assert!(error.contains("--dns-"), "{error}");
        }
    }
}
