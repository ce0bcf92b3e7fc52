//! What `up`, `down`, `agent` and `server` refuse: one line that says what and what to do, an exit
//! status that is not zero, and a machine that looks as before.

use std::collections::BTreeSet;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use bowline_tests::cluster::unique_name;
use bowline_tests::command::{command, finish, output};
use bowline_tests::machine::Machine;
use bowline_tests::{Cluster, Wishes, artifacts};

/// What serves instead of refusing is ended after so many seconds, without an error's line.
const LIMIT: &str = "30";

/// Run it; it must fail, say `expected` on its last line, and leave nothing.
fn refused(refused: &mut Command, expected: &str) -> Result<()> {
    let before = Machine::look()?;
    let output = finish(refused)?;
    let line = error_line(&output)?;
    ensure!(line.contains(expected), "`{line}` does not contain `{expected}`");
    let mut left = before.difference(&Machine::look()?);
    // Those of a cluster that is up may come in meanwhile; `cleanup` looks at programs.
    left.retain(|thing| !thing.starts_with("left: bpf "));
    ensure!(left.is_empty(), "left behind: {left:#?}");
    Ok(())
}

/// The one line that says what is wrong.
pub(crate) fn error_line(output: &Output) -> Result<String> {
    ensure!(!output.status.success(), "it did not fail");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let errors: Vec<&str> = text.lines().filter(|line| line.starts_with("error: ")).collect();
    ensure!(errors.len() == 1, "not one line: {text}");
    ensure!(text.lines().last() == Some(errors[0]), "more after the error: {text}");
    ensure!(!text.contains("panicked"), "{text}");
    Ok(errors[0].to_owned())
}

fn up(name: &str, directory: &Path) -> Result<Command> {
    let mut up = command(artifacts::bowline()?);
    up.args(["up", "--nodes", "1", "--name", name]).arg("--dir").arg(directory);
    Ok(up)
}

/// `bowline up` after `script` ran in a mount namespace of its own.
fn up_after(script: &str, name: &str, directory: &Path) -> Result<Command> {
    let inner = up(name, directory)?;
    let mut outer = command("unshare");
    outer.args(["--mount", "--propagation", "private", "sh", "-c"]);
    outer.arg(format!("{script} && exec \"$0\" \"$@\""));
    outer.arg(inner.get_program()).args(inner.get_args());
    Ok(outer)
}

#[test]
#[ignore = "needs root; run by `cargo xtask test` as root"]
fn not_root() -> Result<()> {
    let directory = tempfile::tempdir()?;
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755))?;
    // The build directory may not be readable for everybody.
    let program = directory.path().join("bowline");
    fs::copy(artifacts::bowline()?, &program)?;
    let mut up = command("setpriv");
    up.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(program).arg("up");
    refused(&mut up, "root")
}

#[test]
#[ignore = "needs root; run by `cargo xtask test` as root"]
fn no_cgroup2() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let point = mounts
        .lines()
        .find(|line| line.contains(" - cgroup2 "))
        .and_then(|line| line.split_whitespace().nth(4))
        .context("no cgroup2 here")?;
    let mut up =
        up_after(&format!("umount -l {point}"), &unique_name(), &directory.path().join("c"))?;
    refused(&mut up, "cgroup2")
}

#[test]
#[ignore = "needs root; run by `cargo xtask test` as root"]
fn an_old_kernel() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let release = directory.path().join("release");
    fs::write(&release, "4.19.0-27-amd64\n")?;
    let script = format!("mount --bind {} /proc/sys/kernel/osrelease", release.display());
    let mut up = up_after(&script, &unique_name(), &directory.path().join("c"))?;
    refused(&mut up, "4.19.0-27-amd64 is too old")
}

#[test]
#[ignore = "needs root; run by `cargo xtask test` as root"]
fn containerd_missing() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let mut up = up(&unique_name(), &directory.path().join("c"))?;
    refused(up.env("PATH", directory.path()), "containerd is not installed")
}

#[test]
#[ignore = "needs root; run by `cargo xtask test` as root"]
fn containerd_that_does_not_start() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let program = directory.path().join("containerd");
    fs::write(&program, "#!/bin/sh\necho broken on purpose >&2\nexit 3\n")?;
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
    let path = std::env::var("PATH")?;
    let mut up = up(&unique_name(), &directory.path().join("c"))?;
    up.env("PATH", format!("{}:{path}", directory.path().display()));
    refused(&mut up, "containerd")
}

#[test]
#[ignore = "needs root; run by `cargo xtask test` as root"]
fn a_port_that_is_taken() -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port().to_string();
    let directory = tempfile::tempdir()?;
    let mut up = up(&unique_name(), &directory.path().join("c"))?;
    refused(up.args(["--port", &port]), &format!("port {port}"))
}

#[test]
#[ignore = "needs root; run by `cargo xtask test` as root"]
fn ranges_that_overlap() -> Result<()> {
    for (flag, range, expected) in [
        ("--pod-cidr", "10.9.0.0/16", "overlaps --service-cidr"),
        ("--pod-cidr", "172.30.0.0/16", "overlaps the node network"),
        ("--service-cidr", "10.240.0.0/24", "overlaps"),
        ("--pod-cidr", "10.240.0.0/30", "too small"),
    ] {
        let directory = tempfile::tempdir()?;
        let mut up = up(&unique_name(), &directory.path().join("c"))?;
        refused(up.args([flag, range]), expected).with_context(|| format!("{flag} {range}"))?;
    }
    Ok(())
}

#[test]
#[ignore = "needs root; run by `cargo xtask test` as root"]
fn a_second_up_a_wrong_token_and_down_twice() -> Result<()> {
    let wishes = Wishes { nodes: 1, registry: false, ..Wishes::default() };
    let cluster = Cluster::up(&wishes)?;
    let directory = tempfile::tempdir()?;
    for dir in [cluster.dir.as_path(), &directory.path().join("other")] {
        refused(&mut up(&cluster.name, dir)?, "exists already")?;
    }
    secrets_are_for_root_alone(&cluster)?;
    wrong_token(&cluster, directory.path())?;
    a_containerd_that_is_away(&cluster, directory.path())?;
    let nodes = output(&mut cluster.bowline(&["get", "nodes"])?)?;
    ensure!(nodes.contains("node1"), "the cluster suffered: {nodes}");
    for _ in 0..2 {
        cluster.down()?;
    }
    Ok(())
}

/// The kubeconfig, the token, and whatever else holds a private key.
fn secrets_are_for_root_alone(cluster: &Cluster) -> Result<()> {
    let mut secrets = vec![cluster.kubeconfig(), cluster.dir.join("server/join-token")];
    private_keys(&cluster.dir.join("server"), &mut secrets)?;
    private_keys(&cluster.dir.join("nodes/node1/data"), &mut secrets)?;
    ensure!(secrets.len() > 3, "the keys of server and agent are not among {secrets:?}");
    for file in secrets {
        let mode = fs::metadata(&file)?.permissions().mode() & 0o7777;
        ensure!(mode == 0o600, "{} has the mode {mode:o}", file.display());
    }
    Ok(())
}

fn private_keys(directory: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            private_keys(&path, found)?;
        } else if fs::read_to_string(&path).is_ok_and(|text| text.contains("PRIVATE KEY")) {
            found.push(path);
        }
    }
    Ok(())
}

/// An agent of another name on the cluster's node, with files of its own in `directory`.
fn stranger(cluster: &Cluster, directory: &Path, socket: &Path, token: &Path) -> Result<Command> {
    let mut agent = cluster.nodes[0].place()?.command("timeout");
    agent.arg(LIMIT).arg(artifacts::bowline()?);
    agent.args(["agent", "--node-name", "stranger", "--server", "https://172.30.0.1:6443"]);
    agent.arg("--token-file").arg(token);
    agent.arg("--data-dir").arg(directory.join("data"));
    agent.arg("--run-dir").arg(directory.join("run"));
    agent.arg("--bpffs").arg(cluster.dir.join("nodes/node1/bpf"));
    agent.arg("--socket-cgroup").arg(cluster.nodes[0].cgroup());
    agent.arg("--containerd-socket").arg(socket);
    Ok(agent)
}

/// It made nothing of its own, neither files nor a node; its data directory may be there, empty.
fn no_stranger(cluster: &Cluster, directory: &Path) -> Result<()> {
    let (data, run) = (directory.join("data"), directory.join("run"));
    ensure!(!run.exists(), "the stranger made {}", run.display());
    let left = if data.exists() { entries(&data)? } else { BTreeSet::new() };
    ensure!(left.is_empty(), "the stranger made {left:?}");
    let nodes = output(&mut cluster.bowline(&["get", "nodes", "-o", "name"])?)?;
    ensure!(nodes == "node/node1\n", "nodes: {nodes}");
    Ok(())
}

/// A stranger with a token of the right form and the wrong secret.
fn wrong_token(cluster: &Cluster, directory: &Path) -> Result<()> {
    let right = fs::read_to_string(cluster.dir.join("server/join-token"))?;
    let (left, _) = right.trim().rsplit_once('.').context("a token has dots")?;
    let token = directory.join("token");
    fs::write(&token, format!("{left}.0000000000000000"))?;
    let socket = cluster.dir.join("containerd/containerd.sock");
    let mut agent = stranger(cluster, directory, &socket, &token)?;
    // One agent a node: the stranger comes in the place of the node's own.
    cluster.nodes[0].kill_agent()?;
    let pins = entries(&cluster.nodes[0].bpffs())?;
    let refused = refused(&mut agent, "token");
    let pins_now = entries(&cluster.nodes[0].bpffs())?;
    cluster.nodes[0].start_agent()?;
    refused?;
    ensure!(pins_now == pins, "pinned before: {pins:?}, after: {pins_now:?}");
    no_stranger(cluster, directory)
}

/// All paths below a directory.
fn entries(directory: &Path) -> Result<BTreeSet<PathBuf>> {
    let mut all = BTreeSet::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            all.extend(entries(&path)?);
        }
        all.insert(path);
    }
    Ok(all)
}

/// Nobody listens at the socket any more, or there never was one.
fn a_containerd_that_is_away(cluster: &Cluster, directory: &Path) -> Result<()> {
    let token = cluster.dir.join("server/join-token");
    let dead = directory.join("dead.sock");
    drop(UnixListener::bind(&dead)?);
    for (socket, expected) in
        [(dead, "does not answer"), (directory.join("none.sock"), "there is no containerd at")]
    {
        let mut agent = stranger(cluster, directory, &socket, &token)?;
        refused(&mut agent, expected)?;
        no_stranger(cluster, directory)?;
    }
    Ok(())
}

#[test]
#[ignore = "needs nft; run by `cargo xtask test` as root"]
fn a_server_that_cannot_work() -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let taken = listener.local_addr()?.to_string();
    for (listen, flags, expected) in [
        (taken.as_str(), &[][..], taken.as_str()),
        (
            "127.0.0.1:0",
            &["--pod-cidr", "10.9.0.0/16", "--service-cidr", "10.9.128.0/20"],
            "pod range 10.9.0.0/16 overlaps service range 10.9.128.0/20",
        ),
        ("127.0.0.1:0", &["--pod-cidr", "10.240.0.0/25"], "does not fit into the pod range"),
    ] {
        let directory = tempfile::tempdir()?;
        let mut server = command("timeout");
        server.arg(LIMIT).arg(artifacts::bowline()?);
        // An address of the documentation's range stands for the nodes'.
        server.args(["server", "--listen", listen, "--advertise", "192.0.2.1:6443"]);
        server.arg("--data-dir").arg(directory.path().join("data")).args(flags);
        refused(&mut server, expected).with_context(|| format!("--listen {listen} {flags:?}"))?;
        let left = entries(directory.path())?;
        ensure!(left.is_empty(), "it made {left:?}");
    }
    Ok(())
}
