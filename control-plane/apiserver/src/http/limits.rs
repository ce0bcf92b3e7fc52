//! How much the server takes on at a time, and for how long.
//!
//! Guarantees: reads and writes that wait for their answer are bounded apart from each other; one
//! too many is told to come back and costs nothing else. What keeps the cluster alive (agents, the
//! control loops, leases, a node that joins) has a share of its own, as large again: it waits for
//! its turn there and is never sent away. A user has only so many watches, a request only so much
//! time. Streams (watches, logs, what is relayed from nodes) are in no share and have no time
//! limit; health is in none either, so that it can always be told.

use super::path::Route;
use super::query::Query;
use crate::auth::User;
use crate::metrics::{Meters, RequestKind};
use bowline_api::status::Status;
use http::Method;
use serde_json::json;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Semaphore, SemaphorePermit};

/// Subresources that are streams.
const STREAMS: [&str; 5] = ["attach", "exec", "log", "portforward", "proxy"];
/// The group of kinds with which programs tell who leads and which node is alive.
const LEASES: &str = "coordination.k8s.io";

/// The bounds; each has a flag of `bowline server`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Reads that wait for their answer.
    pub requests_inflight: u32,
    /// Writes that wait for theirs.
    pub mutating_requests_inflight: u32,
    /// Watches that one user has open.
    pub watches_per_user: u32,
    /// For a request, from its head to its answer.
    pub request_timeout: Duration,
}

impl Limits {
    /// What a server has that is not told otherwise. Those that Kubernetes has are its own.
    pub const DEFAULT: Self = Self {
        requests_inflight: 400,
        mutating_requests_inflight: 200,
        watches_per_user: 5000,
        request_timeout: Duration::from_secs(60),
    };
}

impl Default for Limits {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// What a request counts as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    /// It is answered at once, or lasts.
    Free,
    /// It takes a place in a share.
    Counted {
        kind: RequestKind,
        /// Whether the cluster lives by it.
        system: bool,
    },
}

impl Class {
    /// `watch` says that the query asks for one.
    pub(super) fn of(method: &Method, route: &Route, watch: bool, user: Option<&User>) -> Self {
        let kind = RequestKind::of(method);
        let reads = kind == RequestKind::ReadOnly;
        let system = match (route, user) {
            // It has its secret, and no name yet.
            (Route::Join, _) => true,
            (Route::Health { .. } | Route::Events(_) | Route::Net(_), _) | (_, None) => {
                return Self::Free;
            }
            (Route::Resource(target), Some(user)) => {
                let is_watch = watch && reads && target.subresource.is_empty();
                if is_watch || STREAMS.contains(&target.subresource.as_str()) {
                    return Self::Free;
                }
                user.is_system() || target.resource.group == LEASES
            }
            (_, Some(user)) => user.is_system(),
        };
        Self::Counted { kind, system }
    }

    pub(super) fn kind(self) -> Option<RequestKind> {
        match self {
            Self::Free => None,
            Self::Counted { kind, .. } => Some(kind),
        }
    }
}

/// Places for requests of one kind.
struct Share {
    everybody: Semaphore,
    system: Semaphore,
    limit: u32,
    flag: &'static str,
}

impl Share {
    fn new(limit: u32, flag: &'static str) -> Self {
        let places = || Semaphore::new(limit as usize);
        Self { everybody: places(), system: places(), limit, flag }
    }

    /// `None` when there is no place.
    async fn place(&self, system: bool) -> Option<SemaphorePermit<'_>> {
        match system {
            // Nobody closes it.
            true => self.system.acquire().await.ok(),
            false => self.everybody.try_acquire().ok(),
        }
    }
}

type Open = Arc<Mutex<HashMap<String, u32>>>;

/// See the module's documentation.
pub(crate) struct Bounds {
    limits: Limits,
    reads: Share,
    writes: Share,
    watches: Open,
    meters: Meters,
}

impl Bounds {
    pub(crate) fn new(limits: Limits, meters: Meters) -> Self {
        Self {
            limits,
            reads: Share::new(limits.requests_inflight, "--max-requests-inflight"),
            writes: Share::new(
                limits.mutating_requests_inflight,
                "--max-mutating-requests-inflight",
            ),
            watches: Open::default(),
            meters,
        }
    }

    /// The answer to a request, within its bounds.
    pub(super) async fn keep<T>(
        &self,
        class: Class,
        query: &Query,
        answer: impl Future<Output = Result<T, Status>>,
    ) -> Result<T, Status> {
        let Class::Counted { kind, system } = class else { return answer.await };
        let (time, flag) = match timeout(query.get("timeout"))? {
            Some(asked) if asked < self.limits.request_timeout => (asked, "timeout"),
            _ => (self.limits.request_timeout, "--request-timeout"),
        };
        let share = match kind {
            RequestKind::ReadOnly => &self.reads,
            RequestKind::Mutating => &self.writes,
        };
        let counted = async {
            let Some(_place) = share.place(system).await else {
                let Share { limit, flag, .. } = share;
                return Err(self.refuse(kind, &format!("all {limit} places are taken ({flag})")));
            };
            answer.await
        };
        tokio::time::timeout(time, counted).await.unwrap_or_else(|_| {
            Err(Status::timeout(format!(
                "Timeout: request did not complete within the allotted timeout of {time:?} ({flag})"
            )))
        })
    }

    /// A place among the watches of the user, if there is one.
    pub(super) fn watch(&self, user: &User) -> Result<OpenWatch, Status> {
        if user.is_system() {
            return Ok(OpenWatch { user: String::new(), watches: self.watches.clone() });
        }
        let limit = self.limits.watches_per_user;
        let mut watches = self.watches.lock().unwrap_or_else(PoisonError::into_inner);
        let open = watches.get(&user.name).copied().unwrap_or_default();
        if open >= limit {
            let (name, kind) = (&user.name, RequestKind::ReadOnly);
            let why = format!("{name:?} has {limit} watches open (--max-watches-per-user)");
            return Err(self.refuse(kind, &why));
        }
        watches.insert(user.name.clone(), open + 1);
        Ok(OpenWatch { user: user.name.clone(), watches: self.watches.clone() })
    }

    fn refuse(&self, kind: RequestKind, why: &str) -> Status {
        self.meters.dropped(kind);
        let message = format!("Too many requests, please try again later: {why}");
        let mut status = Status::too_many_requests(message);
        status.details = json!({ "retryAfterSeconds": 1 });
        status
    }
}

/// One watch of a user, who has one less when it is dropped.
pub(super) struct OpenWatch {
    /// Empty for one that is not counted.
    user: String,
    watches: Open,
}

impl Drop for OpenWatch {
    fn drop(&mut self) {
        let mut watches = self.watches.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(open) = watches.get_mut(&self.user) {
            *open -= 1;
            if *open == 0 {
                watches.remove(&self.user);
            }
        }
    }
}

/// The time that a client gives its request; `None` if it gives none, or less than any.
fn timeout(text: &str) -> Result<Option<Duration>, Status> {
    if text.is_empty() {
        return Ok(None);
    }
    let read = duration(text).map_err(|why| {
        Status::bad_request(format!("invalid timeout specified in the request URL - time: {why}"))
    });
    Ok(read?.filter(|time| !time.is_zero()))
}

/// A duration as Go writes it, such as `1m30.5s`; `None` if it is negative.
fn duration(text: &str) -> Result<Option<Duration>, String> {
    let invalid = || format!("invalid duration {text:?}");
    let mut rest = text.strip_prefix(['+', '-']).unwrap_or(text);
    match rest {
        "" => return Err(invalid()),
        "0" => return Ok(Some(Duration::ZERO)),
        _ => {}
    }
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let is_number = |c: char| c.is_ascii_digit() || c == '.';
        let (number, after) =
            rest.split_at(rest.find(|c: char| !is_number(c)).unwrap_or(rest.len()));
        let number: f64 = number.parse().map_err(|_| invalid())?;
        let (unit, after) = after.split_at(after.find(is_number).unwrap_or(after.len()));
        seconds += number
            * match unit {
                "ns" => 1e-9,
                "us" | "\u{b5}s" | "\u{3bc}s" => 1e-6,
                "ms" => 1e-3,
                "s" => 1.0,
                "m" => 60.0,
                "h" => 3600.0,
                "" => return Err(format!("missing unit in duration {text:?}")),
                unit => return Err(format!("unknown unit {unit:?} in duration {text:?}")),
            };
        rest = after;
    }
    let time = Duration::try_from_secs_f64(seconds).map_err(|_| invalid())?;
    Ok(if text.starts_with('-') { None } else { Some(time) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_durations_as_go_writes_them() {
        let given = |millis| Ok(Some(Duration::from_millis(millis)));
        let table = [
            ("", Ok(None)),
            ("0", Ok(None)),
            ("0s", Ok(None)),
            ("-5s", Ok(None)),
            ("30s", given(30_000)),
            ("+1m30s", given(90_000)),
            ("1.5h", given(5_400_000)),
            (".5s", given(500)),
            ("1s500ms", given(1500)),
            ("2000000ns", given(2)),
            ("3000us", given(3)),
            ("x", Err("invalid duration \"x\"")),
            ("-", Err("invalid duration \"-\"")),
            ("1.2.3s", Err("invalid duration \"1.2.3s\"")),
            ("10", Err("missing unit in duration \"10\"")),
            ("1s5", Err("missing unit in duration \"1s5\"")),
            ("1d", Err("unknown unit \"d\" in duration \"1d\"")),
        ];
        for (text, expected) in table {
            let read = timeout(text).map_err(|status| status.message);
            let prefix = "invalid timeout specified in the request URL - time: ";
            assert_eq!(read, expected.map_err(|why| format!("{prefix}{why}")), "{text}");
        }
    }
}
