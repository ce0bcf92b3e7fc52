//! What the DNS server counts, and the file from which `bowline net dns` reads it.
//!
//! Guarantees: the file is replaced whole, at most once a second and only when a count changed;
//! losing it loses counts, nothing else. Counts start at zero with each agent.

use std::{
    io,
    net::IpAddr,
    path::Path,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

use hickory_proto::op::ResponseCode;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::options::DnsOptions;

/// The file below the agent's run directory.
pub(crate) const DNS_FIGURES_FILE: &str = "dns.json";

/// How often the file may be written.
const WRITE_PAUSE: Duration = Duration::from_secs(1);

/// How often a limit that is reached may be logged.
const LOG_PAUSE: Duration = Duration::from_secs(10);

/// The response codes that are counted by name; the last place is for all others.
const CODES: [(ResponseCode, &str); 7] = [
    (ResponseCode::NoError, "NOERROR"),
    (ResponseCode::FormErr, "FORMERR"),
    (ResponseCode::ServFail, "SERVFAIL"),
    (ResponseCode::NXDomain, "NXDOMAIN"),
    (ResponseCode::NotImp, "NOTIMP"),
    (ResponseCode::Refused, "REFUSED"),
    (ResponseCode::BADVERS, "BADVERS"),
];

/// What a node's DNS server has done since its agent started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DnsFigures {
    /// When the agent started.
    pub since: Timestamp,
    /// When these counts were read.
    pub written: Timestamp,
    pub counts: Vec<DnsCount>,
}

/// One count; those of a limit say what the limit is and which flag of the agent raises it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsCount {
    pub name: String,
    pub count: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flag: Option<String>,
}

impl DnsFigures {
    /// Reads what the agent with this run directory wrote last.
    pub fn read(run_dir: &Path) -> io::Result<Self> {
        let bytes = std::fs::read(run_dir.join(DNS_FIGURES_FILE))?;
        serde_json::from_slice(&bytes).map_err(io::Error::other)
    }

    fn write(&self, path: &Path) -> io::Result<()> {
        let fresh = path.with_extension("json.new");
        std::fs::write(&fresh, serde_json::to_vec(self)?)?;
        std::fs::rename(fresh, path)
    }
}

/// A limit with its flag, for those who run into it.
#[derive(Debug)]
pub(super) struct Limit {
    /// What there is so much of, and in which time.
    what: &'static str,
    when: &'static str,
    flag: &'static str,
    most: u64,
    /// How often somebody was turned away.
    refused: AtomicU64,
    /// Milliseconds after the start at which it may be logged again.
    quiet_until: AtomicU64,
    started: Instant,
}

impl Limit {
    pub(super) fn new(
        what: &'static str,
        when: &'static str,
        flag: &'static str,
        most: usize,
    ) -> Self {
        Self {
            what,
            when,
            flag,
            most: most as u64,
            refused: AtomicU64::new(0),
            quiet_until: AtomicU64::new(0),
            started: Instant::now(),
        }
    }

    /// Counts one that was turned away, and says so now and then.
    pub(super) fn refuse(&self, client: IpAddr) {
        self.refused.fetch_add(1, Relaxed);
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let now = millis(self.started.elapsed());
        let until = self.quiet_until.load(Relaxed);
        let next = now + millis(LOG_PAUSE);
        let mine = || self.quiet_until.compare_exchange(until, next, Relaxed, Relaxed).is_ok();
        if now >= until && mine() {
            let (what, when, limit, flag) = (self.what, self.when, self.most, self.flag);
            tracing::warn!(limit, %client, "DNS: too many {what} {when}, more refused; see {flag}");
        }
    }

    /// What clients that are told about it read.
    pub(super) fn reason(&self) -> String {
        format!("more than {} {} {}, see {}", self.most, self.what, self.when, self.flag)
    }

    pub(super) fn most(&self) -> u64 {
        self.most
    }

    /// How many were turned away.
    pub(super) fn refusals(&self) -> u64 {
        self.refused.load(Relaxed)
    }

    /// How many are in use now.
    fn now(&self, now: usize) -> DnsCount {
        self.count("now", now as u64)
    }

    /// How many were turned away, by name.
    fn refused(&self) -> DnsCount {
        self.count("refused", self.refusals())
    }

    fn count(&self, which: &str, count: u64) -> DnsCount {
        let name = format!("{} {which}", self.what);
        DnsCount { name, count, limit: Some(self.most), flag: Some(self.flag.to_owned()) }
    }
}

/// The counters themselves.
#[derive(Debug)]
pub(super) struct Figures {
    pub(super) datagrams: AtomicU64,
    pub(super) streams: AtomicU64,
    /// What was no question, and got no answer.
    pub(super) ignored: AtomicU64,
    answers: [AtomicU64; CODES.len() + 1],
    pub(super) truncated: AtomicU64,
    pub(super) cache_hits: AtomicU64,
    pub(super) cache_misses: AtomicU64,
    pub(super) idle_closed: AtomicU64,
    pub(super) forwards: Limit,
    pub(super) tcp_clients: Limit,
    pub(super) client_rate: Limit,
    pub(super) client_forwards: Limit,
    pub(super) client_connections: Limit,
    since: Timestamp,
}

/// How much of each limit is in use.
pub(super) struct InUse {
    pub(super) forwards: usize,
    pub(super) tcp_clients: usize,
}

impl Figures {
    pub(super) fn new(options: &DnsOptions) -> Self {
        let (at_once, places) = ("at one time", options.client_places);
        let (forwards, connections) = ("questions to upstream servers", "TCP connections");
        let of_one =
            ["questions to upstream servers of one client", "TCP connections of one client"];
        Self {
            datagrams: AtomicU64::default(),
            streams: AtomicU64::default(),
            ignored: AtomicU64::default(),
            answers: Default::default(),
            truncated: AtomicU64::default(),
            cache_hits: AtomicU64::default(),
            cache_misses: AtomicU64::default(),
            idle_closed: AtomicU64::default(),
            forwards: Limit::new(forwards, at_once, "--dns-forwards", options.forwards),
            tcp_clients: Limit::new(connections, at_once, "--dns-tcp-clients", options.tcp_clients),
            client_rate: Limit::new(
                "questions of one client",
                "in a second",
                "--dns-client-rate",
                options.client_rate,
            ),
            client_forwards: Limit::new(of_one[0], at_once, "--dns-client-places", places),
            client_connections: Limit::new(of_one[1], at_once, "--dns-client-places", places),
            since: Timestamp::now(),
        }
    }

    /// Counts an answer.
    pub(super) fn answered(&self, code: ResponseCode) {
        // On the wire BADVERS and BADSIG are the same number.
        let known = CODES.iter().position(|(named, _)| u16::from(*named) == u16::from(code));
        add(&self.answers[known.unwrap_or(CODES.len())]);
    }

    /// Answers by response code.
    pub(super) fn by_code(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let names = CODES.iter().map(|(_, name)| *name).chain(["other"]);
        names.zip(&self.answers).map(|(name, counter)| (name, counter.load(Relaxed)))
    }

    /// All counts, those of `upstream` servers last.
    pub(super) fn read(&self, in_use: &InUse, upstream: Vec<DnsCount>) -> DnsFigures {
        let of = |name: &str, counter: &AtomicU64| count(name, counter.load(Relaxed));
        let mut counts = vec![
            of("questions over UDP", &self.datagrams),
            of("questions over TCP", &self.streams),
            of("no question, ignored", &self.ignored),
        ];
        for (name, answers) in self.by_code() {
            counts.push(count(&format!("answers {name}"), answers));
        }
        counts.extend([
            of("answers truncated", &self.truncated),
            of("cache hits", &self.cache_hits),
            of("cache misses, forwarded", &self.cache_misses),
        ]);
        counts.extend([self.forwards.now(in_use.forwards), self.forwards.refused()]);
        counts.extend([self.tcp_clients.now(in_use.tcp_clients), self.tcp_clients.refused()]);
        let of_one = [&self.client_rate, &self.client_forwards, &self.client_connections];
        counts.extend(of_one.map(Limit::refused));
        counts.push(of("TCP connections closed as idle", &self.idle_closed));
        counts.extend(upstream);
        DnsFigures { since: self.since, written: Timestamp::now(), counts }
    }
}

pub(super) fn count(name: &str, count: u64) -> DnsCount {
    DnsCount { name: name.to_owned(), count, limit: None, flag: None }
}

pub(super) fn add(counter: &AtomicU64) {
    counter.fetch_add(1, Relaxed);
}

/// Writes the file until `shutdown`.
pub(super) async fn keep_file(
    path: &Path,
    read: impl Fn() -> DnsFigures,
    shutdown: CancellationToken,
) {
    let mut written: Option<DnsFigures> = None;
    let mut failing = false;
    loop {
        let figures = read();
        if written.as_ref().is_none_or(|written| written.counts != figures.counts) {
            match figures.write(path) {
                Ok(()) => failing = false,
                Err(error) if !failing => {
                    failing = true;
                    tracing::warn!(path = %path.display(), %error, "DNS counts are not written");
                }
                Err(_) => {}
            }
            written = Some(figures);
        }
        if shutdown.run_until_cancelled(tokio::time::sleep(WRITE_PAUSE)).await.is_none() {
            return;
        }
    }
}
