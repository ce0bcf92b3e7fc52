//! Loads, and the servers that answer them.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::ops::AddAssign;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bowline_figures::results;
use bowline_lab::cgroup::enter_as_thread;
use bowline_lab::world::Namespace;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use rand::seq::{IndexedRandom, SliceRandom};

use crate::interrupts;

/// Bytes of a question and of its answer.
const MESSAGE: usize = 64;
/// Bytes of one write of a stream.
const PART: usize = 128 << 10;
const PATIENCE: Duration = Duration::from_secs(5);
const WARM_UP: Duration = Duration::from_millis(1);
/// The longest slice of a turn.
const SLICE: Duration = Duration::from_millis(5);
/// Between two looks at what servers have still to do.
const BETWEEN_LOOKS: Duration = Duration::from_micros(20);
/// Bytes of streams that servers have read.
static RECEIVED: AtomicU64 = AtomicU64::new(0);
/// Connections that servers have accepted and not closed yet.
static OPEN: AtomicU64 = AtomicU64::new(0);

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
        let mut cpus = *allowed();
        if self.connections == 1 {
            cpus = CpuSet::new();
            cpus.set(last_cpu()).unwrap();
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

    /// How long a slice of a turn is. A processor that others use, too, is slow for some tens of
    /// milliseconds and then not: ways that take turns faster than that meet the same of it.
    fn slice(self) -> Duration {
        match (self.kind, self.connections) {
            (Kind::Kept | Kind::Datagrams, 1) => Duration::from_millis(2),
            // Until all are awake, and buffers are full; with fresh connections, until the last one
            // is closed at both ends.
            _ => SLICE,
        }
    }

    /// How many rounds make it take as long as `rounds` of the longest slices.
    pub(crate) fn rounds(self, rounds: u32) -> u32 {
        u32::try_from(u128::from(rounds) * SLICE.as_micros() / self.slice().as_micros()).unwrap()
    }

    /// How many slices make a turn.
    pub(crate) fn slices(self, turn: Duration) -> u32 {
        u32::try_from(turn.as_micros() / self.slice().as_micros()).unwrap().max(1)
    }

    /// Connects to one of these targets or another, by chance as balancers do, from this namespace;
    /// in this cgroup, if there is one, which was opened to threads.
    pub(crate) fn team(
        self,
        namespace: &Namespace,
        cgroup: Option<&Path>,
        targets: &[SocketAddr],
    ) -> Team {
        let worker = |_| {
            let (cgroup, targets) = (cgroup.map(PathBuf::from), targets.to_vec());
            let (order, orders) = channel();
            let (tell, done) = channel();
            let thread = namespace.spawn(move || {
                if let Some(cgroup) = cgroup {
                    enter_as_thread(&cgroup);
                }
                self.work(&targets, &orders, &tell);
            });
            assert_eq!(done.recv_timeout(PATIENCE), Ok(0), "a worker is ready");
            Worker { order, done, thread }
        };
        Team { load: self, workers: (0..self.connections).map(worker).collect() }
    }

    /// A worker: ready, it works until each of these moments, and tells how much it did.
    fn work(self, targets: &[SocketAddr], orders: &Receiver<Instant>, tell: &Sender<u64>) {
        let target = || *targets.choose(&mut rand::rng()).unwrap();
        let turns = |mut one: Box<dyn FnMut() + '_>| {
            tell.send(0).unwrap();
            for end in orders {
                // Who asked may be gone.
                let _ = tell.send(counted(end, &mut one));
            }
        };
        match self.kind {
            Kind::Kept => {
                let mut stream = connect(target());
                turns(Box::new(move || ask(&mut stream)));
            }
            Kind::Fresh => turns(Box::new(|| ask(&mut connect(target())))),
            Kind::Stream => {
                let (mut stream, part) = (connect(target()), vec![b's'; PART]);
                turns(Box::new(move || stream.write_all(&part).unwrap()));
            }
            Kind::Datagrams => {
                let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
                socket.connect(target()).unwrap();
                socket.set_read_timeout(Some(PATIENCE)).unwrap();
                let mut answer = [0; MESSAGE];
                turns(Box::new(move || {
                    socket.send(&[b'e'; MESSAGE]).unwrap();
                    socket.recv(&mut answer).unwrap();
                }));
            }
        }
    }
}

/// The CPUs that this process might use before anything was bound to one.
fn allowed() -> &'static CpuSet {
    static CPUS: OnceLock<CpuSet> = OnceLock::new();
    CPUS.get_or_init(|| sched_getaffinity(Pid::from_raw(0)).unwrap())
}

/// Where a load of one connection is: the last of them.
pub(crate) fn last_cpu() -> usize {
    (0..CpuSet::count()).rev().find(|cpu| allowed().is_set(*cpu).unwrap()).unwrap()
}

/// A thread that works when it is told to; it ends with its orders.
struct Worker {
    order: Sender<Instant>,
    done: Receiver<u64>,
    thread: JoinHandle<()>,
}

/// Those who put a load on one way, connected once for all of their slices.
pub(crate) struct Team {
    load: Load,
    workers: Vec<Worker>,
}

impl Team {
    /// Works for a slice.
    pub(crate) fn slice(&self) -> Work {
        self.work(self.load.slice())
    }

    /// Who comes first is not to pay for what is cold.
    fn warm_up(&self) {
        self.work(WARM_UP);
    }

    fn work(&self, time: Duration) -> Work {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (start, received, open) = (Instant::now(), count(&RECEIVED), count(&OPEN));
        let end = start + time;
        for worker in &self.workers {
            worker.order.send(end).unwrap();
        }
        let done = |worker: &Worker| worker.done.recv_timeout(2 * PATIENCE).unwrap();
        let mut units: u64 = self.workers.iter().map(done).sum();
        // What servers have still to do belongs to this slice, not to the next one.
        let is_over: &dyn Fn() -> bool = match self.load.kind {
            Kind::Stream => {
                units *= PART as u64;
                &|| count(&RECEIVED) - received >= units
            }
            Kind::Fresh => &|| count(&OPEN) <= open,
            Kind::Kept | Kind::Datagrams => &|| true,
        };
        while !is_over() {
            assert!(start.elapsed() < PATIENCE, "servers did not come to an end with a slice");
            std::thread::sleep(BETWEEN_LOOKS);
        }
        Work { units, time: start.elapsed() }
    }
}

impl Drop for Team {
    /// Its connections are closed before others are made.
    fn drop(&mut self) {
        for Worker { order, thread, .. } in self.workers.drain(..) {
            drop(order);
            // Why one failed was said when its work was asked for.
            let _ = thread.join();
        }
    }
}

/// What was done, in operations or bytes, and how long it took.
#[derive(Clone, Copy, Default)]
pub(crate) struct Work {
    units: u64,
    time: Duration,
}

impl Work {
    /// Operations or bytes a second.
    pub(crate) fn rate(self) -> f64 {
        self.units as f64 / self.time.as_secs_f64()
    }
}

impl AddAssign for Work {
    fn add_assign(&mut self, more: Self) {
        self.units += more.units;
        self.time += more.time;
    }
}

/// A round of so many cycles: the work of each of `count` teams, which are made for it. Who is
/// connected first, and who comes after whom from one cycle to the next, is left to chance.
pub(crate) fn round(count: usize, cycles: usize, team: impl Fn(usize) -> Team) -> Vec<Work> {
    let mut places: Vec<usize> = (0..count).collect();
    places.shuffle(&mut rand::rng());
    let teams: Vec<Team> = places.iter().map(|place| team(*place)).collect();
    teams.iter().for_each(Team::warm_up);
    let mut works = vec![Work::default(); count];
    for cycle in 0..cycles {
        for turn in order(cycle, count) {
            interrupts::check();
            works[places[turn]] += teams[turn].slice();
        }
    }
    works
}

/// How many cycles of at most so many leave [`order`] balanced; all of them if none does.
pub(crate) fn balanced(cycles: usize, count: usize) -> usize {
    let square = square(count);
    if cycles < square { cycles } else { cycles / square * square }
}

/// After so many cycles [`order`] is balanced.
fn square(count: usize) -> usize {
    count * (1 + count % 2)
}

/// The places of a row in an order in which, over a whole [`square`], each is as often at each
/// place, and within cycles comes as often after each other one (a Latin square that is balanced
/// for what is carried over: E. J. Williams, 1949).
fn order(cycle: usize, count: usize) -> impl Iterator<Item = usize> {
    let backwards = count % 2 == 1 && (cycle / count) % 2 == 1;
    (0..count).map(move |step| {
        let step = if backwards { count - 1 - step } else { step };
        // From both ends to the middle.
        let zigzag = if step.is_multiple_of(2) { step / 2 } else { count - step.div_ceil(2) };
        (zigzag + cycle) % count
    })
}

fn counted(end: Instant, one: &mut dyn FnMut()) -> u64 {
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
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
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
            OPEN.fetch_add(1, Ordering::Relaxed);
            std::thread::spawn(move || {
                serve(stream);
                OPEN.fetch_sub(1, Ordering::Relaxed);
            });
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
            Ok(length) => {
                RECEIVED.fetch_add(length as u64, Ordering::Relaxed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{order, square};

    #[test]
    fn every_way_has_every_place_and_follows_every_other_one_equally_often() {
        for count in 2..10 {
            let cycles = square(count);
            let mut places = vec![0; count * count];
            let mut followers = vec![0; count * count];
            for cycle in 0..cycles {
                let row: Vec<usize> = order(cycle, count).collect();
                for (place, way) in row.iter().enumerate() {
                    places[way * count + place] += 1;
                }
                for pair in row.windows(2) {
                    followers[pair[0] * count + pair[1]] += 1;
                }
            }
            assert!(places.iter().all(|it| *it == cycles / count), "{count}: {places:?}");
            for way in 0..count {
                for next in 0..count {
                    let expected = if way == next { 0 } else { cycles / count };
                    assert_eq!(followers[way * count + next], expected, "{count}: {way}, {next}");
                }
            }
        }
    }
}
