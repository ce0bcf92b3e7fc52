//! Clients over HTTP: many requests, long-lived connections, and two targets compared.

use std::io::Read;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::http::{Connection, Failed, Reply};
use crate::options::Options;
use crate::statistics::{Tally, quantile};

/// No run of a client takes longer, whatever its input does.
const LONGEST: Duration = Duration::from_secs(600);

/// When to stop: after so many requests, or when standard input closes.
pub(crate) struct Budget {
    left: AtomicU64,
    stopped: AtomicBool,
    end: Instant,
}

impl Budget {
    pub(crate) fn new(requests: Option<u64>) -> Arc<Self> {
        let budget = Arc::new(Self {
            left: AtomicU64::new(requests.unwrap_or(u64::MAX)),
            stopped: AtomicBool::new(false),
            end: Instant::now() + LONGEST,
        });
        if requests.is_none() {
            let watched = Arc::clone(&budget);
            std::thread::spawn(move || {
                let mut rest = Vec::new();
                // An error of standard input means as much as its end.
                drop(std::io::stdin().read_to_end(&mut rest));
                watched.stopped.store(true, Ordering::SeqCst);
            });
        }
        budget
    }

    pub(crate) fn is_over(&self) -> bool {
        self.stopped.load(Ordering::SeqCst) || Instant::now() > self.end
    }

    pub(crate) fn wait(&self) {
        while !self.is_over() {
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn take(&self) -> bool {
        let take = |left: u64| left.checked_sub(1);
        !self.is_over() && self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take).is_ok()
    }
}

/// Requests from several workers at once.
pub(crate) fn run(options: &Options) -> Result<Value, String> {
    let target = options.target(0)?;
    let budget = Budget::new(options.get("requests")?);
    let workers = options.or("workers", 4_usize)?;
    let keep_alive = options.or("keep-alive", false)?;
    let every = Duration::from_micros(options.or("every-us", 0)?);
    let start = Instant::now();
    let threads = (0..workers)
        .map(|_| {
            let budget = Arc::clone(&budget);
            std::thread::spawn(move || work(target, &budget, keep_alive, every))
        })
        .collect();
    Ok(collect(threads)?.report(start.elapsed()))
}

fn collect(threads: Vec<JoinHandle<Tally>>) -> Result<Tally, String> {
    let mut tally = Tally::default();
    for thread in threads {
        tally.add(thread.join().map_err(|_| "a worker panicked".to_owned())?);
    }
    Ok(tally)
}

fn work(target: SocketAddr, budget: &Budget, keep_alive: bool, every: Duration) -> Tally {
    let mut tally = Tally::default();
    let mut connection = None;
    let mut due = Instant::now();
    while budget.take() {
        let start = Instant::now();
        match request(target, &mut connection, keep_alive, &mut tally) {
            Ok(reply) if reply.status == 200 => {
                tally.ok(start.elapsed());
                tally.saw_identity(&reply.body);
            }
            Ok(reply) => tally.fail(format!("status {}", reply.status)),
            Err(error) => tally.fail(error.to_string()),
        }
        // What had to wait is made up for: the rate is the one that was asked for.
        due += every;
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
    }
    tally
}

fn request(
    target: SocketAddr,
    connection: &mut Option<Connection>,
    keep_alive: bool,
    tally: &mut Tally,
) -> Result<Reply, Failed> {
    if let Some(mut open) = connection.take() {
        match open.get("/", true) {
            Ok(reply) => {
                *connection = (!reply.closes).then_some(open);
                return Ok(reply);
            }
            // The server may close an idle connection at any time; HTTP lets a client try again.
            Err(_) => tally.retry(),
        }
    }
    let mut fresh = Connection::open(target)?;
    if let Ok(peer) = fresh.peer() {
        tally.saw("peer", peer.to_string());
    }
    let reply = fresh.get("/", keep_alive)?;
    *connection = (keep_alive && !reply.closes).then_some(fresh);
    Ok(reply)
}

/// Connections that are opened once and used until standard input closes; each may break once.
pub(crate) fn hold(options: &Options) -> Result<Value, String> {
    let target = options.target(0)?;
    let every = Duration::from_millis(options.or("every-ms", 50)?);
    let budget = Budget::new(None);
    let start = Instant::now();
    let threads = (0..options.or("connections", 10_usize)?)
        .map(|_| {
            let budget = Arc::clone(&budget);
            std::thread::spawn(move || hold_one(target, &budget, every))
        })
        .collect();
    Ok(collect(threads)?.report(start.elapsed()))
}

fn hold_one(target: SocketAddr, budget: &Budget, every: Duration) -> Tally {
    let mut tally = Tally::default();
    let mut connection = match Connection::open(target) {
        Ok(connection) => connection,
        Err(error) => {
            tally.fail(error.to_string());
            return tally;
        }
    };
    while !budget.is_over() {
        let start = Instant::now();
        match connection.get("/", true) {
            Ok(reply) => {
                tally.ok(start.elapsed());
                tally.saw_identity(&reply.body);
            }
            Err(error) => {
                tally.fail(format!("broken: {error}"));
                break;
            }
        }
        std::thread::sleep(every.saturating_sub(start.elapsed()));
    }
    tally
}

/// Two targets, request by request in turn, so that both meet the same noise.
pub(crate) fn compare(options: &Options) -> Result<Value, String> {
    let targets = [options.target(0)?, options.target(1)?];
    let rounds = options.or("rounds", 9_usize)?;
    let requests = options.or("requests", 300_usize)?;
    let fresh = compare_rounds(targets, rounds, requests, false)?;
    let kept = compare_rounds(targets, rounds, requests, true)?;
    Ok(json!({ "fresh": fresh, "keepAlive": kept }))
}

fn compare_rounds(
    targets: [SocketAddr; 2],
    rounds: usize,
    requests: usize,
    keep_alive: bool,
) -> Result<Value, String> {
    let mut medians: [Vec<u32>; 2] = Default::default();
    let mut ratios = Vec::new();
    for _ in 0..rounds {
        let [one, other] = compare_round(targets, requests, keep_alive)?;
        medians[0].push(one);
        medians[1].push(other);
        ratios.push(f64::from(one) / f64::from(other.max(1)));
    }
    medians.iter_mut().for_each(|values| values.sort_unstable());
    ratios.sort_by(f64::total_cmp);
    Ok(json!({
        "ns": [quantile(&medians[0], 0.5), quantile(&medians[1], 0.5)],
        "ratio": ratios.get(ratios.len() / 2),
        "ratios": ratios,
    }))
}

/// The median latency in nanoseconds of each target.
fn compare_round(
    targets: [SocketAddr; 2],
    requests: usize,
    keep_alive: bool,
) -> Result<[u32; 2], String> {
    let mut latencies: [Vec<u32>; 2] = Default::default();
    let mut connections = [None, None];
    let mut ignored = Tally::default();
    for index in 0..requests {
        // Who goes first changes every time.
        for which in [index % 2, (index + 1) % 2] {
            let start = Instant::now();
            request(targets[which], &mut connections[which], keep_alive, &mut ignored)
                .map_err(|error| format!("{}: {error}", targets[which]))?;
            let ns = start.elapsed().as_nanos();
            latencies[which].push(u32::try_from(ns).unwrap_or(u32::MAX));
        }
    }
    Ok(latencies.map(|mut values| {
        values.sort_unstable();
        quantile(&values, 0.5)
    }))
}
