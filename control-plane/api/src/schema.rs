//! The shape of every served type, from the schemas of the typed structs and the table of facts.
//!
//! Guarantees: one graph, built once; the walks below follow it and stop at what it does not know.
//! Does not: keep descriptions; [`crate::openapi`] renders those from the generator again.

pub(crate) mod patch_facts;

use std::collections::{HashMap, HashSet};
use std::sync::OnceLock;

use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value};

use crate::quantity::{ParseQuantityFailed, Quantity};
use crate::resource::RESOURCES;
use patch_facts::{Fact, fact, is_atomic, is_atomic_map};

/// Where the generator puts the definitions.
pub(crate) const DEFINITIONS: &str = "#/components/schemas/";

const QUANTITY: &str = "io.k8s.apimachinery.pkg.api.resource.Quantity";

/// What a value may be.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// A type with fields, by name.
    Type(String),
    List(Box<Shape>),
    /// Any keys, one shape of values.
    Map(Box<Shape>),
    Quantity,
    /// A scalar, or something whose inside is free.
    Leaf,
}

/// A field of a type.
#[derive(Debug)]
pub(crate) struct Field {
    pub(crate) shape: Shape,
    pub(crate) fact: Option<&'static Fact>,
    /// Whether every write replaces a map as a whole.
    pub(crate) atomic: bool,
}

/// The types by name, such as `io.k8s.api.core.v1.Pod`.
pub(crate) struct Graph {
    types: HashMap<String, HashMap<String, Field>>,
    atomic: HashSet<String>,
}

/// The graph of all served types.
pub(crate) fn graph() -> &'static Graph {
    static GRAPH: OnceLock<Graph> = OnceLock::new();
    GRAPH.get_or_init(|| Graph::from_definitions(&definitions(|_, _| true)))
}

/// The definitions of the chosen group versions' kinds and of all they refer to.
pub(crate) fn definitions(choose: impl Fn(&str, &str) -> bool) -> Map<String, Value> {
    let mut settings = SchemaSettings::draft2020_12();
    settings.definitions_path = "/components/schemas".into();
    let mut generator = SchemaGenerator::new(settings);
    for resource in RESOURCES.iter().filter(|r| choose(r.group, r.version)) {
        (resource.add_schema)(&mut generator);
    }
    generator.take_definitions(false)
}

impl Graph {
    fn from_definitions(definitions: &Map<String, Value>) -> Self {
        let types = definitions.iter().filter_map(|(name, schema)| {
            let properties = schema.get("properties")?.as_object()?;
            let fields = properties.iter().map(|(field, schema)| {
                let shape = Shape::of(definitions, schema);
                let (fact, atomic) = (fact(name, field), is_atomic_map(name, field));
                (field.clone(), Field { shape, fact, atomic })
            });
            Some((name.clone(), fields.collect()))
        });
        let atomic = definitions.keys().filter(|name| is_atomic(name)).cloned();
        Self { types: types.collect(), atomic: atomic.collect() }
    }

    /// Whether every write replaces an object of the type as a whole.
    pub(crate) fn is_atomic(&self, name: &str) -> bool {
        self.atomic.contains(name)
    }

    /// The fields of a type.
    pub(crate) fn fields(&self, name: &str) -> Option<&HashMap<String, Field>> {
        self.types.get(name)
    }

    /// The path and error of the first text that should be a quantity and is none.
    pub(crate) fn check_quantities(
        &self,
        type_name: &str,
        object: &Value,
    ) -> Result<(), (String, ParseQuantityFailed)> {
        let mut found = Ok(());
        let mut check = |path: &str, value: &Value| {
            if let (Err(error), true) = (parse_quantity(value), found.is_ok()) {
                found = Err((path.to_owned(), error));
            }
        };
        let shape = Shape::Type(type_name.to_owned());
        self.visit_quantities(&shape, object, &mut String::new(), &mut check);
        found
    }

    fn visit_quantities(
        &self,
        shape: &Shape,
        value: &Value,
        path: &mut String,
        visit: &mut impl FnMut(&str, &Value),
    ) {
        let length = path.len();
        match (shape, value) {
            (_, Value::Null) => {}
            (Shape::Quantity, value) => visit(path, value),
            (Shape::Type(name), Value::Object(map)) => {
                let Some(fields) = self.fields(name) else { return };
                for (key, value) in map {
                    let Some(field) = fields.get(key) else { continue };
                    push_key(path, key);
                    self.visit_quantities(&field.shape, value, path, visit);
                    path.truncate(length);
                }
            }
            (Shape::Map(inner), Value::Object(map)) if **inner != Shape::Leaf => {
                for (key, value) in map {
                    push_key(path, key);
                    self.visit_quantities(inner, value, path, visit);
                    path.truncate(length);
                }
            }
            (Shape::List(inner), Value::Array(list)) if **inner != Shape::Leaf => {
                for (index, value) in list.iter().enumerate() {
                    path.push_str(&format!("[{index}]"));
                    self.visit_quantities(inner, value, path, visit);
                    path.truncate(length);
                }
            }
            _ => {}
        }
    }

    /// Makes `value` what decoding it into the type and encoding it again would make it: unknown
    /// fields and nulls are gone, quantities canonical. Returns the paths of the unknown fields.
    pub(crate) fn normalize(&self, type_name: &str, value: &mut Value) -> Vec<String> {
        let mut unknown = Vec::new();
        let shape = Shape::Type(type_name.to_owned());
        self.normalize_at(&shape, value, &mut String::new(), &mut unknown);
        unknown
    }

    fn normalize_at(
        &self,
        shape: &Shape,
        value: &mut Value,
        path: &mut String,
        unknown: &mut Vec<String>,
    ) {
        let length = path.len();
        match (shape, value) {
            (Shape::Quantity, value) => {
                if let Ok(quantity) = parse_quantity(value) {
                    *value = Value::from(quantity.to_string());
                }
            }
            (Shape::Type(name), Value::Object(map)) => {
                let Some(fields) = self.fields(name) else { return };
                map.retain(|key, value| {
                    push_key(path, key);
                    let field = fields.get(key);
                    match field {
                        Some(field) => self.normalize_at(&field.shape, value, path, unknown),
                        None => unknown.push(path.clone()),
                    }
                    path.truncate(length);
                    field.is_some() && !value.is_null()
                });
            }
            (Shape::Map(inner), Value::Object(map)) if **inner != Shape::Leaf => {
                for (key, value) in map.iter_mut() {
                    push_key(path, key);
                    self.normalize_at(inner, value, path, unknown);
                    path.truncate(length);
                }
            }
            (Shape::List(inner), Value::Array(list)) if **inner != Shape::Leaf => {
                for (index, value) in list.iter_mut().enumerate() {
                    path.push_str(&format!("[{index}]"));
                    self.normalize_at(inner, value, path, unknown);
                    path.truncate(length);
                }
            }
            _ => {}
        }
    }
}

fn push_key(path: &mut String, key: &str) {
    if !path.is_empty() {
        path.push('.');
    }
    path.push_str(key);
}

/// Reads a quantity as JSON may write it: a text or a number.
pub(crate) fn parse_quantity(value: &Value) -> Result<Quantity, ParseQuantityFailed> {
    match value {
        Value::String(text) => text.parse(),
        Value::Number(number) => number.to_string().parse(),
        _ => Err(ParseQuantityFailed),
    }
}

impl Shape {
    fn of(definitions: &Map<String, Value>, schema: &Value) -> Self {
        if let Some(name) = schema["$ref"].as_str().and_then(|r| r.strip_prefix(DEFINITIONS)) {
            return match definitions.get(name) {
                _ if name == QUANTITY => Self::Quantity,
                Some(target) if target.get("properties").is_some() => Self::Type(name.to_owned()),
                _ => Self::Leaf,
            };
        }
        match schema["type"].as_str() {
            Some("array") => Self::List(Box::new(Self::of(definitions, &schema["items"]))),
            Some("object") if schema["additionalProperties"].is_object() => {
                Self::Map(Box::new(Self::of(definitions, &schema["additionalProperties"])))
            }
            _ => Self::Leaf,
        }
    }
}

#[cfg(test)]
mod tests;
