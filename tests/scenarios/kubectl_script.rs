//! Unmodified kubectl, the oldest and the newest release that is supported, step by step: the
//! scripts of `tests/kubectl` with all that each step prints.
//!
//! Every script is played by each release, at the same time, in a namespace of its own. A step
//! that should print something else is run anew with `UPDATE_GOLDENS=1`, which writes the scripts;
//! what it wrote has to be read.

use std::collections::VecDeque;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use bowline_tests::command::{command, finish, output};
use bowline_tests::transcript::{self, Entry, Step};
use bowline_tests::volatile::normalized;
use bowline_tests::{Cluster, Wishes, artifacts};

/// The releases, and the node that each may change.
const RELEASES: [(&str, &str); 2] = [("1.32", "node1"), ("1.36", "node2")];
/// Players at the same time: most of what a step takes is a processor's.
const PLAYERS: usize = 4;
/// What a step may take until it is ended.
const STEP_LIMIT: &str = "75";
/// So long a patient step is tried again.
const PATIENCE: Duration = Duration::from_secs(40);
/// An unexpected output counts as the new one when it has not changed for so long.
const SETTLED: Duration = Duration::from_millis(2500);
/// Once so many steps are wrong the rest of a script says nothing new.
const ENOUGH: usize = 8;

/// What a script's steps printed.
struct Played {
    version: &'static str,
    said: Vec<Vec<String>>,
    wrong: Vec<String>,
    took: Duration,
}

/// One script, played by one release.
struct Player<'a> {
    version: &'static str,
    space: String,
    node: &'static str,
    directory: PathBuf,
    script: &'a [Entry],
    update: bool,
}

#[test]
#[ignore = "needs root and containerd; run by `cargo xtask test` as root"]
fn the_scripts_print_what_they_should() -> Result<()> {
    let cluster = Cluster::up(&Wishes::default())?;
    play_all(&cluster).map_err(|error| cluster.with_logs(error))
}

fn play_all(cluster: &Cluster) -> Result<()> {
    let update = std::env::var_os("UPDATE_GOLDENS").is_some();
    let scripts = scripts()?;
    let mut played: Vec<Vec<Played>> = scripts.iter().map(|_| Vec::new()).collect();
    let work: VecDeque<_> =
        (0..scripts.len()).flat_map(|at| RELEASES.map(|release| (at, release))).collect();
    let (work, results) = (Mutex::new(work), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..PLAYERS {
            scope.spawn(|| {
                loop {
                    let next = work.lock().ok().and_then(|mut work| work.pop_front());
                    let Some((at, release)) = next else { return };
                    let (path, script) = &scripts[at];
                    let one = Player::new(cluster, path, script, release, update)
                        .and_then(|player| player.play());
                    let Ok(mut results) = results.lock() else { return };
                    results.push((at, one));
                }
            });
        }
    });
    let results = results.into_inner().map_err(|_| anyhow!("a player panicked"))?;
    for (at, one) in results {
        played[at].push(one.with_context(|| scripts[at].0.display().to_string())?);
    }
    let mut wrong = Vec::new();
    for ((path, script), mut played) in scripts.into_iter().zip(played) {
        let name = path.file_name().unwrap_or_default().display().to_string();
        ensure!(played.len() == RELEASES.len(), "{name} was not played by each release");
        played.sort_by_key(|one| one.version);
        for one in &mut played {
            let (steps, took) = (one.said.len(), one.took.as_secs_f64());
            println!("{name}: kubectl {}: {steps} steps in {took:.1} s", one.version);
            let told = |text| format!("{name}, kubectl {}: {text}", one.version);
            wrong.extend(one.wrong.drain(..).map(told));
        }
        if update {
            fs::write(&path, transcript::written(&learned(script, &played)))?;
        }
    }
    if wrong.is_empty() || update {
        return Ok(());
    }
    bail!("{} steps are wrong:\n{}", wrong.len(), wrong.join("\n"))
}

fn scripts() -> Result<Vec<(PathBuf, Vec<Entry>)>> {
    let directory = artifacts::workspace().join("tests/kubectl");
    let only = std::env::var("KUBECTL_SCRIPT").unwrap_or_default();
    let mut scripts = Vec::new();
    for file in fs::read_dir(&directory)? {
        let path = file?.path();
        if path.display().to_string().contains(&only) {
            let text = fs::read_to_string(&path)?;
            let script = transcript::read(&text).with_context(|| path.display().to_string())?;
            scripts.push((path, script));
        }
    }
    scripts.sort();
    ensure!(!scripts.is_empty(), "no script in {}", directory.display());
    Ok(scripts)
}

fn learned(mut script: Vec<Entry>, played: &[Played]) -> Vec<Entry> {
    let steps = script.iter_mut().filter_map(|entry| match entry {
        Entry::Step(step) => Some(step),
        _ => None,
    });
    for (at, step) in steps.enumerate() {
        let printed: Vec<_> = played
            .iter()
            .filter_map(|one| Some((one.version.to_owned(), one.said.get(at)?.clone())))
            .collect();
        step.learn(&printed);
    }
    script
}

impl<'a> Player<'a> {
    fn new(
        cluster: &Cluster,
        path: &Path,
        script: &'a [Entry],
        (version, node): (&'static str, &'static str),
        update: bool,
    ) -> Result<Self> {
        let program = artifacts::target().join("tools").join(format!("kubectl-{version}"));
        ensure!(program.is_file(), "{} is missing: run `cargo xtask setup`", program.display());
        let name = path.file_stem().context("a script without a name")?.display().to_string();
        let space = format!("{name}-{}", version.replace('.', ""));
        let directory = cluster.dir.join("logs").join(&space);
        fs::create_dir_all(directory.join("bin"))?;
        fs::copy(cluster.kubeconfig(), directory.join("kubeconfig"))?;
        symlink(program.canonicalize()?, directory.join("bin/kubectl"))?;
        let player = Self { version, space, node, directory, script, update };
        output(&mut player.shell(
            "kubectl create namespace $NS && kubectl config set-context --current --namespace=$NS \
             && kubectl wait --for=create serviceaccount/default configmap/kube-root-ca.crt",
        ))?;
        Ok(player)
    }

    fn shell(&self, line: &str) -> Command {
        let mut shell = command("timeout");
        let path = format!("{}:/usr/bin:/bin", self.directory.join("bin").display());
        shell.args([STEP_LIMIT, "sh", "-c", &format!("exec 2>&1\n{line}")]);
        shell.current_dir(&self.directory).env("HOME", &self.directory).env("PATH", path);
        shell.env("KUBECONFIG", self.directory.join("kubeconfig"));
        shell.env("NS", &self.space).env("NODE", self.node).env("TERM", "dumb").env("LC_ALL", "C");
        shell
    }

    fn play(&self) -> Result<Played> {
        let start = Instant::now();
        let (mut said, mut wrong) = (Vec::new(), Vec::new());
        for entry in self.script {
            match entry {
                Entry::Note(_) => {}
                Entry::File { name, lines } => {
                    let text = lines.join("\n").replace("$NS", &self.space) + "\n";
                    fs::write(self.directory.join(name), text.replace("$NODE", self.node))?;
                }
                Entry::Step(step) => {
                    let begun = Instant::now();
                    let printed = self.step(step)?;
                    if self.update {
                        let took = begun.elapsed().as_secs_f64();
                        println!("{} {took:.1} s: {}", self.space, step.command);
                    }
                    if printed != step.expected(self.version) {
                        wrong.push(difference(step, step.expected(self.version), &printed));
                    }
                    said.push(printed);
                }
            }
            if wrong.len() >= ENOUGH && !self.update {
                wrong.push("(the rest was not played)".to_owned());
                break;
            }
        }
        Ok(Played { version: self.version, said, wrong, took: start.elapsed() })
    }

    /// Runs a step; a patient one until it prints what it should or time is up.
    fn step(&self, step: &Step) -> Result<Vec<String>> {
        let expected = step.expected(self.version);
        let start = Instant::now();
        let (mut last, mut since) = (Vec::new(), Instant::now());
        loop {
            let printed = self.printed(&step.command)?;
            if !step.patient || printed == expected || start.elapsed() > PATIENCE {
                return Ok(printed);
            }
            if printed != last {
                (last, since) = (printed, Instant::now());
            } else if self.update && since.elapsed() > SETTLED {
                return Ok(last);
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn printed(&self, line: &str) -> Result<Vec<String>> {
        let ended = finish(&mut self.shell(line))?;
        let text = String::from_utf8_lossy(&ended.stdout);
        let nodes = ["node1", "node2", "node3"].map(|node| (node, "NODE"));
        let names = [&[(self.space.as_str(), "NS")][..], &nodes].concat();
        let mut lines = normalized(&text, &names);
        if !ended.status.success() {
            let status = ended.status.code().context("a step was killed")?;
            lines.push(format!("[status {status}]"));
        }
        Ok(lines)
    }
}

/// The lines of which only one side has the like.
fn difference(step: &Step, expected: &[String], printed: &[String]) -> String {
    let mut text = format!("$ {}", step.command);
    let without = |one: &[String], other: &[String], sign: char| -> String {
        let only = one.iter().filter(|line| !other.contains(line));
        only.map(|line| format!("\n  {sign} {line}")).collect()
    };
    text.push_str(&without(expected, printed, '-'));
    text.push_str(&without(printed, expected, '+'));
    if expected.len() == printed.len() && !text.contains('\n') {
        text.push_str("\n  the same lines in another order");
    }
    text
}
