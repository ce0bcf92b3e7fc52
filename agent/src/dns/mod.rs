//! The cluster DNS server of this node, on UDP and TCP.
//!
//! Guarantees: names of the cluster are answered from memory, also while the API server is away;
//! they are never forwarded. Other names go to the servers that were configured, if any, and are
//! refused otherwise. An answer that does not fit into a datagram says so and is given whole over
//! TCP, where questions may follow each other without waiting (RFC 7766). Work is bounded: each
//! limit has a flag, and who is turned away by one is counted; no client takes what others need.
//! Not here: DNSSEC, zone transfers.

mod answer;
mod clients;
mod figures;
mod forward;
mod lookup;
mod message;
mod metrics;
mod options;

use std::{
    io,
    net::{IpAddr, SocketAddr},
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use futures::{FutureExt, SinkExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use tokio::{
    net::{TcpListener, TcpStream, UdpSocket},
    time::timeout,
};
use tokio_util::{
    codec::{Framed, LengthDelimitedCodec},
    sync::CancellationToken,
};

pub(crate) use figures::DNS_FIGURES_FILE;
pub use figures::{DnsCount, DnsFigures};
pub use options::{DnsOptions, DnsUpstream, InvalidDnsOption, StubDomain};

use crate::watch::Watched;
use answer::{Answerer, Outcome};
use clients::Kind;
use figures::add;
use message::Transport;

/// The largest question that comes in a datagram.
const MAX_QUESTION: usize = 4096;

/// Questions of one TCP client that wait for upstream servers. It is read no further until some
/// are answered.
const PIPELINE: usize = 32;

/// The DNS server cannot be started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartDnsFailed {
    #[error("listening for DNS on {address}: {source}")]
    Listen { address: SocketAddr, source: io::Error },
    #[error("{0:?} is not a DNS domain")]
    BadDomain(String),
    #[error("setting up DNS forwarding: {0}")]
    Forwarding(String),
}

/// What answers, on any number of addresses.
#[derive(Clone)]
pub(crate) struct Dns {
    answerer: Arc<Answerer>,
    tcp_idle: Duration,
}

/// The sockets of one address.
pub(crate) struct DnsServer {
    udp: UdpSocket,
    tcp: TcpListener,
    dns: Dns,
}

impl Dns {
    pub(crate) fn new(
        domain: &str,
        watched: Arc<Watched>,
        options: &DnsOptions,
    ) -> Result<Self, StartDnsFailed> {
        let domain =
            options::absolute(domain).ok_or(StartDnsFailed::BadDomain(domain.to_owned()))?;
        let answerer = Answerer::new(domain, watched, options)
            .map_err(|error| StartDnsFailed::Forwarding(error.to_string()))?;
        Ok(Self { answerer: Arc::new(answerer), tcp_idle: options.tcp_idle })
    }

    /// Keeps the counts in a file for `bowline net dns`, until `shutdown`.
    pub(crate) async fn keep_figures(&self, run_dir: &Path, shutdown: CancellationToken) {
        let path = run_dir.join(DNS_FIGURES_FILE);
        figures::keep_file(&path, || self.answerer.counts(), shutdown).await;
    }
}

impl DnsServer {
    /// Opens the sockets.
    pub(crate) async fn bind(dns: Dns, address: IpAddr, port: u16) -> Result<Self, StartDnsFailed> {
        let address = SocketAddr::from((address, port));
        let failed = |source| StartDnsFailed::Listen { address, source };
        let udp = UdpSocket::bind(address).await.map_err(failed)?;
        let tcp = TcpListener::bind(udp.local_addr().map_err(failed)?).await.map_err(failed)?;
        Ok(Self { udp, tcp, dns })
    }

    /// Answers until `shutdown`.
    pub(crate) async fn serve(self, shutdown: CancellationToken) {
        let Self { udp, tcp, dns } = self;
        let datagrams = serve_datagrams(Arc::new(udp), dns.answerer.clone());
        let streams = serve_streams(tcp, dns);
        tokio::select! {
            () = datagrams => {}
            () = streams => {}
            () = shutdown.cancelled() => {}
        }
    }
}

async fn serve_datagrams(socket: Arc<UdpSocket>, answerer: Arc<Answerer>) {
    let mut buffer = [0; MAX_QUESTION];
    loop {
        // Errors of a datagram socket are about one client (ICMP): never about the socket.
        let Ok((length, client)) = socket.recv_from(&mut buffer).await else { continue };
        if !answerer.clients.may_ask(client.ip(), Instant::now()) {
            answerer.figures.client_rate.refuse(client.ip());
            continue;
        }
        match answerer.answer(&buffer[..length], Transport::Datagram, client.ip()) {
            Outcome::Answer(bytes) => drop(socket.send_to(&bytes, client).await),
            Outcome::Drop => {}
            Outcome::Ask(pending) => {
                let (socket, answerer) = (socket.clone(), answerer.clone());
                tokio::spawn(async move {
                    if let Some(bytes) = answerer.finish(*pending).await {
                        drop(socket.send_to(&bytes, client).await);
                    }
                });
            }
        }
    }
}

async fn serve_streams(listener: TcpListener, dns: Dns) {
    loop {
        let Ok((stream, client)) = listener.accept().await else {
            // Out of file descriptors: wait for some to be closed.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let client = client.ip();
        let figures = &dns.answerer.figures;
        let Some(own) = dns.answerer.clients.place(client, Kind::Connection) else {
            figures.client_connections.refuse(client);
            continue;
        };
        let Ok(place) = dns.answerer.tcp_clients.clone().try_acquire_owned() else {
            figures.tcp_clients.refuse(client);
            continue;
        };
        let dns = dns.clone();
        tokio::spawn(async move {
            serve_stream(stream, dns, client).await;
            drop((place, own));
        });
    }
}

/// Answers the questions of one client, each as soon as it can be, until the client goes, is
/// silent for too long, or does not read its answers.
async fn serve_stream(stream: TcpStream, dns: Dns, client: IpAddr) {
    let Dns { answerer, tcp_idle } = dns;
    let mut frames: Framed<TcpStream, LengthDelimitedCodec> =
        LengthDelimitedCodec::builder().length_field_type::<u16>().new_framed(stream);
    let mut waiting: FuturesUnordered<BoxFuture<'_, Option<Vec<u8>>>> = FuturesUnordered::new();
    loop {
        let answer = tokio::select! {
            Some(answer) = waiting.next() => answer,
            question = timeout(tcp_idle, frames.next()), if waiting.len() < PIPELINE => {
                match question {
                    Ok(Some(Ok(question))) => {
                        let_pass(&answerer, client).await;
                        match ask(&answerer, &question, client) {
                            Answered::Now(answer) => answer,
                            Answered::Later(answer) => {
                                waiting.push(answer);
                                continue;
                            }
                        }
                    }
                    Ok(_) => return,
                    // It waits for an answer, which is not silence.
                    Err(_) if !waiting.is_empty() => continue,
                    Err(_) => return add(&answerer.figures.idle_closed),
                }
            }
        };
        let Some(answer) = answer else { return };
        if !matches!(timeout(tcp_idle, frames.send(Bytes::from(answer))).await, Ok(Ok(()))) {
            return;
        }
    }
}

/// Waits until the client may ask one more question: over a stream, none is lost.
async fn let_pass(answerer: &Answerer, client: IpAddr) {
    while !answerer.clients.may_ask(client, Instant::now()) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// An answer, or none at all, now or later.
enum Answered<'a> {
    Now(Option<Vec<u8>>),
    Later(BoxFuture<'a, Option<Vec<u8>>>),
}

fn ask<'a>(answerer: &'a Answerer, question: &BytesMut, client: IpAddr) -> Answered<'a> {
    match answerer.answer(question, Transport::Stream, client) {
        Outcome::Answer(bytes) => Answered::Now(Some(bytes)),
        Outcome::Drop => Answered::Now(None),
        Outcome::Ask(pending) => Answered::Later(answerer.finish(*pending).boxed()),
    }
}

#[cfg(test)]
mod tests;
