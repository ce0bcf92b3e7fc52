//! Field selectors.

use serde_json::Value;

use super::ParseSelectorFailed;
use crate::object;
use crate::resource::Resource;

/// A conjunction of requirements on selectable fields.
#[derive(Clone, Debug, Default)]
pub struct FieldSelector {
    requirements: Vec<Requirement>,
    /// Those of the kind.
    fields: Option<ReadFields>,
}

/// The fields of an object as it is stored, under the names that a version has for them.
type ReadFields = fn(&Value) -> Vec<(&'static str, String)>;

#[derive(Clone, Debug)]
struct Requirement {
    field: String,
    equal: bool,
    value: String,
}

/// Kinds that offer only what all offer say so.
fn not_offered(field: &str, only_metadata: bool) -> String {
    if only_metadata {
        let all = r#""metadata.name", "metadata.namespace""#;
        format!("\"{field}\" is not a known field selector: only {all}")
    } else {
        format!("field label not supported: {field}")
    }
}

impl FieldSelector {
    /// Parses the query parameter, such as `spec.nodeName=n1,status.phase!=Failed`; a field that
    /// the kind does not offer is an error.
    pub fn parse(resource: &Resource, text: &str) -> Result<Self, ParseSelectorFailed> {
        let offered = (resource.fields)(&Value::Null);
        let mut requirements = Vec::new();
        for term in split_terms(text) {
            if term.is_empty() {
                continue;
            }
            let requirement = Requirement::parse(term, text)?;
            let field = requirement.field.as_str();
            let known = field == "metadata.name"
                || (field == "metadata.namespace" && resource.namespaced)
                || offered.iter().any(|(label, _)| *label == field);
            if !known {
                return Err(ParseSelectorFailed(not_offered(field, offered.is_empty())));
            }
            requirements.push(requirement);
        }
        Ok(Self { requirements, fields: Some(resource.fields) })
    }

    /// Whether it selects everything.
    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }

    /// The value that a field must equal, when the selector says so (to narrow a range read).
    pub fn required(&self, field: &str) -> Option<&str> {
        let mut requirements = self.requirements.iter();
        requirements.find(|one| one.equal && one.field == field).map(|one| one.value.as_str())
    }

    /// Whether an object of the kind, as it is stored, is selected.
    pub fn matches(&self, object: &Value) -> bool {
        if self.requirements.is_empty() {
            return true;
        }
        let read = || self.fields.map(|fields| fields(object)).unwrap_or_default();
        let mut fields = None;
        self.requirements.iter().all(|one| {
            let equal = match one.field.as_str() {
                "metadata.name" => object::name(object) == one.value,
                "metadata.namespace" => object::namespace(object) == one.value,
                field => fields
                    .get_or_insert_with(read)
                    .iter()
                    .any(|(label, value)| *label == field && *value == one.value),
            };
            equal == one.equal
        })
    }
}

impl Requirement {
    fn parse(term: &str, text: &str) -> Result<Self, ParseSelectorFailed> {
        let invalid = || {
            let message = format!("invalid selector: '{text}'; can't understand '{term}'");
            ParseSelectorFailed(message)
        };
        let at = term.find(['=', '!']).ok_or_else(invalid)?;
        let (field, rest) = term.split_at(at);
        let (equal, value) = match rest {
            _ if rest.starts_with("!=") => (false, &rest[2..]),
            _ if rest.starts_with("==") => (true, &rest[2..]),
            _ if rest.starts_with('=') => (true, &rest[1..]),
            _ => return Err(invalid()),
        };
        let value = unescape(value).ok_or_else(invalid)?;
        Ok(Self { field: field.to_owned(), equal, value })
    }
}

/// Splits at commas that no backslash precedes.
fn split_terms(text: &str) -> impl Iterator<Item = &str> {
    let mut escaped = false;
    text.split(move |c| {
        let splits = c == ',' && !escaped;
        escaped = c == '\\' && !escaped;
        splits
    })
}

fn unescape(value: &str) -> Option<String> {
    let mut text = String::new();
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => text.push(chars.next().filter(|c| matches!(c, '\\' | ',' | '='))?),
            '=' | ',' => return None,
            c => text.push(c),
        }
    }
    Some(text)
}
