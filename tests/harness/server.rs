//! A server without nodes, for what concerns the API alone. It needs no root.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::ListParams;

use crate::api::connect;
use crate::artifacts;
use crate::command::command;

const PATIENCE: Duration = Duration::from_secs(20);

/// A running server. It is killed when this value is dropped, and when this process is killed or
/// the thread ends that started it.
pub struct Server {
    process: Child,
    directory: PathBuf,
    words: Vec<String>,
}

impl Server {
    /// Start one with its data in a directory, where another may have left some.
    pub fn start(directory: &Path) -> Result<Self> {
        Self::start_with(directory, &[])
    }

    /// Start one with further words on its command line.
    pub fn start_with(directory: &Path, words: &[&str]) -> Result<Self> {
        let words: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
        let process = Self::spawn(directory, "127.0.0.1:0", &words)?;
        Ok(Self { process, directory: directory.to_path_buf(), words })
    }

    fn spawn(directory: &Path, listen: &str, words: &[String]) -> Result<Child> {
        let kubeconfig = directory.join("kubeconfig");
        // Its return is the sign that the server is up, on the port that it took.
        drop(fs::remove_file(&kubeconfig));
        let log = fs::OpenOptions::new().create(true).append(true).open(directory.join("log"))?;
        let process = command("setpriv")
            .args(["--pdeathsig", "KILL"])
            .arg(artifacts::bowline()?)
            // There are no nodes; an address of the documentation's range stands for theirs.
            .args(["server", "--listen", listen, "--advertise", "192.0.2.1:6443"])
            .arg("--data-dir")
            .arg(directory.join("data"))
            .arg("--kubeconfig")
            .arg(&kubeconfig)
            .args(words)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()?;
        Ok(process)
    }

    /// SIGKILL it and start it anew at the same address, so that clients of before go on.
    pub fn restart(&mut self) -> Result<()> {
        let kubeconfig = fs::read_to_string(self.kubeconfig())?;
        let address = kubeconfig.split_once("https://").map(|(_, rest)| rest);
        let address = address.and_then(|rest| rest.split_whitespace().next());
        let address = address.context("the kubeconfig names no server")?;
        self.kill()?;
        self.process = Self::spawn(&self.directory, address, &self.words)?;
        Ok(())
    }

    /// The kubeconfig that it wrote.
    pub fn kubeconfig(&self) -> PathBuf {
        self.directory.join("kubeconfig")
    }

    /// A client, as soon as the server answers.
    pub async fn client(&mut self) -> Result<kube::Client> {
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            if let Some(status) = self.process.try_wait()? {
                let log = fs::read_to_string(self.directory.join("log"))?;
                bail!("the server ended with {status}:\n{log}");
            }
            if let Ok(client) = self.try_client().await {
                return Ok(client);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        bail!("the server does not answer after {PATIENCE:?}")
    }

    async fn try_client(&self) -> Result<kube::Client> {
        let client = connect(&self.kubeconfig()).await?;
        let maps = kube::Api::<ConfigMap>::namespaced(client.clone(), "default");
        maps.list(&ListParams::default().limit(1)).await?;
        Ok(client)
    }

    /// SIGKILL it and wait until it is gone.
    pub fn kill(&mut self) -> Result<()> {
        self.process.kill()?;
        self.process.wait()?;
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        drop(self.kill());
    }
}
