//! The demo: plays the founding scenario with a progress display and prints the report.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use bowline_tests::first_light::{Audience, Report, Stage, Step};
use bowline_tests::{Wishes, artifacts, interrupts};
use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use tokio::sync::watch;

/// Play the founding scenario on a three-node cluster.
#[derive(Parser)]
struct Options {
    /// Also write the facts as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Leave the cluster up.
    #[arg(long)]
    keep: bool,
    /// Name of the cluster.
    #[arg(long, default_value = "demo")]
    name: String,
}

/// Where local clusters are by default.
const PARENT: &str = "/var/lib/bowline";

#[tokio::main]
async fn main() -> ExitCode {
    let options = Options::parse();
    // From here on an interrupt is an error like any other: the cluster is removed.
    interrupts::end_of(1, async |interrupted| run(&options, interrupted).await).await
}

async fn run(options: &Options, mut interrupted: watch::Receiver<bool>) -> Result<()> {
    let mut screen = Screen(ProgressBar::new_spinner());
    let style = ProgressStyle::with_template("{spinner} {msg}  {elapsed}")?;
    screen.0.set_style(style);
    screen.0.enable_steady_tick(Duration::from_millis(100));
    screen.begin("starting three nodes, a registry, and pushing the images");
    let wishes = Wishes {
        name: Some(options.name.clone()),
        dir: Some(Path::new(PARENT).join(&options.name)),
        ..Wishes::default()
    };
    let mut stage = Stage::new(&wishes).await?;
    let report = tokio::select! {
        biased;
        Ok(_) = interrupted.wait_for(|yes| *yes) => Err(anyhow!("interrupted")),
        report = stage.play(&mut screen) => report,
    };
    screen.0.finish_and_clear();
    let keep = options.keep && !*interrupted.borrow();
    if keep {
        stage.cluster().keep();
    }
    if let Ok(report) = &report {
        println!("\n{report}");
        if let Some(file) = &options.json {
            write(file, report)?;
        }
    }
    if keep {
        println!("the cluster is still up:\n{}", how_to_use(&options.name)?);
    } else {
        drop(stage);
        println!("the cluster is removed; `cargo xtask demo --keep` leaves it up");
    }
    report.map(drop)
}

fn write(file: &Path, report: &Report) -> Result<()> {
    let text = serde_json::to_string_pretty(report)?;
    std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
}

/// Commands that work as they are printed, from any directory.
fn how_to_use(name: &str) -> Result<String> {
    let bowline = artifacts::bowline()?;
    let bowline = bowline.display();
    Ok(format!(
        "  {bowline} status --name {name}\n  {bowline} get pods -o wide --name {name}\n  \
         {bowline} net services --name {name} --node node1\n  \
         kubectl --kubeconfig {PARENT}/{name}/admin.kubeconfig get pods -o wide\n  \
         {bowline} down --name {name}"
    ))
}

/// Progress on the terminal; finished steps stay above the spinner.
struct Screen(ProgressBar);

impl Audience for Screen {
    fn begin(&mut self, title: &str) {
        self.0.set_message(title.to_owned());
        self.0.reset_elapsed();
    }

    fn end(&mut self, step: &Step) {
        let line = format!("ok  {}. {}  {:.1} s", step.number, step.title, step.seconds);
        if self.0.is_hidden() {
            eprintln!("{line}");
        } else {
            self.0.println(line);
        }
    }
}
