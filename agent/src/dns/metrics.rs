//! What the DNS server counts, as series.

use std::{
    fmt,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use bowline_metrics::{ALONE, Writer};
use prometheus_client::{collector::Collector, encoding::DescriptorEncoder};

use super::{Dns, answer::Answerer};

/// Reads the counts at each scrape.
pub(crate) struct DnsSeries(Arc<Answerer>);

impl fmt::Debug for DnsSeries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DnsSeries")
    }
}

impl Dns {
    /// What this server counts, for Prometheus.
    pub(crate) fn series(&self) -> DnsSeries {
        DnsSeries(self.answerer.clone())
    }
}

impl Collector for DnsSeries {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut writer = Writer::new(encoder);
        self.write_answers(&mut writer)?;
        self.write_limits(&mut writer)?;
        self.write_upstream(&mut writer)
    }
}

impl DnsSeries {
    fn write_answers(&self, writer: &mut Writer<'_>) -> fmt::Result {
        let figures = &self.0.figures;
        let questions = [("udp", &figures.datagrams), ("tcp", &figures.streams)];
        let rows =
            questions.map(|(transport, count)| ([("transport", transport)], count.load(Relaxed)));
        writer.counters("bowline_dns_questions", "Questions that were asked.", rows)?;
        let rows = figures.by_code().map(|(code, count)| ([("code", code)], count));
        writer.counters("bowline_dns_answers", "Answers by response code.", rows)?;
        for (name, help, count) in [
            ("bowline_dns_ignored", "What was no question, and got no answer.", &figures.ignored),
            (
                "bowline_dns_answers_truncated",
                "Answers that did not fit into a datagram.",
                &figures.truncated,
            ),
            (
                "bowline_dns_cache_hits",
                "Names of others that were answered from the cache.",
                &figures.cache_hits,
            ),
            (
                "bowline_dns_cache_misses",
                "Names of others that upstream servers were asked for.",
                &figures.cache_misses,
            ),
            (
                "bowline_dns_idle_closed",
                "TCP connections that were closed because nobody asked.",
                &figures.idle_closed,
            ),
        ] {
            writer.counters(name, help, [(ALONE, count.load(Relaxed))])?;
        }
        Ok(())
    }

    fn write_limits(&self, writer: &mut Writer<'_>) -> fmt::Result {
        let figures = &self.0.figures;
        let limits = [
            ("forwards", &figures.forwards),
            ("tcp_clients", &figures.tcp_clients),
            ("client_rate", &figures.client_rate),
            ("client_forwards", &figures.client_forwards),
            ("client_connections", &figures.client_connections),
        ];
        let rows = limits.map(|(name, limit)| ([("limit", name)], limit.refusals()));
        let help = "Clients and questions that a limit turned away.";
        writer.counters("bowline_dns_refused", help, rows)?;
        let rows = limits.map(|(name, limit)| ([("limit", name)], limit.most() as f64));
        writer.gauges("bowline_dns_limit", "What is allowed at most.", rows)?;
        let in_use = self.0.in_use();
        let in_use = [("forwards", in_use.forwards), ("tcp_clients", in_use.tcp_clients)];
        let rows = in_use.map(|(name, count)| ([("limit", name)], count as f64));
        writer.gauges("bowline_dns_limit_in_use", "How much of a limit is in use.", rows)
    }

    fn write_upstream(&self, writer: &mut Writer<'_>) -> fmt::Result {
        let all = self.0.upstream();
        let labels = |index: usize| {
            let told = &all[index];
            [("server", told.server.to_string()), ("domain", told.domain.to_string())]
        };
        let rows = all.iter().enumerate().map(|(index, told)| (labels(index), told.asked));
        let help = "Questions to an upstream server.";
        writer.counters("bowline_dns_upstream_requests", help, rows)?;
        let rows = all.iter().enumerate().map(|(index, told)| (labels(index), told.failed));
        let help = "Questions that an upstream server did not answer.";
        writer.counters("bowline_dns_upstream_failures", help, rows)
    }
}
