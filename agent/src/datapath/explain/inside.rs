//! The part of the way that is in the client's own network namespace, and in that of a pod of this
//! node that it comes to.

use std::collections::BTreeMap;
use std::net::IpAddr;

use bowline_ebpf_abi::Pod;

use super::super::inside::{Inside, nobody};
use super::{Client, Sender, Way};
use crate::network::LinkSeen;

impl Way<'_> {
    /// Looks at the client's end of its link; gives it back if it could be seen.
    pub(super) fn inside_client(
        &mut self,
        pod: &Pod,
        address: IpAddr,
        link: &LinkSeen,
    ) -> Option<LinkSeen> {
        let netns = self.told.netns.clone()?;
        let inside = match Inside::look(&netns, pod.mac.octets(), &[]) {
            Ok(inside) => inside,
            Err(error) => {
                self.step("pod's links", netns.display(), format!("not looked at: {error}"));
                return None;
            }
        };
        let faults = inside.faults(&[address], link);
        if let (Some(own), []) = (inside.link(), &faults[..]) {
            self.step("pod's links", &own.name, format!("{address} (mtu {})", own.mtu));
        }
        for (what, why) in faults {
            self.fault("pod's links", what, why);
        }
        inside.link().cloned()
    }

    /// Where the client's own routes lead what it sends to each of these.
    pub(super) fn ways_out(&mut self, ends: &[IpAddr], sender: &Sender) {
        let (pod, link) = (&sender.pod, &sender.link);
        let Some(netns) = self.told.netns.clone() else { return };
        // That it could not be entered is said already.
        let Ok(inside) = Inside::look(&netns, pod.mac.octets(), ends) else { return };
        if !inside.is_up() {
            return;
        }
        let mut ways: BTreeMap<Result<String, String>, Vec<IpAddr>> = BTreeMap::new();
        for end in ends {
            ways.entry(inside.way(*end, link)).or_default().push(*end);
        }
        for (way, ends) in ways {
            let to = match &ends[..] {
                [end, rest @ ..] if !rest.is_empty() => format!("{end} and {} more", rest.len()),
                _ => ends.iter().map(ToString::to_string).collect(),
            };
            match way {
                Ok(way) => self.step("pod's routes", to, way),
                Err(why) => self.fault("pod's routes", to, why),
            }
        }
    }

    /// Whether a pod of this node can take what comes, and answer.
    pub(super) fn inside_target(&mut self, address: IpAddr, pod: &Pod, link: &LinkSeen) {
        let back = match self.question.from {
            Client::Pod(client) if client == address => return,
            Client::Pod(client) => client,
            Client::Node => nobody(address),
        };
        let Some(netns) = self.names.pods.get(&address).map(|pod| pod.netns.clone()) else {
            return;
        };
        let Ok(inside) = Inside::look(&netns, pod.mac.octets(), &[back]) else { return };
        for (what, why) in inside.faults(&[address], link) {
            self.fault("target's links", what, why);
        }
        if let (true, Err(why)) = (inside.is_up(), inside.way(back, link)) {
            self.fault("target's routes", back, why);
        }
    }
}
