//! A real OCI registry inside a cluster, with the images of the tests in it.
//!
//! It listens on the bridge's address: nodes reach it as they would any registry, and nobody else
//! does.

use std::fs;
use std::path::Path;
use std::process::Child;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use crate::artifacts;
use crate::cluster::Cluster;
use crate::command::output;
use crate::image;

/// Where nodes find it; manifests in `examples/` name it.
pub const ADDRESS: &str = "172.30.0.1:5000";

/// A running registry. Dropping it ends it and removes what it holds.
pub(crate) struct Registry {
    process: Child,
    data: TempDir,
    keep: bool,
}

impl Registry {
    /// Start it and push the images.
    pub(crate) fn start(cluster: &Cluster) -> Result<Self> {
        let layout = image::layout()?;
        let parent = artifacts::target().join("registry");
        fs::create_dir_all(&parent)?;
        let prefix = format!("{}-", cluster.name);
        let data = tempfile::Builder::new().prefix(&prefix).tempdir_in(&parent)?;
        let config = data.path().join("config.yml");
        fs::write(&config, configuration(data.path()))?;
        let log_file = data.path().join("registry.log");
        let log = fs::File::create(&log_file)?;
        let mut command = cluster.detached_guest()?;
        command.args(["docker-registry", "serve"]).arg(&config);
        command.stdout(log.try_clone()?).stderr(log);
        let process = command.spawn().context("cannot start docker-registry")?;
        let mut registry = Self { process, data, keep: false };
        registry.wait(&log_file)?;
        for tag in image::TAGS {
            push(cluster, &layout, tag)?;
        }
        Ok(registry)
    }

    pub(crate) fn keep(&mut self) {
        self.keep = true;
        self.data.disable_cleanup(true);
    }

    fn wait(&mut self, log: &Path) -> Result<()> {
        let end = Instant::now() + Duration::from_secs(10);
        while Instant::now() < end {
            let text = fs::read_to_string(log).unwrap_or_default();
            if text.contains("listening on") {
                return Ok(());
            }
            if let Some(status) = self.process.try_wait()? {
                bail!("docker-registry ended with {status}:\n{text}");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        bail!("docker-registry does not listen after 10 s")
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        if !self.keep {
            // It may have ended by itself, or been killed with its cluster.
            drop(self.process.kill());
            drop(self.process.wait());
        }
    }
}

fn configuration(data: &Path) -> String {
    format!(
        "version: 0.1\nlog:\n  level: info\n  accesslog:\n    disabled: true\nstorage:\n  \
         filesystem:\n    rootdirectory: {}\nhttp:\n  addr: {ADDRESS}\n",
        data.join("storage").display()
    )
}

fn push(cluster: &Cluster, layout: &Path, tag: &str) -> Result<()> {
    let mut skopeo = cluster.bridge_place()?.command("skopeo");
    skopeo.args(["--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false"]);
    skopeo.arg(format!("oci:{}:{tag}", layout.display()));
    skopeo.arg(format!("docker://{ADDRESS}/workload:{tag}"));
    output(&mut skopeo).context("cannot push to the cluster's registry")?;
    Ok(())
}
