//! Questions about names of others: who is asked, what is kept of the answers.
//!
//! The servers of a domain are asked in their order; one that failed is asked last for a while.
//! Each question leaves from a random port, with a random id and with random case of its letters
//! (draft-vixie-dnsext-dns0x20); an answer that was cut is asked for again over TCP. Questions
//! that are the same at the same time are one question.
//!
//! Guarantees: a question is answered or given up within [`FORWARD_LIMIT`], before resolvers ask
//! again; answers are kept for as long as their records allow, counted down, negative ones
//! included (RFC 2308), and never more of them than the limit. Not here: DNSSEC, stale answers.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use hickory_proto::{
    op::{DnsRequestOptions, Message, Query, ResponseCode},
    rr::{Name, Record},
};
use hickory_resolver::{
    NameServerPool, PoolContext, ResponseCache, TlsConfig, TtlConfig,
    config::{NameServerConfig, ResolverOpts},
    net::{
        DnsError, NetError,
        runtime::TokioRuntimeProvider,
        xfer::{DnsHandle, FirstAnswer},
    },
};
use tokio::time::timeout;

use super::{
    figures::{DnsCount, add, count},
    message::MAX_DATAGRAM,
    options::{DnsOptions, DnsUpstream},
};

/// How long a question may take. Resolvers ask again after 5 s.
const FORWARD_LIMIT: Duration = Duration::from_secs(4);

/// How long one server may take before the next one is asked.
const SERVER_LIMIT: Duration = Duration::from_secs(1);

/// How often all servers of a domain are asked.
const ROUNDS: usize = 2;

/// How long a server that failed is asked last.
const FAILED_FOR: Duration = Duration::from_secs(5);

/// How long an answer is kept at most, whatever its records say.
const LONGEST_KEPT: Duration = Duration::from_secs(3600);

/// How long "there is no such name" is kept at most.
const LONGEST_NEGATIVE: Duration = Duration::from_secs(900);

/// What an upstream server said.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) code: ResponseCode,
    pub(super) answers: Vec<Record>,
    pub(super) authorities: Vec<Record>,
}

/// All servers, and what they said lately.
pub(super) struct Forwarder {
    /// The longest domain first.
    groups: Vec<Group>,
    cache: ResponseCache,
}

/// How often a server was asked, and how often that failed.
pub(super) struct Asked<'a> {
    pub(super) domain: &'a Name,
    pub(super) server: SocketAddr,
    pub(super) asked: u64,
    pub(super) failed: u64,
}

/// The servers of one domain.
struct Group {
    domain: Name,
    servers: Vec<Server>,
}

struct Server {
    server: DnsUpstream,
    pool: NameServerPool<TokioRuntimeProvider>,
    started: Instant,
    /// Milliseconds after `started` until which it is asked last.
    failed_until: AtomicU64,
    asked: AtomicU64,
    failed: AtomicU64,
}

impl Forwarder {
    pub(super) fn new(options: &DnsOptions) -> Result<Self, NetError> {
        let context = Arc::new(PoolContext::new(pool_options(), TlsConfig::new()?));
        let server = |server: &DnsUpstream| Server::new(*server, context.clone());
        let mut groups: Vec<Group> = Vec::new();
        for stub in &options.stub_domains {
            match groups.iter_mut().find(|group| group.domain == stub.domain) {
                Some(group) => group.servers.push(server(&stub.server)),
                None => groups.push(Group {
                    domain: stub.domain.clone(),
                    servers: vec![server(&stub.server)],
                }),
            }
        }
        if !options.upstream.is_empty() {
            let servers = options.upstream.iter().map(server).collect();
            groups.push(Group { domain: Name::root(), servers });
        }
        groups.sort_by_key(|group| std::cmp::Reverse(group.domain.num_labels()));
        let bounds = TtlConfig::from_opts(&pool_options());
        Ok(Self { groups, cache: ResponseCache::new(options.cache_size, bounds) })
    }

    /// Whether there is somebody to ask about any name.
    pub(super) fn is_any(&self) -> bool {
        !self.groups.is_empty()
    }

    /// Whether there is somebody to ask about this name.
    pub(super) fn knows(&self, name: &Name) -> bool {
        self.group(name).is_some()
    }

    fn group(&self, name: &Name) -> Option<&Group> {
        self.groups.iter().find(|group| group.domain.zone_of(name))
    }

    /// What was said lately, as long as it holds.
    pub(super) fn cached(&self, query: &Query) -> Option<Told> {
        let kept = self.cache.get(query, Instant::now())?;
        Told::from(kept, query)
    }

    /// Asks. `None` if no server gave an answer.
    pub(super) async fn ask(&self, query: &Query) -> Option<Told> {
        let group = self.group(query.name())?;
        let deadline = Instant::now() + FORWARD_LIMIT;
        let mut refusal = None;
        for _ in 0..ROUNDS {
            for server in group.in_order() {
                let left = deadline.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return refusal;
                }
                let said = timeout(left, server.ask(query)).await.unwrap_or(Err(NetError::Timeout));
                self.cache.insert(query.clone(), said.clone(), Instant::now());
                server.note(&said);
                if let Err(NetError::Dns(DnsError::ResponseCode(code))) = said {
                    // Another server may know better.
                    refusal = Some(Told { code, answers: Vec::new(), authorities: Vec::new() });
                } else if let Some(told) = Told::from(said, query) {
                    return Some(told);
                }
            }
            if refusal.is_some() {
                break;
            }
        }
        refusal
    }

    /// How often each server was asked, and how often that failed.
    pub(super) fn counts(&self) -> Vec<DnsCount> {
        let both = self.asked().flat_map(|told| {
            let Asked { domain, server, asked, failed } = told;
            let of =
                |what: &str, times| count(&format!("server {server} of {domain} {what}"), times);
            [of("asked", asked), of("failed", failed)]
        });
        both.collect()
    }

    /// The same by server.
    pub(super) fn asked(&self) -> impl Iterator<Item = Asked<'_>> {
        let servers =
            self.groups.iter().flat_map(|group| group.servers.iter().map(move |s| (group, s)));
        servers.map(|(group, server)| Asked {
            domain: &group.domain,
            server: server.server.0,
            asked: server.asked.load(Relaxed),
            failed: server.failed.load(Relaxed),
        })
    }
}

impl Group {
    /// Those that did not fail lately come first, else they keep their order.
    fn in_order(&self) -> Vec<&Server> {
        let mut servers: Vec<&Server> = self.servers.iter().collect();
        servers.sort_by_key(|server| server.has_failed());
        servers
    }
}

impl Server {
    fn new(server: DnsUpstream, context: Arc<PoolContext>) -> Self {
        let mut config = NameServerConfig::udp_and_tcp(server.0.ip());
        for connection in &mut config.connections {
            connection.port = server.0.port();
        }
        Self {
            server,
            pool: NameServerPool::from_config([config], context, TokioRuntimeProvider::default()),
            started: Instant::now(),
            failed_until: AtomicU64::new(0),
            asked: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        }
    }

    async fn ask(&self, query: &Query) -> Result<Message, NetError> {
        add(&self.asked);
        let mut options = DnsRequestOptions::default();
        options.use_edns = true;
        options.edns_payload_len = MAX_DATAGRAM;
        options.recursion_desired = true;
        let answer = self.pool.lookup(query.clone(), options).first_answer().await?;
        Ok(answer.into_message())
    }

    /// Remembers whether it works. A server that says no works.
    fn note(&self, said: &Result<Message, NetError>) {
        let failed = !matches!(said, Ok(_) | Err(NetError::Dns(_)));
        let until = if failed {
            add(&self.failed);
            tracing::debug!(server = %self.server.0, ?said, "upstream DNS server failed");
            millis(self.started.elapsed() + FAILED_FOR)
        } else {
            0
        };
        self.failed_until.store(until, Relaxed);
    }

    fn has_failed(&self) -> bool {
        self.failed_until.load(Relaxed) > millis(self.started.elapsed())
    }
}

impl Told {
    /// `None` if it is no answer but a failure to get one.
    fn from(said: Result<Message, NetError>, query: &Query) -> Option<Self> {
        let mut told = match said {
            Ok(message) => Self {
                code: message.metadata.response_code,
                answers: message.answers,
                authorities: Vec::new(),
            },
            Err(NetError::Dns(DnsError::NoRecordsFound(none))) => Self {
                code: none.response_code,
                answers: Vec::new(),
                authorities: none.authorities.map(|all| all.to_vec()).unwrap_or_default(),
            },
            Err(_) => return None,
        };
        for record in &mut told.answers {
            if record.name == *query.name() {
                // As this client spelled it, not as it was spelled on the way or by the first one.
                record.name = query.name().clone();
            }
        }
        Some(told)
    }
}

fn pool_options() -> ResolverOpts {
    let mut options = ResolverOpts::default();
    options.timeout = SERVER_LIMIT;
    options.case_randomization = true;
    options.edns_payload_len = MAX_DATAGRAM;
    options.positive_max_ttl = Some(LONGEST_KEPT);
    options.negative_max_ttl = Some(LONGEST_NEGATIVE);
    options
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
