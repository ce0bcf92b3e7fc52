//! From protobuf to JSON.
//!
//! Guarantees: any bytes are read or refused, in time in proportion to their number; a field that
//! is not in the schema is skipped, as upstream's own decoder does with those of later versions; of
//! a field that occurs twice the last one counts, and messages and maps that do are merged.

use super::schema::{Field, Kind, Many, Message, Presence, Schema};
use super::{FIRST_TIME, MAGIC};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

/// Why a body cannot be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum DecodeFailed {
    #[error("it is cut off or not protobuf")]
    Malformed,
    #[error("no kind {kind:?} is registered for version {version:?} that is read as protobuf")]
    Kind { kind: String, version: String },
}

/// The object in an envelope.
pub(super) fn object(body: &[u8]) -> Result<Value, DecodeFailed> {
    let envelope = body.strip_prefix(MAGIC).ok_or(DecodeFailed::Malformed)?;
    let (mut version, mut kind, mut raw) = (String::new(), String::new(), &[][..]);
    for item in Items(envelope) {
        match item? {
            (1, Wire::Bytes(types)) => {
                for item in Items(types) {
                    match item? {
                        (1, Wire::Bytes(text)) => version = utf8(text)?,
                        (2, Wire::Bytes(text)) => kind = utf8(text)?,
                        _ => {}
                    }
                }
            }
            (2, Wire::Bytes(bytes)) => raw = bytes,
            _ => {}
        }
    }
    let schema = Schema::get();
    let Some(message) = schema.find(&version, &kind) else {
        return Err(DecodeFailed::Kind { kind, version });
    };
    let mut object = Map::new();
    read(schema, message, raw, &mut object)?;
    object.insert("apiVersion".to_owned(), Value::from(version));
    object.insert("kind".to_owned(), Value::from(kind));
    Ok(Value::Object(object))
}

/// A value as it is on the wire.
enum Wire<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    /// Four bytes, eight, or a group: no field of the schema is one.
    Other,
}

/// The numbered values of a message.
struct Items<'a>(&'a [u8]);

impl<'a> Items<'a> {
    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.0.split_first()?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn item(&mut self) -> Option<(u32, Wire<'a>)> {
        let tag = self.varint()?;
        let number = u32::try_from(tag >> 3).ok().filter(|number| *number > 0)?;
        let value = match tag & 7 {
            0 => Wire::Number(self.varint()?),
            2 => {
                let length = usize::try_from(self.varint()?).ok()?;
                Wire::Bytes(self.take(length)?)
            }
            other => {
                self.skip(other)?;
                Wire::Other
            }
        };
        Some((number, value))
    }

    /// Skips what no field of the schema is. Groups are in groups without a call for each, so that
    /// no depth of them is too much.
    fn skip(&mut self, kind: u64) -> Option<()> {
        let (mut kind, mut open) = (kind, 0_usize);
        loop {
            match kind {
                0 => {
                    self.varint()?;
                }
                1 => {
                    self.take(8)?;
                }
                2 => {
                    let length = usize::try_from(self.varint()?).ok()?;
                    self.take(length)?;
                }
                3 => open += 1,
                4 => open = open.checked_sub(1)?,
                5 => {
                    self.take(4)?;
                }
                _ => return None,
            }
            if open == 0 {
                return Some(());
            }
            kind = self.varint()? & 7;
        }
    }
}

impl<'a> Iterator for Items<'a> {
    type Item = Result<(u32, Wire<'a>), DecodeFailed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let item = self.item();
        if item.is_none() {
            self.0 = &[];
        }
        Some(item.ok_or(DecodeFailed::Malformed))
    }
}

fn utf8(bytes: &[u8]) -> Result<String, DecodeFailed> {
    String::from_utf8(bytes.to_vec()).map_err(|_| DecodeFailed::Malformed)
}

fn signed(number: u64) -> i64 {
    i64::from_ne_bytes(number.to_ne_bytes())
}

/// Reads a message into an object.
fn read(
    schema: &Schema,
    message: &Message,
    bytes: &[u8],
    object: &mut Map<String, Value>,
) -> Result<(), DecodeFailed> {
    for item in Items(bytes) {
        let (number, wire) = item?;
        if let Some(field) = message.field(number) {
            read_field(schema, field, wire, object)?;
        }
    }
    Ok(())
}

fn read_field(
    schema: &Schema,
    field: &Field,
    wire: Wire<'_>,
    object: &mut Map<String, Value>,
) -> Result<(), DecodeFailed> {
    match field.many {
        Many::Map => {
            let (key, value) = entry(schema, field.kind, wire)?;
            if let Value::Object(map) = object.entry(field.name).or_insert_with(|| json!({})) {
                map.insert(key, value);
            }
        }
        Many::List => {
            let Value::Array(list) = object.entry(field.name).or_insert_with(|| json!([])) else {
                return Ok(());
            };
            match (field.kind, wire) {
                // Numbers can come one by one or all as one value.
                (Kind::Int, Wire::Bytes(packed)) => {
                    let mut packed = Items(packed);
                    while !packed.0.is_empty() {
                        let number = packed.varint().ok_or(DecodeFailed::Malformed)?;
                        list.push(Value::from(signed(number)));
                    }
                }
                (kind, wire) => list.push(read_value(schema, kind, wire)?),
            }
        }
        Many::One => match (field.kind, wire) {
            (Kind::Message(place), Wire::Bytes(bytes)) if field.is_inline() => {
                read(schema, schema.message(place), bytes, object)?;
            }
            (Kind::Message(place), Wire::Bytes(bytes)) => {
                let mut inner = match object.remove(field.name) {
                    Some(Value::Object(inner)) => inner,
                    _ => Map::new(),
                };
                read(schema, schema.message(place), bytes, &mut inner)?;
                if field.presence == Presence::Pointer || !inner.is_empty() {
                    object.insert(field.name.to_owned(), Value::Object(inner));
                }
            }
            (kind, wire) => {
                let value = read_value(schema, kind, wire)?;
                let kept = field.presence != Presence::Value || !is_zero(&value);
                if kept && !value.is_null() {
                    object.insert(field.name.to_owned(), value);
                } else {
                    object.remove(field.name);
                }
            }
        },
    }
    Ok(())
}

fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Number(number) => number.as_i64() == Some(0),
        _ => false,
    }
}

/// `null` is a time that is not set, or no JSON.
fn read_value(schema: &Schema, kind: Kind, wire: Wire<'_>) -> Result<Value, DecodeFailed> {
    Ok(match (kind, wire) {
        (Kind::Int, Wire::Number(number)) => Value::from(signed(number)),
        (Kind::Bool, Wire::Number(number)) => Value::from(number != 0),
        (Kind::Int | Kind::Bool, _) | (_, Wire::Number(_) | Wire::Other) => {
            return Err(DecodeFailed::Malformed);
        }
        (Kind::Text, Wire::Bytes(bytes)) => Value::from(utf8(bytes)?),
        (Kind::Bytes, Wire::Bytes(bytes)) => Value::from(STANDARD.encode(bytes)),
        (Kind::Time, Wire::Bytes(bytes)) => match time(bytes)? {
            Some(time) => Value::from(format!("{time:.0}")),
            None => Value::Null,
        },
        (Kind::MicroTime, Wire::Bytes(bytes)) => match time(bytes)? {
            Some(time) => Value::from(format!("{time:.6}")),
            None => Value::Null,
        },
        (Kind::Quantity, Wire::Bytes(bytes)) => {
            let text = texts(bytes)?.pop().unwrap_or_default();
            Value::from(if text.is_empty() { "0".to_owned() } else { text })
        }
        (Kind::IntOrText, Wire::Bytes(bytes)) => int_or_text(bytes)?,
        (Kind::Json, Wire::Bytes(bytes)) => inner_json(bytes)?,
        (Kind::Texts, Wire::Bytes(bytes)) => Value::from(texts(bytes)?),
        (Kind::Message(place), Wire::Bytes(bytes)) => {
            let mut object = Map::new();
            read(schema, schema.message(place), bytes, &mut object)?;
            Value::Object(object)
        }
    })
}

/// A time; none is written as nothing, or as the first second of the first year.
fn time(bytes: &[u8]) -> Result<Option<Timestamp>, DecodeFailed> {
    let (mut seconds, mut nanoseconds) = (None, 0);
    for item in Items(bytes) {
        match item? {
            (1, Wire::Number(value)) => seconds = Some(signed(value)),
            (2, Wire::Number(value)) => nanoseconds = signed(value),
            (1 | 2, _) => return Err(DecodeFailed::Malformed),
            _ => {}
        }
    }
    let Some(seconds) = seconds.filter(|seconds| *seconds != FIRST_TIME) else { return Ok(None) };
    let nanoseconds = i32::try_from(nanoseconds).map_err(|_| DecodeFailed::Malformed)?;
    let time = Timestamp::new(seconds, nanoseconds).map_err(|_| DecodeFailed::Malformed)?;
    Ok(Some(time))
}

/// The texts of a message that has nothing else.
fn texts(bytes: &[u8]) -> Result<Vec<String>, DecodeFailed> {
    let mut texts = Vec::new();
    for item in Items(bytes) {
        match item? {
            (1, Wire::Bytes(text)) => texts.push(utf8(text)?),
            (1, _) => return Err(DecodeFailed::Malformed),
            _ => {}
        }
    }
    Ok(texts)
}

fn inner_json(bytes: &[u8]) -> Result<Value, DecodeFailed> {
    let mut raw = &[][..];
    for item in Items(bytes) {
        match item? {
            (1, Wire::Bytes(value)) => raw = value,
            (1, _) => return Err(DecodeFailed::Malformed),
            _ => {}
        }
    }
    if raw.is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_slice(raw).map_err(|_| DecodeFailed::Malformed)
}

/// A number, or a text such as `25%`.
fn int_or_text(bytes: &[u8]) -> Result<Value, DecodeFailed> {
    let (mut is_text, mut number, mut text) = (false, 0, String::new());
    for item in Items(bytes) {
        match item? {
            (1, Wire::Number(kind)) => is_text = kind == 1,
            (2, Wire::Number(value)) => number = signed(value),
            (3, Wire::Bytes(value)) => text = utf8(value)?,
            (1..=3, _) => return Err(DecodeFailed::Malformed),
            _ => {}
        }
    }
    Ok(if is_text { Value::from(text) } else { Value::from(number) })
}

/// A key of a map and its value; either is empty when it is left out.
fn entry(schema: &Schema, kind: Kind, wire: Wire<'_>) -> Result<(String, Value), DecodeFailed> {
    let Wire::Bytes(bytes) = wire else { return Err(DecodeFailed::Malformed) };
    let (mut key, mut value) = (String::new(), None);
    for item in Items(bytes) {
        match item? {
            (1, Wire::Bytes(text)) => key = utf8(text)?,
            (2, wire) => value = Some(read_value(schema, kind, wire)?),
            (1, _) => return Err(DecodeFailed::Malformed),
            _ => {}
        }
    }
    let value = match value {
        Some(value) => value,
        None => read_value(schema, kind, Wire::Bytes(&[]))?,
    };
    Ok((key, value))
}
