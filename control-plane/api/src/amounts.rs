//! Amounts of resources by their names: what containers, and pods as a whole, ask for.
//!
//! Guarantees: exact sums, capped as quantities are; what is no quantity is left out.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::quantity::Quantity;
use crate::schema::parse_quantity;
use crate::validation::{aggregate, is_of_pods};

/// Amounts by the names of resources.
pub type Amounts = BTreeMap<String, Quantity>;

/// The amounts in a map of an object.
pub fn read(value: &Value) -> Amounts {
    let named = value.as_object().into_iter().flatten();
    named.filter_map(|(name, amount)| Some((name.clone(), parse_quantity(amount).ok()?))).collect()
}

/// The amounts as a map of an object has them.
pub fn shown(amounts: &Amounts) -> Value {
    let named = amounts.iter().map(|(name, amount)| (name.clone(), amount.to_string().into()));
    Value::Object(named.collect())
}

pub fn add(total: &mut Amounts, more: &Amounts) {
    for (name, amount) in more {
        let sum = total.get(name).map_or(*amount, |before| *before + *amount);
        total.insert(name.clone(), sum);
    }
}

/// Takes off what there is in `total`, and nothing else.
pub fn subtract(total: &mut Amounts, less: &Amounts) {
    for (name, amount) in less {
        if let Some(before) = total.get_mut(name) {
            *before = *before - *amount;
        }
    }
}

/// What a pod asks for as a whole in `requests` or `limits`: its containers together, or an init
/// container that needs more with the sidecars that were started before it; or what the pod says.
pub fn of_pod(spec: &Value, field: &str) -> Amounts {
    let summed = aggregate(spec, field).into_iter();
    let mut total: Amounts = summed.map(|(name, amount)| (name.to_owned(), amount)).collect();
    let said = read(&spec["resources"][field]).into_iter();
    total.extend(said.filter(|(name, _)| is_of_pods(name)));
    total
}
