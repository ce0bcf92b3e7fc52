//! The Python client of Kubernetes, unmodified, with every kind: `tests/python`. It needs no root.

use anyhow::{Result, ensure};
use bowline_tests::command::{command, finish};
use bowline_tests::{Server, artifacts};

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_by_its_dynamic_and_its_typed_client() -> Result<()> {
    let python = artifacts::target().join("tools/kubernetes-python-37.0.2/bin/python");
    ensure!(python.is_file(), "{} is missing: run `cargo xtask setup`", python.display());
    let directory = tempfile::tempdir()?;
    let mut server = Server::start(directory.path())?;
    server.client().await?;
    let script = artifacts::workspace().join("tests/python/every_kind.py");
    let mut run = command("timeout");
    run.arg("240").arg(python).arg("-B").arg(script).arg(server.kubeconfig());
    let ended = finish(&mut run)?;
    let said = String::from_utf8_lossy(&ended.stdout);
    let errors = String::from_utf8_lossy(&ended.stderr);
    ensure!(ended.status.success(), "{}:\n{said}{errors}", ended.status);
    print!("{said}");
    Ok(())
}
