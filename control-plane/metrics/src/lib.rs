//! What the metrics of server and agent have in common: the formats, and what is told of the build
//! and of the process.
//!
//! Guarantees: both formats hold the same series. Nothing is measured between two scrapes: what is
//! told of the process is read when it is asked for.
//! Not here: what a server or an agent counts, and who may read it.

mod process;

use std::fmt;

use prometheus_client::encoding::{
    DescriptorEncoder, EncodeLabelSet, NoLabelSet, prometheus_text, text,
};
use prometheus_client::metrics::{MetricType, info::Info};
use prometheus_client::registry::Registry;

use process::Process;

/// What a client names the newer format by.
const OPEN_METRICS: &str = "application/openmetrics-text";

/// The label set of a series that is the only one of its name.
pub const ALONE: [(&str, &str); 0] = [];

/// How metrics are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// OpenMetrics 1.0.0.
    OpenMetrics,
    /// Prometheus' own text format, 0.0.4: for everybody who does not ask for the other one.
    Prometheus,
}

impl Format {
    /// The one that a client prefers, by its `Accept` header.
    pub fn accepted(accept: Option<&str>) -> Self {
        let mut offers = accept.unwrap_or_default().split(',');
        let named = |offer: &str| offer.split(';').next().map(str::trim) == Some(OPEN_METRICS);
        if offers.any(named) { Self::OpenMetrics } else { Self::Prometheus }
    }

    /// For the `Content-Type` header.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Prometheus => prometheus_text::CONTENT_TYPE,
        }
    }

    /// All series of these registries.
    pub fn write(self, registries: &[&Registry]) -> Result<String, fmt::Error> {
        let mut body = String::new();
        for registry in registries {
            match self {
                Self::OpenMetrics => text::encode_registry(&mut body, registry)?,
                Self::Prometheus => prometheus_text::encode(&mut body, registry)?,
            }
        }
        if self == Self::OpenMetrics {
            text::encode_eof(&mut body)?;
        }
        Ok(body)
    }
}

/// A registry that tells of the build, with further labels, and of the process.
pub fn registry(labels: &[(&'static str, String)]) -> Registry {
    let mut all = vec![
        ("version", env!("CARGO_PKG_VERSION").to_owned()),
        ("arch", std::env::consts::ARCH.to_owned()),
    ];
    all.extend_from_slice(labels);
    let mut registry = Registry::default();
    registry.register("bowline_build", "The build that runs", Info::new(all));
    registry.register_collector(Box::new(Process::new()));
    registry
}

/// Writes series that are read when they are asked for.
pub struct Writer<'a>(DescriptorEncoder<'a>);

impl<'a> Writer<'a> {
    /// Over what a collector is given.
    pub fn new(encoder: DescriptorEncoder<'a>) -> Self {
        Self(encoder)
    }

    /// A counter; both formats add `_total` to its name. Without rows it is not mentioned.
    pub fn counters<L: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        rows: impl IntoIterator<Item = (L, u64)>,
    ) -> fmt::Result {
        let mut rows = rows.into_iter().peekable();
        if rows.peek().is_none() {
            return Ok(());
        }
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        rows.try_for_each(|(labels, value)| {
            metric.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&value, None)
        })
    }

    /// A counter that is a fraction: seconds.
    pub fn seconds(&mut self, name: &str, help: &str, value: f64) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        metric.encode_counter::<NoLabelSet, _, u64>(&value, None)
    }

    /// A histogram: the sum of all values, and how many of them lie between each bucket's bound and
    /// the one before. The last bound is infinity.
    pub fn histogram(
        &mut self,
        name: &str,
        help: &str,
        sum: f64,
        buckets: &[(f64, u64)],
    ) -> fmt::Result {
        let count = buckets.iter().map(|(_, count)| count).sum();
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Histogram)?;
        metric.encode_histogram::<NoLabelSet>(sum, count, buckets, None)
    }

    /// A gauge. Without rows it is not mentioned.
    pub fn gauges<L: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        rows: impl IntoIterator<Item = (L, f64)>,
    ) -> fmt::Result {
        let mut rows = rows.into_iter().peekable();
        if rows.peek().is_none() {
            return Ok(());
        }
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        rows.try_for_each(|(labels, value)| metric.encode_family(&labels)?.encode_gauge(&value))
    }

    /// A gauge that is the only one of its name.
    pub fn gauge(&mut self, name: &str, help: &str, value: f64) -> fmt::Result {
        self.gauges(name, help, [(ALONE, value)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus_client::collector::Collector;

    #[derive(Debug)]
    struct Two;

    impl Collector for Two {
        fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
            let mut writer = Writer::new(encoder);
            let none: [([(&str, &str); 1], u64); 0] = [];
            writer.counters("nothing", "Nothing.", none)?;
            writer.counters("turns", "Turns.", [([("to", "the \"left\"")], 3)])?;
            writer.gauge("room_ratio", "Room.", 0.5)?;
            writer.histogram("waits", "Waits.", 7.5, &[(0.5, 1), (2.0, 0), (f64::INFINITY, 2)])
        }
    }

    #[test]
    fn the_format_is_the_one_that_is_asked_for() {
        let prometheus = "application/openmetrics-text;version=1.0.0,text/plain;q=0.5,*/*;q=0.1";
        for (accept, wanted) in [
            (None, Format::Prometheus),
            (Some("*/*"), Format::Prometheus),
            (Some("text/plain;version=0.0.4"), Format::Prometheus),
            (Some(prometheus), Format::OpenMetrics),
            (Some("text/plain, application/openmetrics-text; version=1.0.0"), Format::OpenMetrics),
        ] {
            assert_eq!(Format::accepted(accept), wanted, "{accept:?}");
        }
    }

    #[test]
    fn both_formats_hold_the_same_series() {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Two));
        let told = |format: Format| {
            let body = format.write(&[&registry, &Registry::default()]).unwrap();
            let (told, series): (Vec<String>, Vec<String>) =
                body.lines().map(str::to_owned).partition(|line| line.starts_with('#'));
            (told, series)
        };
        let (open, plain) = (told(Format::OpenMetrics), told(Format::Prometheus));
        let series = ["turns_total{to=\"the \\\"left\\\"\"} 3", "room_ratio 0.5"];
        assert_eq!(plain.1[..2], series);
        let waits = [
            "waits_bucket{le=\"0.5\"} 1",
            "waits_bucket{le=\"2\"} 1",
            "waits_bucket{le=\"+Inf\"} 3",
            "waits_sum 7.5",
            "waits_count 3",
        ];
        assert_eq!(plain.1[2..], waits);
        // The formats differ in how they write a bound, and in what comes first.
        let sorted = |mut lines: Vec<String>| {
            lines.iter_mut().for_each(|line| *line = line.replace("\"2.0\"", "\"2\""));
            lines.sort();
            lines
        };
        assert_eq!(sorted(open.1), sorted(plain.1.clone()));
        assert_eq!(open.0.last().map(String::as_str), Some("# EOF"));
        assert!(plain.0.contains(&"# TYPE turns_total counter".to_owned()), "{plain:?}");
    }

    #[test]
    fn build_and_process_are_told() {
        let registry = registry(&[("abi", "7".to_owned())]);
        let body = Format::Prometheus.write(&[&registry]).unwrap();
        let build = body.lines().find(|line| line.starts_with("bowline_build_info{"));
        assert!(build.unwrap().contains("abi=\"7\""), "{body}");
        let value = |name: &str| {
            let line = body.lines().find_map(|line| line.strip_prefix(&format!("{name} ")));
            line.unwrap_or_else(|| panic!("no {name}: {body}")).parse::<f64>().unwrap()
        };
        assert!(value("process_resident_memory_bytes") > 100_000.0);
        assert!(value("process_virtual_memory_bytes") > value("process_resident_memory_bytes"));
        assert!(value("process_open_fds") >= 1.0);
        assert!(value("process_max_fds") > value("process_open_fds"));
        assert!(value("process_threads") >= 1.0);
        assert!(value("process_cpu_seconds_total") >= 0.0);
        assert!(value("process_start_time_seconds") > 1.6e9);
    }
}
