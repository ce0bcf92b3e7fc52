//! A map together with what the agent wrote into it, so that damage by others is seen.
//!
//! Guarantees: what is written here is in the map and in the mirror, or in neither. Comparing
//! reads the map in batches (Linux 5.6; one by one where a kind of map has no batches) and changes
//! nothing. Not here: deciding when to compare and how to mend, which is `verify`.

use std::collections::{BTreeMap, BTreeSet};

use bowline_ebpf_abi::Plain;

use super::table::{ReadMapsFailed, Table, WriteMapFailed};

/// One entry that is not as it was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Damage<K, V> {
    Missing {
        key: K,
        written: V,
    },
    Changed {
        key: K,
        written: V,
    },
    /// Nobody here wrote it.
    Foreign {
        key: K,
    },
}

/// A map whose entries only the agent writes.
#[derive(Debug)]
pub(super) struct Mirror<K, V> {
    table: Table<K, V>,
    written: BTreeMap<K, V>,
    same: fn(&V, &V) -> bool,
}

impl<K: Plain + Ord, V: Plain + Eq> Mirror<K, V> {
    /// Knows of no entry yet; see [`Mirror::adopt`].
    pub(super) fn over(table: Table<K, V>) -> Self {
        Self { table, written: BTreeMap::new(), same: V::eq }
    }

    /// Compares by this function: the programs write part of the values.
    pub(super) fn comparing(self, same: fn(&V, &V) -> bool) -> Self {
        Self { same, ..self }
    }

    pub(super) fn table(&self) -> &Table<K, V> {
        &self.table
    }

    /// Takes an entry that an earlier agent left for one of its own.
    pub(super) fn adopt(&mut self, key: K, value: V) {
        self.written.insert(key, value);
    }

    /// Takes everything that is in the map for its own, and gives it back.
    pub(super) fn adopt_all(&mut self) -> Result<Vec<(K, V)>, ReadMapsFailed> {
        let entries = self.table.entries()?;
        self.written = entries.iter().copied().collect();
        Ok(entries)
    }

    /// Everything that should be there.
    pub(super) fn all_written(&self) -> Vec<(K, V)> {
        self.written.iter().map(|(key, value)| (*key, *value)).collect()
    }

    /// The entry as it should be.
    pub(super) fn written(&self, key: &K) -> Option<V> {
        self.written.get(key).copied()
    }

    pub(super) fn get(&self, key: &K) -> Result<Option<V>, ReadMapsFailed> {
        self.table.get(key)
    }

    pub(super) fn put(&mut self, key: &K, value: &V) -> Result<(), WriteMapFailed> {
        self.table.put(key, value)?;
        self.written.insert(*key, *value);
        Ok(())
    }

    pub(super) fn put_all(&mut self, keys: &[K], values: &[V]) -> Result<(), WriteMapFailed> {
        let entries = || keys.iter().copied().zip(values.iter().copied());
        let done = self.table.put_all(keys, values);
        match &done {
            Ok(()) => self.written.extend(entries()),
            // Some may be there.
            Err(_) => {
                let written = entries().filter(|(key, value)| {
                    self.table.get(key).is_ok_and(|found| found.as_ref() == Some(value))
                });
                let written: Vec<(K, V)> = written.collect();
                self.written.extend(written);
            }
        }
        done
    }

    pub(super) fn delete(&mut self, key: &K) -> Result<bool, WriteMapFailed> {
        let found = self.table.delete(key)?;
        self.written.remove(key);
        Ok(found)
    }

    /// The entries that are not as they were written, of a map whose keys come and go.
    pub(super) fn damage(&self) -> Result<Vec<Damage<K, V>>, ReadMapsFailed> {
        let mut damage = Vec::new();
        let found = self.table.entries()?;
        let mut right = 0;
        for (key, value) in &found {
            match self.written.get(key) {
                Some(written) if (self.same)(written, value) => right += 1,
                Some(written) => damage.push(Damage::Changed { key: *key, written: *written }),
                None => damage.push(Damage::Foreign { key: *key }),
            }
        }
        // Counting first spares the healthy case a search.
        if right < self.written.len() {
            let there: BTreeSet<&K> = found.iter().map(|(key, _)| key).collect();
            let missing = self.written.iter().filter(|(key, _)| !there.contains(key));
            damage.extend(missing.map(|(k, v)| Damage::Missing { key: *k, written: *v }));
        }
        Ok(damage)
    }
}

impl<V: Plain + Eq> Mirror<u32, V> {
    /// The same of an array: places that nobody wrote to are nobody's damage.
    pub(super) fn array_damage(&self) -> Result<Vec<Damage<u32, V>>, ReadMapsFailed> {
        let Some((last, _)) = self.written.last_key_value() else { return Ok(Vec::new()) };
        let (mut damage, mut written) = (Vec::new(), self.written.iter().peekable());
        self.table.visit_first(last + 1, &mut |place, found| {
            // Both are in order.
            if let Some((key, value)) = written.next_if(|(key, _)| **key == place)
                && !(self.same)(value, &found)
            {
                damage.push(Damage::Changed { key: *key, written: *value });
            }
        })?;
        Ok(damage)
    }
}
