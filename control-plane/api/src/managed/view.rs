//! What merging needs to know of a schema.
//!
//! Guarantees: walks that use a [`View`] know no kind: whoever has a schema of another make, such
//! as that of a custom kind, implements it and gets the same rules.

use serde_json::Value;

use crate::schema::patch_facts::{Fact, ListType, key_default};
use crate::schema::{Graph, Shape, graph};

/// How a value is merged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// As the value itself suggests: an object field by field, anything else as a whole.
    Free,
    /// As a whole.
    Atomic,
    /// Field by field, or key by key.
    Map,
    /// Item by item; items are known by their keys.
    Keyed,
    /// Item by item; items are scalars.
    Set,
}

/// A key of a list's items.
pub(crate) struct Key<'a> {
    pub(crate) name: &'a str,
    /// What it is where an item leaves it out.
    pub(crate) default: Option<Value>,
}

/// The schema of one value.
pub(crate) trait View: Clone {
    fn form(&self) -> Form;

    /// What is at a field, and whether the schema names the field; `None` where it allows none.
    fn field(&self, name: &str) -> Option<(Self, bool)>;

    /// What the items of a list are.
    fn item(&self) -> Self;

    /// The keys of a list's items.
    fn keys(&self) -> Vec<Key<'_>>;
}

/// The schema of a value of a built-in kind.
#[derive(Clone)]
pub(crate) enum TypedView {
    /// An object of a type.
    Type(&'static str),
    /// A field's value.
    Field { shape: &'static Shape, fact: Option<&'static Fact>, atomic: bool },
    /// Anything.
    Free,
}

impl TypedView {
    fn graph() -> &'static Graph {
        graph()
    }

    fn of(shape: &'static Shape, fact: Option<&'static Fact>, atomic: bool) -> Self {
        match shape {
            Shape::Type(name) if !atomic => Self::Type(name),
            Shape::Leaf | Shape::Quantity if !atomic => Self::Free,
            shape => Self::Field { shape, fact, atomic },
        }
    }
}

impl View for TypedView {
    fn form(&self) -> Form {
        match self {
            Self::Free => Form::Free,
            Self::Type(name) if Self::graph().is_atomic(name) => Form::Atomic,
            Self::Type(_) => Form::Map,
            Self::Field { atomic: true, .. } => Form::Atomic,
            Self::Field { shape: Shape::List(_), fact, .. } => match fact.map(|fact| fact.list) {
                Some(ListType::Map(_)) => Form::Keyed,
                Some(ListType::Set) => Form::Set,
                Some(ListType::Atomic | ListType::None) | None => Form::Atomic,
            },
            Self::Field { .. } => Form::Map,
        }
    }

    fn field(&self, name: &str) -> Option<(Self, bool)> {
        match self {
            Self::Free => Some((Self::Free, false)),
            Self::Type(type_name) => {
                let field = Self::graph().fields(type_name)?.get(name)?;
                Some((Self::of(&field.shape, field.fact, field.atomic), true))
            }
            Self::Field { shape: Shape::Map(inner), .. } => {
                Some((Self::of(inner, None, false), false))
            }
            Self::Field { .. } => None,
        }
    }

    fn item(&self) -> Self {
        match self {
            Self::Field { shape: Shape::List(inner), .. } => Self::of(inner, None, false),
            _ => Self::Free,
        }
    }

    fn keys(&self) -> Vec<Key<'_>> {
        let Self::Field { shape: Shape::List(item), fact: Some(fact), .. } = self else {
            return Vec::new();
        };
        let ListType::Map(keys) = fact.list else { return Vec::new() };
        let default = |name: &str| match &**item {
            Shape::Type(type_name) => key_default(type_name, name).map(Value::from),
            _ => None,
        };
        keys.iter().map(|name| Key { name, default: default(name) }).collect()
    }
}
