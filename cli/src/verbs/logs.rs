//! `bowline logs`: what a container has written.

use anyhow::{Context, bail};
use futures::AsyncReadExt;

use super::Scope;
use super::client::{Server, escape, query};
use super::discovery::segment;
use crate::output;

const BUFFER_BYTES: usize = 16 * 1024;

/// Show what a container has written.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  bowline logs web-1
  bowline logs web-1 -c sidecar -f --tail 20
  bowline logs pod/web-1 --previous")]
pub(crate) struct Args {
    /// Name of the pod
    pod: String,
    /// Container, when the pod has several
    #[arg(long, short)]
    container: Option<String>,
    /// Go on showing what is written
    #[arg(long, short)]
    follow: bool,
    /// Only the last lines
    #[arg(long, value_name = "LINES")]
    tail: Option<u64>,
    /// Only what is younger than this
    #[arg(long, value_name = "SECONDS")]
    since_seconds: Option<u64>,
    /// Put the time before each line
    #[arg(long)]
    timestamps: bool,
    /// Of the container's run before this one
    #[arg(long, short)]
    previous: bool,
    #[command(flatten)]
    scope: Scope,
    #[command(flatten)]
    server: Server,
}

pub(crate) async fn run(args: &Args) -> anyhow::Result<()> {
    let connection = args.server.connect().await?;
    let path = args.path(args.scope.namespace(&connection))?;
    let mut log = Box::pin(connection.stream(&path, "*/*").await?);
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        match log.read(&mut buffer).await.context("the log broke off")? {
            0 => return Ok(()),
            count => output::bytes(&buffer[..count])?,
        }
    }
}

impl Args {
    fn path(&self, namespace: &str) -> anyhow::Result<String> {
        let pod = match self.pod.split_once('/') {
            Some(("pod" | "pods" | "po", name)) => name,
            Some((kind, _)) => bail!("logs come from pods, not from `{kind}`"),
            None => &self.pod,
        };
        let mut parameters = Vec::new();
        parameters.extend(self.container.clone().map(|it| ("container", it)));
        parameters.extend(self.tail.map(|it| ("tailLines", it.to_string())));
        parameters.extend(self.since_seconds.map(|it| ("sinceSeconds", it.to_string())));
        let flags =
            [("follow", self.follow), ("timestamps", self.timestamps), ("previous", self.previous)];
        let set = flags.iter().filter(|(_, set)| *set);
        parameters.extend(set.map(|(flag, _)| (*flag, "true".to_owned())));
        let (namespace, pod) = (escape(namespace), segment(pod)?);
        Ok(format!("/api/v1/namespaces/{namespace}/pods/{pod}/log{}", query(&parameters)))
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        logs: Args,
    }

    #[test]
    fn flags_become_parameters() {
        for (line, expected) in [
            ("web", "/api/v1/namespaces/default/pods/web/log"),
            ("pod/web -f", "/api/v1/namespaces/default/pods/web/log?follow=true"),
            (
                "web -c x --tail 5 -p",
                "/api/v1/namespaces/default/pods/web/log?container=x&tailLines=5&previous=true",
            ),
        ] {
            let words = std::iter::once("logs").chain(line.split_whitespace());
            let path = Line::parse_from(words).logs.path("default").unwrap();
            assert_eq!(path, expected, "{line}");
        }
        for pod in ["deploy/web", "pod/", ""] {
            let line = Line::parse_from(["logs", pod]);
            assert!(line.logs.path("default").is_err(), "`{pod}`");
        }
    }
}
