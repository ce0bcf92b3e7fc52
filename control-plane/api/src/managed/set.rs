//! Sets of fields, and `FieldsV1`, their form in an object.
//!
//! Guarantees: a set that holds nothing is empty, also inside: no branch of it leads nowhere. What
//! is written reads back as the same set. A field is no part of its parent: sets may hold either
//! without the other.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::element::{Element, ParseElementFailed};
use super::view::View;

/// Of a set that is part of another: the element itself belongs to it.
const SELF: &str = ".";

/// A set of paths.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Set(BTreeMap<Element, Node>);

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Node {
    /// Whether the path that ends here belongs to the set.
    member: bool,
    below: Set,
}

impl Node {
    fn is_empty(&self) -> bool {
        !self.member && self.below.is_empty()
    }
}

/// A value that is no `FieldsV1`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ParseSetFailed {
    #[error(transparent)]
    Element(#[from] ParseElementFailed),
    #[error("{0} is not an object of path elements")]
    NoObject(String),
}

impl Set {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds a path. Nobody owns an object as a whole: the empty path is left out.
    pub(crate) fn insert(&mut self, path: &[Element]) {
        match path {
            [] => {}
            [last] => self.0.entry(last.clone()).or_default().member = true,
            [first, rest @ ..] => self.0.entry(first.clone()).or_default().below.insert(rest),
        }
    }

    /// Whether the element itself belongs to the set.
    pub(crate) fn has(&self, element: &Element) -> bool {
        self.0.get(element).is_some_and(|node| node.member)
    }

    /// What of the set is below an element, if anything is.
    pub(crate) fn below(&self, element: &Element) -> Option<&Self> {
        self.0.get(element).map(|node| &node.below).filter(|below| !below.is_empty())
    }

    /// Whether a path belongs to the set.
    pub(crate) fn contains(&self, path: &[Element]) -> bool {
        match path {
            [] => false,
            [last] => self.has(last),
            [first, rest @ ..] => self.below(first).is_some_and(|below| below.contains(rest)),
        }
    }

    pub(crate) fn union(&self, other: &Self) -> Self {
        let mut union = self.clone();
        for (element, node) in &other.0 {
            let mine = union.0.entry(element.clone()).or_default();
            mine.member |= node.member;
            mine.below = mine.below.union(&node.below);
        }
        union
    }

    pub(crate) fn intersection(&self, other: &Self) -> Self {
        self.filtered(other, |mine, theirs| Node {
            member: mine.member && theirs.member,
            below: mine.below.intersection(&theirs.below),
        })
    }

    /// What the other set does not have. A parent stays when only its child is taken, and so does
    /// a child when only its parent is.
    pub(crate) fn difference(&self, other: &Self) -> Self {
        self.filtered(other, |mine, theirs| Node {
            member: mine.member && !theirs.member,
            below: mine.below.difference(&theirs.below),
        })
    }

    fn filtered(&self, other: &Self, combine: impl Fn(&Node, &Node) -> Node) -> Self {
        let nothing = Node::default();
        let combined = self.0.iter().map(|(element, mine)| {
            let theirs = other.0.get(element).unwrap_or(&nothing);
            (element.clone(), combine(mine, theirs))
        });
        Self(combined.filter(|(_, node)| !node.is_empty()).collect())
    }

    /// Without the fields at the top that `keep` refuses, and all below them.
    pub(super) fn retain_fields(&mut self, keep: impl Fn(&str) -> bool) {
        self.0.retain(|element, _| element.field_name().is_none_or(&keep));
    }

    /// Without some of the top's fields themselves; what is below them stays.
    pub(super) fn discard_fields(&mut self, names: &[&str]) {
        self.0.retain(|element, node| {
            if element.field_name().is_some_and(|name| names.contains(&name)) {
                node.member = false;
            }
            !node.is_empty()
        });
    }

    /// Changes what is below a field of the top.
    pub(super) fn with_field(&mut self, name: &str, change: impl FnOnce(&mut Self)) {
        let element = Element::field(name);
        if let Some(node) = self.0.get_mut(&element) {
            change(&mut node.below);
            if node.is_empty() {
                self.0.remove(&element);
            }
        }
    }

    /// With the fields of types that lead to members: a type's fields are no members where only
    /// what is inside them is somebody's, yet they go away with their content.
    pub(crate) fn with_named_fields<V: View>(&self, view: &V) -> Self {
        let named = self.0.iter().map(|(element, node)| {
            let (inner, declared) = match element.field_name() {
                Some(name) => view.field(name).map_or((None, false), |(v, d)| (Some(v), d)),
                None => (Some(view.item()), false),
            };
            let below = match inner {
                Some(inner) => node.below.with_named_fields(&inner),
                None => node.below.clone(),
            };
            let member = node.member || declared && !below.is_empty();
            (element.clone(), Node { member, below })
        });
        Self(named.collect())
    }

    /// Every path: of each place first its own members, then those further in.
    pub(crate) fn paths(&self) -> Vec<Vec<Element>> {
        let mut paths = Vec::new();
        self.collect_paths(&mut Vec::new(), &mut paths);
        paths
    }

    fn collect_paths(&self, prefix: &mut Vec<Element>, paths: &mut Vec<Vec<Element>>) {
        for (element, _) in self.0.iter().filter(|(_, node)| node.member) {
            let mut path = prefix.clone();
            path.push(element.clone());
            paths.push(path);
        }
        for (element, node) in &self.0 {
            prefix.push(element.clone());
            node.below.collect_paths(prefix, paths);
            prefix.pop();
        }
    }

    pub(crate) fn parse(fields: &Value) -> Result<Self, ParseSetFailed> {
        Ok(Self::parse_node(fields)?.below)
    }

    fn parse_node(fields: &Value) -> Result<Node, ParseSetFailed> {
        let map = match fields {
            Value::Null => return Ok(Node { member: true, below: Self::default() }),
            Value::Object(map) => map,
            other => return Err(ParseSetFailed::NoObject(other.to_string())),
        };
        let mut node = Node::default();
        for (key, inner) in map {
            if key == SELF {
                node.member = true;
                continue;
            }
            let Some(element) = Element::parse(key)? else { continue };
            let inner = Self::parse_node(inner)?;
            if !inner.is_empty() {
                node.below.0.insert(element, inner);
            }
        }
        // An element with nothing below it stands for itself.
        node.member |= node.below.is_empty();
        Ok(node)
    }

    /// As `FieldsV1`.
    pub(crate) fn to_value(&self) -> Value {
        let fields = self.0.iter().map(|(element, node)| {
            let mut below = node.below.to_value();
            if let (true, Value::Object(map)) = (node.member && !node.below.is_empty(), &mut below)
            {
                map.insert(SELF.to_owned(), Value::Object(Map::new()));
            }
            (element.as_str().to_owned(), below)
        });
        Value::Object(fields.collect())
    }

    /// Whether a set in its stored form has a member in common with this one. Stored sets are in
    /// canonical form, so that a few look-ups decide.
    pub(super) fn touches(&self, stored: &Value) -> bool {
        self.0.iter().any(|(element, node)| {
            let Some(inner) = stored.get(element.as_str()) else { return false };
            node.member && is_member(inner) || node.below.touches(inner)
        })
    }

    /// Whether a set in its stored form has every member of this one.
    pub(super) fn is_within(&self, stored: &Value) -> bool {
        self.0.iter().all(|(element, node)| {
            let Some(inner) = stored.get(element.as_str()) else { return false };
            (!node.member || is_member(inner)) && node.below.is_within(inner)
        })
    }
}

fn is_member(stored: &Value) -> bool {
    stored.as_object().is_none_or(|map| map.is_empty() || map.contains_key(SELF))
}
