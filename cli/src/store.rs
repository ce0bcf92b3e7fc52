//! `bowline store`: what to do with the store of a server that does not run.
//!
//! Guarantees: `check`, `stats` and `export` never change the file, nothing here works on a store
//! that a server has open, and secrets are written out only on request.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use bowline_control_plane::offline::{self, Offline};
use clap::Subcommand;
use serde_json::json;

use crate::output::{self, Format};

/// Check, measure, write out and fill the store of a server that does not run
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  bowline store check
  bowline store stats --data-dir /var/lib/bowline/server
  bowline store export --include-secrets --file backup.jsonl
  bowline store import --data-dir /var/lib/bowline/new --file backup.jsonl")]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Verify checksums, that every object can be read, and that history and objects agree
    #[command(after_help = "Example:
  bowline store check --data-dir /var/lib/bowline/server")]
    Check(Place),
    /// Show objects by kind, bytes of objects and history, and the revision
    #[command(after_help = "Examples:
  bowline store stats
  bowline store stats -o json")]
    Stats {
        #[command(flatten)]
        place: Place,
        /// As a table, or for scripts
        #[arg(long, short, value_enum, default_value_t)]
        output: Format,
    },
    /// Write all objects as lines of JSON; secrets only with --include-secrets
    #[command(after_help = "Examples:
  bowline store export > objects.jsonl
  bowline store export --include-secrets --file backup.jsonl")]
    Export {
        #[command(flatten)]
        place: Place,
        /// Also the secrets, in clear text
        #[arg(long)]
        include_secrets: bool,
        /// A new file to write to, readable for its owner only [default: standard output]
        #[arg(long, short, value_name = "FILE")]
        file: Option<PathBuf>,
    },
    /// Fill a new store with an export; names, UIDs and revisions stay
    #[command(after_help = "Examples:
  bowline store import --data-dir /var/lib/bowline/new --file backup.jsonl
  bowline store import --data-dir /var/lib/bowline/new < backup.jsonl")]
    Import {
        #[command(flatten)]
        place: Place,
        /// What to read [default: standard input]
        #[arg(long, short, value_name = "FILE")]
        file: Option<PathBuf>,
    },
}

#[derive(Debug, clap::Args)]
struct Place {
    /// The data directory of the server
    #[arg(long, value_name = "DIR", default_value = "/var/lib/bowline/server")]
    data_dir: PathBuf,
}

pub(crate) fn run(args: Args) -> anyhow::Result<()> {
    match args.command {
        Command::Check(place) => check(&place),
        Command::Stats { place, output } => stats(&place, output),
        Command::Export { place, include_secrets, file } => {
            export(&place, include_secrets, file.as_deref())
        }
        Command::Import { place, file } => import(&place, file.as_deref()),
    }
}

fn check(place: &Place) -> anyhow::Result<()> {
    let checked = Offline::open(&place.data_dir)?.check()?;
    for problem in &checked.problems {
        output::line(problem)?;
    }
    let offline::Checked { revision, objects, changes, found, .. } = checked;
    if found > 0 {
        bail!("{found} problems in {objects} objects and {changes} changes");
    }
    output::line(&format!(
        "no problem in {objects} objects and {changes} changes, at revision {revision}"
    ))?;
    Ok(())
}

fn stats(place: &Place, format: Format) -> anyhow::Result<()> {
    let stats = Offline::open(&place.data_dir)?.stats()?;
    if !format.is_table() {
        let kinds = stats.kinds.iter().map(|(kind, (objects, bytes))| {
            (kind.clone(), json!({ "objects": objects, "bytes": bytes }))
        });
        let kinds: serde_json::Map<_, _> = kinds.collect();
        let mut value = serde_json::to_value(&stats).context("cannot write JSON")?;
        value["kinds"] = kinds.into();
        return output::document(&value, format);
    }
    let mut text = format!(
        "revision  {}\nobjects   {} with {} bytes\nhistory   {} changes with {} bytes, after \
         revision {}\nfile      {} bytes, {} of them neither\n\n",
        stats.revision,
        stats.objects,
        stats.object_bytes,
        stats.history_changes,
        stats.history_bytes,
        stats.compacted,
        stats.file_bytes,
        stats.other_bytes
    );
    for (kind, (objects, bytes)) in &stats.kinds {
        text.push_str(&format!("{objects:>8} {bytes:>12}  {kind}\n"));
    }
    output::text(&text)?;
    Ok(())
}

fn export(place: &Place, secrets: bool, file: Option<&Path>) -> anyhow::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let store = Offline::open(&place.data_dir)?;
    let exported = match file {
        None => {
            let mut text = Vec::new();
            let exported = store.export(&mut text, secrets)?;
            output::bytes(&text)?;
            exported
        }
        Some(path) => {
            let mut options = File::options();
            let opened = options.write(true).create_new(true).mode(0o600).open(path);
            let opened = opened.with_context(|| format!("cannot make {}", path.display()))?;
            let mut to = BufWriter::new(opened);
            let exported = store.export(&mut to, secrets)?;
            let synced = to.flush().and_then(|()| to.get_ref().sync_all());
            synced.with_context(|| format!("cannot write {}", path.display()))?;
            exported
        }
    };
    if exported.secrets_left_out > 0 {
        let left_out = exported.secrets_left_out;
        // Nobody may be there to read it.
        drop(writeln!(
            io::stderr(),
            "left out {left_out} secrets: --include-secrets writes them, too"
        ));
    }
    Ok(())
}

fn import(place: &Place, file: Option<&Path>) -> anyhow::Result<()> {
    let mut from: Box<dyn BufRead> = match file {
        None => Box::new(BufReader::new(io::stdin())),
        Some(path) => {
            let opened = File::open(path);
            Box::new(BufReader::new(
                opened.with_context(|| format!("cannot read {}", path.display()))?,
            ))
        }
    };
    let objects = offline::import(&place.data_dir, &mut *from)?;
    output::line(&format!("imported {objects} objects"))?;
    Ok(())
}
