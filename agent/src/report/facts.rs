//! What a node is: its capacity and its system. Read once, when the agent starts.

use std::{fs, io, path::Path};

use bowline_api::quantity::Quantity;
use nix::sys::statvfs::statvfs;

use crate::{config::Config, preflight::kernel_release};

/// Facts about the node that do not change while the agent runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Facts {
    /// Quantities, as they go into the Node's status.
    pub(crate) cpu: String,
    pub(crate) memory: String,
    pub(crate) storage: String,
    pub(crate) pods: u32,
    /// `memory` as a number of bytes.
    pub(crate) memory_bytes: u64,
    pub(crate) kernel: String,
    pub(crate) os_image: String,
    pub(crate) machine_id: String,
    pub(crate) system_uuid: String,
    pub(crate) boot_id: String,
}

/// A fact about the node could not be found out.
#[derive(Debug, thiserror::Error)]
#[error("reading {what}: {source}")]
pub(crate) struct ReadFactsFailed {
    what: String,
    source: io::Error,
}

impl Facts {
    /// Reads the facts; the configuration overrides the machine.
    pub(crate) fn read(config: &Config) -> Result<Self, ReadFactsFailed> {
        let memory = match &config.node_memory {
            Some(memory) => memory.clone(),
            None => format!("{}Ki", total_memory_kib()?),
        };
        let cpu = match &config.node_cpu {
            Some(cpu) => cpu.clone(),
            None => std::thread::available_parallelism()
                .map_err(|source| ReadFactsFailed { what: "the number of CPUs".into(), source })?
                .to_string(),
        };
        let bytes = memory.parse::<Quantity>().map(Quantity::units).unwrap_or_default();
        let machine_id = text("/etc/machine-id");
        let system_uuid = text("/sys/class/dmi/id/product_uuid");
        Ok(Self {
            cpu,
            memory_bytes: u64::try_from(bytes).unwrap_or_default(),
            memory,
            storage: format!("{}Ki", storage_kib(&config.data_dir)?),
            pods: config.max_pods,
            kernel: kernel_release(),
            os_image: os_image(&text("/etc/os-release")),
            system_uuid: if system_uuid.is_empty() { machine_id.clone() } else { system_uuid },
            machine_id,
            boot_id: text("/proc/sys/kernel/random/boot_id"),
        })
    }
}

fn total_memory_kib() -> Result<u64, ReadFactsFailed> {
    let path = "/proc/meminfo";
    let failed = |source| ReadFactsFailed { what: path.to_owned(), source };
    let info = fs::read_to_string(path).map_err(failed)?;
    memory_total(&info).ok_or_else(|| failed(io::Error::other("it has no MemTotal")))
}

fn memory_total(info: &str) -> Option<u64> {
    let line = info.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.split_whitespace().next()?.parse().ok()
}

fn storage_kib(data_dir: &Path) -> Result<u64, ReadFactsFailed> {
    let failed = |source: io::Error| ReadFactsFailed {
        what: format!("the size of the file system of {}", data_dir.display()),
        source,
    };
    fs::create_dir_all(data_dir).map_err(failed)?;
    let stat = statvfs(data_dir).map_err(|errno| failed(errno.into()))?;
    Ok(stat.blocks().saturating_mul(stat.fragment_size()) / 1024)
}

fn os_image(release: &str) -> String {
    let name = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    name.unwrap_or("Linux").trim_matches('"').to_owned()
}

/// A small file's text; empty where there is no such file.
fn text(path: &str) -> String {
    fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_kernel_and_the_system_say() {
        let info = "MemFree: 1 kB\nMemTotal:       16384256 kB\n";
        assert_eq!(memory_total(info), Some(16_384_256));
        assert_eq!(memory_total("MemFree: 1 kB\n"), None);
        assert_eq!(os_image("ID=x\nPRETTY_NAME=\"Some Linux 12\"\n"), "Some Linux 12");
        assert_eq!(os_image(""), "Linux");
    }

    #[test]
    fn the_configuration_overrides_the_machine() {
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config::new("node1", "https://172.30.0.1:6443");
        config.data_dir = dir.path().to_owned();
        let own = Facts::read(&config).unwrap();
        assert!(own.memory_bytes > 0 && own.memory.ends_with("Ki"), "{own:?}");
        config.node_cpu = Some("4".to_owned());
        config.node_memory = Some("16Gi".to_owned());
        let facts = Facts::read(&config).unwrap();
        assert_eq!((facts.cpu.as_str(), facts.memory.as_str()), ("4", "16Gi"));
        assert_eq!(facts.memory_bytes, 16 << 30);
    }
}
