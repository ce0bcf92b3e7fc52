//! What the kernel says of this process, under the names that every Prometheus client uses.

use std::fmt;
use std::time::{Duration, SystemTime};

use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage};
use nix::sys::time::TimeVal;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;

use crate::Writer;

/// Tells of this process.
#[derive(Debug)]
pub(crate) struct Process {
    /// Seconds since 1970, as near as the beginning of the metrics is to that of the process.
    started: f64,
}

impl Process {
    pub(crate) fn new() -> Self {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        Self { started: since.as_ref().map_or(0.0, Duration::as_secs_f64) }
    }
}

impl Collector for Process {
    /// Leaves out what cannot be read.
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut writer = Writer::new(encoder);
        let started = "When the process started, in seconds since 1970.";
        writer.gauge("process_start_time_seconds", started, self.started)?;
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        for (name, help, field, unit) in [
            ("process_resident_memory_bytes", "Memory that is in RAM.", "VmRSS:", 1024.0),
            ("process_virtual_memory_bytes", "Addresses that are in use.", "VmSize:", 1024.0),
            ("process_threads", "Threads of the process.", "Threads:", 1.0),
        ] {
            if let Some(count) = number(&status, field) {
                writer.gauge(name, help, count * unit)?;
            }
        }
        if let Ok(usage) = getrusage(UsageWho::RUSAGE_SELF) {
            let used = seconds(usage.user_time()) + seconds(usage.system_time());
            writer.seconds("process_cpu_seconds", "Time on CPUs, of all threads.", used)?;
        }
        if let Ok(open) = std::fs::read_dir("/proc/self/fd") {
            // One of them is the directory's own.
            let open = open.count().saturating_sub(1) as f64;
            writer.gauge("process_open_fds", "File descriptors that are open.", open)?;
        }
        if let Ok((most, _)) = getrlimit(Resource::RLIMIT_NOFILE) {
            let help = "File descriptors that may be open.";
            writer.gauge("process_max_fds", help, most as f64)?;
        }
        Ok(())
    }
}

fn number(status: &str, field: &str) -> Option<f64> {
    let rest = status.lines().find_map(|line| line.strip_prefix(field))?;
    rest.split_whitespace().next()?.parse().ok()
}

fn seconds(time: TimeVal) -> f64 {
    time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6
}
