//! Reading bodies in Kubernetes' protobuf encoding.
//!
//! `kubectl create namespace` and its siblings send nothing else. What is read is the set of kinds
//! in [`SCHEMA`]; a field that is not in it is an error that names it, never silently lost. Answers
//! are never protobuf: every client that sends it also reads JSON.
//!
//! The encoding writes empty values for fields that were not set. Those are dropped, as they are in
//! JSON, unless the field is one whose zero means something.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bowline_api::status::Status;
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::sync::OnceLock;

/// The media type.
pub(super) const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";
/// What every body starts with.
const MAGIC: &[u8] = b"k8s\0";
/// Messages within messages.
const DEPTH: usize = 32;

/// A line a message: its name, then `field=number:type` of each field. The type is a message or one
/// of `string` (the default), `int`, `bool`, `bytes`, `time`, `quantity`, `intstr`, `json` (an
/// object as text), `map` (of texts), `blobs` (a map of bytes), `quantities`. `[]` repeats, `*`
/// keeps zero, and a field `.` has its own fields in the message around it.
const SCHEMA: &str = include_str!("protobuf_schema.txt");

struct Field {
    name: &'static str,
    kind: &'static str,
    repeated: bool,
    keeps_zero: bool,
}

type Schema = HashMap<&'static str, HashMap<u64, Field>>;

fn schema() -> &'static Schema {
    static PARSED: OnceLock<Schema> = OnceLock::new();
    PARSED.get_or_init(|| SCHEMA.lines().filter_map(message).collect())
}

fn message(line: &'static str) -> Option<(&'static str, HashMap<u64, Field>)> {
    let mut words = line.split_whitespace();
    let name = words.next()?;
    let fields = words.filter_map(|word| {
        let (name, rest) = word.split_once('=')?;
        let (number, kind) = rest.split_once(':').unwrap_or((rest, "string"));
        let keeps_zero = kind.ends_with('*') || number.ends_with('*');
        let kind = kind.trim_end_matches('*');
        let repeated = kind.starts_with("[]");
        let kind = kind.trim_start_matches("[]");
        let number = number.trim_end_matches('*').parse().ok()?;
        Some((number, Field { name, kind, repeated, keeps_zero }))
    });
    Some((name, fields.collect()))
}

/// Why a body cannot be read.
#[derive(Debug, thiserror::Error)]
enum DecodeFailed {
    #[error("it is cut off or not protobuf")]
    Malformed,
    #[error("the kind {0:?} is not read as protobuf; send JSON")]
    Kind(String),
    #[error("field {number} of {message} is not read as protobuf; send JSON")]
    Field { message: String, number: u64 },
    #[error("it is nested too deeply")]
    Depth,
}

/// The object in a body.
pub(super) fn object(body: &[u8]) -> Result<Value, Status> {
    decode(body).map_err(|error| {
        Status::bad_request(format!("the body of the request cannot be decoded: {error}"))
    })
}

fn decode(body: &[u8]) -> Result<Value, DecodeFailed> {
    let envelope = body.strip_prefix(MAGIC).ok_or(DecodeFailed::Malformed)?;
    let (mut api_version, mut kind, mut raw) = (String::new(), String::new(), &[][..]);
    for item in Items(envelope) {
        match item? {
            (1, Wire::Bytes(types)) => {
                for item in Items(types) {
                    match item? {
                        (1, Wire::Bytes(text)) => api_version = utf8(text)?,
                        (2, Wire::Bytes(text)) => kind = utf8(text)?,
                        _ => {}
                    }
                }
            }
            (2, Wire::Bytes(bytes)) => raw = bytes,
            _ => {}
        }
    }
    let Some((name, _)) = schema().get_key_value(kind.as_str()) else {
        return Err(DecodeFailed::Kind(kind));
    };
    let mut object = read_message(name, raw, DEPTH)?;
    object.insert("apiVersion".to_owned(), Value::from(api_version));
    object.insert("kind".to_owned(), Value::from(kind));
    Ok(Value::Object(object))
}

/// A value as it is on the wire.
enum Wire<'a> {
    Number(u64),
    Bytes(&'a [u8]),
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

    fn item(&mut self) -> Option<(u64, Wire<'a>)> {
        let tag = self.varint()?;
        let value = match tag & 7 {
            0 => Wire::Number(self.varint()?),
            1 => Wire::Bytes(self.take(8)?),
            2 => {
                let length = usize::try_from(self.varint()?).ok()?;
                Wire::Bytes(self.take(length)?)
            }
            5 => Wire::Bytes(self.take(4)?),
            _ => return None,
        };
        Some((tag >> 3, value))
    }
}

impl<'a> Iterator for Items<'a> {
    type Item = Result<(u64, Wire<'a>), DecodeFailed>;

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

fn read_message(
    name: &str,
    bytes: &[u8],
    depth: usize,
) -> Result<Map<String, Value>, DecodeFailed> {
    let depth = depth.checked_sub(1).ok_or(DecodeFailed::Depth)?;
    let fields = schema().get(name).ok_or_else(|| DecodeFailed::Kind(name.to_owned()))?;
    let mut object = Map::new();
    for item in Items(bytes) {
        let (number, wire) = item?;
        let unknown = || DecodeFailed::Field { message: name.to_owned(), number };
        let field = fields.get(&number).ok_or_else(unknown)?;
        if matches!(field.kind, "map" | "blobs" | "quantities") {
            let entry = map_entry(field.kind, wire, depth)?;
            if let Some(map) = object.entry(field.name).or_insert_with(|| json!({})).as_object_mut()
            {
                map.extend(entry);
            }
            continue;
        }
        let value = read_value(field, wire, depth)?;
        if field.name == "." {
            if let Value::Object(inner) = value {
                object.extend(inner);
            }
        } else if field.repeated {
            if let Some(list) = object.entry(field.name).or_insert_with(|| json!([])).as_array_mut()
            {
                list.push(value);
            }
        } else if field.keeps_zero || !is_zero(&value) {
            object.insert(field.name.to_owned(), value);
        }
    }
    Ok(object)
}

fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Number(number) => number.as_i64() == Some(0),
        Value::Object(map) => map.is_empty(),
        _ => false,
    }
}

fn read_value(field: &Field, wire: Wire<'_>, depth: usize) -> Result<Value, DecodeFailed> {
    Ok(match (field.kind, wire) {
        ("int", Wire::Number(number)) => Value::from(signed(number)),
        ("bool", Wire::Number(number)) => Value::from(number != 0),
        ("string", Wire::Bytes(bytes)) => Value::from(utf8(bytes)?),
        ("bytes", Wire::Bytes(bytes)) => Value::from(STANDARD.encode(bytes)),
        ("time", Wire::Bytes(bytes)) => time(bytes)?,
        ("quantity", Wire::Bytes(bytes)) => first_text(bytes)?,
        ("intstr", Wire::Bytes(bytes)) => int_or_text(bytes)?,
        ("json", Wire::Bytes(bytes)) => json_text(bytes)?,
        (_, Wire::Number(_)) => return Err(DecodeFailed::Malformed),
        (message, Wire::Bytes(bytes)) => Value::Object(read_message(message, bytes, depth)?),
    })
}

/// A time, in whole seconds; `null` for none.
fn time(bytes: &[u8]) -> Result<Value, DecodeFailed> {
    for item in Items(bytes) {
        if let (1, Wire::Number(seconds)) = item? {
            let time = jiff::Timestamp::from_second(signed(seconds));
            let time = time.map_err(|_| DecodeFailed::Malformed)?;
            return Ok(Value::from(time.to_string()));
        }
    }
    Ok(Value::Null)
}

fn first_text(bytes: &[u8]) -> Result<Value, DecodeFailed> {
    for item in Items(bytes) {
        if let (1, Wire::Bytes(text)) = item? {
            return Ok(Value::from(utf8(text)?));
        }
    }
    Ok(Value::Null)
}

/// An object that is written as JSON.
fn json_text(bytes: &[u8]) -> Result<Value, DecodeFailed> {
    for item in Items(bytes) {
        if let (1, Wire::Bytes(text)) = item? {
            return serde_json::from_slice(text).map_err(|_| DecodeFailed::Malformed);
        }
    }
    Ok(Value::Null)
}

/// A number, or a text such as `25%`. A number 0 is no value: that is how it is left out.
fn int_or_text(bytes: &[u8]) -> Result<Value, DecodeFailed> {
    let (mut is_text, mut number, mut text) = (false, 0, String::new());
    for item in Items(bytes) {
        match item? {
            (1, Wire::Number(kind)) => is_text = kind == 1,
            (2, Wire::Number(value)) => number = signed(value),
            (3, Wire::Bytes(value)) => text = utf8(value)?,
            _ => {}
        }
    }
    Ok(if is_text { Value::from(text) } else { Value::from(number) })
}

fn map_entry(
    kind: &str,
    wire: Wire<'_>,
    depth: usize,
) -> Result<Option<(String, Value)>, DecodeFailed> {
    let Wire::Bytes(bytes) = wire else { return Err(DecodeFailed::Malformed) };
    let inner = match kind {
        "blobs" => "bytes",
        "quantities" => "quantity",
        _ => "string",
    };
    let field = Field { name: "", kind: inner, repeated: false, keeps_zero: true };
    let (mut key, mut value) = (String::new(), json!(""));
    for item in Items(bytes) {
        match item? {
            (1, Wire::Bytes(text)) => key = utf8(text)?,
            (2, wire) => value = read_value(&field, wire, depth)?,
            _ => {}
        }
    }
    Ok(Some((key, value)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From hexadecimal, as clients print what they send.
    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<u8> = text.bytes().filter(|b| !b.is_ascii_whitespace()).collect();
        let pair = |pair: &[u8]| std::str::from_utf8(pair).unwrap().to_owned();
        digits.chunks(2).map(|two| u8::from_str_radix(&pair(two), 16).unwrap()).collect()
    }

    #[test]
    fn a_namespace_as_a_client_sends_it() {
        let body = hex(
            "6b3873000a0f0a02763112094e616d6573706163 6512 1b 0a130a03666f6f12001a0022002a003200380
             0420012001a020a001a002200",
        );
        let expected = json!({
            "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "foo" },
        });
        assert_eq!(decode(&body).unwrap(), expected);
    }

    #[test]
    fn a_deployment_as_a_client_sends_it() {
        let body =
            hex("6b3873000a150a07617070732f7631120a4465706c6f796d656e7412bc010a210a04776562321200
             1a0022002a003200380042005a0b0a036170701204776562321288010802120d0a0b0a0361707012
             04776562321a6d0a1d0a0012001a0022002a003200380042005a0b0a03617070120477656232124c
             122e0a056e67696e7812056e67696e782a00320a0a001000185022002a0042006a00720080010088
             0100900100a201001a00320042004a0052005800600068008201008a01009a0100c2010022020a00
             280038001a0c0800100018002000280038001a002200");
        let expected = json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": { "name": "web2", "labels": { "app": "web2" } },
            "spec": {
                "replicas": 2,
                "selector": { "matchLabels": { "app": "web2" } },
                "template": {
                    "metadata": { "labels": { "app": "web2" } },
                    "spec": { "containers": [{
                        "name": "nginx", "image": "nginx", "ports": [{ "containerPort": 80 }],
                    }] },
                },
            },
        });
        assert_eq!(decode(&body).unwrap(), expected);
    }

    #[test]
    fn entries_of_managers_are_read() {
        // {"f:x":{}} in field 17 of the metadata.
        let body = hex("6b3873000a0f0a02763112094e616d6573706163 65 12 22 0a 20 0a 01 6e
             8a01 1a 0a 01 61 12 05 4170706c79 3a 0e 0a 0c 7b22663a78223a207b7d20 7d");
        let expected = json!({ "name": "n", "managedFields": [
            { "manager": "a", "operation": "Apply", "fieldsV1": { "f:x": {} } },
        ] });
        assert_eq!(decode(&body).unwrap()["metadata"], expected);
    }

    #[test]
    fn what_is_not_understood_is_an_error() {
        assert!(matches!(decode(b"{}"), Err(DecodeFailed::Malformed)));
        let unknown_kind = hex("6b3873000a0c0a02763112064861624c6974");
        assert!(matches!(decode(&unknown_kind), Err(DecodeFailed::Kind(_))));
        let cut_off = hex("6b3873000a0f0a02763112094e616d");
        assert!(matches!(decode(&cut_off), Err(DecodeFailed::Malformed)));
        // Field 15 of a namespace.
        let unknown_field = hex("6b3873000a0f0a02763112094e616d6573706163 6512027a00");
        let error = decode(&unknown_field).unwrap_err();
        assert!(matches!(error, DecodeFailed::Field { number: 15, .. }), "{error}");
    }

    #[test]
    fn every_type_in_the_schema_is_known() {
        let plain = [
            "string",
            "int",
            "bool",
            "bytes",
            "time",
            "quantity",
            "intstr",
            "json",
            "map",
            "blobs",
            "quantities",
        ];
        assert!(schema().len() > 40);
        for (name, fields) in schema() {
            for field in fields.values() {
                let known = plain.contains(&field.kind) || schema().contains_key(field.kind);
                assert!(known, "{name}.{}: {}", field.name, field.kind);
            }
        }
    }
}
