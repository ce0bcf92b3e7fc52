//! How many rows of the tables say that something is refused.

use std::cell::Cell;

use super::{
    batch, core_kinds, networking, pods, policies, quota, services, sets, storage, volumes,
};

thread_local! {
    /// Those that this thread has tried. The tests of other threads do not count.
    static REFUSING: Cell<usize> = const { Cell::new(0) };
}

/// Notes a row with the problems that it expects.
pub(super) fn note(expected: &[&str]) {
    REFUSING.set(REFUSING.get() + usize::from(!expected.is_empty()));
}

fn refusing(tables: &[fn()]) -> usize {
    let before = REFUSING.get();
    for table in tables {
        table();
    }
    REFUSING.get() - before
}

#[test]
fn every_kind_has_rows_that_are_refused() {
    let of_pods: usize = pods::ALL.iter().map(|tables| refusing(tables)).sum();
    let of_services = refusing(services::ALL);
    let others = [
        super::ALL,
        batch::ALL,
        core_kinds::ALL,
        networking::ALL,
        policies::ALL,
        quota::ALL,
        sets::ALL,
        storage::ALL,
        volumes::ALL,
    ];
    let of_others: usize = others.iter().map(|tables| refusing(tables)).sum();
    let all = of_pods + of_services + of_others;
    println!("{all} rows are refused: {of_pods} of pods, {of_services} of services");
    assert!(of_pods >= 250, "{of_pods}");
    assert!(of_services >= 60, "{of_services}");
    assert!(all >= 400, "{all}");
}
