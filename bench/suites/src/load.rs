//! Loads, and the servers that answer them.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bowline_figures::results;
use bowline_lab::world::Namespace;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

/// Bytes of a question and of its answer.
const MESSAGE: usize = 64;
/// Bytes of one write of a stream.
const PART: usize = 128 << 10;
const PATIENCE: Duration = Duration::from_secs(5);
/// How many there were before anything was bound to one.
static CPUS: OnceLock<usize> = OnceLock::new();

/// What a client does for its turn, over so many connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Load {
    pub(crate) kind: Kind,
    connections: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Questions and answers over connections that stay open.
    Kept,
    /// A connection for each question.
    Fresh,
    Stream,
    /// Questions and answers as datagrams of connected sockets.
    Datagrams,
}

impl Load {
    pub(crate) const ALL: [Self; 8] = [
        Self::one(Kind::Kept),
        Self::many(Kind::Kept),
        Self::one(Kind::Fresh),
        Self::many(Kind::Fresh),
        Self::one(Kind::Stream),
        Self::many(Kind::Stream),
        Self::one(Kind::Datagrams),
        Self::many(Kind::Datagrams),
    ];

    pub(crate) const fn one(kind: Kind) -> Self {
        Self { kind, connections: 1 }
    }

    pub(crate) const fn many(kind: Kind) -> Self {
        Self { kind, connections: 32 }
    }

    pub(crate) fn is_udp(self) -> bool {
        self.kind == Kind::Datagrams
    }

    pub(crate) fn name(self) -> String {
        let Self { kind, connections } = self;
        let name = match kind {
            Kind::Kept => "TCP request/response",
            Kind::Fresh => "TCP connect/request/close",
            Kind::Stream => "TCP stream",
            Kind::Datagrams => "UDP request/response",
        };
        match kind {
            Kind::Stream | Kind::Datagrams if connections == 1 => name.to_owned(),
            _ => format!("{name}, {connections} at once"),
        }
    }

    /// With one connection both sides stay on one CPU: what is timed is then the work of the way
    /// and its ends, not on which CPU the scheduler wakes the other side, which makes it four
    /// times as long or not, by chance. With many connections all CPUs are at work.
    pub(crate) fn place(self) {
        let last = CPUS.get_or_init(|| std::thread::available_parallelism().map_or(1, usize::from));
        let alone = self.connections == 1;
        let mut cpus = CpuSet::new();
        for cpu in if alone { last - 1..*last } else { 0..*last } {
            cpus.set(cpu).unwrap();
        }
        // Those that these start stay there, too.
        for thread in std::fs::read_dir("/proc/self/task").unwrap().flatten() {
            let number = thread.file_name().to_string_lossy().parse().unwrap();
            // It may have ended; and a machine may not allow it: then it is measured without.
            let _ = sched_setaffinity(Pid::from_raw(number), &cpus);
        }
    }

    /// What bowline's socket hooks are to reach of the limit.
    pub(crate) fn goal(self) -> f64 {
        if self.kind == Kind::Fresh { 0.95 } else { 0.99 }
    }

    pub(crate) fn unit(self) -> &'static str {
        if self.kind == Kind::Stream { "bytes a second" } else { "operations a second" }
    }

    /// A rate, for people.
    pub(crate) fn shown(self, rate: f64) -> String {
        results::shown(rate, self.unit())
    }

    /// Puts it on these targets in turn for this long, and gives the rate.
    pub(crate) fn run(self, targets: &[SocketAddr], turn: Duration) -> f64 {
        let (targets, next) = (targets.to_vec(), AtomicUsize::new(0));
        let target = move || targets[next.fetch_add(1, Ordering::Relaxed) % targets.len()];
        at_once(self.connections, turn, move |end| match self.kind {
            Kind::Kept => {
                let mut stream = connect(target());
                counted(end, || ask(&mut stream))
            }
            Kind::Fresh => counted(end, || ask(&mut connect(target()))),
            Kind::Stream => {
                let mut stream = connect(target());
                let part = vec![b's'; PART];
                counted(end, || stream.write_all(&part).unwrap()) * PART as u64
            }
            Kind::Datagrams => {
                let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
                socket.connect(target()).unwrap();
                socket.set_read_timeout(Some(PATIENCE)).unwrap();
                let mut answer = [0; MESSAGE];
                counted(end, || {
                    socket.send(&[b'e'; MESSAGE]).unwrap();
                    socket.recv(&mut answer).unwrap();
                })
            }
        })
    }
}

/// How many of `work`'s units so many threads do in a second together.
fn at_once(
    threads: usize,
    turn: Duration,
    work: impl Fn(Instant) -> u64 + Send + Sync + 'static,
) -> f64 {
    let (start, work) = (Instant::now(), Arc::new(work));
    let end = start + turn;
    let running: Vec<JoinHandle<u64>> = (0..threads)
        .map(|_| {
            let work = work.clone();
            std::thread::spawn(move || work(end))
        })
        .collect();
    let done: u64 = running.into_iter().map(|thread| thread.join().unwrap()).sum();
    done as f64 / start.elapsed().as_secs_f64()
}

fn counted(end: Instant, mut one: impl FnMut()) -> u64 {
    let mut count = 0;
    while Instant::now() < end {
        one();
        count += 1;
    }
    count
}

fn connect(target: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect_timeout(&target, PATIENCE).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn ask(stream: &mut TcpStream) {
    let mut answer = [0; MESSAGE];
    stream.write_all(&[b'e'; MESSAGE]).unwrap();
    stream.read_exact(&mut answer).unwrap();
}

/// Answers at one address, by TCP and UDP, until the process ends.
pub(crate) fn serve_at(namespace: &Namespace, address: SocketAddr) {
    let (listener, socket) = namespace
        .run(move || (TcpListener::bind(address).unwrap(), UdpSocket::bind(address).unwrap()));
    namespace.spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || serve(stream));
        }
    });
    let own = who(address);
    namespace.spawn(move || {
        let mut question = [0; MESSAGE];
        while let Ok((length, from)) = socket.recv_from(&mut question) {
            let answer = if question[0] == b'w' { &own[..] } else { &question[..length] };
            let _ = socket.send_to(answer, from);
        }
    });
}

/// By what somebody is told from others: the last number of the address.
fn who(own: SocketAddr) -> [u8; 1] {
    match own {
        SocketAddr::V4(own) => [own.ip().octets()[3]],
        SocketAddr::V6(own) => [own.ip().octets()[15]],
    }
}

/// Echoes questions, tells who it is, and only reads a stream.
fn serve(mut stream: TcpStream) {
    let _ = stream.set_nodelay(true);
    let own = stream.local_addr().map_or([0], who);
    let mut part = vec![0; PART];
    loop {
        match stream.read(&mut part) {
            Ok(0) | Err(_) => return,
            Ok(length) if part[0] == b'e' => {
                if stream.write_all(&part[..length]).is_err() {
                    return;
                }
            }
            Ok(_) if part[0] == b'w' => drop(stream.write_all(&own)),
            Ok(_) => {}
        }
    }
}
