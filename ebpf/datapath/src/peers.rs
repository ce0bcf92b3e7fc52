//! Which name a socket gave to whom it talks to.
//!
//! A socket has one entry in PEERS, found by its cookie without a search. What does not fit there
//! goes to REVERSE, an LRU map: further conversations of an unconnected socket, and the entry of a
//! socket in use when a much newer one takes its place.
//!
//! Guarantees: an answer never gets a name that its socket did not use. A datagram's answer gets
//! its name as long as REVERSE has room. The name of a TCP peer can be lost after as many newer
//! connections as PEERS has entries; the connection itself knows nothing of names.

use crate::abi::{Address, Frontend, Peer, ReverseKey, U16Be};

/// The maps that names are kept in.
pub trait PeerMaps {
    /// The entry at the socket's place, whosever it is.
    fn peer(&self, cookie: u64) -> Option<Peer>;
    /// Replaces that entry. Never fails where there is one.
    fn set_peer(&self, peer: &Peer);
    /// Changes only the edition of the entry at the socket's place.
    fn renew_peer(&self, cookie: u64, edition: u32);
    /// Changes only `uses`.
    fn count_use(&self, cookie: u64, uses: u8);
    /// Changes only `connect_ns` of the entry at the socket's place: to nothing.
    fn clear_connect(&self, cookie: u64);
    /// Adds these bits to `more`.
    fn add_more(&self, cookie: u64, more: u8);
    fn other_name(&self, key: &ReverseKey) -> Option<Frontend>;
    /// Whether there was room.
    fn store_other_name(&self, key: &ReverseKey, name: &Frontend) -> bool;
}

/// From this many on, an entry is worth keeping when its place is taken.
const IN_USE: u8 = 8;
/// How many takers of a place look after what was there, once something was.
const CAREFUL: u8 = 7;
/// In [`Peer::more`]: REVERSE has more of the socket itself. Below it the number of takers left.
const HAS_MORE: u8 = 0x80;

/// One end of a conversation.
#[derive(Clone, Copy)]
pub struct Conversation {
    pub cookie: u64,
    pub name: Frontend,
    pub backend: Address,
    pub port: U16Be,
    /// [`Peer::edition`].
    pub edition: u32,
}

/// What [`converse`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Converse {
    Known,
    Begun,
    /// The socket knows this backend under another name.
    OtherName,
    /// There is no room to remember it.
    NotStored,
}

impl Conversation {
    const fn key(&self) -> ReverseKey {
        ReverseKey {
            cookie: self.cookie,
            backend: self.backend,
            port: self.port,
            pad: 0,
            pad_word: 0,
        }
    }

    const fn peer(&self, more: u8, connect_ns: u64) -> Peer {
        let Self { cookie, name, backend, port, edition } = *self;
        Peer { cookie, name, backend, port, uses: 0, more, edition, pad: 0, connect_ns }
    }
}

/// Where the socket's next datagram to `name` goes if no service changed since it sent the last
/// one. Not for services with session affinity, whose choice also hangs on the time.
#[inline(always)]
pub fn recall<M: PeerMaps>(maps: &M, cookie: u64, name: &Frontend, edition: u32) -> Option<Peer> {
    let there = maps.peer(cookie)?;
    let current = there.cookie == cookie && there.edition == edition && edition != 0;
    (current && there.name.same(name)).then_some(there)
}

/// The socket sends to this peer alone from now on. Datagrams of former peers may still wait in
/// it: these keep their names. [`Peer::connect_ns`] is `now`.
#[inline(always)]
pub fn connect<M: PeerMaps>(maps: &M, wanted: &Conversation, now: u64) -> bool {
    let Some(there) = maps.peer(wanted.cookie) else {
        return false;
    };
    let more = if there.cookie != wanted.cookie {
        take_over(maps, &there)
    } else if there.is(&wanted.backend, wanted.port) {
        there.more
    } else {
        keep(maps, &there);
        there.more | HAS_MORE
    };
    maps.set_peer(&wanted.peer(more, now));
    true
}

/// A TCP connection of the socket to `backend` is open: since when it was wanted, and under which
/// name, if that was a service's. Asked again it is no news.
#[inline(always)]
pub fn opened<M: PeerMaps>(
    maps: &M,
    cookie: u64,
    backend: &Address,
    port: U16Be,
) -> Option<(u64, Frontend)> {
    let there = maps.peer(cookie)?;
    // The backend: one that was not reached may be followed by another address, past all services.
    if there.cookie != cookie || there.connect_ns == 0 || !there.is(backend, port) {
        return None;
    }
    maps.clear_connect(cookie);
    Some((there.connect_ns, there.name))
}

/// The socket sends to this peer, perhaps among others. With `insist` the backend gets this name
/// even if the socket knows it by another.
#[inline(always)]
pub fn converse<M: PeerMaps>(maps: &M, wanted: &Conversation, insist: bool) -> Converse {
    let Some(there) = maps.peer(wanted.cookie) else {
        return Converse::NotStored;
    };
    if there.cookie != wanted.cookie {
        // Moved out by a newer socket: two that are in use do not push each other about.
        if there.more != 0
            && let Some(name) = maps.other_name(&wanted.key())
            && name.same(&wanted.name)
        {
            return Converse::Known;
        }
        let more = take_over(maps, &there);
        maps.set_peer(&wanted.peer(more, 0));
        return Converse::Begun;
    }
    if there.is(&wanted.backend, wanted.port) {
        if there.name.same(&wanted.name) {
            // Not the whole entry: others read it at the same time.
            if there.edition != wanted.edition {
                maps.renew_peer(wanted.cookie, wanted.edition);
            }
            return Converse::Known;
        }
        if !insist {
            return Converse::OtherName;
        }
        maps.set_peer(&wanted.peer(there.more, 0));
        return Converse::Begun;
    }
    let key = wanted.key();
    if let Some(name) = maps.other_name(&key) {
        if name.same(&wanted.name) {
            // It may be from before the socket was connected to another peer.
            mark_more(maps, &there);
            return Converse::Known;
        }
        if !insist {
            return Converse::OtherName;
        }
    }
    if !maps.store_other_name(&key, &wanted.name) {
        return Converse::NotStored;
    }
    mark_more(maps, &there);
    Converse::Begun
}

#[inline(always)]
fn mark_more<M: PeerMaps>(maps: &M, there: &Peer) {
    if there.more & HAS_MORE == 0 {
        maps.add_more(there.cookie, HAS_MORE);
    }
}

/// The name under which the socket talks to this address. `datagram`: it is asked because one
/// arrived.
#[inline(always)]
pub fn name_of<M: PeerMaps>(
    maps: &M,
    cookie: u64,
    backend: &Address,
    port: U16Be,
    datagram: bool,
) -> Option<Frontend> {
    let there = maps.peer(cookie)?;
    if there.cookie == cookie && there.is(backend, port) {
        if datagram && there.uses < IN_USE {
            maps.count_use(cookie, there.uses + 1);
        }
        return Some(there.name);
    }
    if there.more == 0 {
        return None;
    }
    let key = ReverseKey { cookie, backend: *backend, port, pad: 0, pad_word: 0 };
    let name = maps.other_name(&key)?;
    if there.cookie != cookie && there.more & CAREFUL != CAREFUL {
        maps.add_more(cookie, CAREFUL);
    }
    Some(name)
}

/// A newer socket takes the place: what an older one still uses moves to REVERSE. Gives what the
/// newer one has to say in [`Peer::more`].
#[inline(always)]
fn take_over<M: PeerMaps>(maps: &M, there: &Peer) -> u8 {
    if there.cookie == 0 {
        return 0;
    }
    let in_use = there.uses >= IN_USE;
    let careful = there.more & CAREFUL;
    if in_use || careful > 0 {
        keep(maps, there);
    }
    if in_use || there.more & HAS_MORE != 0 { CAREFUL } else { careful.saturating_sub(1) }
}

/// Moves an entry to REVERSE.
#[inline(always)]
fn keep<M: PeerMaps>(maps: &M, there: &Peer) {
    let Peer { cookie, backend, port, .. } = *there;
    let key = ReverseKey { cookie, backend, port, pad: 0, pad_word: 0 };
    let _ = maps.store_other_name(&key, &there.name);
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use crate::fake::address;
    use proptest::prelude::*;
    use std::cell::{Cell, RefCell};
    use std::collections::{BTreeMap, BTreeSet};
    use std::vec::Vec;

    const PLACES: u64 = 8;

    #[derive(Default)]
    struct Fake {
        peers: RefCell<[Peer; PLACES as usize]>,
        others: RefCell<BTreeMap<(u64, Address, U16Be), Frontend>>,
        full: Cell<bool>,
        /// How often a whole entry was.
        written: Cell<u32>,
    }

    impl PeerMaps for Fake {
        fn peer(&self, cookie: u64) -> Option<Peer> {
            Some(self.peers.borrow()[(cookie % PLACES) as usize])
        }
        fn set_peer(&self, peer: &Peer) {
            self.written.set(self.written.get() + 1);
            self.peers.borrow_mut()[(peer.cookie % PLACES) as usize] = *peer;
        }
        fn renew_peer(&self, cookie: u64, edition: u32) {
            self.peers.borrow_mut()[(cookie % PLACES) as usize].edition = edition;
        }
        fn count_use(&self, cookie: u64, uses: u8) {
            self.peers.borrow_mut()[(cookie % PLACES) as usize].uses = uses;
        }
        fn clear_connect(&self, cookie: u64) {
            self.peers.borrow_mut()[(cookie % PLACES) as usize].connect_ns = 0;
        }
        fn add_more(&self, cookie: u64, more: u8) {
            self.peers.borrow_mut()[(cookie % PLACES) as usize].more |= more;
        }
        fn other_name(&self, key: &ReverseKey) -> Option<Frontend> {
            self.others.borrow().get(&(key.cookie, key.backend, key.port)).copied()
        }
        fn store_other_name(&self, key: &ReverseKey, name: &Frontend) -> bool {
            if self.full.get() {
                return false;
            }
            self.others.borrow_mut().insert((key.cookie, key.backend, key.port), *name);
            true
        }
    }

    fn name(text: &str) -> Frontend {
        Frontend { address: address(text), port: U16Be::new(53), pad: 0 }
    }

    fn talk(cookie: u64, service: &str, backend: &str) -> Conversation {
        let (backend, port) = (address(backend), U16Be::new(8053));
        Conversation { cookie, name: name(service), backend, port, edition: EDITION }
    }

    fn named(maps: &Fake, talk: &Conversation) -> Option<Frontend> {
        name_of(maps, talk.cookie, &talk.backend, talk.port, true)
    }

    const EDITION: u32 = 7;
    const A: &str = "10.9.0.1";
    const B: &str = "10.9.0.2";

    #[test]
    fn a_connected_socket_knows_its_peers_by_name_and_nobody_else() {
        let maps = Fake::default();
        let mine = talk(3, A, "10.240.0.1");
        assert!(connect(&maps, &mine, 0));
        assert_eq!(named(&maps, &mine), Some(name(A)));
        assert_eq!(named(&maps, &talk(3, A, "10.240.0.2")), None);
        assert_eq!(named(&maps, &talk(4, A, "10.240.0.1")), None);
        // What the former peer sent may still wait to be read.
        let next = talk(3, B, "10.240.0.2");
        assert!(connect(&maps, &next, 0));
        assert_eq!((named(&maps, &next), named(&maps, &mine)), (Some(name(B)), Some(name(A))));
    }

    #[test]
    fn a_connection_is_open_once_and_only_to_its_backend() {
        let maps = Fake::default();
        let mine = talk(3, A, "10.240.0.1");
        let open = |talk: &Conversation| opened(&maps, talk.cookie, &talk.backend, talk.port);
        assert_eq!(open(&mine), None, "nobody called connect()");
        assert!(connect(&maps, &mine, 77));
        assert_eq!(open(&talk(4, A, "10.240.0.1")), None, "another socket");
        assert_eq!(open(&talk(3 + PLACES, A, "10.240.0.1")), None, "another one with its place");
        assert_eq!(open(&talk(3, A, "10.240.0.2")), None, "past all services");
        let other_port = Conversation { port: U16Be::new(8054), ..mine };
        assert_eq!(open(&other_port), None);
        assert_eq!(open(&mine), Some((77, name(A))));
        assert_eq!(open(&mine), None, "it was told");
        assert_eq!(named(&maps, &mine), Some(name(A)), "it keeps its name");
        // Datagrams open nothing.
        converse(&maps, &talk(5, A, "10.240.0.1"), false);
        assert_eq!(open(&talk(5, A, "10.240.0.1")), None);
        // A socket whose place is taken before it is open.
        assert!(connect(&maps, &mine, 78));
        assert!(connect(&maps, &talk(3 + PLACES, A, "10.240.0.1"), 79));
        assert_eq!(open(&mine), None);
    }

    #[test]
    fn a_socket_talks_to_many() {
        let maps = Fake::default();
        let all: Vec<Conversation> =
            ["10.240.0.1", "10.240.0.2", "10.240.0.3"].map(|b| talk(3, A, b)).to_vec();
        for one in &all {
            assert_eq!(converse(&maps, one, false), Converse::Begun);
        }
        for one in &all {
            assert_eq!(converse(&maps, one, false), Converse::Known);
            assert_eq!(named(&maps, one), Some(name(A)));
        }
    }

    #[test]
    fn a_backend_is_recalled_in_its_edition_under_its_name_only() {
        let maps = Fake::default();
        let recalled = |cookie, service, edition| {
            recall(&maps, cookie, &name(service), edition).map(|peer| peer.backend)
        };
        assert_eq!(recalled(3, A, EDITION), None);
        let first = talk(3, A, "10.240.0.1");
        assert_eq!(converse(&maps, &first, false), Converse::Begun);
        assert_eq!(recalled(3, A, EDITION), Some(first.backend));
        assert_eq!(recalled(3, B, EDITION), None);
        assert_eq!(recalled(3 + PLACES, A, EDITION), None);
        assert_eq!(recalled(3, A, EDITION + 1), None, "a backend may have gone");
        // It has not, and so it is for this edition, too.
        let again = Conversation { edition: EDITION + 1, ..first };
        assert_eq!(converse(&maps, &again, false), Converse::Known);
        assert_eq!(recalled(3, A, EDITION + 1), Some(first.backend));
        assert_eq!(maps.written.get(), 1, "whoever reads it meanwhile would find it nobody's");
        // Never where the choice hangs on more.
        let sticky = Conversation { edition: 0, ..first };
        assert_eq!(converse(&maps, &sticky, false), Converse::Known);
        assert_eq!((recalled(3, A, EDITION + 1), recalled(3, A, 0)), (None, None));
    }

    #[test]
    fn a_backend_of_two_services_gets_another_name_only_on_insistence() {
        for earlier in [None, Some("10.240.0.9")] {
            let maps = Fake::default();
            if let Some(backend) = earlier {
                converse(&maps, &talk(3, A, backend), false);
            }
            let (first, second) = (talk(3, A, "10.240.0.1"), talk(3, B, "10.240.0.1"));
            assert_eq!(converse(&maps, &first, false), Converse::Begun);
            assert_eq!(converse(&maps, &second, false), Converse::OtherName);
            assert_eq!(named(&maps, &first), Some(name(A)));
            assert_eq!(converse(&maps, &second, true), Converse::Begun);
            assert_eq!(named(&maps, &first), Some(name(B)));
        }
    }

    /// Unconnected, connected, and unconnected again.
    #[test]
    fn an_answer_has_its_name_also_after_the_socket_was_connected_to_another() {
        let maps = Fake::default();
        let (first, second) = (talk(3, A, "10.240.0.1"), talk(3, B, "10.240.0.2"));
        for one in [&first, &second] {
            assert_eq!(converse(&maps, one, false), Converse::Begun);
        }
        assert!(connect(&maps, &first, 0));
        assert_eq!(converse(&maps, &second, false), Converse::Known);
        assert_eq!(named(&maps, &second), Some(name(B)));
    }

    #[test]
    fn a_socket_in_use_keeps_its_name_when_a_newer_one_takes_its_place() {
        let maps = Fake::default();
        let (old, new) = (talk(3, A, "10.240.0.1"), talk(3 + PLACES, B, "10.240.0.2"));
        connect(&maps, &old, 0);
        for _ in 0..IN_USE {
            named(&maps, &old);
        }
        connect(&maps, &new, 0);
        assert_eq!((named(&maps, &old), named(&maps, &new)), (Some(name(A)), Some(name(B))));
        // Both go on, in turns.
        for _ in 0..100 {
            converse(&maps, &old, false);
            converse(&maps, &new, false);
            assert_eq!((named(&maps, &old), named(&maps, &new)), (Some(name(A)), Some(name(B))));
        }
    }

    #[test]
    fn places_of_short_lives_are_taken_without_ado() {
        let maps = Fake::default();
        for round in 0..100 {
            let one = talk(3 + round * PLACES, A, "10.240.0.1");
            connect(&maps, &one, 0);
            assert_eq!(named(&maps, &one), Some(name(A)));
        }
        assert!(maps.others.borrow().is_empty());
    }

    #[test]
    fn care_ends_when_nobody_needs_it() {
        let maps = Fake::default();
        let long = talk(3, A, "10.240.0.1");
        connect(&maps, &long, 0);
        for _ in 0..IN_USE {
            named(&maps, &long);
        }
        for round in 1..100 {
            connect(&maps, &talk(3 + round * PLACES, A, "10.240.0.1"), 0);
        }
        assert_eq!(maps.others.borrow().len(), 1 + usize::from(CAREFUL));
        assert_eq!(maps.peer(3).unwrap().more, 0);
    }

    /// What sockets do, and what becomes of REVERSE.
    #[derive(Clone, Copy, Debug)]
    enum Step {
        Connect(Talk),
        Converse(Talk, bool),
        NameOf(Talk, bool),
        Recall(Talk),
        Full(bool),
    }

    /// A socket, a name, a backend, an edition.
    type Talk = (u64, usize, usize, u32);

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        // Three sockets a place, and a few places.
        let cookies = (1..3_u64, 0..3_u64).prop_map(|(place, round)| place + round * PLACES);
        let talk = || (cookies.clone(), 0..2_usize, 0..3_usize, 0..3_u32);
        let step = prop_oneof![
            2 => talk().prop_map(Step::Connect),
            6 => (talk(), any::<bool>()).prop_map(|(talk, insist)| Step::Converse(talk, insist)),
            // Often enough for sockets that are in use.
            8 => (talk(), any::<bool>()).prop_map(|(talk, got)| Step::NameOf(talk, got)),
            2 => talk().prop_map(Step::Recall),
            1 => any::<bool>().prop_map(Step::Full),
        ];
        proptest::collection::vec(step, 1..120)
    }

    fn conversation((cookie, name, backend, edition): Talk) -> Conversation {
        let backend = ["10.240.0.1", "10.240.0.2", "10.240.0.3"][backend];
        Conversation { edition, ..talk(cookie, [A, B][name], backend) }
    }

    /// Which names sockets gave to whom, ever and in which editions.
    #[derive(Default)]
    struct Model {
        used: BTreeSet<(u64, usize, usize)>,
        editions: BTreeSet<Talk>,
    }

    impl Model {
        fn accept(&mut self, maps: &Fake, talk: Talk) -> Result<(), TestCaseError> {
            let (cookie, name, backend, _) = talk;
            self.used.insert((cookie, name, backend));
            self.editions.insert(talk);
            let wanted = conversation(talk);
            prop_assert_eq!(named(maps, &wanted), Some(wanted.name), "its answer has no name");
            Ok(())
        }

        fn used(&self, (cookie, name, backend, _): Talk) -> bool {
            self.used.contains(&(cookie, name, backend))
        }

        fn take(&mut self, maps: &Fake, step: Step) -> Result<(), TestCaseError> {
            match step {
                Step::Full(full) => maps.full.set(full),
                Step::Connect(talk) => {
                    prop_assert!(connect(maps, &conversation(talk), 0));
                    self.accept(maps, talk)?;
                }
                Step::Converse(talk, insist) => {
                    let other = (talk.0, 1 - talk.1, talk.2, talk.3);
                    let wanted = conversation(talk);
                    let there = maps.peer(talk.0).filter(|there| there.cookie == talk.0);
                    let held = there.filter(|there| there.is(&wanted.backend, wanted.port));
                    let found = converse(maps, &wanted, insist);
                    let clash = held.is_some_and(|held| !held.name.same(&wanted.name)) && !insist;
                    prop_assert!(!clash || found == Converse::OtherName, "{:?}", found);
                    match found {
                        Converse::Known => {
                            prop_assert!(self.used(talk));
                            self.accept(maps, talk)?;
                        }
                        Converse::Begun => self.accept(maps, talk)?,
                        Converse::OtherName => prop_assert!(!insist && self.used(other)),
                        Converse::NotStored => prop_assert!(maps.full.get()),
                    }
                }
                Step::NameOf(talk, datagram) => {
                    let wanted = conversation(talk);
                    let Conversation { cookie, backend, port, .. } = wanted;
                    let found = name_of(maps, cookie, &backend, port, datagram);
                    let same = |name: usize| found == Some(conversation((0, name, 0, 0)).name);
                    let named = |name: usize| same(name) && self.used((cookie, name, talk.2, 0));
                    prop_assert!(found.is_none() || named(0) || named(1), "{:?}", found);
                }
                Step::Recall(talk) => {
                    let wanted = conversation(talk);
                    let found = recall(maps, wanted.cookie, &wanted.name, wanted.edition);
                    let Some(peer) = found else { return Ok(()) };
                    let so = |backend| {
                        let there = (talk.0, talk.1, backend, talk.3);
                        conversation(there).backend == peer.backend
                            && self.editions.contains(&there)
                    };
                    prop_assert!(talk.3 != 0 && (0..3).any(so), "{:?}", peer);
                }
            }
            Ok(())
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn names_are_those_that_their_sockets_used(steps in steps()) {
            let (maps, mut model) = (Fake::default(), Model::default());
            for step in steps {
                model.take(&maps, step)?;
            }
        }
    }
}
