//! From the bytes of a question to the bytes of its answer.
//!
//! Guarantees: an answer from memory is given at once, without waiting for anything; names of the
//! cluster are never forwarded, and are never denied before all services are known.

use std::{
    net::IpAddr,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use hickory_proto::{
    op::{Query, ResponseCode},
    rr::{Name, Record, RecordType},
};
use hickory_resolver::net::NetError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{
    clients::{Clients, Kind, Place},
    figures::{DnsFigures, Figures, InUse, Limit, add},
    forward::{Asked, Forwarder, Told},
    lookup::{Answer, Zone, alias},
    message::{Received, Reply, Transport, Why},
    options::DnsOptions,
};
use crate::watch::Watched;

/// How many aliases are followed for one question.
const MOST_ALIASES: usize = 8;

/// Everything that an answer is made from.
pub(super) struct Answerer {
    domain: Name,
    watched: Arc<Watched>,
    forwarder: Forwarder,
    /// Places for questions that wait for upstream servers.
    forwards: Arc<Semaphore>,
    forwards_most: usize,
    /// Places for TCP connections.
    pub(super) tcp_clients: Arc<Semaphore>,
    tcp_clients_most: usize,
    pub(super) clients: Arc<Clients>,
    pub(super) figures: Figures,
}

/// What becomes of a question.
#[derive(Debug)]
pub(super) enum Outcome {
    Answer(Vec<u8>),
    /// Others are to be asked: `Answerer::finish`.
    Ask(Box<Pending>),
    /// It is no question at all.
    Drop,
}

/// A question that waits for upstream servers.
#[derive(Debug)]
pub(super) struct Pending {
    reply: Reply,
    /// The aliases that lead to `query`.
    aliases: Vec<Record>,
    query: Query,
    _places: (OwnedSemaphorePermit, Place),
}

impl Answerer {
    pub(super) fn new(
        domain: Name,
        watched: Arc<Watched>,
        options: &DnsOptions,
    ) -> Result<Self, NetError> {
        let forwards = options.forwards.min(Semaphore::MAX_PERMITS);
        let tcp_clients = options.tcp_clients.min(Semaphore::MAX_PERMITS);
        Ok(Self {
            domain,
            watched,
            forwarder: Forwarder::new(options)?,
            forwards: Arc::new(Semaphore::new(forwards)),
            forwards_most: forwards,
            tcp_clients: Arc::new(Semaphore::new(tcp_clients)),
            tcp_clients_most: tcp_clients,
            clients: Clients::new(options.client_rate, options.client_places),
            figures: Figures::new(options),
        })
    }

    /// Answers, or says what to wait for.
    pub(super) fn answer(&self, bytes: &[u8], transport: Transport, client: IpAddr) -> Outcome {
        match Received::read(bytes, transport) {
            Received::Ignored => {
                add(&self.figures.ignored);
                Outcome::Drop
            }
            Received::Wrong(reply) => {
                self.count(transport);
                self.send(*reply)
            }
            Received::Question(mut reply, query) => {
                self.count(transport);
                reply.message.metadata.recursion_available = self.forwarder.is_any();
                self.answer_question(*reply, query, client)
            }
        }
    }

    /// Asks upstream servers, and answers with what they say.
    pub(super) async fn finish(&self, pending: Pending) -> Option<Vec<u8>> {
        let Pending { mut reply, aliases, query, _places } = pending;
        match self.forwarder.ask(&query).await {
            Some(told) => tell(&mut reply, aliases, told),
            None => {
                reply.message.add_answers(aliases);
                let text = "no upstream DNS server answers";
                reply.fail(ResponseCode::ServFail, Why::NoReachableAuthority, text);
            }
        }
        match self.send(reply) {
            Outcome::Answer(bytes) => Some(bytes),
            Outcome::Ask(_) | Outcome::Drop => None,
        }
    }

    /// All counts.
    pub(super) fn counts(&self) -> DnsFigures {
        self.figures.read(&self.in_use(), self.forwarder.counts())
    }

    /// How much of each limit is in use.
    pub(super) fn in_use(&self) -> InUse {
        InUse {
            forwards: self.forwards_most - self.forwards.available_permits(),
            tcp_clients: self.tcp_clients_most - self.tcp_clients.available_permits(),
        }
    }

    /// What each upstream server was asked.
    pub(super) fn upstream(&self) -> Vec<Asked<'_>> {
        self.forwarder.asked().collect()
    }

    fn answer_question(&self, mut reply: Reply, query: Query, client: IpAddr) -> Outcome {
        let zone = Zone { domain: &self.domain, services: &self.watched.services };
        let wanted = query.query_type();
        let mut aliases = Vec::new();
        let mut name = query.name().clone();
        for _ in 0..=MOST_ALIASES {
            let found = zone.lookup(&name, wanted);
            let ours = !matches!(found, Answer::NotOurs);
            reply.message.metadata.authoritative |= ours;
            match found {
                Answer::Found { .. } | Answer::Alias(_) if wanted == RecordType::ANY => {
                    reply.answer_any(&query);
                    return self.send(reply);
                }
                Answer::Alias(target) => {
                    aliases.push(alias(&name, &target));
                    if wanted == RecordType::CNAME {
                        reply.add_answers(aliases);
                        return self.send(reply);
                    }
                    name = target;
                }
                Answer::Found { answers, additionals } if !answers.is_empty() => {
                    aliases.extend(answers);
                    reply.add_answers(aliases);
                    reply.message.add_additionals(additionals);
                    return self.send(reply);
                }
                Answer::Found { .. } => {
                    return self.deny(reply, aliases, &zone, ResponseCode::NoError);
                }
                Answer::NoSuchName => {
                    return self.deny(reply, aliases, &zone, ResponseCode::NXDomain);
                }
                Answer::NotOurs => {
                    let mut query = query;
                    query.set_name(name);
                    return self.answer_for_others(reply, aliases, query, client);
                }
            }
        }
        reply.fail(ResponseCode::ServFail, Why::Other, "aliases lead in a circle");
        self.send(reply)
    }

    /// Says that there is nothing, unless something may be that has not been heard of yet.
    fn deny(
        &self,
        mut reply: Reply,
        aliases: Vec<Record>,
        zone: &Zone<'_>,
        code: ResponseCode,
    ) -> Outcome {
        if self.watched.services.is_synced() {
            reply.message.metadata.response_code = code;
            reply.add_answers(aliases);
            reply.message.add_authority(zone.soa());
        } else {
            let text = "the services of the cluster are not known yet";
            reply.fail(ResponseCode::ServFail, Why::NotReady, text);
        }
        self.send(reply)
    }

    fn answer_for_others(
        &self,
        mut reply: Reply,
        aliases: Vec<Record>,
        query: Query,
        client: IpAddr,
    ) -> Outcome {
        if query.query_type() == RecordType::ANY {
            reply.answer_any(&query);
            return self.send(reply);
        }
        if !self.forwarder.knows(query.name()) {
            if aliases.is_empty() {
                let text = "outside of the cluster, and no --dns-upstream is given";
                reply.fail(ResponseCode::Refused, Why::NotAuthoritative, text);
            }
            reply.add_answers(aliases);
            return self.send(reply);
        }
        if let Some(told) = self.forwarder.cached(&query) {
            add(&self.figures.cache_hits);
            tell(&mut reply, aliases, told);
            return self.send(reply);
        }
        let places = match self.places(client) {
            Ok(places) => places,
            Err(limit) => {
                limit.refuse(client);
                reply.fail(ResponseCode::ServFail, Why::Other, &limit.reason());
                return self.send(reply);
            }
        };
        add(&self.figures.cache_misses);
        Outcome::Ask(Box::new(Pending { reply, aliases, query, _places: places }))
    }

    /// A place for a question to upstream servers, or the limit that stands in the way.
    fn places(&self, client: IpAddr) -> Result<(OwnedSemaphorePermit, Place), &Limit> {
        let own = self.clients.place(client, Kind::Forward);
        let own = own.ok_or(&self.figures.client_forwards)?;
        let place = self.forwards.clone().try_acquire_owned();
        Ok((place.map_err(|_| &self.figures.forwards)?, own))
    }

    fn count(&self, transport: Transport) {
        match transport {
            Transport::Datagram => add(&self.figures.datagrams),
            Transport::Stream => add(&self.figures.streams),
        }
    }

    fn send(&self, reply: Reply) -> Outcome {
        let code = reply.message.metadata.response_code;
        let Some((bytes, cut)) = reply.into_bytes() else {
            tracing::debug!(%code, "a DNS answer cannot be written");
            return Outcome::Drop;
        };
        self.figures.answered(code);
        self.figures.truncated.fetch_add(u64::from(cut), Relaxed);
        Outcome::Answer(bytes)
    }
}

/// Puts what upstream servers said behind the aliases that led to them.
fn tell(reply: &mut Reply, mut aliases: Vec<Record>, told: Told) {
    reply.message.metadata.response_code = told.code;
    aliases.extend(told.answers);
    reply.add_answers(aliases);
    reply.message.add_authorities(told.authorities);
}
