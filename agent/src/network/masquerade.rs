//! The one rule that gives packets which leave the cluster the address of their node.
//!
//! Made only where the agent was told to (`--masquerade`), in a table of its own, `inet bowline`,
//! in the node's network namespace. Packets between pods and nodes of the cluster keep their
//! source. The kernel's connection tracking finds the way back for the answers.
//!
//! Guarantees: the table is replaced as a whole, in one transaction of `nft`, which is given 5 s.
//! Only a table that `nft` says is not there counts as absent.

use std::{
    collections::BTreeSet,
    io,
    process::{Output, Stdio},
    time::Duration,
};

use bowline_api::cidr::Cidr;
use serde_json::Value;
use tokio::{io::AsyncWriteExt, process::Command, time::timeout};

/// The program that speaks to nftables.
pub(crate) const PROGRAM: &str = "nft";

const TABLE: &str = "inet bowline";

/// How long it may take; the loop of the node network waits for it.
const LIMIT: Duration = Duration::from_secs(5);

const LISTING: &str = "listing the table";

/// Whose packets get the node's address, and on the way to whom they do not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Masquerade {
    /// This node's pod ranges.
    pub(crate) pods: BTreeSet<Cidr>,
    /// Pods and nodes of the cluster.
    pub(crate) cluster: BTreeSet<Cidr>,
}

/// `nft` could not be run, or refused.
#[derive(Debug, thiserror::Error)]
#[error("nft: {act}: {reason}")]
pub(crate) struct NftFailed {
    act: &'static str,
    reason: String,
}

impl Masquerade {
    /// Leaves out of the cluster's ranges those that lie in others: a set takes no two.
    pub(crate) fn new(pods: BTreeSet<Cidr>, cluster: &BTreeSet<Cidr>) -> Self {
        let outermost = |range: &&Cidr| {
            !cluster.iter().any(|other| other.prefix() < range.prefix() && other.overlaps(**range))
        };
        Self { pods, cluster: cluster.iter().filter(outermost).copied().collect() }
    }

    /// What the node's namespace has.
    pub(crate) async fn read() -> Result<Option<Self>, NftFailed> {
        let mut command = Command::new(PROGRAM);
        command.args(["-j", "list", "table"]).args(TABLE.split(' '));
        match output_of(command, "", LIMIT).await {
            Ok(listed) => listing(&listed),
            // Without the program no agent has made a table.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(NftFailed { act: LISTING, reason: error.to_string() }),
        }
    }

    /// Makes the table be this one.
    pub(crate) async fn write(&self) -> Result<(), NftFailed> {
        run("writing the table", &self.script()).await
    }

    fn script(&self) -> String {
        let mut script = format!("table {TABLE}\ndelete table {TABLE}\ntable {TABLE} {{\n");
        let mut rules = String::new();
        for (number, family, kind) in [(4, "ip", "ipv4_addr"), (6, "ip6", "ipv6_addr")] {
            let of_family = |range: &&Cidr| range.is_ipv6() == (number == 6);
            if !self.pods.iter().any(|range| of_family(&range)) {
                continue;
            }
            for (name, ranges) in [("pods", &self.pods), ("cluster", &self.cluster)] {
                let all: Vec<String> =
                    ranges.iter().filter(of_family).map(ToString::to_string).collect();
                let elements = all.join(", ");
                script.push_str(&format!(
                    "set {name}{number} {{ type {kind}; flags interval; \
                     elements = {{ {elements} }}; }}\n"
                ));
            }
            rules.push_str(&format!(
                "{family} saddr @pods{number} {family} daddr != @cluster{number} masquerade\n"
            ));
        }
        script.push_str("chain egress { type nat hook postrouting priority srcnat;\n");
        script.push_str(&rules);
        script.push_str("}\n}\n");
        script
    }
}

/// Removes the table, if it is there.
pub(crate) async fn remove() -> Result<(), NftFailed> {
    match Masquerade::read().await? {
        Some(_) => run("removing the table", &format!("delete table {TABLE}\n")).await,
        None => Ok(()),
    }
}

async fn run(act: &'static str, script: &str) -> Result<(), NftFailed> {
    let mut command = Command::new(PROGRAM);
    command.args(["-f", "-"]);
    let output = output_of(command, script, LIMIT).await;
    let output = output.map_err(|error| NftFailed { act, reason: error.to_string() })?;
    if output.status.success() { Ok(()) } else { Err(refused(act, &output)) }
}

/// Runs a program with this input; it is killed when it takes too long.
async fn output_of(mut command: Command, input: &str, limit: Duration) -> io::Result<Output> {
    let ran = async {
        let mut child = command
            // Its errors are compared with words.
            .env("LC_ALL", "C")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(input.as_bytes()).await?;
        }
        child.wait_with_output().await
    };
    let late = |_| io::Error::new(io::ErrorKind::TimedOut, "it took too long");
    timeout(limit, ran).await.map_err(late)?
}

fn refused(act: &'static str, output: &Output) -> NftFailed {
    let said = String::from_utf8_lossy(&output.stderr);
    NftFailed { act, reason: said.lines().next().unwrap_or("it gave no reason").to_owned() }
}

/// What a run of `nft list table` says: that there is no such table is no failure.
fn listing(listed: &Output) -> Result<Option<Masquerade>, NftFailed> {
    if listed.status.success() {
        let unreadable =
            || NftFailed { act: LISTING, reason: "its answer is not JSON as expected".to_owned() };
        return parse(&listed.stdout).ok_or_else(unreadable).map(Some);
    }
    match String::from_utf8_lossy(&listed.stderr).contains("No such file or directory") {
        true => Ok(None),
        false => Err(refused(LISTING, listed)),
    }
}

/// What a listing says. Sets without the rules that use them say nothing.
fn parse(listing: &[u8]) -> Option<Masquerade> {
    let listing: Value = serde_json::from_slice(listing).ok()?;
    let mut found = Masquerade::default();
    let (mut rules, mut families) = (0, 0);
    for entry in listing["nftables"].as_array()? {
        let expressions = entry["rule"]["expr"].as_array().into_iter().flatten();
        rules += expressions.filter(|part| part.get("masquerade").is_some()).count();
        let name = entry["set"]["name"].as_str().unwrap_or_default();
        let ranges = entry["set"]["elem"].as_array().into_iter().flatten().filter_map(element);
        if name.starts_with("pods") {
            families += 1;
            found.pods.extend(ranges);
        } else if name.starts_with("cluster") {
            found.cluster.extend(ranges);
        }
    }
    if rules != families {
        found = Masquerade::default();
    }
    Some(found)
}

fn element(element: &Value) -> Option<Cidr> {
    let address = element.as_str().or_else(|| element["prefix"]["addr"].as_str())?;
    let address: std::net::IpAddr = address.parse().ok()?;
    match element["prefix"]["len"].as_u64() {
        Some(prefix) => Cidr::containing(address, u8::try_from(prefix).ok()?),
        None => Some(Cidr::host(address)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(texts: &[&str]) -> BTreeSet<Cidr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn wanted() -> Masquerade {
        let cluster = ranges(&[
            "10.240.1.0/24",
            "10.240.2.0/24",
            "10.240.2.7/32",
            "172.30.0.11/32",
            "fd00:10:240:1::/64",
            "fd00:172:30::b/128",
        ]);
        Masquerade::new(ranges(&["10.240.1.0/24", "fd00:10:240:1::/64"]), &cluster)
    }

    #[test]
    fn a_range_inside_another_is_left_out() {
        assert_eq!(wanted().cluster.len(), 5);
        assert!(!wanted().cluster.contains(&"10.240.2.7/32".parse().unwrap()));
    }

    #[test]
    fn a_table_without_its_rules_is_not_what_was_wanted() {
        let listing = br#"{"nftables": [{"set": {"name": "pods4", "elem": ["10.240.1.2"]}}]}"#;
        assert_eq!(parse(listing), Some(Masquerade::default()));
        assert_eq!(parse(b"not json"), None);
    }

    #[test]
    fn only_a_table_that_is_not_there_is_absent() {
        use std::os::unix::process::ExitStatusExt;
        let said = |status: i32, stderr: &str| {
            let status = std::process::ExitStatus::from_raw(status << 8);
            let (stdout, stderr) = (br#"{"nftables": []}"#.to_vec(), stderr.as_bytes().to_vec());
            listing(&Output { status, stdout, stderr }).map_err(|error| error.to_string())
        };
        assert_eq!(said(0, ""), Ok(Some(Masquerade::default())));
        let absent = "Error: No such file or directory\nlist table inet bowline\n";
        assert_eq!(said(1, absent), Ok(None));
        let denied = "netlink: Error: cache initialization failed: Operation not permitted\n";
        assert_eq!(
            said(1, denied).unwrap_err(),
            format!("nft: listing the table: {}", denied.trim())
        );
    }

    #[tokio::test]
    async fn a_program_that_hangs_is_given_up_and_killed() {
        let mut sleeping = Command::new("sleep");
        sleeping.arg("100");
        let error = output_of(sleeping, "", Duration::from_millis(20)).await.unwrap_err();
        assert_eq!(error.to_string(), "it took too long");
    }

    #[test]
    #[ignore = "needs root; run by `cargo xtask test` as root"]
    fn the_kernel_gives_back_what_was_written() {
        let work = || {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(async {
                assert_eq!(Masquerade::read().await.unwrap(), None);
                let mut wanted = wanted();
                for _ in 0..2 {
                    wanted.write().await.unwrap();
                    assert_eq!(Masquerade::read().await.unwrap(), Some(wanted.clone()));
                    wanted.cluster.remove(&"10.240.2.0/24".parse().unwrap());
                }
                run("emptying the chain", "flush chain inet bowline egress\n").await.unwrap();
                assert_ne!(Masquerade::read().await.unwrap(), Some(wanted));
                remove().await.unwrap();
                remove().await.unwrap();
                assert_eq!(Masquerade::read().await.unwrap(), None);
            });
        };
        std::thread::spawn(work).join().unwrap();
    }
}
