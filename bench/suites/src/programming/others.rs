//! kube-proxy's rules for the same services, written by `iptables-restore` and by nft.
//!
//! Guarantees: rules are only ever written in a namespace that was made for them, which goes with
//! this process; what was written is read back, of all rules those of one service, of changes those
//! of every service that was changed, and a writing that did not do its work ends the run.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use bowline_tests::command::{command, output, shown};
use bowline_tests::{Place, Running};

use crate::fleet::Fleet;
use crate::rules::{self, Services as _};

/// So many services are written at once where all of them would take the kernel minutes.
const PART: u32 = 100;

/// Who writes rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Writer {
    Iptables,
    Nftables,
}

impl Writer {
    pub(crate) const ALL: [Self; 2] = [Self::Iptables, Self::Nftables];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Iptables => "iptables-restore",
            Self::Nftables => "nft",
        }
    }

    /// What it is called with.
    fn words(self, changes: bool) -> (&'static str, &'static [&'static str]) {
        match self {
            Self::Iptables if changes => ("iptables-legacy-restore", &["--noflush", "--counters"]),
            Self::Iptables => ("iptables-legacy-restore", &[]),
            Self::Nftables => ("nft", &["-f", "-"]),
        }
    }
}

impl Drop for Rules {
    fn drop(&mut self) {
        // It may not have been written.
        drop(fs::remove_file(&self.input));
    }
}

/// A namespace with rules in it.
pub(crate) struct Rules {
    writer: Writer,
    place: Place,
    input: PathBuf,
    /// Where services lead that are read back.
    written: BTreeMap<u32, BTreeSet<Ipv4Addr>>,
    /// It holds the namespace, and ends with this process.
    _holder: Running,
}

impl Rules {
    /// A namespace without rules. What is to be written goes through a file in this directory.
    pub(crate) fn new(writer: Writer, directory: &Path) -> Result<Self> {
        let mut holder = command("unshare");
        // Once it speaks it is inside.
        holder.args(["--net", "sh", "-c", "echo inside; exec cat"]);
        let holder = Running::until(holder, "inside")?;
        let namespace = PathBuf::from(format!("/proc/{}/ns/net", holder.pid()));
        let own = fs::read_link("/proc/self/ns/net")?;
        ensure!(fs::read_link(&namespace)? != own, "no namespace was made for the rules");
        let input = directory.join(holder.pid().to_string());
        Ok(Self {
            writer,
            place: Place::network(&namespace),
            input,
            written: BTreeMap::new(),
            _holder: holder,
        })
    }

    pub(crate) fn writer(&self) -> Writer {
        self.writer
    }

    /// Writes rules for so many services; how many seconds it took. In one transaction, as
    /// kube-proxy does, or in parts, which is faster.
    pub(crate) async fn fill(&mut self, fleet: &Fleet, count: u32, parts: bool) -> Result<f64> {
        self.remember(fleet, count - 1);
        let part = if parts { PART } else { count };
        let texts = match self.writer {
            Writer::Iptables => vec![rules::iptables(fleet, count)],
            Writer::Nftables if parts => rules::nftables(fleet, count, part),
            Writer::Nftables => vec![rules::nftables(fleet, count, part).concat()],
        };
        let mut seconds = 0.0;
        for text in texts {
            fs::write(&self.input, text)?;
            let start = Instant::now();
            self.write(false).await?;
            seconds += start.elapsed().as_secs_f64();
        }
        Ok(seconds)
    }

    fn remember(&mut self, fleet: &Fleet, number: u32) {
        self.written.insert(number, fleet.backends(number).into_iter().collect());
    }

    /// Prepares what changed with one service of so many.
    pub(crate) fn prepare(&mut self, fleet: &Fleet, count: u32, number: u32) -> Result<()> {
        self.remember(fleet, number);
        let text = match self.writer {
            Writer::Iptables => rules::iptables_change(fleet, count, number),
            Writer::Nftables => rules::nftables_change(fleet, number),
        };
        Ok(fs::write(&self.input, text)?)
    }

    /// Writes the rules that were prepared.
    pub(crate) async fn write(&self, changes: bool) -> Result<()> {
        let (program, words) = self.writer.words(changes);
        let mut write = self.place.command(program);
        write.args(words).stdin(File::open(&self.input)?);
        let line = shown(&write);
        let mut write = tokio::process::Command::from(write);
        let ended = write.kill_on_drop(true).output().await;
        let ended = ended.with_context(|| format!("cannot start `{line}`"))?;
        if !ended.status.success() {
            bail!("`{line}`: {}", String::from_utf8_lossy(&ended.stderr).trim());
        }
        Ok(())
    }

    /// That services lead to what was written of them last, and to nobody else.
    pub(crate) fn check(&self) -> Result<()> {
        // Either program reads all rules for any of them, for seconds where there are many.
        let all = output(&mut self.list())?;
        for (number, wanted) in &self.written {
            let (found, name) = (self.leads_to(&all, *number)?, self.writer.name());
            ensure!(found == *wanted, "{name}: service {number}: {found:?}, not {wanted:?}");
        }
        Ok(())
    }

    /// The addresses that a service's chain leads to, by way of the endpoints' chains.
    fn leads_to(&self, all: &str, number: u32) -> Result<BTreeSet<Ipv4Addr>> {
        let (service, endpoint, to) = match self.writer {
            Writer::Iptables => (format!("KUBE-SVC-tcp{number}"), "KUBE-SEP-", "--to-destination"),
            Writer::Nftables => (format!("service-tcp-{number}"), "endpoint-", "to"),
        };
        let text = self.chain(all, &service);
        let words = text.iter().flat_map(|line| line.split_whitespace());
        let chains = words.filter(|word| word.starts_with(endpoint));
        let target = |chain: &str| {
            let text = self.chain(all, chain.trim_end_matches(','));
            let mut words = text.iter().flat_map(|line| line.split_whitespace());
            let address = words.by_ref().skip_while(|word| *word != to).nth(1);
            let address = address.and_then(|word| word.split(':').next());
            Ok(address.with_context(|| format!("{chain} leads nowhere"))?.parse()?)
        };
        chains.map(target).collect()
    }

    /// Shows all rules.
    fn list(&self) -> Command {
        let (program, words): (&str, &[&str]) = match self.writer {
            Writer::Iptables => ("iptables-legacy", &["-t", "nat", "-S"]),
            Writer::Nftables => ("nft", &["list", "table", "ip", "kube-proxy"]),
        };
        let mut list = self.place.command(program);
        list.args(words);
        list
    }

    /// The rules of a chain among all.
    fn chain<'a>(&self, all: &'a str, name: &str) -> Vec<&'a str> {
        match self.writer {
            Writer::Iptables => {
                let begin = format!("-A {name} ");
                all.lines().filter(|line| line.starts_with(&begin)).collect()
            }
            Writer::Nftables => {
                let begin = format!("chain {name} {{");
                let own = all.lines().skip_while(|line| line.trim() != begin).skip(1);
                own.take_while(|line| line.trim() != "}").collect()
            }
        }
    }
}
