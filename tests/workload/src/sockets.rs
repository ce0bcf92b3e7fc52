//! A client over UDP, with a connected socket and with one that is not: they pass different hooks.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::options::Options;
use crate::statistics::Tally;

const PATIENCE: Duration = Duration::from_secs(2);

/// Send datagrams both ways and report who answered from which address.
pub(crate) fn udp(options: &Options) -> Result<Value, String> {
    let target = options.target(0)?;
    let requests = options.or("requests", 100_u32)?;
    let one_way = |connected| exchange(target, requests, connected).map_err(|e| e.to_string());
    Ok(json!({ "connected": one_way(true)?, "unconnected": one_way(false)? }))
}

fn exchange(target: SocketAddr, requests: u32, connected: bool) -> io::Result<Value> {
    let start = Instant::now();
    let mut tally = Tally::default();
    for number in 0..requests {
        let begun = Instant::now();
        match one(target, number, connected) {
            Ok((source, body)) => {
                tally.ok(begun.elapsed());
                tally.saw("source", source.to_string());
                tally.saw_identity(&body);
            }
            Err(error) => tally.fail(error.to_string()),
        }
    }
    Ok(tally.report(start.elapsed()))
}

fn one(target: SocketAddr, number: u32, connected: bool) -> io::Result<(SocketAddr, String)> {
    let any: IpAddr =
        if target.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let text = format!("datagram {number}");
    let mut buffer = [0; 2048];
    let (length, source) = if connected {
        socket.connect(target)?;
        socket.send(text.as_bytes())?;
        (socket.recv(&mut buffer)?, socket.peer_addr()?)
    } else {
        socket.send_to(text.as_bytes(), target)?;
        socket.recv_from(&mut buffer)?
    };
    Ok((source, String::from_utf8_lossy(&buffer[..length]).into_owned()))
}
