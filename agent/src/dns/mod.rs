//! The cluster DNS server of this node, on UDP and TCP.
//!
//! Guarantees: names of the cluster are answered from memory, also while the API server is away;
//! they are never forwarded. Other names go to the servers that were configured, if any, and are
//! refused otherwise. An answer that does not fit into a datagram says so and is given whole over
//! TCP. Work per client is bounded: questions beyond the bounds are dropped, and asked again by
//! the resolver.

mod lookup;

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use hickory_proto::{
    op::{Edns, Message, MessageType, Metadata, OpCode, ResponseCode},
    rr::{DNSClass, Name},
    serialize::binary::{BinEncodable, BinEncoder},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    sync::Semaphore,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use crate::watch::Watched;
use lookup::{Answer, Zone};

/// The largest datagram that is sent to a client which says that it takes more than 512 bytes.
const MAX_DATAGRAM: u16 = 1232;

/// How long an upstream server may take.
const FORWARD_LIMIT: Duration = Duration::from_secs(2);

/// How long a TCP client may be silent.
const IDLE_LIMIT: Duration = Duration::from_secs(10);

/// Questions that are with upstream servers, and TCP clients, at one time.
const AT_ONCE: usize = 128;

/// The DNS server cannot be started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartDnsFailed {
    #[error("listening for DNS on {address}: {source}")]
    Listen { address: SocketAddr, source: io::Error },
    #[error("{0:?} is not a DNS domain")]
    BadDomain(String),
}

/// The server with its sockets.
pub(crate) struct DnsServer {
    udp: UdpSocket,
    tcp: TcpListener,
    answerer: Arc<Answerer>,
}

/// Everything that an answer is made from.
struct Answerer {
    domain: Name,
    watched: Arc<Watched>,
    upstream: Vec<SocketAddr>,
    room: Semaphore,
}

/// How a question came in, and so how large its answer may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Transport {
    Datagram,
    Stream,
}

impl DnsServer {
    /// Opens the sockets.
    pub(crate) async fn bind(
        address: Ipv4Addr,
        port: u16,
        domain: &str,
        watched: Arc<Watched>,
        upstream: Vec<SocketAddr>,
    ) -> Result<Self, StartDnsFailed> {
        let bad_domain = |_| StartDnsFailed::BadDomain(domain.to_owned());
        let name =
            Name::from_ascii(format!("{}.", domain.trim_matches('.'))).map_err(bad_domain)?;
        let address = SocketAddr::from((address, port));
        let failed = |source| StartDnsFailed::Listen { address, source };
        let udp = UdpSocket::bind(address).await.map_err(failed)?;
        let tcp = TcpListener::bind(udp.local_addr().map_err(failed)?).await.map_err(failed)?;
        let room = Semaphore::new(AT_ONCE);
        let answerer = Arc::new(Answerer { domain: name, watched, upstream, room });
        Ok(Self { udp, tcp, answerer })
    }

    /// Answers until `shutdown`.
    pub(crate) async fn serve(self, shutdown: CancellationToken) {
        let Self { udp, tcp, answerer } = self;
        let udp = Arc::new(udp);
        let datagrams = serve_datagrams(udp, answerer.clone());
        let streams = serve_streams(tcp, answerer);
        tokio::select! {
            () = datagrams => {}
            () = streams => {}
            () = shutdown.cancelled() => {}
        }
    }
}

async fn serve_datagrams(socket: Arc<UdpSocket>, answerer: Arc<Answerer>) {
    let mut buffer = [0; 4096];
    loop {
        // Errors of a datagram socket are about one client (ICMP): never about the socket.
        let Ok((length, client)) = socket.recv_from(&mut buffer).await else { continue };
        let question = &buffer[..length];
        match answerer.answer(question, Transport::Datagram) {
            Outcome::Answer(bytes) => drop(socket.send_to(&bytes, client).await),
            Outcome::Drop => {}
            Outcome::Forward => {
                let (socket, answerer) = (socket.clone(), answerer.clone());
                let question = question.to_vec();
                tokio::spawn(async move {
                    let Ok(_room) = answerer.room.try_acquire() else { return };
                    let bytes = answerer.forward(&question, Transport::Datagram).await;
                    drop(socket.send_to(&bytes, client).await);
                });
            }
        }
    }
}

async fn serve_streams(listener: TcpListener, answerer: Arc<Answerer>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Out of file descriptors: wait for some to be closed.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let answerer = answerer.clone();
        tokio::spawn(async move {
            let Ok(_room) = answerer.room.try_acquire() else { return };
            // A client that goes away in the middle is its own affair.
            let _ = serve_stream(stream, &answerer).await;
        });
    }
}

async fn serve_stream(mut stream: TcpStream, answerer: &Answerer) -> io::Result<()> {
    loop {
        let length = timeout(IDLE_LIMIT, stream.read_u16()).await??;
        let mut question = vec![0; usize::from(length)];
        timeout(IDLE_LIMIT, stream.read_exact(&mut question)).await??;
        let answer = match answerer.answer(&question, Transport::Stream) {
            Outcome::Answer(bytes) => bytes,
            Outcome::Forward => answerer.forward(&question, Transport::Stream).await,
            Outcome::Drop => return Ok(()),
        };
        let Ok(length) = u16::try_from(answer.len()) else { return Ok(()) };
        let mut bytes = length.to_be_bytes().to_vec();
        bytes.extend(answer);
        timeout(IDLE_LIMIT, stream.write_all(&bytes)).await??;
    }
}

/// What becomes of a question.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Answer(Vec<u8>),
    /// It is about a name of somebody else, and there is somebody to ask.
    Forward,
    /// It is no question at all.
    Drop,
}

impl Answerer {
    fn answer(&self, question: &[u8], transport: Transport) -> Outcome {
        let Ok(question) = Message::from_vec(question) else { return Outcome::Drop };
        if question.metadata.message_type != MessageType::Query {
            return Outcome::Drop;
        }
        let mut answer = reply_to(&question);
        let [query] = &question.queries[..] else {
            answer.metadata.response_code = ResponseCode::FormErr;
            return encode(&answer, &question, transport);
        };
        if question.metadata.op_code != OpCode::Query {
            answer.metadata.response_code = ResponseCode::NotImp;
            return encode(&answer, &question, transport);
        }
        let zone = Zone { domain: &self.domain, services: &self.watched.services };
        let found = match query.query_class() {
            DNSClass::IN | DNSClass::ANY => zone.lookup(query.name(), query.query_type()),
            _ => Answer::NotOurs,
        };
        match found {
            Answer::NotOurs if !self.upstream.is_empty() => return Outcome::Forward,
            Answer::NotOurs => answer.metadata.response_code = ResponseCode::Refused,
            Answer::NoSuchName => {
                answer.metadata.authoritative = true;
                answer.metadata.response_code = ResponseCode::NXDomain;
                answer.add_authority(zone.soa());
            }
            Answer::Found { mut answers, additionals } => {
                answer.metadata.authoritative = true;
                if answers.is_empty() {
                    answer.add_authority(zone.soa());
                } else {
                    // Most clients take the first address: each is first as often as the others.
                    let first = rand::random_range(0..answers.len());
                    answers.rotate_left(first);
                }
                answer.add_answers(answers);
                answer.add_additionals(additionals);
            }
        }
        encode(&answer, &question, transport)
    }

    /// Asks the upstream servers in their order; the first that answers counts.
    async fn forward(&self, question: &[u8], transport: Transport) -> Vec<u8> {
        for server in &self.upstream {
            let asked = async {
                match transport {
                    Transport::Datagram => forward_datagram(*server, question).await,
                    Transport::Stream => forward_stream(*server, question).await,
                }
            };
            match timeout(FORWARD_LIMIT, asked).await {
                Ok(Ok(answer)) => return answer,
                Ok(Err(error)) => tracing::debug!(%server, %error, "upstream DNS server failed"),
                Err(_) => tracing::debug!(%server, "upstream DNS server is silent"),
            }
        }
        let Ok(question) = Message::from_vec(question) else { return Vec::new() };
        let mut answer = reply_to(&question);
        answer.metadata.response_code = ResponseCode::ServFail;
        match encode(&answer, &question, transport) {
            Outcome::Answer(bytes) => bytes,
            Outcome::Forward | Outcome::Drop => Vec::new(),
        }
    }
}

fn reply_to(question: &Message) -> Message {
    let asked = &question.metadata;
    let mut answer = Message::response(asked.id, asked.op_code);
    answer.metadata = Metadata::response_from_request(asked);
    answer.add_queries(question.queries.iter().cloned());
    if question.edns.is_some() {
        let mut edns = Edns::new();
        edns.set_max_payload(MAX_DATAGRAM);
        answer.set_edns(edns);
    }
    answer
}

fn encode(answer: &Message, question: &Message, transport: Transport) -> Outcome {
    let limit = match (transport, &question.edns) {
        (Transport::Stream, _) => u16::MAX,
        (Transport::Datagram, Some(edns)) => edns.max_payload().clamp(512, MAX_DATAGRAM),
        (Transport::Datagram, None) => 512,
    };
    let mut bytes = Vec::with_capacity(512);
    let mut encoder = BinEncoder::new(&mut bytes);
    encoder.set_max_size(limit);
    match answer.emit(&mut encoder) {
        Ok(()) => Outcome::Answer(bytes),
        Err(error) => {
            tracing::debug!(%error, "a DNS answer cannot be written");
            Outcome::Drop
        }
    }
}

async fn forward_datagram(server: SocketAddr, question: &[u8]) -> io::Result<Vec<u8>> {
    let socket = UdpSocket::bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0))).await?;
    socket.connect(server).await?;
    socket.send(question).await?;
    let mut buffer = [0; 4096];
    loop {
        let length = socket.recv(&mut buffer).await?;
        // The id is what ties an answer to its question.
        if length >= 12 && buffer[..2] == question[..2] {
            return Ok(buffer[..length].to_vec());
        }
    }
}

async fn forward_stream(server: SocketAddr, question: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(question.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes()[..], question].concat()).await?;
    let length = stream.read_u16().await?;
    let mut answer = vec![0; usize::from(length)];
    stream.read_exact(&mut answer).await?;
    Ok(answer)
}

#[cfg(test)]
mod tests;
