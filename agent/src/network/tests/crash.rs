//! Addresses over hundreds of sandboxes that come and go while the process that makes them is
//! killed again and again.
//!
//! The test runs this very binary as that process, in the network namespace that it made. The
//! process says what it did, one line each; a line counts only if it is whole.

use std::{
    hash::{BuildHasher, RandomState},
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    time::Instant,
};

use futures::future::join_all;

use super::*;

const NAME: &str = "network::tests::crash::random_kills_leak_no_address_and_give_none_out_twice";
const RUN_DIR: &str = "BOWLINE_TEST_CRASH_RUN_DIR";

/// Half a minute for a thousand on a machine that does nothing else.
const LIMIT: Duration = Duration::from_secs(300);

/// How many sandboxes come and go; a thousand with `cargo xtask test --thorough`.
fn cycles() -> usize {
    if std::env::var_os("BOWLINE_THOROUGH").is_some() { 1_000 } else { 250 }
}

/// 29 addresses can be given out of it.
const SMALL: &str = "10.240.1.0/27";
const USABLE: usize = 29;

/// So many sandboxes are made or removed at once, and so many may be there.
const BATCH: usize = 6;
const MOST: usize = 24;

#[test]
#[ignore = "needs root; run by `cargo xtask test` as root"]
fn random_kills_leak_no_address_and_give_none_out_twice() {
    match std::env::var_os(RUN_DIR) {
        Some(run) => make_and_remove(run.as_ref()),
        None => on_a_node(drive),
    }
}

fn small() -> Ranges {
    Ranges { v4: SMALL.parse().unwrap(), v6: RANGE_V6.parse().ok() }
}

fn random() -> usize {
    RandomState::new().hash_one(0) as usize
}

fn number_of(uid: &str) -> u32 {
    u32::from_str_radix(&uid[..8], 16).unwrap()
}

fn say(what: &str, uid: &str, addresses: Addresses) {
    println!("{what} {} {} .", number_of(uid), addresses.joined());
}

/// The process that is killed: what an agent does with sandboxes, until its end.
fn make_and_remove(run: &Path) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let netlink = Netlink::open().unwrap();
        let server = SocketAddr::from((NODE, 6443));
        let uplink = uplink::find(&netlink, Some("up0"), &[], server).await.unwrap();
        let links = Arc::new(Links::default());
        let network =
            PodNetwork::open(run, netlink.clone(), uplink.clone(), MTU, links.clone()).unwrap();
        network.set_ranges(small());
        let reach = Reach::new(Routing::Native, DEFAULT_VXLAN_PORT, &uplink);
        let (remote, unused) = (BTreeMap::new(), tempfile::tempdir().unwrap());
        let node = TestNode { run: unused, links, netlink, uplink, reach, remote, network };
        node.converge().await;
        for (uid, sandbox) in node.network.sandboxes() {
            say("have", &uid, sandbox.addresses);
        }
        println!("open .");
        loop {
            batch(&node.network).await;
        }
    });
}

async fn batch(network: &PodNetwork) {
    let there = network.sandboxes();
    if there.len() + BATCH <= MOST && (there.len() < BATCH || random().is_multiple_of(2)) {
        let pods: Vec<_> = (0..BATCH).map(|_| pod(random() as u32)).collect();
        let made = join_all(pods.iter().map(|pod| network.set_up(pod))).await;
        for (pod, sandbox) in pods.iter().zip(made) {
            say("up", &pod.uid, sandbox.unwrap().addresses);
        }
        return;
    }
    let first = random() % (there.len() - BATCH + 1);
    let chosen = &there[first..first + BATCH];
    for (uid, sandbox) in chosen {
        say("going", uid, sandbox.addresses);
    }
    for removed in join_all(chosen.iter().map(|(uid, _)| network.tear_down(uid))).await {
        removed.unwrap();
    }
    for (uid, sandbox) in chosen {
        say("down", uid, sandbox.addresses);
    }
}

/// What is known of the sandboxes from outside.
#[derive(Default)]
struct Ledger {
    /// Said to be there, and not said to be going.
    there: BTreeMap<u32, String>,
    removed: usize,
    kills: usize,
}

async fn drive(mut node: TestNode) -> TestNode {
    node.converge().await;
    let before = node.picture().await;
    let start = Instant::now();
    let mut ledger = Ledger::default();
    while ledger.removed < cycles() {
        let (removed, all) = (ledger.removed, cycles());
        assert!(start.elapsed() < LIMIT, "{removed} of {all} cycles in {LIMIT:?}");
        ledger.one_life(node.run.path());
    }
    println!(
        "{} sandboxes made and removed, {} kills, {:?}",
        ledger.removed,
        ledger.kills,
        start.elapsed()
    );
    assert!(ledger.kills >= cycles() / 100, "{} kills", ledger.kills);

    node.reopen();
    node.network.set_ranges(small());
    node.converge().await;
    assert_eq!(node.converge().await, []);
    let left = node.network.sandboxes();
    let links = node.netlink.links().await.unwrap();
    assert_eq!(links.iter().filter(|link| is_pod_link(&link.name)).count(), left.len());
    for (uid, _) in left {
        node.network.tear_down(&uid).await.unwrap();
    }
    assert_eq!(node.picture().await, before);
    for number in 0..USABLE as u32 {
        node.network.set_up(&pod(number)).await.unwrap();
    }
    let refused = node.network.set_up(&pod(USABLE as u32)).await.unwrap_err().to_string();
    assert!(refused.contains(SMALL), "{refused}");
    node
}

impl Ledger {
    /// Starts the process and kills it some time after it has opened.
    fn one_life(&mut self, run: &Path) {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", NAME, "--ignored", "--nocapture"])
            .env(RUN_DIR, run)
            // A killed process leaves its temporary directories: they go with this one.
            .env("TMPDIR", run)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = lines_of(&mut child);
        let mut have = BTreeMap::new();
        let mut deadline = Instant::now() + Duration::from_secs(20);
        let mut open = false;
        loop {
            let patience = deadline.saturating_duration_since(Instant::now());
            match lines.recv_timeout(patience) {
                Ok(line) if line == "open ." => {
                    self.compare(&have);
                    open = true;
                    let life = Duration::from_millis((100 + random() % 1_900) as u64);
                    deadline = Instant::now() + life;
                }
                Ok(line) => self.note(&line, &mut have),
                Err(RecvTimeoutError::Timeout) => break,
                Err(RecvTimeoutError::Disconnected) => panic!("it ended by itself: see above"),
            }
        }
        child.kill().unwrap();
        child.wait().unwrap();
        // What it said before its end, and nobody has read yet.
        lines.iter().for_each(|line| self.note(&line, &mut have));
        assert!(open, "it did not open");
        self.kills += 1;
    }

    fn note(&mut self, line: &str, have: &mut BTreeMap<u32, String>) {
        let words: Vec<&str> = line.split(' ').collect();
        let [what, number, addresses, "."] = words[..] else { return };
        let (number, addresses) = (number.parse().unwrap(), addresses.to_owned());
        match what {
            "have" => {
                assert!(!have.values().any(|other| *other == addresses), "twice: {line}");
                have.insert(number, addresses);
            }
            "up" => {
                let holder = self.there.iter().find(|(_, held)| **held == addresses);
                assert_eq!(holder, None, "given out twice: {line}");
                self.there.insert(number, addresses);
            }
            "going" => drop(self.there.remove(&number)),
            "down" => self.removed += 1,
            _ => {}
        }
    }

    /// Nothing is lost or changed: what was made is there again, with its addresses.
    fn compare(&mut self, have: &BTreeMap<u32, String>) {
        for (number, addresses) in &self.there {
            assert_eq!(have.get(number), Some(addresses), "sandbox {number}");
        }
        // More than was said: made right before the end.
        self.there = have.clone();
    }
}

/// The whole lines that the process says; the channel closes at its end.
fn lines_of(child: &mut Child) -> Receiver<String> {
    let (sender, lines) = channel();
    let stdout = BufReader::new(child.stdout.take().unwrap());
    thread::spawn(move || {
        for line in stdout.lines().map_while(Result::ok).filter(|line| line.ends_with(" .")) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    lines
}
