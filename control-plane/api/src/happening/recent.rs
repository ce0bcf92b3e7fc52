//! What was used lately, by key.

use std::collections::HashMap;

/// How many are remembered at most.
const REMEMBERED: usize = 4096;

/// When there is no room for another, the half that was not used for longest goes.
pub(super) struct Recent<V> {
    values: HashMap<u64, (u64, V)>,
    uses: u64,
}

impl<V> Default for Recent<V> {
    fn default() -> Self {
        Self { values: HashMap::new(), uses: 0 }
    }
}

impl<V> Recent<V> {
    pub(super) fn get(&mut self, key: u64) -> Option<&mut V> {
        let (used, value) = self.values.get_mut(&key)?;
        self.uses += 1;
        *used = self.uses;
        Some(value)
    }

    pub(super) fn put(&mut self, key: u64, value: V) -> &mut V {
        if self.values.len() >= REMEMBERED {
            let mut uses: Vec<u64> = self.values.values().map(|(used, _)| *used).collect();
            let (_, median, _) = uses.select_nth_unstable(REMEMBERED / 2);
            let median = *median;
            self.values.retain(|_, (used, _)| *used >= median);
        }
        self.uses += 1;
        let entry = self.values.entry(key).insert_entry((self.uses, value));
        &mut entry.into_mut().1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_used_stays() {
        let mut recent = Recent::default();
        for key in 0..10 * REMEMBERED as u64 {
            recent.put(key, key);
            assert_eq!(recent.get(0), Some(&mut 0), "after {key}");
            assert!(recent.values.len() <= REMEMBERED);
        }
        assert!(recent.get(1).is_none());
    }
}
