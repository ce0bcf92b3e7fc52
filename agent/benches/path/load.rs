//! Loads, and the servers that answer them.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

use crate::results::for_people;
use crate::world::Namespace;

/// Bytes of a question and of its answer.
const MESSAGE: usize = 64;
/// Bytes of one write of a stream.
const PART: usize = 128 << 10;
const PATIENCE: Duration = Duration::from_secs(5);
/// How many there were before anything was bound to one.
static CPUS: OnceLock<usize> = OnceLock::new();

/// What a client does for its turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Load {
    /// Questions and answers over connections that stay open.
    Kept {
        connections: usize,
    },
    /// A connection for each question.
    Fresh {
        connections: usize,
    },
    Stream,
    /// Questions and answers as datagrams of one connected socket.
    Datagrams,
}

impl Load {
    pub(crate) const ALL: [Self; 6] = [
        Self::Kept { connections: 1 },
        Self::Kept { connections: 32 },
        Self::Fresh { connections: 1 },
        Self::Fresh { connections: 32 },
        Self::Stream,
        Self::Datagrams,
    ];

    pub(crate) fn is_udp(self) -> bool {
        self == Self::Datagrams
    }

    pub(crate) fn name(self) -> String {
        match self {
            Self::Kept { connections } => format!("TCP request/response, {connections} at once"),
            Self::Fresh { connections } => {
                format!("TCP connect/request/close, {connections} at once")
            }
            Self::Stream => "TCP stream".to_owned(),
            Self::Datagrams => "UDP request/response".to_owned(),
        }
    }

    /// With one connection both sides stay on one CPU: what is timed is then the work of the way
    /// and its ends, not on which CPU the scheduler wakes the other side, which makes it four
    /// times as long or not, by chance. With many connections all CPUs are at work.
    pub(crate) fn place(self) {
        let last = CPUS.get_or_init(|| std::thread::available_parallelism().map_or(1, usize::from));
        let alone =
            !matches!(self, Self::Kept { connections: 2.. } | Self::Fresh { connections: 2.. });
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
        if matches!(self, Self::Fresh { .. }) { 0.95 } else { 0.99 }
    }

    pub(crate) fn unit(self) -> &'static str {
        if self == Self::Stream { "bytes a second" } else { "operations a second" }
    }

    /// A rate, for people.
    pub(crate) fn shown(self, rate: f64) -> String {
        let (number, unit) = for_people(rate, self.unit());
        format!("{number} {unit}")
    }

    /// Puts it on `target` for this long, and gives the rate.
    pub(crate) fn run(self, target: SocketAddr, turn: Duration) -> f64 {
        match self {
            Self::Kept { connections } => at_once(connections, turn, move |end| {
                let mut stream = connect(target);
                counted(end, || ask(&mut stream))
            }),
            Self::Fresh { connections } => {
                at_once(connections, turn, move |end| counted(end, || ask(&mut connect(target))))
            }
            Self::Stream => at_once(1, turn, move |end| {
                let mut stream = connect(target);
                let part = vec![b's'; PART];
                counted(end, || stream.write_all(&part).unwrap()) * PART as u64
            }),
            Self::Datagrams => at_once(1, turn, move |end| {
                let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
                socket.connect(target).unwrap();
                socket.set_read_timeout(Some(PATIENCE)).unwrap();
                let mut answer = [0; MESSAGE];
                counted(end, || {
                    socket.send(&[b'e'; MESSAGE]).unwrap();
                    socket.recv(&mut answer).unwrap();
                })
            }),
        }
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
    namespace.spawn(move || {
        let mut question = [0; MESSAGE];
        while let Ok((length, from)) = socket.recv_from(&mut question) {
            let _ = socket.send_to(&question[..length], from);
        }
    });
}

/// Echoes questions, tells who it is, and only reads a stream.
fn serve(mut stream: TcpStream) {
    let _ = stream.set_nodelay(true);
    let own = match stream.local_addr() {
        Ok(SocketAddr::V4(own)) => own.ip().octets()[3],
        _ => 0,
    };
    let mut part = vec![0; PART];
    loop {
        match stream.read(&mut part) {
            Ok(0) | Err(_) => return,
            Ok(length) if part[0] == b'e' => {
                if stream.write_all(&part[..length]).is_err() {
                    return;
                }
            }
            Ok(_) if part[0] == b'w' => drop(stream.write_all(&[own])),
            Ok(_) => {}
        }
    }
}
