//! Numbers and ranges of numbers, bounded, taken lowest first.

use std::collections::{BTreeMap, BTreeSet};

/// Single numbers below a limit.
#[derive(Debug)]
pub(super) struct Numbers {
    limit: u32,
    /// From here on nothing was ever taken.
    fresh: u32,
    /// Free ones below `fresh`.
    free: BTreeSet<u32>,
}

impl Numbers {
    pub(super) fn new(limit: u32) -> Self {
        Self { limit, fresh: 0, free: BTreeSet::new() }
    }

    pub(super) fn next(&mut self) -> Option<u32> {
        if let Some(number) = self.free.pop_first() {
            return Some(number);
        }
        let number = self.fresh;
        (number < self.limit).then(|| {
            self.fresh += 1;
            number
        })
    }

    /// Marks a number as taken, as often as one likes. One beyond the limit, which somebody wrote
    /// to a map by hand, is nobody's to take.
    pub(super) fn take(&mut self, number: u32) {
        if number < self.fresh {
            self.free.remove(&number);
        } else if number < self.limit {
            self.free.extend(self.fresh..number);
            self.fresh = number + 1;
        }
    }

    pub(super) fn give_back(&mut self, number: u32) {
        if number < self.fresh {
            self.free.insert(number);
        }
    }
}

/// Contiguous ranges within `0..limit`.
#[derive(Debug)]
pub(super) struct Ranges {
    /// Start of each free range, and its length. No two touch.
    free: BTreeMap<u32, u32>,
}

impl Ranges {
    pub(super) fn new(limit: u32) -> Self {
        Self { free: if limit == 0 { BTreeMap::new() } else { BTreeMap::from([(0, limit)]) } }
    }

    /// The lowest range of this length; an empty one is always to be had.
    pub(super) fn next(&mut self, count: u32) -> Option<u32> {
        if count == 0 {
            return Some(0);
        }
        let (start, length) =
            self.free.iter().find(|(_, length)| **length >= count).map(|(s, l)| (*s, *l))?;
        self.free.remove(&start);
        if length > count {
            self.free.insert(start + count, length - count);
        }
        Some(start)
    }

    /// Marks a range as taken; false, and nothing is taken, if not all of it is free.
    pub(super) fn take(&mut self, first: u32, count: u32) -> bool {
        if count == 0 {
            return true;
        }
        let free = self.free.range(..=first).next_back();
        let free = free.map(|(start, length)| (*start, start + length));
        let (Some((start, free_end)), Some(end)) = (free, first.checked_add(count)) else {
            return false;
        };
        if end > free_end {
            return false;
        }
        self.free.remove(&start);
        if start < first {
            self.free.insert(start, first - start);
        }
        if end < free_end {
            self.free.insert(end, free_end - end);
        }
        true
    }

    pub(super) fn give_back(&mut self, first: u32, count: u32) {
        let (mut start, mut end) = (first, first + count);
        if let Some((before, length)) = self.free.range(..first).next_back()
            && before + length == first
        {
            start = *before;
        }
        if let Some(length) = self.free.remove(&end) {
            end += length;
        }
        self.free.insert(start, end - start);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_taken_once() {
        let mut numbers = Numbers::new(3);
        numbers.take(1);
        assert_eq!([numbers.next(), numbers.next(), numbers.next()], [Some(0), Some(2), None]);
        numbers.give_back(1);
        assert_eq!(numbers.next(), Some(1));
    }

    #[test]
    fn numbers_beyond_the_limit_are_not_given() {
        let mut numbers = Numbers::new(2);
        for number in [2, u32::MAX] {
            numbers.take(number);
            numbers.give_back(number);
        }
        assert_eq!([numbers.next(), numbers.next(), numbers.next()], [Some(0), Some(1), None]);
    }

    #[test]
    fn ranges_grow_together_again() {
        let mut ranges = Ranges::new(10);
        let taken: Vec<u32> = [4, 3, 3].iter().map(|n| ranges.next(*n).unwrap()).collect();
        assert_eq!(taken, [0, 4, 7]);
        assert_eq!(ranges.next(1), None);
        for (first, count) in [(0, 4), (7, 3), (4, 3)] {
            ranges.give_back(first, count);
        }
        assert_eq!(ranges.free, BTreeMap::from([(0, 10)]));
        assert_eq!(ranges.next(0), Some(0));
        assert!(ranges.take(0, 5));
        for (first, count) in [(4, 2), (5, 6), (8, u32::MAX), (u32::MAX, 1), (0, 10)] {
            assert!(!ranges.take(first, count), "{first} and {count}");
        }
        assert_eq!(ranges.free, BTreeMap::from([(5, 5)]));
    }

    #[test]
    fn taking_splits_what_is_free() {
        let mut ranges = Ranges::new(10);
        assert!(ranges.take(2, 3) && ranges.take(5, 1) && ranges.take(0, 0));
        assert_eq!(ranges.free, BTreeMap::from([(0, 2), (6, 4)]));
    }
}
