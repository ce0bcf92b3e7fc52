//! What happened a moment ago, in a file for those who look at the node: each loop's last round,
//! and what was dropped so far at some moments of the last minute.
//!
//! Guarantees: the file is replaced whole every few seconds, and its size is bounded. Drops are
//! counted in the kernel and outlive an agent, so its successor goes on with the same moments.

use std::{
    collections::VecDeque,
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::Meters;
use crate::datapath::{CounterRow, read_drops};

/// File in the run directory.
pub(crate) const RECENT_FILE: &str = "recent.json";

/// Between two moments.
const PAUSE: Duration = Duration::from_secs(5);

/// How far back they reach, and how many there ever are, whatever the clock does.
const MINUTE: SignedDuration = SignedDuration::from_secs(60);
const MOST: usize = 16;

/// What the file holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Recent {
    pub(crate) written: Timestamp,
    pub(crate) rounds: Vec<Round>,
    /// The oldest first; one of them is a minute old, if the agent is.
    pub(crate) moments: VecDeque<Moment>,
}

/// A loop's last round.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Round {
    pub(crate) name: String,
    pub(crate) ended: Timestamp,
    pub(crate) took: Duration,
    /// Why something was left undone.
    pub(crate) failure: Option<String>,
    /// How many rounds in a row ended so.
    pub(crate) failures: u32,
}

/// What was dropped until then.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Moment {
    pub(crate) at: Timestamp,
    pub(crate) drops: Vec<Dropped>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Dropped {
    pub(crate) reason: String,
    pub(crate) direction: String,
    pub(crate) packets: u64,
    pub(crate) bytes: u64,
}

impl Recent {
    /// What the file says; none if there is none or it is not readable.
    pub(crate) fn read(path: &Path) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(path).ok()?).ok()
    }

    fn write(&self, path: &Path) -> io::Result<()> {
        let fresh = path.with_extension("json.new");
        std::fs::write(&fresh, serde_json::to_vec(self)?)?;
        std::fs::rename(fresh, path)
    }

    /// Adds a moment, and forgets what is older than the last minute needs.
    fn add(&mut self, now: Timestamp, drops: &[CounterRow]) {
        let drops = drops.iter().map(|row| Dropped {
            reason: row.reason.to_owned(),
            direction: row.direction.to_owned(),
            packets: row.packets,
            bytes: row.bytes,
        });
        // A clock that was set back.
        self.moments.retain(|moment| moment.at < now);
        self.moments.push_back(Moment { at: now, drops: drops.collect() });
        let is_old = |moment: Option<&Moment>| {
            moment.is_some_and(|moment| now.duration_since(moment.at) >= MINUTE)
        };
        while is_old(self.moments.get(1)) || self.moments.len() > MOST {
            self.moments.pop_front();
        }
    }

    /// What was dropped since the last moment that is a minute old, or since the first; and how
    /// long ago that was. `counted`: what was dropped until now.
    pub(crate) fn dropped(
        &self,
        now: Timestamp,
        counted: &[CounterRow],
    ) -> Option<(SignedDuration, Vec<CounterRow>)> {
        let age = |moment: &Moment| now.duration_since(moment.at);
        let old = self.moments.iter().rfind(|moment| age(moment) >= MINUTE);
        let since = old.or(self.moments.front())?;
        let rows = counted.iter().filter(|row| row.dropped).filter_map(|row| {
            let is = |it: &&Dropped| it.reason == row.reason && it.direction == row.direction;
            let before = since.drops.iter().find(is);
            // Counts that went back began anew.
            let before = before.filter(|before| before.packets <= row.packets);
            let packets = row.packets - before.map_or(0, |before| before.packets);
            let bytes = row.bytes.saturating_sub(before.map_or(0, |before| before.bytes));
            (packets > 0).then(|| CounterRow { packets, bytes, ..row.clone() })
        });
        Some((age(since), rows.collect()))
    }
}

/// Keeps the file until `shutdown`.
pub(crate) async fn keep(
    run_dir: PathBuf,
    bpffs: PathBuf,
    meters: Meters,
    shutdown: CancellationToken,
) {
    let path = run_dir.join(RECENT_FILE);
    let mut recent = Recent::read(&path).unwrap_or_default();
    let mut failing = false;
    loop {
        let from = bpffs.clone();
        // A panic is reported by the runtime.
        if let Ok(Ok(drops)) = tokio::task::spawn_blocking(move || read_drops(&from)).await {
            recent.add(Timestamp::now(), &drops);
        }
        (recent.written, recent.rounds) = (Timestamp::now(), meters.rounds());
        let written = recent.write(&path);
        if let Err(error) = &written
            && !failing
        {
            tracing::warn!(path = %path.display(), %error, "what happened last is not written");
        }
        failing = written.is_err();
        if shutdown.run_until_cancelled(sleep(PAUSE)).await.is_none() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(packets: u64) -> CounterRow {
        CounterRow {
            reason: "no-backend",
            direction: "socket",
            dropped: true,
            packets,
            bytes: packets * 10,
        }
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + seconds).unwrap()
    }

    #[test]
    fn a_minute_is_kept_and_no_more() {
        let mut recent = Recent::default();
        for second in (0..600).step_by(5) {
            recent.add(at(second), &[row(second as u64)]);
            assert!(recent.moments.len() <= 14, "{}", recent.moments.len());
        }
        let (since, rows) = recent.dropped(at(597), &[row(1000)]).unwrap();
        assert_eq!(since, SignedDuration::from_secs(62));
        assert_eq!(rows, [row(1000 - 535)]);
        // The clock is set back by an hour, and far ahead.
        recent.add(at(-3600), &[row(1)]);
        assert_eq!(recent.moments.len(), 1);
        for second in 0..1000 {
            recent.add(at(1_000_000) + SignedDuration::from_millis(second), &[row(1)]);
        }
        assert!(recent.moments.len() <= MOST);
    }

    #[test]
    fn a_young_agent_says_since_when() {
        let mut recent = Recent::default();
        assert_eq!(recent.dropped(at(0), &[row(1)]), None);
        recent.add(at(0), &[]);
        let passed = CounterRow { dropped: false, ..row(9) };
        let (since, rows) = recent.dropped(at(7), &[row(3), passed]).unwrap();
        assert_eq!((since, rows), (SignedDuration::from_secs(7), vec![row(3)]));
        // Nobody looked for a while: it is a longer time that is told.
        recent.add(at(100), &[row(50)]);
        let longer = (SignedDuration::from_secs(101), vec![row(60)]);
        assert_eq!(recent.dropped(at(101), &[row(60)]).unwrap(), longer);
        // Nothing new, then counts that began anew.
        recent.add(at(165), &[row(60)]);
        assert_eq!(recent.dropped(at(166), &[row(50)]).unwrap().1, []);
        assert_eq!(recent.dropped(at(166), &[row(4)]).unwrap().1, [row(4)]);
    }

    #[test]
    fn the_file_is_read_as_it_was_written() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(RECENT_FILE);
        assert_eq!(Recent::read(&path), None);
        let meters = Meters::default();
        meters.round(super::super::Loop::Network, Duration::from_millis(3), None);
        let failed = Some("the tunnel does not stay".to_owned());
        meters.round(super::super::Loop::Verify, Duration::from_millis(4), failed.clone());
        meters.round(super::super::Loop::Verify, Duration::from_millis(5), failed.clone());
        let mut recent = Recent { rounds: meters.rounds(), ..Recent::default() };
        recent.add(at(0), &[row(3)]);
        recent.write(&path).unwrap();
        let read = Recent::read(&path).unwrap();
        assert_eq!(read, recent);
        let rounds: Vec<_> = read.rounds.iter().map(|it| (&*it.name, it.failures)).collect();
        assert_eq!(rounds, [("network", 0), ("verify", 2)]);
        assert_eq!(read.rounds[1].failure, failed);
        std::fs::write(&path, "not json").unwrap();
        assert_eq!(Recent::read(&path), None);
    }
}
