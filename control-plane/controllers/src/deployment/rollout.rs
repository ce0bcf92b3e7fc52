//! The arithmetic of a rollout: how large each replica set is to be next. Pure.
//!
//! Guarantees: never more than `replicas + surge` pods are asked for, and never is a pod given up
//! that is needed for `replicas - unavailable` available ones, also when the status of a replica
//! set lags behind its size.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// What the deployment asks for, in numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) replicas: i32,
    pub(super) surge: i32,
    pub(super) unavailable: i32,
    pub(super) recreate: bool,
}

/// One replica set: its wanted size and what it has available.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Size {
    pub(super) replicas: i32,
    pub(super) available: i32,
}

impl Size {
    /// A set that was just made smaller may still report the pods it is losing.
    fn surely_available(self) -> i32 {
        self.available.min(self.replicas)
    }
}

impl Wanted {
    pub(super) fn of(deployment: &Deployment) -> Self {
        let Some(spec) = &deployment.spec else {
            return Self { replicas: 0, surge: 0, unavailable: 0, recreate: true };
        };
        let replicas = spec.replicas.unwrap_or(1).max(0);
        let strategy = spec.strategy.as_ref();
        if strategy.and_then(|strategy| strategy.type_.as_deref()) == Some("Recreate") {
            return Self { replicas, surge: 0, unavailable: replicas, recreate: true };
        }
        let rolling = strategy.and_then(|strategy| strategy.rolling_update.as_ref());
        let quarter = IntOrString::String("25%".to_owned());
        let pick =
            |value: Option<&IntOrString>, up| amount(value.unwrap_or(&quarter), replicas, up);
        let surge = pick(rolling.and_then(|rolling| rolling.max_surge.as_ref()), true);
        let unavailable = pick(rolling.and_then(|rolling| rolling.max_unavailable.as_ref()), false);
        // Rounding may leave no room to move in; a rollout needs one.
        let unavailable = if surge == 0 && unavailable == 0 { 1 } else { unavailable };
        Self { replicas, surge, unavailable: unavailable.min(replicas), recreate: false }
    }

    pub(super) fn most(self) -> i32 {
        if self.replicas == 0 { 0 } else { self.replicas.saturating_add(self.surge) }
    }

    pub(super) fn least_available(self) -> i32 {
        self.replicas - self.unavailable
    }

    /// The size of the new replica set, given the sizes of the others.
    pub(super) fn new_size(self, current: i32, old: &[Size]) -> i32 {
        if self.recreate || current >= self.replicas {
            return self.replicas;
        }
        let all = total(old.iter().map(|size| size.replicas).chain([current]));
        let room = (self.replicas.saturating_add(self.surge) - all).max(0);
        current + room.min(self.replicas - current)
    }

    /// The sizes of the old replica sets, oldest first, when the new one has its size.
    pub(super) fn old_sizes(self, new: Size, old: &[Size]) -> Vec<i32> {
        let mut sizes: Vec<i32> = old.iter().map(|size| size.replicas).collect();
        if self.recreate {
            return vec![0; sizes.len()];
        }
        let all = total(sizes.iter().copied().chain([new.replicas]));
        let new_missing = new.replicas - new.surely_available();
        let mut budget = all.saturating_sub(self.least_available()).saturating_sub(new_missing);
        // Pods that do not serve anyway go first.
        for (size, old) in sizes.iter_mut().zip(old) {
            let useless = old.replicas - old.surely_available();
            let down = useless.min(budget).max(0);
            *size -= down;
            budget -= down;
        }
        let available = total(old.iter().chain([&new]).map(|size| size.surely_available()));
        let mut spare = (available - self.least_available()).min(budget);
        for size in &mut sizes {
            let down = spare.min(*size).max(0);
            *size -= down;
            spare -= down;
        }
        sizes
    }

    /// The sizes after the deployment was scaled in the middle of a rollout: each replica set
    /// (its size, and the most pods that were allowed when it got it) grows or shrinks by its
    /// share; what rounding leaves goes to the largest. Newest first.
    pub(super) fn proportional(self, sets: &[(i32, i32)]) -> Vec<i32> {
        let all = total(sets.iter().map(|(replicas, _)| *replicas));
        let mut left = self.most() - all;
        let growing = left > 0;
        let mut order: Vec<usize> = (0..sets.len()).collect();
        // Growing favours the newer of equals, shrinking takes from the older first.
        order.sort_by_key(|&i| {
            (std::cmp::Reverse(sets[i].0), if growing { i } else { sets.len() - i })
        });
        let mut sizes: Vec<i32> = sets.iter().map(|(replicas, _)| *replicas).collect();
        for &i in &order {
            let (replicas, most_then) = sets[i];
            let share = share(replicas, self.most(), most_then.max(replicas).max(1)) - replicas;
            let step = if growing { share.clamp(0, left) } else { share.clamp(left, 0) };
            sizes[i] += step;
            left -= step;
        }
        for &i in &order {
            let step = left.max(-sizes[i]);
            sizes[i] += step;
            left -= step;
        }
        sizes
    }
}

/// The sum, or the largest number when it is larger: users may ask for any number anywhere.
pub(super) fn total(numbers: impl IntoIterator<Item = i32>) -> i32 {
    numbers.into_iter().fold(0, i32::saturating_add)
}

/// `replicas * now / then`, rounded to the nearest.
fn share(replicas: i32, now: i32, then: i32) -> i32 {
    let (replicas, now, then) = (i64::from(replicas), i64::from(now), i64::from(then));
    i32::try_from((2 * replicas * now + then) / (2 * then)).unwrap_or(i32::MAX)
}

/// A number, or a percentage of the replicas.
pub(crate) fn amount(value: &IntOrString, replicas: i32, round_up: bool) -> i32 {
    match value {
        IntOrString::Int(number) => (*number).max(0),
        IntOrString::String(text) => {
            let percent: i64 =
                text.trim_end_matches('%').parse::<i64>().unwrap_or(25).clamp(0, 1_000_000);
            let product = percent * i64::from(replicas);
            let whole = if round_up { (product + 99) / 100 } else { product / 100 };
            i32::try_from(whole).unwrap_or(i32::MAX)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::apps::v1::{DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment};

    fn wanted(replicas: i32, surge: i32, unavailable: i32) -> Wanted {
        Wanted { replicas, surge, unavailable, recreate: false }
    }

    fn size(replicas: i32, available: i32) -> Size {
        Size { replicas, available }
    }

    #[test]
    fn percentages_round_to_the_safe_side() {
        let percent = |text: &str| IntOrString::String(text.to_owned());
        let table = [
            (3, None, None, (1, 0)),
            (10, None, None, (3, 2)),
            (4, Some(percent("50%")), Some(percent("50%")), (2, 2)),
            (3, Some(IntOrString::Int(0)), Some(percent("25%")), (0, 1)),
            (1, Some(IntOrString::Int(2)), Some(IntOrString::Int(0)), (2, 0)),
            (2, Some(IntOrString::Int(1)), Some(IntOrString::Int(5)), (1, 2)),
        ];
        for (replicas, max_surge, max_unavailable, expected) in table {
            let rolling = RollingUpdateDeployment { max_surge, max_unavailable };
            let deployment = Deployment {
                spec: Some(DeploymentSpec {
                    replicas: Some(replicas),
                    strategy: Some(DeploymentStrategy {
                        type_: Some("RollingUpdate".into()),
                        rolling_update: Some(rolling.clone()),
                    }),
                    ..DeploymentSpec::default()
                }),
                ..Deployment::default()
            };
            let got = Wanted::of(&deployment);
            assert_eq!((got.surge, got.unavailable), expected, "{replicas} {rolling:?}");
        }
    }

    #[test]
    fn the_largest_numbers_are_numbers_like_others() {
        let most = i32::MAX;
        let huge = wanted(3, most, 0);
        assert_eq!(huge.most(), most);
        assert_eq!(huge.new_size(0, &[size(3, 3), size(most, 0)]), 0, "no room");
        assert_eq!(huge.new_size(0, &[size(3, 3)]), 3);
        let sizes = huge.old_sizes(size(3, 3), &[size(most, 0), size(most, most)]);
        assert!(sizes[0] < most, "{sizes:?}");
        let sizes = wanted(most, most, 0).proportional(&[(most, 1), (most, most)]);
        assert!(sizes.iter().all(|size| *size >= 0), "{sizes:?}");
    }

    #[test]
    fn growing_the_new_one() {
        let table = [
            ("first ever", wanted(3, 1, 0), 0, vec![], 3),
            ("one at a time", wanted(3, 1, 0), 0, vec![size(3, 3)], 1),
            ("no room", wanted(3, 1, 0), 1, vec![size(3, 3)], 1),
            ("room again", wanted(3, 1, 0), 1, vec![size(2, 2)], 2),
            ("scaled down", wanted(2, 1, 0), 5, vec![], 2),
        ];
        for (name, wanted, current, old, expected) in table {
            assert_eq!(wanted.new_size(current, &old), expected, "{name}");
        }
    }

    #[test]
    fn shrinking_the_old_ones() {
        let table = [
            ("new one not ready yet", wanted(3, 1, 0), size(1, 0), vec![size(3, 3)], vec![3]),
            ("new one ready", wanted(3, 1, 0), size(1, 1), vec![size(3, 3)], vec![2]),
            ("status lags", wanted(3, 1, 0), size(1, 1), vec![size(2, 3)], vec![2]),
            (
                "broken ones go first",
                wanted(4, 1, 1),
                size(1, 1),
                vec![size(2, 0), size(2, 2)],
                vec![0, 2],
            ),
            ("at once", wanted(2, 0, 2), size(2, 0), vec![size(2, 2)], vec![0]),
            ("done", wanted(3, 1, 0), size(3, 3), vec![size(1, 1)], vec![0]),
        ];
        for (name, wanted, new, old, expected) in table {
            assert_eq!(wanted.old_sizes(new, &old), expected, "{name}");
        }
    }

    #[test]
    fn a_rollout_ends_and_keeps_its_promises_on_the_way() {
        for wanted in [wanted(3, 1, 0), wanted(10, 3, 2), wanted(5, 0, 1), wanted(7, 7, 7)] {
            let (mut new, mut old) = (size(0, 0), size(wanted.replicas, wanted.replicas));
            for _ in 0..100 {
                new.replicas = wanted.new_size(new.replicas, &[old]);
                assert!(new.replicas + old.replicas <= wanted.most());
                old.replicas = wanted.old_sizes(new, &[old])[0];
                old.available = old.replicas;
                assert!(new.available + old.available >= wanted.least_available(), "{wanted:?}");
                new.available = (new.available + 1).min(new.replicas);
            }
            assert_eq!((new, old), (size(wanted.replicas, wanted.replicas), size(0, 0)));
        }
    }

    #[test]
    fn scaling_in_the_middle_is_shared_out() {
        let table = [
            ("up", wanted(10, 0, 1), vec![(3, 5), (2, 5)], vec![6, 4]),
            ("down", wanted(5, 0, 1), vec![(6, 10), (4, 10)], vec![3, 2]),
            ("to nothing", wanted(0, 1, 1), vec![(2, 6), (4, 6)], vec![0, 0]),
            ("rounding", wanted(4, 0, 1), vec![(2, 3), (1, 3)], vec![3, 1]),
        ];
        for (name, wanted, sets, expected) in table {
            let got = wanted.proportional(&sets);
            assert_eq!(got.iter().sum::<i32>(), wanted.most(), "{name}");
            assert_eq!(got, expected, "{name}");
        }
    }
}
