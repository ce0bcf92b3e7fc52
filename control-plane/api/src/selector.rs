//! Label and field selectors: parsing and matching.

use serde_json::Value;

use crate::resource::Resource;

/// A conjunction of requirements on labels.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelSelector {}

/// A text or object that is no selector.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ParseSelectorFailed(pub(crate) String);

impl LabelSelector {
    /// Parses the query parameter, such as `app=web,tier in (a,b),!legacy`. Empty selects all.
    pub fn parse(text: &str) -> Result<Self, ParseSelectorFailed> {
        let _ = text;
        Ok(Self {})
    }

    /// Reads a `metav1.LabelSelector` (`matchLabels`, `matchExpressions`). `Null` selects nothing.
    pub fn from_label_selector(selector: &Value) -> Result<Self, ParseSelectorFailed> {
        let _ = selector;
        Ok(Self {})
    }

    /// Reads a plain map of labels, as services and replication controllers have it.
    pub fn from_map(labels: &Value) -> Self {
        let _ = labels;
        Self {}
    }

    /// Whether it selects everything, so that no object needs to be looked at.
    pub fn is_empty(&self) -> bool {
        true
    }

    /// Whether labels, given as a lookup, are selected.
    pub fn matches<'a>(&self, label: impl Fn(&str) -> Option<&'a str>) -> bool {
        let _ = label;
        true
    }

    /// Whether the object's labels are selected.
    pub fn matches_object(&self, object: &Value) -> bool {
        let _ = object;
        true
    }
}

/// A conjunction of requirements on selectable fields.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSelector {}

impl FieldSelector {
    /// Parses the query parameter, such as `spec.nodeName=n1,status.phase!=Failed`; a field that the
    /// kind does not offer is an error.
    pub fn parse(resource: &Resource, text: &str) -> Result<Self, ParseSelectorFailed> {
        let _ = (resource, text);
        Ok(Self {})
    }

    /// Whether it selects everything.
    pub fn is_empty(&self) -> bool {
        true
    }

    /// The value that a field must equal, when the selector says so (to narrow a range read).
    pub fn required(&self, field: &str) -> Option<&str> {
        let _ = field;
        None
    }

    /// Whether the object is selected.
    pub fn matches(&self, resource: &Resource, object: &Value) -> bool {
        let _ = (resource, object);
        true
    }
}
