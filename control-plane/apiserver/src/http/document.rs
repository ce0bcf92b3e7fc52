//! Documents as they are written: JSON or YAML, with the keys that appear twice.
//!
//! Guarantees: of a key that appears twice the last one counts, as everywhere in the ecosystem, and
//! its path is noted once; reading takes time in proportion to the text. It knows no kinds.

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use std::fmt;

/// Keys that appear twice are noted up to this number: whoever reads that many looks for himself.
pub(super) const MOST_DUPLICATES: usize = 32;

/// What a document holds.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Document {
    pub(super) value: Value,
    /// `spec.containers[0].image`
    pub(super) duplicates: Vec<String>,
}

impl Document {
    /// What there is to say about it.
    pub(super) fn complaints(&self) -> Vec<String> {
        self.duplicates.iter().map(|path| format!("duplicate field \"{path}\"")).collect()
    }
}

pub(super) fn from_json(text: &[u8]) -> Result<Document, serde_json::Error> {
    let mut reader = serde_json::Deserializer::from_slice(text);
    let document = read(&mut reader)?;
    reader.end()?;
    Ok(document)
}

pub(super) fn from_yaml(text: &[u8]) -> Result<Document, serde_yaml_ng::Error> {
    read(serde_yaml_ng::Deserializer::from_slice(text))
}

fn read<'de, D: Deserializer<'de>>(reader: D) -> Result<Document, D::Error> {
    let mut duplicates = Vec::new();
    let value = Part { path: Path::Document, duplicates: &mut duplicates }.deserialize(reader)?;
    Ok(Document { value, duplicates })
}

/// Where a value is: what holds it, and where in there. Written out only for a key that appears
/// twice.
#[derive(Clone, Copy)]
enum Path<'a> {
    Document,
    Element(&'a Path<'a>, usize),
    Field(&'a Path<'a>, &'a str),
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Document => Ok(()),
            Self::Element(list, index) => write!(f, "{list}[{index}]"),
            Self::Field(Self::Document, key) => f.write_str(key),
            Self::Field(map, key) => write!(f, "{map}.{key}"),
        }
    }
}

/// Reads the value at a path.
struct Part<'a> {
    path: Path<'a>,
    duplicates: &'a mut Vec<String>,
}

impl<'de> DeserializeSeed<'de> for Part<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<Value, D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Part<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        let number = Number::from_f64(value);
        number.map(Value::Number).ok_or_else(|| E::custom(format!("{value} is no JSON number")))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        loop {
            let path = Path::Element(&self.path, values.len());
            match list.next_element_seed(Part { path, duplicates: self.duplicates })? {
                Some(value) => values.push(value),
                None => return Ok(Value::Array(values)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = fields.next_key::<String>()? {
            let path = Path::Field(&self.path, &key);
            if map.contains_key(&key) && self.duplicates.len() < MOST_DUPLICATES {
                let path = path.to_string();
                if !self.duplicates.contains(&path) {
                    self.duplicates.push(path);
                }
            }
            let value = fields.next_value_seed(Part { path, duplicates: self.duplicates })?;
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn keys_that_appear_twice_are_noted_and_the_last_one_counts() {
        let json = br#"{"a": 1, "b": [{"c": null, "c": -2.5}], "a": "x", "a": true}"#;
        let yaml = b"a: 1\nb:\n- c: null\n  c: -2.5\na: x\na: true\n";
        for document in [from_json(json).unwrap(), from_yaml(yaml).unwrap()] {
            assert_eq!(document.value, json!({ "a": true, "b": [{ "c": -2.5 }] }));
            assert_eq!(document.duplicates, ["b[0].c", "a"]);
        }
    }

    #[test]
    fn a_long_list_under_a_long_key_is_read_and_few_of_many_duplicates_are_noted() {
        let long = format!("{{\"{}\": [{}0]}}", "k".repeat(100_000), "0,".repeat(100_000));
        assert_eq!(from_json(long.as_bytes()).unwrap().duplicates, [""; 0]);
        let many = (0..100_000).map(|n| format!("\"{n}\": 0, \"{n}\": 1, ")).collect::<String>();
        let many = from_json(format!("{{{many}\"last\": 0}}").as_bytes()).unwrap();
        assert_eq!(many.duplicates.len(), MOST_DUPLICATES);
        assert_eq!(many.duplicates[31], "31");
    }

    #[test]
    fn half_a_document_and_more_than_one_are_refused() {
        for text in ["{\"a\":", "{} {}", "", "nul"] {
            assert!(from_json(text.as_bytes()).is_err(), "{text:?}");
        }
        assert!(from_yaml(b"a: 1\n---\na: 2\n").is_err());
        assert!(from_json("[".repeat(5000).as_bytes()).is_err());
    }

    #[test]
    fn other_values_are_as_before() {
        let text =
            br#"{"n": 18446744073709551615, "m": -9223372036854775808, "s": "\u00e9", "l": []}"#;
        let plain: Value = serde_json::from_slice(text).unwrap();
        assert_eq!(from_json(text).unwrap(), Document { value: plain, duplicates: Vec::new() });
    }
}
