//! One step on the way from an object to a value inside it.
//!
//! Guarantees: two elements are equal exactly when their texts are; the order of the texts is the
//! order in which sets are written. Does not: know whether an object has such a place.

use std::borrow::Borrow;
use std::fmt;

use serde_json::{Map, Value};

/// A field, or an item of a list by its keys, its value or its index, in the spelling of
/// `FieldsV1`: `f:name`, `k:{"name":"c"}`, `v:"x"`, `i:0`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Element(String);

/// A text that spells no element.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no path element: {why}")]
pub(crate) struct ParseElementFailed {
    text: String,
    why: String,
}

impl Element {
    pub(crate) fn field(name: &str) -> Self {
        Self(format!("f:{name}"))
    }

    /// An item by its keys.
    pub(crate) fn keys(keys: Map<String, Value>) -> Self {
        Self(format!("k:{}", Value::Object(keys)))
    }

    /// An item by itself.
    pub(crate) fn value(value: &Value) -> Self {
        Self(format!("v:{value}"))
    }

    /// `None` is a kind of element that a later version may know: such are passed over.
    pub(crate) fn parse(text: &str) -> Result<Option<Self>, ParseElementFailed> {
        let failed = |why: String| ParseElementFailed { text: text.to_owned(), why };
        let Some((kind, rest)) = text.split_once(':').filter(|(kind, _)| kind.len() == 1) else {
            return Err(failed("it does not begin with a letter and a colon".to_owned()));
        };
        let json =
            || serde_json::from_str::<Value>(rest).map_err(|error| failed(error.to_string()));
        // What is read is written again, so that spaces and the order of keys make no difference.
        match kind {
            "f" => Ok(Some(Self(text.to_owned()))),
            "v" => Ok(Some(Self::value(&json()?))),
            "k" => match json()? {
                Value::Object(keys) => Ok(Some(Self::keys(keys))),
                _ => Err(failed("its keys are no JSON object".to_owned())),
            },
            "i" => match rest.parse::<i64>() {
                Ok(index) => Ok(Some(Self(format!("i:{index}")))),
                Err(error) => Err(failed(error.to_string())),
            },
            _ => Ok(None),
        }
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// The name, if it is a field.
    pub(crate) fn field_name(&self) -> Option<&str> {
        self.0.strip_prefix("f:")
    }
}

impl Borrow<str> for Element {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// As people read it: `.name`, `[name="c"]`, `[="x"]`, `[0]`.
impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.split_at(2.min(self.0.len())) {
            ("f:", name) => write!(f, ".{name}"),
            ("v:", value) => write!(f, "[={value}]"),
            ("i:", index) => write!(f, "[{index}]"),
            (_, keys) => {
                let keys: Map<String, Value> = serde_json::from_str(keys).unwrap_or_default();
                let keys: Vec<String> =
                    keys.iter().map(|(name, value)| format!("{name}={value}")).collect();
                write!(f, "[{}]", keys.join(","))
            }
        }
    }
}

/// A path as people read it: `.spec.containers[name="c"].image`.
pub(super) fn path_text(path: &[Element]) -> String {
    path.iter().map(ToString::to_string).collect()
}
