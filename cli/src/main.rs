//! The `bowline` binary: the server, the agent, local clusters, the object verbs and `net`.
//!
//! Guarantees: namespaces are entered before the process has a second thread; an error is one line
//! on standard error and an exit status that is not zero.
//!
//! Does not hold any logic of server or agent: those are `bowline-control-plane` and
//! `bowline-agent`.

mod bench;
mod cluster;
mod launch;
mod net;
mod node;
mod output;
mod serve;
mod store;
mod verbs;

use std::ffi::OsString;
use std::future::Future;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use anyhow::Context;
use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::Shell;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

/// A container orchestrator with the Kubernetes API and an eBPF network.
#[derive(Debug, Parser)]
#[command(name = "bowline", version, max_term_width = 100)]
#[command(after_help = "Examples:
  bowline up --name demo                                     a cluster on this machine
  bowline apply -f web.yaml && bowline get pods
  bowline net status --all-nodes                             what is wrong with the network
  bowline net explain web-1 web-svc:80 --run                 what becomes of a connection
  bowline down --name demo")]
struct CommandLine {
    /// What to log to standard error: error, warn, info, debug, or per module [default: warn; info
    /// for server and agent]
    #[arg(long, global = true, value_name = "LEVEL")]
    log_level: Option<String>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Server(Box<serve::Args>),
    Agent(Box<node::Args>),
    CleanNode(node::CleanArgs),
    Up(Box<cluster::up::Wishes>),
    Down(cluster::down::Args),
    Status(cluster::status::Args),
    Get(verbs::get::Args),
    Describe(verbs::describe::Args),
    Apply(verbs::apply::Args),
    Delete(verbs::delete::Args),
    Scale(verbs::scale::Args),
    Logs(verbs::logs::Args),
    Net(Box<net::Args>),
    Store(store::Args),
    Bench(bench::Args),
    /// Print a completion script for a shell
    #[command(after_help = "Examples:
  bowline completion bash > /etc/bash_completion.d/bowline
  bowline completion fish | source")]
    Completion {
        shell: Shell,
    },
    /// Print the version
    #[command(after_help = "Example:
  bowline version")]
    Version,
    #[command(hide = true)]
    NetServed(net::ServedArgs),
    #[command(hide = true)]
    InternalExec(launch::Args),
}

fn main() -> ExitCode {
    let words: Vec<OsString> = std::env::args_os().skip(1).collect();
    let done = match bench::help(&words) {
        Some(args) => bench::exec(&args).map(|never| match never {}),
        None => run(CommandLine::parse()),
    };
    match output::unless_unread(done) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&error);
            ExitCode::FAILURE
        }
    }
}

/// One line that says what went wrong.
fn complain(error: &anyhow::Error) {
    // Nobody may be there to read it; the exit status says the same.
    drop(writeln!(std::io::stderr(), "error: {}", one_line(&format!("{error:#}"))));
}

fn run(line: CommandLine) -> anyhow::Result<()> {
    let is_service = matches!(line.command, Command::Server(_) | Command::Agent(_));
    // A command reports a failed connection itself, in one line.
    let default_level = if is_service { "info" } else { "warn,kube_client=off" };
    log_to_stderr(line.log_level.as_deref().unwrap_or(default_level))?;
    // A second caller would fail; here is the only one.
    drop(rustls::crypto::ring::default_provider().install_default());
    match line.command {
        Command::Server(args) => serve::run(*args),
        Command::Agent(args) => node::run(*args),
        Command::CleanNode(args) => node::clean(args),
        Command::Up(args) => cluster::up::run(&args),
        Command::Down(args) => cluster::down::run(&args),
        Command::Status(args) => wait(cluster::status::run(&args)),
        Command::Get(args) => wait(verbs::get::run(&args)),
        Command::Describe(args) => wait(verbs::describe::run(&args)),
        Command::Apply(args) => wait(verbs::apply::run(&args)),
        Command::Delete(args) => wait(verbs::delete::run(&args)),
        Command::Scale(args) => wait(verbs::scale::run(&args)),
        Command::Logs(args) => wait(verbs::logs::run(&args)),
        Command::Net(args) => net::run(&args),
        Command::Store(args) => store::run(args),
        Command::NetServed(args) => match CommandLine::try_parse_from(args.words()) {
            Ok(CommandLine { command: Command::Net(asked), .. }) => net::serve(args, *asked),
            Ok(_) => anyhow::bail!("a node answers `bowline net` only"),
            Err(error) => error.exit(),
        },
        Command::Bench(args) => bench::exec(&args).map(|never| match never {}),
        Command::Completion { shell } => completion(shell),
        Command::Version => Ok(output::line(&format!("bowline {}", env!("CARGO_PKG_VERSION")))?),
        Command::InternalExec(args) => launch::exec(&args).map(|never| match never {}),
    }
}

/// Runs a command that talks to a server; one thread is enough for it.
fn wait<T>(command: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start a runtime")?;
    runtime.block_on(command)
}

fn log_to_stderr(level: &str) -> anyhow::Result<()> {
    let filter = log_filter(level)
        .with_context(|| format!("--log-level {level} is not valid: use info, or module=debug"))?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    Ok(())
}

/// `None` for what is neither a level nor `module=level`. A lone word that is no level would be
/// taken for a module, and everything of it would be logged: nothing, in other words.
fn log_filter(levels: &str) -> Option<EnvFilter> {
    let is_level = |word: &str| !word.is_empty() && word.parse::<LevelFilter>().is_ok();
    let known = |part: &str| is_level(part.rsplit_once('=').map_or(part, |(_, level)| level));
    if !levels.split(',').all(known) {
        return None;
    }
    EnvFilter::try_new(levels).ok()
}

fn completion(shell: Shell) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut CommandLine::command(), "bowline", &mut script);
    Ok(output::bytes(&script)?)
}

/// Errors of libraries may have several lines; ours have one.
fn one_line(text: &str) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        CommandLine::command().debug_assert();
    }

    #[test]
    fn every_command_has_help_with_an_example() {
        for command in CommandLine::command().get_subcommands() {
            let name = command.get_name();
            if command.is_hide_set() || command.has_subcommands() {
                continue;
            }
            assert!(command.get_about().is_some(), "{name} has no help");
            let examples = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(examples.contains("Example"), "{name} has no example");
        }
    }

    #[test]
    fn what_looks_at_a_node_has_examples() {
        let line = CommandLine::command();
        let net = line.find_subcommand("net").unwrap();
        for name in ["services", "backends", "dns", "status", "diff", "maps"] {
            let help = net.find_subcommand(name).unwrap().get_after_help();
            let examples = help.map(ToString::to_string).unwrap_or_default();
            assert!(examples.contains(&format!("bowline net {name} ")), "{name} has no example");
        }
    }

    #[test]
    fn log_levels_are_levels() {
        for good in ["info", "off", "DEBUG", "warn,kube_client=off", "bowline_agent=debug"] {
            assert!(log_filter(good).is_some(), "{good}");
        }
        for bad in ["silly", "", "info,loud", "bowline=silly"] {
            assert!(log_filter(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn what_is_missing_is_asked_for() {
        let parse = |line: &str| CommandLine::try_parse_from(line.split_whitespace());
        let negative = parse("bowline scale rc/x --replicas -1").unwrap_err().to_string();
        assert!(negative.contains("-1 is not in 0.."), "{negative}");
        let Command::Delete(args) = parse("bowline delete").unwrap().command else { panic!() };
        let error = wait(verbs::delete::run(&args)).unwrap_err().to_string();
        assert!(error.contains("say what to delete") && error.lines().count() == 1, "{error}");
    }

    #[test]
    fn errors_are_one_line() {
        assert_eq!(one_line("a\n  b\n\nc"), "a; b; c");
    }
}
