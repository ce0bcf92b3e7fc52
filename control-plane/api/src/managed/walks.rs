//! The walks over values along a schema: which fields a value has, what two values differ in, what
//! they make together, and what is left without some fields.
//!
//! Guarantees: equal values differ in nothing; what a merge makes has every field of both. An
//! explicit null is a value: it makes a scalar go away, and an object or a list keeps what it has.

use serde_json::{Map, Value};

use super::element::{Element, path_text};
use super::list::{Grouped, elements};
use super::set::Set;
use super::view::{Form, View};

/// The fields that a value has, or what is wrong with it: fields that the schema does not have, and
/// items that cannot be told apart.
pub(crate) fn fields_of<V: View>(view: &V, value: &Value) -> Result<Set, Vec<String>> {
    let mut walk = FieldsOf { set: Set::default(), path: Vec::new(), errors: Vec::new() };
    walk.value(view, value);
    if walk.errors.is_empty() { Ok(walk.set) } else { Err(walk.errors) }
}

struct FieldsOf {
    set: Set,
    path: Vec<Element>,
    errors: Vec<String>,
}

impl FieldsOf {
    fn value<V: View>(&mut self, view: &V, value: &Value) {
        match (view.form(), value) {
            (Form::Map | Form::Keyed | Form::Set, Value::Null) => {}
            (Form::Map | Form::Free, Value::Object(map)) => self.map(view, map),
            (Form::Keyed | Form::Set, Value::Array(items)) => self.items(view, items),
            _ => self.set.insert(&self.path),
        }
    }

    fn map<V: View>(&mut self, view: &V, map: &Map<String, Value>) {
        for (name, value) in map {
            self.path.push(Element::field(name));
            match view.field(name) {
                Some((inner, declared)) => {
                    self.value(&inner, value);
                    let hollow = value.is_null() || value.as_object().is_some_and(Map::is_empty);
                    if hollow || !declared {
                        self.set.insert(&self.path);
                    }
                }
                None => self.error("field not declared in schema"),
            }
            self.path.pop();
        }
    }

    fn items<V: View>(&mut self, view: &V, items: &[Value]) {
        for (index, element) in elements(view, items).into_iter().enumerate() {
            if let Err(why) = element {
                self.error(&format!("element {index}: {why}"));
            }
        }
        let (inner, grouped) = (view.item(), Grouped::of(view, items));
        for element in &grouped.order {
            let same = grouped.get(element);
            if same.len() > 1 {
                self.error(&format!("duplicate entries for key {element}"));
            }
            self.path.push(element.clone());
            // Of duplicates nobody can say whose field is whose: they are owned together.
            if let [one] = same {
                self.value(&inner, one);
            }
            self.set.insert(&self.path);
            self.path.pop();
        }
    }

    fn error(&mut self, what: &str) {
        self.errors.push(format!("{}: {what}", path_text(&self.path)));
    }
}

/// What one value has and another has not.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Difference {
    /// What is new or other than before.
    pub(crate) changed: Set,
    pub(crate) removed: Set,
}

impl Difference {
    pub(crate) fn is_empty(&self) -> bool {
        self.changed.is_empty() && self.removed.is_empty()
    }
}

/// What `after` differs in from `before`, among the fields at the top that `counts` names.
pub(crate) fn difference<V: View>(
    view: &V,
    before: &Value,
    after: &Value,
    counts: impl Fn(&str) -> bool,
) -> Difference {
    let mut walk = Compare { found: Difference::default(), path: Vec::new() };
    let nothing = Map::new();
    let before = before.as_object().unwrap_or(&nothing);
    let after = after.as_object().unwrap_or(&nothing);
    walk.map(view, before, after, counts);
    walk.found
}

struct Compare {
    found: Difference,
    path: Vec<Element>,
}

/// What is there and has something in it.
fn filled_map(value: Option<&Value>) -> Option<&Map<String, Value>> {
    value.and_then(Value::as_object).filter(|map| !map.is_empty())
}

fn filled_list(value: Option<&Value>) -> Option<&[Value]> {
    value.and_then(Value::as_array).filter(|list| !list.is_empty()).map(Vec::as_slice)
}

impl Compare {
    fn value<V: View>(&mut self, view: &V, before: Option<&Value>, after: Option<&Value>) {
        if before == after {
            return;
        }
        match view.form() {
            Form::Map | Form::Free => match (filled_map(before), filled_map(after)) {
                (None, None) => return self.leaf(before, after),
                (old, new) => {
                    let nothing = Map::new();
                    self.map(view, old.unwrap_or(&nothing), new.unwrap_or(&nothing), |_| true);
                }
            },
            Form::Keyed | Form::Set => match (filled_list(before), filled_list(after)) {
                (None, None) => return self.leaf(before, after),
                (old, new) => self.items(view, old.unwrap_or(&[]), new.unwrap_or(&[])),
            },
            Form::Atomic => return self.leaf(before, after),
        }
        let scalar = |value: &Value| !matches!(value, Value::Object(_) | Value::Null);
        match (before, after) {
            (None, _) => self.found.changed.insert(&self.path),
            (_, None) => self.found.removed.insert(&self.path),
            // A free value that was an object and is none any more, or the other way round.
            (Some(old), Some(new)) if view.form() == Form::Free && scalar(old) != scalar(new) => {
                self.found.changed.insert(&self.path);
            }
            _ => {}
        }
    }

    fn leaf(&mut self, before: Option<&Value>, after: Option<&Value>) {
        match (before, after) {
            (Some(_), None) => self.found.removed.insert(&self.path),
            _ => self.found.changed.insert(&self.path),
        }
    }

    fn map<V: View>(
        &mut self,
        view: &V,
        before: &Map<String, Value>,
        after: &Map<String, Value>,
        counts: impl Fn(&str) -> bool,
    ) {
        let gone = before.keys().filter(|name| !after.contains_key(*name));
        for name in after.keys().chain(gone) {
            let (old, new) = (before.get(name), after.get(name));
            if old == new || !counts(name) {
                continue;
            }
            let Some((inner, _)) = view.field(name) else { continue };
            self.path.push(Element::field(name));
            self.value(&inner, old, new);
            self.path.pop();
        }
    }

    fn items<V: View>(&mut self, view: &V, before: &[Value], after: &[Value]) {
        let inner = view.item();
        let (before, after) = (Grouped::of(view, before), Grouped::of(view, after));
        let new = after.order.iter().filter(|element| !before.has(element));
        for element in before.order.iter().chain(new) {
            self.path.push(element.clone());
            match (before.get(element), after.get(element)) {
                (old @ ([] | [_]), new @ ([] | [_])) => {
                    self.value(&inner, old.first().copied(), new.first().copied());
                }
                // Duplicates are owned together.
                ([], _) => self.found.changed.insert(&self.path),
                ([one], _) => {
                    self.value(&inner, Some(one), None);
                    self.found.changed.insert(&self.path);
                }
                (_, []) => self.found.removed.insert(&self.path),
                (_, [one]) => {
                    self.value(&inner, None, Some(one));
                    self.found.removed.insert(&self.path);
                }
                (old, new) if old != new => self.found.changed.insert(&self.path),
                _ => {}
            }
            self.path.pop();
        }
    }
}

/// What a live value becomes with a configuration that says some of its fields.
pub(crate) fn merge<V: View>(view: &V, live: &Value, config: &Value) -> Value {
    merge_value(view, Some(live), Some(config)).unwrap_or_else(|| Value::Object(Map::new()))
}

fn merge_value<V: View>(view: &V, live: Option<&Value>, config: Option<&Value>) -> Option<Value> {
    let whole = || config.or(live).cloned();
    match view.form() {
        Form::Atomic => whole(),
        Form::Map | Form::Free => match (filled_map(live), filled_map(config)) {
            (None, None) => whole(),
            // Something other than an object takes its place; null does not.
            (Some(_), None)
                if config.is_some_and(|value| !value.is_object() && !value.is_null()) =>
            {
                whole()
            }
            (live, config) => merge_maps(view, live, config),
        },
        Form::Keyed | Form::Set => match (filled_list(live), filled_list(config)) {
            (None, None) => whole(),
            (live, config) => merge_lists(view, live.unwrap_or(&[]), config.unwrap_or(&[])),
        },
    }
}

fn merge_maps<V: View>(
    view: &V,
    live: Option<&Map<String, Value>>,
    config: Option<&Map<String, Value>>,
) -> Option<Value> {
    let nothing = Map::new();
    let (live, config) = (live.unwrap_or(&nothing), config.unwrap_or(&nothing));
    let mut merged = Map::new();
    for name in live.keys().chain(config.keys().filter(|name| !live.contains_key(*name))) {
        let (old, new) = (live.get(name), config.get(name));
        let value = match view.field(name) {
            // Nothing to merge with: the most usual case of all.
            _ if new.is_none() => old.cloned(),
            Some((inner, _)) => merge_value(&inner, old, new),
            None => new.cloned(),
        };
        if let Some(value) = value {
            merged.insert(name.clone(), value);
        }
    }
    (!merged.is_empty()).then_some(Value::Object(merged))
}

/// Items that both have come in the order of the configuration; what only the live list has stays
/// where it is between them.
fn merge_lists<V: View>(view: &V, live: &[Value], config: &[Value]) -> Option<Value> {
    let inner = view.item();
    let (before, after) = (Grouped::of(view, live), Grouped::of(view, config));
    let shared: Vec<bool> = after.order.iter().map(|element| before.has(element)).collect();
    let mut merged = Vec::new();
    let (mut left, mut right) = (0, 0);
    let mut next_shared = 0;
    loop {
        while next_shared < shared.len() && (next_shared < right || !shared[next_shared]) {
            next_shared += 1;
        }
        let (old, new) = (before.order.get(left), after.order.get(right));
        match (old, new) {
            (None, None) => break,
            (Some(old), _) if !after.has(old) => {
                merged.extend(before.get(old).iter().map(|item| (*item).clone()));
                left += 1;
            }
            // It comes, or came, where the configuration has it.
            (Some(old), _) if after.order.get(next_shared) != Some(old) => left += 1,
            (_, Some(new)) => {
                left += usize::from(old == Some(new));
                let (old, config) = (before.get(new).first(), after.get(new).first());
                merged.extend(merge_value(&inner, old.copied(), config.copied()));
                right += 1;
            }
            (Some(_), None) => left += 1,
        }
    }
    (!merged.is_empty()).then_some(Value::Array(merged))
}

/// The value without the fields and items of the set. What loses all that was in it is `None`.
pub(crate) fn without<V: View>(view: &V, value: &Value, set: &Set) -> Option<Value> {
    match (view.form(), value) {
        (Form::Map | Form::Free, Value::Object(map)) => {
            let mut left = Map::new();
            for (name, value) in map {
                let element = Element::field(name);
                if set.has(&element) {
                    continue;
                }
                let kept = match (set.below(&element), view.field(name)) {
                    (Some(below), Some((inner, _))) => without(&inner, value, below),
                    _ => Some(value.clone()),
                };
                if let Some(kept) = kept {
                    left.insert(name.clone(), kept);
                }
            }
            (!left.is_empty()).then_some(Value::Object(left))
        }
        (Form::Keyed | Form::Set, Value::Array(items)) => {
            let inner = view.item();
            let kept =
                elements(view, items).into_iter().zip(items).filter_map(|(element, item)| {
                    let Ok(element) = element else { return Some(item.clone()) };
                    if set.has(&element) {
                        return None;
                    }
                    match set.below(&element) {
                        Some(below) => without(&inner, item, below),
                        None => Some(item.clone()),
                    }
                });
            let left: Vec<Value> = kept.collect();
            (!left.is_empty()).then_some(Value::Array(left))
        }
        (_, value) => Some(value.clone()),
    }
}
