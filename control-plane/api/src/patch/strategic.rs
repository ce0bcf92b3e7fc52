//! Strategic merge patch: a merge patch that knows which lists are sets and maps.
//!
//! The facts about fields come from [`crate::schema`]; a field that it does not know merges as RFC
//! 7386 says. Directives, all of which are consumed here and never stored:
//! - `$patch: replace | delete | merge` in an object, or in an item of a merged list;
//! - `$retainKeys: [..]` in an object: other keys go away;
//! - `$deleteFromPrimitiveList/<field>: [..]`: removes scalars from a list;
//! - `$setElementOrder/<field>: [..]`: the order of a merged list; what only the server has keeps
//!   its place between its neighbours.

use serde_json::{Map, Value};

use super::PatchFailed;
use crate::schema::patch_facts::{Fact, Strategy};
use crate::schema::{Graph, Shape, graph};

const DIRECTIVE: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_FROM: &str = "$deleteFromPrimitiveList/";
const SET_ORDER: &str = "$setElementOrder/";

pub(super) fn apply(schema: &str, document: &Value, patch: &Value) -> Result<Value, PatchFailed> {
    let shape = Shape::Type(schema.to_owned());
    let mut patched = document.clone();
    if let Value::Object(patch) = patch {
        merge_into(graph(), Some(&shape), &mut patched, patch)?;
    }
    Ok(patched)
}

fn malformed(message: impl Into<String>) -> PatchFailed {
    PatchFailed::Malformed(message.into())
}

/// The directive of an object in a patch.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Directive {
    Merge,
    Replace,
    Delete,
}

fn directive(patch: &Map<String, Value>) -> Result<Directive, PatchFailed> {
    match patch.get(DIRECTIVE) {
        None => Ok(Directive::Merge),
        Some(Value::String(text)) => match text.as_str() {
            "merge" => Ok(Directive::Merge),
            "replace" => Ok(Directive::Replace),
            "delete" => Ok(Directive::Delete),
            other => Err(malformed(format!("unknown patch type found: {other}"))),
        },
        Some(other) => Err(malformed(format!("unknown patch type found: {other}"))),
    }
}

/// Merges `patch` into `target`, which becomes an object.
fn merge_into(
    graph: &Graph,
    shape: Option<&Shape>,
    target: &mut Value,
    patch: &Map<String, Value>,
) -> Result<(), PatchFailed> {
    match directive(patch)? {
        Directive::Replace => {
            let mut whole = patch.clone();
            whole.remove(DIRECTIVE);
            *target = Value::Object(whole);
            return Ok(());
        }
        Directive::Delete => {
            *target = Value::Object(Map::new());
            return Ok(());
        }
        Directive::Merge => {}
    }
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(map) = target else { return Ok(()) };
    let orders = orders(graph, shape, map, patch)?;
    retain_keys(map, patch)?;
    for (key, value) in patch {
        if let Some(field) = key.strip_prefix(DELETE_FROM) {
            delete_scalars(map, field, value)?;
        }
    }
    for (key, value) in patch.iter().filter(|(key, _)| !key.starts_with('$')) {
        let (inner, fact) = field(graph, shape, key);
        merge_field(graph, inner, fact, map, (key, value))?;
    }
    for (name, fact, order, live) in orders {
        if let Some(Value::Array(list)) = map.get_mut(name) {
            reorder(fact, list, order, &live);
        }
    }
    Ok(())
}

/// A list's field, fact, wanted order, and items before the patch.
type Order<'p> = (&'p str, &'static Fact, &'p [Value], Vec<Value>);

/// The orders that a patch sets.
fn orders<'p>(
    graph: &Graph,
    shape: Option<&Shape>,
    map: &Map<String, Value>,
    patch: &'p Map<String, Value>,
) -> Result<Vec<Order<'p>>, PatchFailed> {
    let mut orders = Vec::new();
    for (key, order) in patch {
        let Some(name) = key.strip_prefix(SET_ORDER) else { continue };
        let order = as_list(order, key)?;
        let (_, Some(fact)) = field(graph, shape, name) else { continue };
        let patched = patch.get(name).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        check_order(fact, patched, order, key)?;
        let live = map.get(name).and_then(Value::as_array).cloned().unwrap_or_default();
        orders.push((name, fact, order, live));
    }
    Ok(orders)
}

fn as_list<'a>(value: &'a Value, key: &str) -> Result<&'a [Value], PatchFailed> {
    let list = value.as_array().map(Vec::as_slice);
    list.ok_or_else(|| malformed(format!("invalid value for {key}: a list is expected")))
}

/// What is known of a field of `shape`.
fn field<'g>(
    graph: &'g Graph,
    shape: Option<&'g Shape>,
    key: &str,
) -> (Option<&'g Shape>, Option<&'static Fact>) {
    match shape {
        Some(Shape::Type(name)) => match graph.fields(name).and_then(|fields| fields.get(key)) {
            Some(field) => (Some(&field.shape), field.fact),
            None => (None, None),
        },
        Some(Shape::Map(inner)) => (Some(&**inner), None),
        _ => (None, None),
    }
}

fn merge_field(
    graph: &Graph,
    shape: Option<&Shape>,
    fact: Option<&'static Fact>,
    map: &mut Map<String, Value>,
    (key, value): (&str, &Value),
) -> Result<(), PatchFailed> {
    match value {
        Value::Null => {
            map.remove(key);
        }
        Value::Object(_) if fact.is_some_and(|f| f.strategy == Strategy::ReplaceObject) => {
            map.insert(key.to_owned(), value.clone());
        }
        Value::Object(patch) => {
            let target = map.entry(key).or_insert(Value::Null);
            merge_into(graph, shape, target, patch)?;
        }
        Value::Array(items) => {
            let merges = fact.filter(|fact| {
                matches!(fact.strategy, Strategy::Merge | Strategy::MergeRetainKeys)
            });
            let current = match map.remove(key) {
                Some(Value::Array(list)) if merges.is_some() => list,
                _ => Vec::new(),
            };
            let item_shape = match shape {
                Some(Shape::List(item)) => Some(&**item),
                _ => None,
            };
            let list = match merges {
                Some(fact) if fact.merge_key.is_empty() => merge_scalars(current, items),
                Some(fact) => merge_items(graph, item_shape, fact, current, items)?,
                None => items.clone(),
            };
            map.insert(key.to_owned(), Value::Array(list));
        }
        scalar => {
            map.insert(key.to_owned(), scalar.clone());
        }
    }
    Ok(())
}

fn retain_keys(
    map: &mut Map<String, Value>,
    patch: &Map<String, Value>,
) -> Result<(), PatchFailed> {
    let Some(retained) = patch.get(RETAIN_KEYS) else { return Ok(()) };
    let retained = as_list(retained, RETAIN_KEYS)?;
    let keeps = |key: &str| retained.iter().any(|one| one == key);
    let stray =
        patch.iter().find(|(key, value)| !key.starts_with('$') && !value.is_null() && !keeps(key));
    if let Some((key, _)) = stray {
        let message =
            format!("{RETAIN_KEYS} list doesn't contain a key present in the patch: {key}");
        return Err(malformed(message));
    }
    map.retain(|key, _| keeps(key));
    Ok(())
}

fn delete_scalars(
    map: &mut Map<String, Value>,
    field: &str,
    values: &Value,
) -> Result<(), PatchFailed> {
    let values = as_list(values, &format!("{DELETE_FROM}{field}"))?;
    if let Some(Value::Array(list)) = map.get_mut(field) {
        list.retain(|one| !values.contains(one));
    }
    Ok(())
}

fn merge_scalars(mut list: Vec<Value>, items: &[Value]) -> Vec<Value> {
    for item in items {
        if !list.contains(item) {
            list.push(item.clone());
        }
    }
    list
}

fn merge_items(
    graph: &Graph,
    shape: Option<&Shape>,
    fact: &Fact,
    mut list: Vec<Value>,
    items: &[Value],
) -> Result<Vec<Value>, PatchFailed> {
    let key = fact.merge_key;
    let objects = items.iter().map(|item| {
        item.as_object().ok_or_else(|| malformed("expected a list of objects in the patch"))
    });
    let objects: Vec<&Map<String, Value>> = objects.collect::<Result<_, _>>()?;
    let (mut merged, mut replaces) = (Vec::new(), false);
    for item in objects {
        let directive = directive(item)?;
        if directive == Directive::Replace {
            // Alone in an item it replaces the whole list by the other items.
            if item.len() == 1 {
                replaces = true;
                continue;
            }
        } else if !item.contains_key(key) {
            return Err(malformed(format!(
                "map: {} does not contain declared merge key: {key}",
                Value::Object(item.clone())
            )));
        }
        match directive {
            Directive::Delete => list.retain(|one| one.get(key) != item.get(key)),
            Directive::Replace | Directive::Merge => merged.push(item),
        }
    }
    if replaces {
        list.clear();
    }
    for item in merged {
        // What replaces a list is as it is: of node addresses, two may share the key.
        let same = |one: &&mut Value| !replaces && one.get(key) == item.get(key);
        match list.iter_mut().find(same) {
            Some(target) => merge_into(graph, shape, target, item)?,
            None => {
                let mut fresh = Value::Null;
                merge_into(graph, shape, &mut fresh, item)?;
                list.push(fresh);
            }
        }
    }
    Ok(list)
}

/// The identity of an item in a list: its merge key, or itself.
fn identity<'a>(fact: &Fact, item: &'a Value) -> &'a Value {
    if fact.merge_key.is_empty() { item } else { &item[fact.merge_key] }
}

/// Every item that the patch sends must be in its order list, in that order.
fn check_order(
    fact: &Fact,
    patched: &[Value],
    order: &[Value],
    key: &str,
) -> Result<(), PatchFailed> {
    let mut ordered = order.iter();
    let live = patched.iter().filter(|item| item.get(DIRECTIVE).is_none());
    for item in live {
        let id = identity(fact, item);
        if !ordered.any(|one| identity(fact, one) == id) {
            return Err(malformed(format!("The order in patch list doesn't match {key} list")));
        }
    }
    Ok(())
}

/// Puts the items that `order` names in its order. The others keep their order among themselves,
/// each before the first ordered item that it preceded in `live`.
fn reorder(fact: &Fact, list: &mut Vec<Value>, order: &[Value], live: &[Value]) {
    let position = |list: &[Value], item: &Value| {
        let id = identity(fact, item);
        list.iter().position(|one| identity(fact, one) == id)
    };
    let (mut named, mut others) = (Vec::new(), Vec::new());
    for item in std::mem::take(list) {
        let place = position(live, &item);
        match position(order, &item) {
            Some(rank) => named.push((rank, place, item)),
            None => others.push((place, item)),
        }
    }
    named.sort_by_key(|(rank, ..)| *rank);
    let mut others = others.into_iter().peekable();
    for (_, place, item) in named {
        // An item that is new has no place, and so comes before what the order does not name.
        while let Some((_, other)) = others.next_if(|(other, _)| place.is_some() && *other < place)
        {
            list.push(other);
        }
        list.push(item);
    }
    list.extend(others.map(|(_, item)| item));
}
