//! From JSON to protobuf.
//!
//! Messages are written from their end to their start, as upstream does: the length of each stands
//! before it and is known by then, so that nothing is moved or counted twice.
//!
//! Guarantees: the same value gives the same bytes, those that upstream's marshallers give: fields
//! by their numbers, maps by their keys, and what is no pointer in Go also when it is empty. What
//! the schema does not have is left out, and a value of another type counts as none: the server
//! keeps no object with either.

use super::schema::{Field, Kind, Many, Message, Presence, Schema};
use super::{FIRST_TIME, MAGIC};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use jiff::Timestamp;
use serde_json::{Map, Value};
use std::borrow::Cow;

/// For the envelope and what fields are written empty.
const ROOM: usize = 512;

/// The object as the message, in an envelope.
pub(super) fn object(message: &Message, version: &str, kind: &str, object: &Value) -> Bytes {
    enveloped(version, kind, ROOM, |out| write(message, object.as_object(), out))
}

/// A list of objects as the message of its items, in an envelope. `size` is about theirs.
pub(super) fn list<'a>(
    item: &Message,
    (version, kind): (&str, &str),
    metadata: (&Message, &Value),
    items: impl DoubleEndedIterator<Item = Cow<'a, Value>>,
    size: usize,
) -> Bytes {
    enveloped(version, kind, size + ROOM, |out| {
        for object in items.rev() {
            let end = out.written();
            write(item, object.as_object(), out);
            out.head(2, end);
        }
        let end = out.written();
        let (message, metadata) = metadata;
        write(message, metadata.as_object(), out);
        out.head(1, end);
    })
}

/// One event of a watch: its length in four bytes, then the event with the enveloped object.
pub(super) fn frame(kind: &str, object: &[u8]) -> Bytes {
    let mut out = Back::with_room(object.len() + kind.len() + 32);
    out.put(object);
    out.head(1, 0);
    out.head(2, 0);
    out.text(1, kind);
    let length = u32::try_from(out.written()).unwrap_or(u32::MAX);
    out.put(&length.to_be_bytes());
    out.finish()
}

fn enveloped(version: &str, kind: &str, room: usize, raw: impl FnOnce(&mut Back)) -> Bytes {
    let mut out = Back::with_room(room);
    // The encoding and the type of the content: none.
    out.text(4, "");
    out.text(3, "");
    let end = out.written();
    raw(&mut out);
    out.head(2, end);
    let end = out.written();
    out.text(2, kind);
    out.text(1, version);
    out.head(1, end);
    out.put(MAGIC);
    out.finish()
}

/// Bytes that grow at their start.
struct Back {
    bytes: Vec<u8>,
    start: usize,
}

impl Back {
    fn with_room(room: usize) -> Self {
        Self { bytes: vec![0; room], start: room }
    }

    fn written(&self) -> usize {
        self.bytes.len() - self.start
    }

    fn put(&mut self, bytes: &[u8]) {
        if bytes.len() > self.start {
            let written = self.written();
            let mut larger = vec![0; self.bytes.len() * 2 + bytes.len()];
            let start = larger.len() - written;
            larger[start..].copy_from_slice(&self.bytes[self.start..]);
            (self.bytes, self.start) = (larger, start);
        }
        let end = self.start;
        self.start -= bytes.len();
        self.bytes[self.start..end].copy_from_slice(bytes);
    }

    fn varint(&mut self, value: u64) {
        let (mut rest, mut bytes, mut count) = (value, [0; 10], 0);
        for byte in &mut bytes {
            count += 1;
            *byte = rest as u8 & 0x7f;
            rest >>= 7;
            if rest == 0 {
                break;
            }
            *byte |= 0x80;
        }
        self.put(&bytes[..count]);
    }

    /// What stands before the value that was written since `end` bytes were: its length and tag.
    fn head(&mut self, number: u32, end: usize) {
        self.varint((self.written() - end) as u64);
        self.varint(u64::from(number) << 3 | 2);
    }

    fn bytes(&mut self, number: u32, bytes: &[u8]) {
        let end = self.written();
        self.put(bytes);
        self.head(number, end);
    }

    fn text(&mut self, number: u32, text: &str) {
        self.bytes(number, text.as_bytes());
    }

    fn int(&mut self, number: u32, value: i64) {
        self.varint(u64::from_ne_bytes(value.to_ne_bytes()));
        self.varint(u64::from(number) << 3);
    }

    fn finish(self) -> Bytes {
        Bytes::from(self.bytes).slice(self.start..)
    }
}

fn write(message: &Message, object: Option<&Map<String, Value>>, out: &mut Back) {
    for field in message.fields.iter().rev() {
        if let (true, Kind::Message(place)) = (field.is_inline(), field.kind) {
            let end = out.written();
            write(Schema::get().message(place), object, out);
            out.head(field.number, end);
            continue;
        }
        let value = object.and_then(|object| object.get(field.name)).filter(|v| !v.is_null());
        write_field(field, value, out);
    }
}

fn write_field(field: &Field, value: Option<&Value>, out: &mut Back) {
    match field.many {
        Many::One if value.is_none() && field.presence == Presence::Pointer => {}
        Many::One => write_value(field.kind, field.number, value, out),
        Many::List => {
            let list = value.and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
            for value in list.iter().rev() {
                write_value(field.kind, field.number, Some(value), out);
            }
        }
        Many::Map => {
            let Some(map) = value.and_then(Value::as_object) else { return };
            let mut entries: Vec<(&String, &Value)> = map.iter().collect();
            entries.sort_unstable_by_key(|(key, _)| *key);
            for (key, value) in entries.into_iter().rev() {
                let end = out.written();
                write_value(field.kind, 2, Some(value), out);
                out.text(1, key);
                out.head(field.number, end);
            }
        }
    }
}

/// One value, or the empty one of its kind.
fn write_value(kind: Kind, number: u32, value: Option<&Value>, out: &mut Back) {
    let text = value.and_then(Value::as_str);
    match kind {
        Kind::Text => return out.text(number, text.unwrap_or_default()),
        Kind::Int => return out.int(number, value.map_or(0, int)),
        Kind::Bool => {
            return out.int(number, value.and_then(Value::as_bool).unwrap_or(false).into());
        }
        Kind::Bytes => {
            let bytes = text.and_then(|text| STANDARD.decode(text).ok()).unwrap_or_default();
            return out.bytes(number, &bytes);
        }
        _ => {}
    }
    // The rest is messages.
    let end = out.written();
    match kind {
        Kind::Time => write_time(text, 1_000_000_000, out),
        Kind::MicroTime => write_time(text, 1000, out),
        Kind::Quantity => match value {
            Some(Value::Number(number)) => out.text(1, &number.to_string()),
            _ => out.text(1, text.unwrap_or("0")),
        },
        Kind::IntOrText => {
            out.text(3, text.unwrap_or_default());
            out.int(2, value.map_or(0, int));
            out.int(1, text.is_some().into());
        }
        Kind::Json => {
            if let Some(value) = value {
                out.text(1, &value.to_string());
            }
        }
        Kind::Texts => {
            for value in value.and_then(Value::as_array).into_iter().flatten().rev() {
                out.text(1, value.as_str().unwrap_or_default());
            }
        }
        Kind::Message(place) => {
            write(Schema::get().message(place), value.and_then(Value::as_object), out);
        }
        Kind::Text | Kind::Int | Kind::Bool | Kind::Bytes => {}
    }
    out.head(number, end);
}

/// `1.0` is a whole number, too.
fn int(value: &Value) -> i64 {
    value.as_i64().or_else(|| value.as_f64().map(|float| float as i64)).unwrap_or_default()
}

/// Seconds, and nanoseconds in steps; nothing for no time.
fn write_time(text: Option<&str>, step: i64, out: &mut Back) {
    let Some(time) = text.and_then(|text| text.parse::<Timestamp>().ok()) else { return };
    let nanoseconds = i64::from(time.subsec_nanosecond()).rem_euclid(1_000_000_000);
    let seconds = time.as_second() - i64::from(time.subsec_nanosecond() < 0);
    if (seconds, nanoseconds) != (FIRST_TIME, 0) {
        out.int(2, nanoseconds - nanoseconds % step);
        out.int(1, seconds);
    }
}
