//! Objects and changes in the form in which they are sent.

use super::cache::Unreadable;
use crate::store::Revision;
use bytes::Bytes;
use serde_json::Value;
use std::sync::{Arc, OnceLock};

/// One state of one object: decoded, and as the bytes that every reader gets.
#[derive(Debug)]
pub(crate) struct Object {
    /// `namespace/name`, or the name alone for a cluster object.
    pub(crate) key: String,
    pub(crate) revision: Revision,
    /// With `metadata.resourceVersion` set to the revision.
    pub(crate) value: Value,
    /// `value` as JSON.
    pub(crate) bytes: Bytes,
}

impl Object {
    /// The object at a revision; at revision 0 it is one that was never stored.
    pub(crate) fn new(key: String, mut value: Value, revision: Revision) -> Self {
        let version = if revision == 0 { String::new() } else { revision.to_string() };
        bowline_api::object::set_metadata(&mut value, "resourceVersion", &version);
        // A `Value` has only string keys, so that it can always be written.
        let bytes = Bytes::from(value.to_string());
        Self { key, revision, value, bytes }
    }

    /// Decodes what the store keeps, or says what is wrong with it.
    pub(crate) fn read(key: String, stored: &[u8], revision: Revision) -> Result<Self, Unreadable> {
        let unreadable = |key, reason| Unreadable { key, revision, reason };
        match serde_json::from_slice::<Value>(stored) {
            Ok(value) if value.is_object() => Ok(Self::new(key, value, revision)),
            Ok(_) => Err(unreadable(key, "it is no JSON object".to_owned())),
            Err(error) => Err(unreadable(key, error.to_string())),
        }
    }

    /// The bytes to store: without the revision, which the store itself knows.
    pub(crate) fn encode(mut value: Value) -> Bytes {
        bowline_api::object::set_metadata(&mut value, "resourceVersion", "");
        Bytes::from(value.to_string())
    }
}

/// What an event is for one watcher: a change can bring an object into its selection, change it
/// there, or take it out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Added,
    Modified,
    Deleted,
}

impl Verdict {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Added => "ADDED",
            Self::Modified => "MODIFIED",
            Self::Deleted => "DELETED",
        }
    }
}

/// One change of one object.
#[derive(Debug)]
pub(crate) struct Event {
    pub(crate) revision: Revision,
    /// The state after the change; `None` when the object was removed.
    pub(crate) current: Option<Arc<Object>>,
    /// The state before; `None` when the object was created.
    pub(crate) previous: Option<Arc<Object>>,
    /// The last state at this revision, for those who see the object go.
    gone: OnceLock<Option<Arc<Object>>>,
    frames: [OnceLock<Bytes>; 3],
    packed_frames: [OnceLock<Bytes>; 3],
}

impl Event {
    pub(crate) fn new(
        revision: Revision,
        current: Option<Arc<Object>>,
        previous: Option<Arc<Object>>,
    ) -> Self {
        Self {
            revision,
            current,
            previous,
            gone: OnceLock::new(),
            frames: Default::default(),
            packed_frames: Default::default(),
        }
    }

    /// What the event is to somebody who selects with `selects`.
    pub(crate) fn verdict(&self, selects: impl Fn(&Object) -> bool) -> Option<Verdict> {
        let before = self.previous.as_deref().is_some_and(&selects);
        let after = self.current.as_deref().is_some_and(&selects);
        match (before, after) {
            (false, true) => Some(Verdict::Added),
            (true, true) => Some(Verdict::Modified),
            (true, false) => Some(Verdict::Deleted),
            (false, false) => None,
        }
    }

    /// The object that goes with a verdict. There is always one for a verdict of this event.
    pub(crate) fn object(&self, verdict: Verdict) -> Option<&Arc<Object>> {
        match verdict {
            Verdict::Added | Verdict::Modified => self.current.as_ref(),
            Verdict::Deleted => self
                .gone
                .get_or_init(|| {
                    let last = self.previous.as_deref()?;
                    let value = last.value.clone();
                    Some(Arc::new(Object::new(last.key.clone(), value, self.revision)))
                })
                .as_ref(),
        }
    }

    /// The line of a watch stream, made by the first watcher that needs it.
    pub(crate) fn frame(&self, verdict: Verdict) -> Bytes {
        let slot = &self.frames[verdict as usize];
        slot.get_or_init(|| match self.object(verdict) {
            Some(object) => frame(verdict.name(), &object.bytes),
            None => Bytes::new(),
        })
        .clone()
    }

    /// The same in protobuf, as `make` makes it of the object.
    pub(crate) fn packed_frame(
        &self,
        verdict: Verdict,
        make: impl FnOnce(&Object) -> Bytes,
    ) -> Bytes {
        let slot = &self.packed_frames[verdict as usize];
        let frame = || self.object(verdict).map_or_else(Bytes::new, |object| make(object));
        slot.get_or_init(frame).clone()
    }

    /// What the event holds in memory, about.
    pub(super) fn size(&self) -> usize {
        let bytes = |object: &Option<Arc<Object>>| object.as_ref().map_or(0, |o| o.bytes.len());
        bytes(&self.current) + bytes(&self.previous)
    }
}

/// One line of a watch stream.
pub(crate) fn frame(kind: &str, object: &[u8]) -> Bytes {
    let mut line = Vec::with_capacity(object.len() + kind.len() + 24);
    line.extend_from_slice(b"{\"type\":\"");
    line.extend_from_slice(kind.as_bytes());
    line.extend_from_slice(b"\",\"object\":");
    line.extend_from_slice(object);
    line.extend_from_slice(b"}\n");
    Bytes::from(line)
}

/// What a watcher gets.
#[derive(Debug, Clone)]
pub(crate) struct Delivery {
    pub(crate) verdict: Verdict,
    pub(crate) event: Arc<Event>,
}
