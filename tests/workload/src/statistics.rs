//! Counting what happened: outcomes by kind, and latencies.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

/// What one worker, or all of them together, saw.
#[derive(Default)]
pub(crate) struct Tally {
    latencies_us: Vec<u32>,
    failed: u64,
    /// Requests that a keep-alive connection lost before any byte came back, sent again as
    /// HTTP allows.
    retried: u64,
    errors: BTreeMap<String, u64>,
    /// Field of the reply, value, count.
    fields: BTreeMap<&'static str, BTreeMap<String, u64>>,
}

impl Tally {
    pub(crate) fn ok(&mut self, latency: Duration) {
        self.latencies_us.push(u32::try_from(latency.as_micros()).unwrap_or(u32::MAX));
    }

    pub(crate) fn fail(&mut self, error: String) {
        self.failed += 1;
        *self.errors.entry(error).or_default() += 1;
    }

    pub(crate) fn retry(&mut self) {
        self.retried += 1;
    }

    pub(crate) fn saw(&mut self, field: &'static str, value: String) {
        *self.fields.entry(field).or_default().entry(value).or_default() += 1;
    }

    /// Count what a server said about itself and us.
    pub(crate) fn saw_identity(&mut self, body: &str) {
        let Ok(identity) = serde_json::from_str::<Value>(body) else { return };
        for field in ["pod", "node", "version", "client"] {
            if let Some(value) = identity[field].as_str() {
                self.saw(field, value.to_owned());
            }
        }
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.latencies_us.extend(other.latencies_us);
        self.failed += other.failed;
        self.retried += other.retried;
        for (error, count) in other.errors {
            *self.errors.entry(error).or_default() += count;
        }
        for (field, values) in other.fields {
            let own = self.fields.entry(field).or_default();
            for (value, count) in values {
                *own.entry(value).or_default() += count;
            }
        }
    }

    pub(crate) fn report(mut self, elapsed: Duration) -> Value {
        self.latencies_us.sort_unstable();
        let latencies = &self.latencies_us;
        json!({
            "requests": latencies.len() as u64 + self.failed,
            "ok": latencies.len(),
            "failed": self.failed,
            "retried": self.retried,
            "errors": self.errors,
            "seen": self.fields,
            "seconds": elapsed.as_secs_f64(),
            "latencyUs": {
                "min": quantile(latencies, 0.0),
                "p50": quantile(latencies, 0.5),
                "p90": quantile(latencies, 0.9),
                "p99": quantile(latencies, 0.99),
                "max": quantile(latencies, 1.0),
            },
        })
    }
}

/// The value below which `part` of the sorted values lie; 0 when there are none.
pub(crate) fn quantile(sorted: &[u32], part: f64) -> u32 {
    let last = sorted.len().saturating_sub(1);
    let index = (part * last as f64).round() as usize;
    sorted.get(index).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Tally, quantile};

    #[test]
    fn quantiles() {
        for (values, part, expected) in
            [(vec![], 0.5, 0), (vec![7], 0.99, 7), (vec![1, 2, 3], 0.5, 2), (vec![1, 2, 3], 1.0, 3)]
        {
            assert_eq!(quantile(&values, part), expected, "{values:?} {part}");
        }
    }

    #[test]
    fn tallies_add_up() {
        let mut all = Tally::default();
        for name in ["a", "b"] {
            let mut one = Tally::default();
            one.ok(Duration::from_micros(5));
            one.fail("connect: refused".to_owned());
            one.saw_identity(&format!("{{\"pod\":\"{name}\",\"client\":\"10.0.0.1\"}}"));
            all.add(one);
        }
        let report = all.report(Duration::from_secs(1));
        assert_eq!(report["requests"], 4);
        assert_eq!(report["errors"]["connect: refused"], 2);
        assert_eq!(report["seen"]["pod"]["a"], 1);
        assert_eq!(report["seen"]["client"]["10.0.0.1"], 2);
    }
}
