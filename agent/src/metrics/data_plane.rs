//! What the data plane counts, as series.

use std::{fmt, net::IpAddr, path::PathBuf, sync::Arc};

use bowline_ebpf_abi::ConnectTimes;
use bowline_metrics::Writer;
use prometheus_client::{collector::Collector, encoding::DescriptorEncoder};

use crate::{
    datapath::{Fill, Occurred, Programmed, ReadMapsFailed, Scrape, ServiceFigures},
    watch::Watched,
};

/// Reads the maps at each scrape.
pub(super) struct DataPlaneSeries {
    pub(super) bpffs: PathBuf,
    pub(super) most_services: usize,
    pub(super) watched: Arc<Watched>,
}

impl fmt::Debug for DataPlaneSeries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DataPlaneSeries").field("bpffs", &self.bpffs).finish_non_exhaustive()
    }
}

/// Namespace and name of a service; both are empty while the API has not said whose an address is.
type Name = (Arc<str>, Arc<str>);

/// A service, for people.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    /// Those without a name come last.
    nameless: bool,
    name: Name,
    address: IpAddr,
    port: u16,
    protocol: &'static str,
}

/// What was read.
struct Reading {
    services: Vec<(Place, ServiceFigures)>,
    all_services: usize,
    left_out: usize,
    reasons: Vec<Occurred>,
    connect_times: Vec<ConnectTimes>,
    fills: Vec<Fill>,
}

impl Collector for DataPlaneSeries {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut writer = Writer::new(encoder);
        let read = self.read();
        if let Err(error) = &read {
            tracing::warn!(%error, "metrics without the data plane");
        }
        let failed = f64::from(u8::from(read.is_err()));
        let help = "1 if the maps could not be read: what they count is missing then.";
        writer.gauge("bowline_datapath_scrape_error", help, failed)?;
        match read {
            Ok(reading) => reading.write(&mut writer),
            Err(_) => Ok(()),
        }
    }
}

impl DataPlaneSeries {
    fn read(&self) -> Result<Reading, ReadMapsFailed> {
        let scrape = Scrape::open(&self.bpffs)?;
        let programmed = scrape.services()?;
        let places = programmed.iter().map(|service| self.place(service)).zip(&programmed);
        let chosen = first(places.collect(), self.most_services);
        let left_out = programmed.len() - chosen.len();
        let figures = chosen.into_iter().map(|(place, of)| Ok((place, scrape.figures(of)?)));
        Ok(Reading {
            services: figures.collect::<Result<_, ReadMapsFailed>>()?,
            all_services: programmed.len(),
            left_out,
            reasons: scrape.reasons()?,
            connect_times: scrape.connect_times()?,
            fills: scrape.fills(&programmed)?,
        })
    }

    fn place(&self, service: &Programmed) -> Place {
        let (address, port, protocol) = (service.address(), service.port(), service.protocol());
        let key = self.watched.services.at_address(address);
        let nameless = key.is_none();
        let name = key.map_or_else(|| ("".into(), "".into()), |key| (key.namespace, key.name));
        Place { nameless, name, address, port, protocol }
    }
}

/// The first of them in the order of their names, so that every node and every scrape chooses the
/// same ones: sums over nodes are right, and no series comes and goes with its traffic.
fn first<T>(mut all: Vec<(Place, T)>, most: usize) -> Vec<(Place, T)> {
    all.sort_by(|(a, _), (b, _)| a.cmp(b));
    all.truncate(most);
    all
}

impl Reading {
    fn write(&self, writer: &mut Writer<'_>) -> fmt::Result {
        self.write_reasons(writer)?;
        self.write_services(writer)?;
        self.write_connect_times(writer)?;
        self.write_fills(writer)
    }

    fn write_reasons(&self, writer: &mut Writer<'_>) -> fmt::Result {
        let rows = |value: fn(&Occurred) -> u64| {
            self.reasons.iter().map(move |row| {
                let verdict = if row.reason.is_drop() { "dropped" } else { "passed" };
                let (reason, direction) = (row.reason.name(), row.direction.name());
                let labels = [("reason", reason), ("direction", direction), ("verdict", verdict)];
                (labels, value(row))
            })
        };
        let help = "Packets, and system calls of sockets, by what became of them.";
        writer.counters("bowline_datapath_packets", help, rows(|row| row.packets))?;
        let help = "The bytes of those packets.";
        writer.counters("bowline_datapath_bytes", help, rows(|row| row.bytes))
    }

    fn write_services(&self, writer: &mut Writer<'_>) -> fmt::Result {
        let help = "Services that are programmed, an address and a port each.";
        writer.gauge("bowline_services", help, self.all_services as f64)?;
        let help = "Services without counters of their own: see the agent's --metrics-services.";
        writer.gauge("bowline_services_left_out", help, self.left_out as f64)?;
        let rows = |value: fn(&ServiceFigures) -> u64| {
            self.services.iter().map(move |(place, figures)| {
                let labels = [
                    ("namespace", place.name.0.to_string()),
                    ("service", place.name.1.to_string()),
                    ("address", place.address.to_string()),
                    ("port", place.port.to_string()),
                    ("protocol", place.protocol.to_owned()),
                ];
                (labels, value(figures))
            })
        };
        let help = "Connections and unconnected UDP sockets that were balanced.";
        writer.counters("bowline_service_connections", help, rows(|row| row.connections))?;
        let help = "Connections and datagrams that no ready backend was there for.";
        writer.counters("bowline_service_refused", help, rows(|row| row.refused))?;
        let help = "Packets that were translated one by one; others never touch a service.";
        writer.counters("bowline_service_packets", help, rows(|row| row.packets))?;
        let help = "The bytes of those packets.";
        writer.counters("bowline_service_bytes", help, rows(|row| row.bytes))
    }

    fn write_connect_times(&self, writer: &mut Writer<'_>) -> fmt::Result {
        let seconds = |nanoseconds: u64| nanoseconds as f64 / 1e9;
        let help = "From connect() to a service until the TCP connection is open.";
        let total_ns = self.connect_times.iter().map(|times| times.total_ns).sum();
        let buckets: Vec<(f64, u64)> = (0..)
            .zip(&self.connect_times)
            .map(|(place, times)| {
                let most = ConnectTimes::most_ns(place).map_or(f64::INFINITY, seconds);
                (most, times.count)
            })
            .collect();
        let name = "bowline_service_connect_duration_seconds";
        writer.histogram(name, help, seconds(total_ns), &buckets)
    }

    fn write_fills(&self, writer: &mut Writer<'_>) -> fmt::Result {
        let rows = |value: fn(&Fill) -> f64| {
            self.fills.iter().map(move |fill| ([("map", fill.map)], value(fill)))
        };
        let help = "Entries of a BPF map that are in use.";
        writer.gauges("bowline_map_entries", help, rows(|fill| fill.used.into()))?;
        let help = "Entries that a BPF map has room for: see the agent's --map-size.";
        writer.gauges("bowline_map_max_entries", help, rows(|fill| fill.size.into()))?;
        let help = "How full a BPF map is, from 0 to 1.";
        let ratio = |fill: &Fill| f64::from(fill.used) / f64::from(fill.size.max(1));
        writer.gauges("bowline_map_pressure_ratio", help, rows(ratio))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(name: &str, address: [u8; 4], port: u16) -> Place {
        Place {
            nameless: name.is_empty(),
            name: ("default".into(), name.into()),
            address: address.into(),
            port,
            protocol: "TCP",
        }
    }

    #[test]
    fn the_first_by_name_are_chosen_whatever_order_the_map_has() {
        let all = [
            place("a", [10, 9, 0, 2], 80),
            place("a", [10, 9, 0, 2], 443),
            place("b", [10, 9, 0, 1], 80),
            place("", [10, 9, 0, 9], 80),
        ];
        let chosen = |order: [usize; 4], most: usize| -> Vec<usize> {
            let mixed = order.map(|index| (all[index].clone(), index));
            first(mixed.into(), most).into_iter().map(|(_, index)| index).collect()
        };
        for order in [[0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1]] {
            assert_eq!(chosen(order, 9), [0, 1, 2, 3]);
            assert_eq!(chosen(order, 3), [0, 1, 2]);
            assert_eq!(chosen(order, 1), [0]);
            assert!(chosen(order, 0).is_empty());
        }
    }

    #[test]
    fn connect_times_are_a_histogram_in_seconds() {
        #[derive(Debug)]
        struct Times;
        impl Collector for Times {
            fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
                let mut connect_times =
                    vec![ConnectTimes::default(); ConnectTimes::ENTRIES as usize];
                for took_ns in [5_000, 8_000, 9_000, 100_000_000_000] {
                    let times = &mut connect_times[ConnectTimes::place(took_ns) as usize];
                    times.count += 1;
                    times.total_ns += took_ns;
                }
                let reading = Reading {
                    services: Vec::new(),
                    all_services: 0,
                    left_out: 0,
                    reasons: Vec::new(),
                    connect_times,
                    fills: Vec::new(),
                };
                reading.write_connect_times(&mut Writer::new(encoder))
            }
        }
        let mut registry = prometheus_client::registry::Registry::default();
        registry.register_collector(Box::new(Times));
        let body = bowline_metrics::Format::Prometheus.write(&[&registry]).unwrap();
        let name = "bowline_service_connect_duration_seconds";
        for series in [
            "_bucket{le=\"8e-06\"} 2",
            "_bucket{le=\"1.6e-05\"} 3",
            "_bucket{le=\"67.108864\"} 3",
            "_bucket{le=\"+Inf\"} 4",
            "_sum 100.000022",
            "_count 4",
        ] {
            assert!(body.lines().any(|line| line == format!("{name}{series}")), "{series}: {body}");
        }
    }

    #[test]
    fn without_maps_the_rest_is_still_told() {
        let mut registry = prometheus_client::registry::Registry::default();
        registry.register_collector(Box::new(DataPlaneSeries {
            bpffs: "/nowhere".into(),
            most_services: 1,
            watched: Arc::new(Watched::empty()),
        }));
        let body = bowline_metrics::Format::Prometheus.write(&[&registry]).unwrap();
        assert!(body.contains("bowline_datapath_scrape_error 1"), "{body}");
    }
}
