//! The program inside the pods of tests and the demo, and the clients that load them.
//!
//! One static binary, so that an image needs nothing else. Every mode prints one JSON document on
//! standard output when it ends; `serve` prints nothing.
//!
//! Guarantees: a client's loop is bounded by a count, or ends when its standard input closes, so
//! that nothing goes on after the test that started it. Every socket has a time limit.

mod dns;
mod echo;
mod http;
mod load;
mod options;
mod raw;
mod serve;
mod sockets;
mod statistics;
mod swarm;

use std::process::ExitCode;

use options::Options;

const USAGE: &str = "usage:
  bowline-workload serve [--listen ADDRESS] [--http PORT] [--tcp-echo PORT] [--udp-echo PORT]
                         [--lameduck-ms N] [--start-ms N]
  bowline-workload load TARGET [--requests N] [--workers N] [--keep-alive true] [--every-us N]
                         without --requests: until standard input closes
  bowline-workload hold TARGET [--connections N] [--every-ms N]    until standard input closes
  bowline-workload compare TARGET OTHER [--rounds N] [--requests N]
  bowline-workload udp TARGET [--requests N]
  bowline-workload raw TARGET
  bowline-workload answer [--port N]                               until standard input closes
  bowline-workload visit FIRST [--services N] [--workers N] [--every-us N]
                         services at consecutive addresses, until standard input closes
  bowline-workload resolve NAME [--family 4|6]";

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    let mode = words.next().unwrap_or_default();
    let result = Options::parse(words).and_then(|options| run(&mode, &options));
    match result {
        Ok(Some(report)) => {
            println!("{report}");
            ExitCode::SUCCESS
        }
        Ok(None) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run(mode: &str, options: &Options) -> Result<Option<serde_json::Value>, String> {
    match mode {
        "serve" => serve::run(options).map(|()| None),
        "load" => load::run(options).map(Some),
        "hold" => load::hold(options).map(Some),
        "compare" => load::compare(options).map(Some),
        "udp" => sockets::udp(options).map(Some),
        "raw" => raw::run(options).map(Some),
        "answer" => swarm::answer(options).map(Some),
        "visit" => swarm::visit(options).map(Some),
        "resolve" => dns::run(options).map(Some),
        _ => Err(USAGE.to_owned()),
    }
}
