//! What the programs tell whoever listens: `bowline net monitor`.

use crate::{Address, Reason, U16Be};

/// MONITOR value: what somebody wants to be told. All zeros: nothing.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// By the kernel's monotonic clock, until when. Who listens moves it on; nothing is told after
    /// it, and the agent clears what is past.
    pub until_ns: u64,
    /// Of a call: the cookie of the caller's network namespace. Zero is any.
    pub netns: u64,
    /// Of either end, as the packet has it or as it becomes; zeros are any. Where one of these or
    /// `netns` is given, one of them has to fit.
    pub addresses: [Address; 2],
    /// Bits of [`outcome`].
    pub outcomes: u32,
    /// The number of a [`crate::Reason`], plus one; zero is any.
    pub reason: u32,
    /// [`crate::Service::id`] plus one; zero is any.
    pub service: u32,
    /// One event in so many, chosen at random; zero and one are each.
    pub sample: u32,
    /// How many events each processor tells within [`WINDOW_NS`]; zero is no bound.
    pub limit: u32,
    /// Of either end; zero is any.
    pub port: U16Be,
    /// Zero is any.
    pub protocol: u8,
    /// One bit for each [`crate::Direction`]; zero is any.
    pub hooks: u8,
    /// So many bytes of each packet follow its event, at most [`MOST_SNAP`]; zero is none.
    pub snap: u32,
    pub pad: u32,
}

/// Bytes of a packet that are told at most.
pub const MOST_SNAP: u32 = (1 << 14) - 1;

/// Bits of [`Wanted::outcomes`].
pub mod outcome {
    pub const PASSED: u32 = 1;
    pub const REFUSED: u32 = 2;
}

/// For how long [`Wanted::limit`] counts.
pub const WINDOW_NS: u64 = 100_000_000;

/// [`Event::service`] of what is no service's.
pub const NO_SERVICE: u32 = u32::MAX;

/// What EVENTS holds: a packet at one of its hooks, or a call on a socket. Where the packet itself
/// is wanted its beginning follows.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// By the kernel's monotonic clock.
    pub time_ns: u64,
    /// Of a call: the cookie of the caller's network namespace.
    pub netns: u64,
    /// As the packet comes in, or the client's end of an open connection; nothing for a call. All
    /// addresses are zeros for what was refused unread.
    pub source: Address,
    pub destination: Address,
    /// What the end becomes that is changed: the destination, or the source of an answer.
    pub becomes: Address,
    pub source_port: U16Be,
    pub destination_port: U16Be,
    pub becomes_port: U16Be,
    pub protocol: u8,
    /// As the TCP header has them.
    pub tcp_flags: u8,
    /// The number of a [`crate::Reason`].
    pub reason: u16,
    /// The number of a [`crate::Direction`].
    pub direction: u16,
    /// Of a packet: where it is.
    pub ifindex: u32,
    /// Of a packet: its length, with the Ethernet header.
    pub bytes: u32,
    /// [`crate::Service::id`], or [`NO_SERVICE`].
    pub service: u32,
    /// Of a connection that is open now: nanoseconds since connect() was called.
    pub connect_ns: u64,
}

impl Event {
    /// Whether an end was changed to what `becomes` says.
    pub fn is_changed(&self) -> bool {
        let passed = Reason::of(self.reason).is_some_and(|reason| !reason.is_drop());
        passed && self.service != NO_SERVICE
    }
}

/// TOLD value, one a processor.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// When the window began that is counted in.
    pub window_ns: u64,
    /// Events that were wanted and not told: over the limit, or without room in EVENTS.
    pub lost: u64,
    /// Told within the window.
    pub told: u32,
    pub pad: u32,
}
