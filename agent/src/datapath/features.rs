//! What this kernel can do, found out by trying.
//!
//! Guarantees: a feature counts as present when the smallest program or call that needs it was
//! taken, whatever the kernel calls itself; nothing that was tried stays. What the data plane can
//! do without, at a price, can be disabled, so that the other way is tested on any kernel.

use std::collections::BTreeSet;
use std::fmt;
use std::os::fd::AsFd;
use std::str::FromStr;

use nix::libc;
use serde::{Deserialize, Serialize};

use super::syscall::{self, AttachPoint, instruction};

/// Something that not every kernel has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Feature {
    /// Many map entries in one call.
    BatchUpdate,
    /// Links of cgroup programs, which outlive their maker and are replaced in place.
    CgroupLinks,
    /// The client of session affinity: `bpf_get_netns_cookie`.
    NetnsCookie,
    /// The peer's name as the owner of a socket used it.
    GetPeerName,
    /// To another node, by the kernel's neighbour table: `bpf_redirect_neigh`.
    RedirectNeigh,
    /// Into a pod, past its node's stack: `bpf_redirect_peer`.
    RedirectPeer,
    /// When a connection is open: programs of the kind `sock_ops`.
    SockOps,
    /// The error that a refused connect gives: `bpf_set_retval`.
    SetRetval,
    /// Links of packet programs.
    Tcx,
}

/// What is known of a feature before it is tried.
struct Facts {
    feature: Feature,
    name: &'static str,
    needed_from: &'static str,
    /// What is done instead; nothing where there is no other way.
    otherwise: Option<&'static str>,
}

const fn needed(feature: Feature, name: &'static str, needed_from: &'static str) -> Facts {
    Facts { feature, name, needed_from, otherwise: None }
}

const FEATURES: [Facts; 9] = [
    needed(Feature::BatchUpdate, "batch-update", "5.6"),
    needed(Feature::CgroupLinks, "cgroup-links", "5.7"),
    needed(Feature::NetnsCookie, "netns-cookie", "5.7"),
    needed(Feature::GetPeerName, "getpeername", "5.8"),
    needed(Feature::RedirectNeigh, "redirect-neigh", "5.10"),
    needed(Feature::RedirectPeer, "redirect-peer", "5.10"),
    needed(Feature::SockOps, "sock-ops", "4.13"),
    Facts {
        feature: Feature::SetRetval,
        name: "set-retval",
        needed_from: "5.18",
        otherwise: Some("refused calls give EPERM"),
    },
    Facts {
        feature: Feature::Tcx,
        name: "tcx",
        needed_from: "6.6",
        otherwise: Some("packet programs are clsact filters"),
    },
];

/// A feature and what became of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FeatureRow {
    pub name: String,
    /// The first Linux that has it.
    pub needed_from: String,
    pub present: bool,
    pub used: bool,
    /// What is done where it is not used; nothing where there is no other way.
    pub otherwise: Option<String>,
}

/// A text names no feature that can be disabled.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no feature that can be disabled; those are {names}", names = optional_names())]
pub struct ParseFeatureFailed(String);

fn optional_names() -> String {
    let optional = FEATURES.iter().filter(|facts| facts.otherwise.is_some());
    optional.map(|facts| facts.name).collect::<Vec<_>>().join(", ")
}

impl FromStr for Feature {
    type Err = ParseFeatureFailed;

    /// Takes the name of a feature that can be disabled.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = FEATURES.iter().find(|facts| facts.name == text && facts.otherwise.is_some());
        found.map(|facts| facts.feature).ok_or_else(|| ParseFeatureFailed(text.to_owned()))
    }
}

impl fmt::Display for Feature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let facts = FEATURES.iter().find(|facts| facts.feature == *self);
        f.write_str(facts.map_or("", |facts| facts.name))
    }
}

/// What the kernel lacks and the data plane cannot do without, with the Linux that has it; empty
/// on every kernel from 5.10 on. Needs root.
pub(crate) fn missing() -> String {
    Features::probe(BTreeSet::new()).missing()
}

/// All features of this kernel, and which of them may be used.
#[derive(Clone, Debug)]
pub(super) struct Features {
    present: BTreeSet<Feature>,
    disabled: BTreeSet<Feature>,
}

impl Features {
    pub(super) fn probe(disabled: BTreeSet<Feature>) -> Self {
        let all = FEATURES.iter().map(|facts| facts.feature);
        Self { present: all.filter(|feature| is_present(*feature)).collect(), disabled }
    }

    pub(super) fn uses(&self, feature: Feature) -> bool {
        self.present.contains(&feature) && !self.disabled.contains(&feature)
    }

    pub(super) fn missing(&self) -> String {
        let lacks =
            |facts: &&Facts| facts.otherwise.is_none() && !self.present.contains(&facts.feature);
        let named = |facts: &Facts| format!("{} (Linux {})", facts.name, facts.needed_from);
        FEATURES.iter().filter(lacks).map(named).collect::<Vec<_>>().join(", ")
    }

    pub(super) fn rows(&self) -> Vec<FeatureRow> {
        let row = |facts: &Facts| FeatureRow {
            name: facts.name.to_owned(),
            needed_from: facts.needed_from.to_owned(),
            present: self.present.contains(&facts.feature),
            used: self.uses(facts.feature),
            otherwise: facts.otherwise.map(str::to_owned),
        };
        FEATURES.iter().map(row).collect()
    }
}

fn is_present(feature: Feature) -> bool {
    use instruction::{ALLOW, EXIT, call, set};
    let socket = |point, program: &[u64]| syscall::load_program(Some(point), program).is_ok();
    let packet = |program: &[u64]| syscall::load_program(None, program).is_ok();
    match feature {
        Feature::BatchUpdate => syscall::knows_batch_update(),
        Feature::CgroupLinks => refuses_target_with(Some(AttachPoint::Connect4), libc::EBADF),
        Feature::NetnsCookie => socket(AttachPoint::Connect4, &[call(122), ALLOW, EXIT]),
        Feature::GetPeerName => socket(AttachPoint::GetPeerName4, &[ALLOW, EXIT]),
        Feature::RedirectNeigh => {
            packet(&[set(1, 1), set(2, 0), set(3, 0), set(4, 0), call(152), EXIT])
        }
        Feature::RedirectPeer => packet(&[set(1, 1), set(2, 0), call(155), EXIT]),
        Feature::SockOps => socket(AttachPoint::SockOps, &[call(46), ALLOW, EXIT]),
        Feature::SetRetval => {
            let refuse = [set(1, -libc::ECONNREFUSED), call(187), set(0, 0), EXIT];
            socket(AttachPoint::Connect4, &refuse)
        }
        Feature::Tcx => refuses_target_with(None, libc::ENODEV),
    }
}

/// Attaches to a target that cannot exist: a kernel that knows this kind of link says that the
/// target is wrong; one that does not says that the call is.
fn refuses_target_with(point: Option<AttachPoint>, error: i32) -> bool {
    let program = syscall::load_program(point, &[instruction::ALLOW, instruction::EXIT]);
    let Ok(program) = program else { return false };
    let point = point.unwrap_or(AttachPoint::TcxIngress);
    let link = syscall::create_link(program.as_fd(), i32::MAX as u32, point);
    link.is_err_and(|refused| refused.raw_os_error() == Some(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_has_another_way_can_be_disabled() {
        assert_eq!("tcx".parse(), Ok(Feature::Tcx));
        assert_eq!("set-retval".parse(), Ok(Feature::SetRetval));
        for text in ["redirect-peer", "TCX", ""] {
            let error = text.parse::<Feature>().unwrap_err().to_string();
            assert!(error.ends_with("those are set-retval, tcx"), "{error}");
        }
    }

    #[test]
    fn what_is_missing_is_named_with_the_kernel_that_has_it() {
        let all: BTreeSet<Feature> = FEATURES.iter().map(|facts| facts.feature).collect();
        let mut features = Features { present: all, disabled: BTreeSet::from([Feature::Tcx]) };
        assert_eq!(features.missing(), "");
        assert!(!features.uses(Feature::Tcx) && features.uses(Feature::SetRetval));
        features.present.remove(&Feature::RedirectPeer);
        features.present.remove(&Feature::SetRetval);
        assert_eq!(features.missing(), "redirect-peer (Linux 5.10)", "the other has another way");
        let row = features.rows().into_iter().find(|row| row.name == "tcx").unwrap();
        assert!(row.present && !row.used, "{row:?}");
    }
}
