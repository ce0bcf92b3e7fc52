//! What readers see: every object decoded once and serialized once, kept current by one feed from
//! the store, and handed to any number of watchers.
//!
//! Guarantees:
//!
//! * an object's bytes are made once a change; LIST and WATCH only copy or share them;
//! * a watcher sees every change of what it selects after its revision, in order, or its stream
//!   ends; a slow watcher loses its own stream and nobody else's;
//! * after [`Caches::wait_for`] a read shows at least that revision, so that a client reads its own
//!   writes whatever engine is below.
//!
//! It does not decide who may see what, and it does not write.

mod cache;
mod event;
mod feed;
mod session;

pub(crate) use cache::{Cache, Filter, Start, Unreadable, WatchRefused};
pub(crate) use event::{Delivery, Object, frame};
pub use feed::LoadFailed;
pub(crate) use feed::{CacheBehind, Caches};
pub(crate) use session::Session;
