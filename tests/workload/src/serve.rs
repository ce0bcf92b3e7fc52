//! The server inside a pod: answers who it is and whom it sees.
//!
//! Guarantees: after SIGTERM it goes on answering for `--lameduck-ms`, telling clients to close,
//! then takes no new connection and ends with status 0 once open requests are answered, within
//! three seconds.

use std::io::{self, BufReader, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal};

use crate::echo;
use crate::http::{header, read_head};
use crate::options::Options;

/// How long open requests may take after the lameduck period.
const LAST_REQUESTS: Duration = Duration::from_secs(3);
/// An idle keep-alive connection is looked at this often, so that it ends with the server.
const IDLE: Duration = Duration::from_secs(60);

struct Server {
    pod: String,
    node: String,
    version: String,
    /// SIGTERM came.
    leaving: AtomicBool,
    /// Requests that are being answered.
    open: AtomicUsize,
}

/// Serve until SIGTERM.
pub(crate) fn run(options: &Options) -> Result<(), String> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.add(Signal::SIGINT);
    // Before any thread starts, so that only the wait below receives them.
    signals.thread_block().map_err(|error| format!("cannot block signals: {error}"))?;

    std::thread::sleep(Duration::from_millis(options.or("start-ms", 0)?));
    let server = Arc::new(Server {
        pod: hostname(),
        node: std::env::var("NODE_NAME").unwrap_or_default(),
        version: std::env::var("VERSION").unwrap_or_default(),
        leaving: AtomicBool::new(false),
        open: AtomicUsize::new(0),
    });
    // `::` takes clients of both families.
    let own: IpAddr = options.or("listen", Ipv4Addr::UNSPECIFIED.into())?;
    if let Some(port) = options.get("tcp-echo")? {
        echo::tcp(bind(own, port)?);
    }
    if let Some(port) = options.get("udp-echo")? {
        echo::udp((own, port).into(), server.pod.clone())?;
    }
    let listener = bind(own, options.or("http", 9376)?)?;
    let accepting = Arc::clone(&server);
    std::thread::spawn(move || accept(&listener, &accepting));

    signals.wait().map_err(|error| format!("cannot wait for a signal: {error}"))?;
    leave(&server, Duration::from_millis(options.or("lameduck-ms", 1000)?));
    Ok(())
}

fn leave(server: &Server, lameduck: Duration) {
    server.leaving.store(true, Ordering::SeqCst);
    std::thread::sleep(lameduck);
    let end = Instant::now() + LAST_REQUESTS;
    while server.open.load(Ordering::SeqCst) > 0 && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn hostname() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname");
    name.map(|name| name.trim().to_owned()).unwrap_or_default()
}

fn bind(own: IpAddr, port: u16) -> Result<TcpListener, String> {
    TcpListener::bind((own, port)).map_err(|error| format!("cannot listen on {port}: {error}"))
}

fn accept(listener: &TcpListener, server: &Arc<Server>) {
    for stream in listener.incoming().flatten() {
        let server = Arc::clone(server);
        std::thread::spawn(move || {
            // A client that goes away in the middle is the client's business.
            drop(answer_all(stream, &server));
        });
    }
}

fn answer_all(stream: TcpStream, server: &Server) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(IDLE))?;
    stream.set_write_timeout(Some(IDLE))?;
    let client = stream.peer_addr()?;
    let mut stream = BufReader::new(stream);
    while let Some(head) = read_head(&mut stream)? {
        server.open.fetch_add(1, Ordering::SeqCst);
        let closes = header(&head, "connection").is_some_and(|v| v.eq_ignore_ascii_case("close"))
            || server.leaving.load(Ordering::SeqCst);
        let sent = stream.get_mut().write_all(reply(&head, client, closes, server).as_bytes());
        server.open.fetch_sub(1, Ordering::SeqCst);
        sent?;
        if closes {
            break;
        }
    }
    Ok(())
}

fn reply(head: &[String], client: SocketAddr, closes: bool, server: &Server) -> String {
    let path = head.first().and_then(|line| line.split_whitespace().nth(1)).unwrap_or("/");
    let (status, body) = match path {
        "/healthz" => ("200 OK", "ok".to_owned()),
        "/readyz" if server.leaving.load(Ordering::SeqCst) => {
            ("503 Service Unavailable", "leaving".to_owned())
        }
        "/readyz" => ("200 OK", "ok".to_owned()),
        "/" => ("200 OK", identity(client, server)),
        _ => ("404 Not Found", "no such path".to_owned()),
    };
    let connection = if closes { "close" } else { "keep-alive" };
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
         Connection: {connection}\r\n\r\n{body}",
        body.len()
    )
}

fn identity(client: SocketAddr, server: &Server) -> String {
    serde_json::json!({
        "pod": server.pod,
        "node": server.node,
        "version": server.version,
        "client": client.ip().to_canonical(),
    })
    .to_string()
}
