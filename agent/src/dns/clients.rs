//! What one client may take of a node's DNS server, so that the others get their part.
//!
//! Guarantees: who asks more often than the limit, or holds more places than the limit, is turned
//! away, and nobody else is for it; memory is bounded whoever asks. A client is an address: a pod
//! cannot send with another's. Not here: what is done with whom is turned away.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// So many clients are told apart; further ones count as one.
const MOST: usize = 4096;

/// A client that was silent for so long may take all it may at once.
const REFILL: Duration = Duration::from_secs(1);

/// All clients.
#[derive(Debug)]
pub(super) struct Clients {
    /// Questions of one client in a second.
    rate: f64,
    /// Places of each kind that one client may hold.
    places: usize,
    known: Mutex<HashMap<(IpAddr, Kind), Client>>,
}

/// What a client takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    Question,
    Forward,
    Connection,
}

#[derive(Debug)]
struct Client {
    /// Questions that it may ask at once, as of `at`.
    questions: f64,
    at: Instant,
    places: usize,
}

/// A place that a client holds until this value is dropped.
#[derive(Debug)]
pub(super) struct Place {
    clients: Arc<Clients>,
    held: (IpAddr, Kind),
}

impl Clients {
    /// At least one question a second and one place are everybody's.
    pub(super) fn new(rate: usize, places: usize) -> Arc<Self> {
        let (rate, places) = (rate.max(1) as f64, places.max(1));
        Arc::new(Self { rate, places, known: Mutex::default() })
    }

    /// Whether the client may ask one more question now.
    pub(super) fn may_ask(&self, client: IpAddr, now: Instant) -> bool {
        let mut known = self.lock();
        let held = self.find(&mut known, (client, Kind::Question), now);
        let Some(client) = known.get_mut(&held) else { return false };
        let passed = now.saturating_duration_since(client.at).as_secs_f64();
        client.questions = (client.questions + passed * self.rate).min(self.rate);
        client.at = now;
        let may = client.questions >= 1.0;
        client.questions -= f64::from(u8::from(may));
        may
    }

    /// A place for the client, if it holds fewer than it may.
    pub(super) fn place(self: &Arc<Self>, client: IpAddr, kind: Kind) -> Option<Place> {
        let mut known = self.lock();
        let held = self.find(&mut known, (client, kind), Instant::now());
        let client = known.get_mut(&held).filter(|client| client.places < self.places)?;
        client.places += 1;
        Some(Place { clients: self.clone(), held })
    }

    /// The entry of a client, made if there is none: its own, or the one that those share for whom
    /// there is no room.
    fn find(
        &self,
        known: &mut HashMap<(IpAddr, Kind), Client>,
        wanted: (IpAddr, Kind),
        now: Instant,
    ) -> (IpAddr, Kind) {
        if known.len() >= MOST && !known.contains_key(&wanted) {
            known.retain(|_, it| it.places > 0 || now.saturating_duration_since(it.at) < REFILL);
        }
        let shared = (Ipv6Addr::UNSPECIFIED.into(), wanted.1);
        let has_room = known.len() < MOST || known.contains_key(&wanted);
        let key = if has_room { wanted } else { shared };
        known.entry(key).or_insert(Client { questions: self.rate, at: now, places: 0 });
        key
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<(IpAddr, Kind), Client>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(client) = self.clients.lock().get_mut(&self.held) {
            client.places -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(number: u32) -> IpAddr {
        std::net::Ipv4Addr::from_bits(0x0af0_0000 + number).into()
    }

    #[test]
    fn a_client_that_asks_too_often_waits_and_no_other_does() {
        let clients = Clients::new(10, 1);
        let start = Instant::now();
        let asked = |client, at| (0..100).filter(|_| clients.may_ask(address(client), at)).count();
        assert_eq!(asked(1, start), 10);
        assert_eq!(asked(2, start), 10);
        assert_eq!(asked(1, start + Duration::from_millis(500)), 5);
        assert_eq!(asked(1, start + Duration::from_secs(60)), 10, "no more is saved up");
    }

    #[test]
    fn places_are_counted_by_client_and_kind_and_come_back() {
        let clients = Clients::new(1, 2);
        let take = |client, kind| clients.place(address(client), kind);
        let held: Vec<_> = (0..3).map(|_| take(1, Kind::Forward)).collect();
        assert_eq!(held.iter().flatten().count(), 2);
        assert!(take(1, Kind::Connection).is_some() && take(2, Kind::Forward).is_some());
        drop(held);
        assert!(take(1, Kind::Forward).is_some());
    }

    #[test]
    fn memory_is_bounded_and_those_who_hold_places_keep_them() {
        let clients = Clients::new(1, 1);
        let held = clients.place(address(1), Kind::Forward);
        let start = Instant::now();
        for number in 0..3 * MOST as u32 {
            clients.may_ask(address(number), start);
        }
        assert!(clients.lock().len() <= MOST + 1);
        assert!(!clients.may_ask(address(9 * MOST as u32), start), "further ones share");
        assert!(clients.may_ask(address(9 * MOST as u32), start + 2 * REFILL), "room comes back");
        assert!(clients.lock().len() < 9);
        assert!(clients.place(address(1), Kind::Forward).is_none());
        drop(held);
        assert!(clients.place(address(1), Kind::Forward).is_some());
    }
}
