//! The items of lists that merge item by item.

use std::collections::HashMap;

use serde_json::{Map, Value};

use super::element::Element;
use super::view::{Form, Key, View};

/// The element of an item, or why it has none.
fn element(form: Form, keys: &[Key<'_>], item: &Value) -> Result<Element, String> {
    if form == Form::Set {
        let what = match item {
            Value::Object(_) => "associative list without keys has an element that's a map type",
            Value::Array(_) => "not supported: associative list with lists as elements",
            Value::Null => "associative list without keys has an element that's an explicit null",
            scalar => return Ok(Element::value(scalar)),
        };
        return Err(what.to_owned());
    }
    let fields = match item {
        Value::Object(fields) => fields,
        Value::Null => return Err("associative list with keys may not have a null element".into()),
        _ => return Err("associative list with keys may not have non-map elements".to_owned()),
    };
    let said = |key: &Key<'_>| {
        let value = fields.get(key.name).or(key.default.as_ref())?;
        Some((key.name.to_owned(), value.clone()))
    };
    let found: Map<String, Value> = keys.iter().filter_map(said).collect();
    if found.is_empty() {
        let names: Vec<&str> = keys.iter().map(|key| key.name).collect();
        return Err(format!(
            "associative list with keys has an element that omits all key fields {names:?} (and \
             doesn't have default values for any key fields)"
        ));
    }
    Ok(Element::keys(found))
}

/// The elements of a list's items, in order.
pub(super) fn elements<V: View>(view: &V, items: &[Value]) -> Vec<Result<Element, String>> {
    let (form, keys) = (view.form(), view.keys());
    items.iter().map(|item| element(form, &keys, item)).collect()
}

/// Items by their elements. Duplicates are together; what has no element is left out.
pub(super) struct Grouped<'a> {
    /// In the order in which they first appear.
    pub(super) order: Vec<Element>,
    items: HashMap<Element, Vec<&'a Value>>,
}

impl<'a> Grouped<'a> {
    pub(super) fn of<V: View>(view: &V, items: &'a [Value]) -> Self {
        let mut grouped = Self { order: Vec::new(), items: HashMap::new() };
        for (element, item) in elements(view, items).into_iter().zip(items) {
            let Ok(element) = element else { continue };
            let same = grouped.items.entry(element.clone()).or_default();
            if same.is_empty() {
                grouped.order.push(element);
            }
            same.push(item);
        }
        grouped
    }

    pub(super) fn get(&self, element: &Element) -> &[&'a Value] {
        self.items.get(element).map_or(&[], Vec::as_slice)
    }

    pub(super) fn has(&self, element: &Element) -> bool {
        self.items.contains_key(element)
    }
}
