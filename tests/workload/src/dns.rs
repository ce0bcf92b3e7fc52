//! A resolver of its own, because a static binary cannot load the system's: reads
//! `/etc/resolv.conf`, follows its search list, and asks over UDP.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::options::Options;

const PATIENCE: Duration = Duration::from_secs(3);
const NAME_ERROR: u8 = 3;

/// What `/etc/resolv.conf` says.
#[derive(Debug, Default, PartialEq, Eq)]
struct Config {
    servers: Vec<String>,
    search: Vec<String>,
    ndots: usize,
}

/// An answer: the response code and the addresses.
struct Answer {
    code: u8,
    addresses: Vec<IpAddr>,
}

/// The record types of addresses (RFC 1035, RFC 3596).
const A: u8 = 1;
const AAAA: u8 = 28;

/// Resolve a name as a program in the pod would.
pub(crate) fn run(options: &Options) -> Result<Value, String> {
    let name = options.word(0)?;
    let text = std::fs::read_to_string("/etc/resolv.conf")
        .map_err(|error| format!("cannot read /etc/resolv.conf: {error}"))?;
    let config = parse_config(&text);
    let server = config.servers.first().ok_or("/etc/resolv.conf names no server")?;
    let server: SocketAddr =
        format!("{server}:53").parse().map_err(|error| format!("{server}: {error}"))?;
    let kind = if options.or("family", 4)? == 6 { AAAA } else { A };
    let start = Instant::now();
    let mut tried = Vec::new();
    for candidate in candidates(name, &config) {
        let answer = ask(server, &candidate, kind)?;
        tried.push(candidate);
        if answer.code != NAME_ERROR {
            return Ok(json!({
                "name": name,
                "found": tried.last(),
                "tried": tried.len(),
                "server": server,
                "code": answer.code,
                "addresses": answer.addresses,
                "ms": start.elapsed().as_secs_f64() * 1000.0,
            }));
        }
    }
    Ok(json!({
        "name": name, "found": null, "tried": tried, "server": server, "code": NAME_ERROR,
        "addresses": [],
    }))
}

fn parse_config(text: &str) -> Config {
    let mut config = Config { ndots: 1, ..Config::default() };
    for line in text.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => config.servers.extend(words.next().map(str::to_owned)),
            Some("search") => config.search = words.map(str::to_owned).collect(),
            Some("options") => {
                for option in words {
                    if let Some(dots) = option.strip_prefix("ndots:") {
                        config.ndots = dots.parse().unwrap_or(1);
                    }
                }
            }
            _ => {}
        }
    }
    config
}

/// The names to ask for, in order.
fn candidates(name: &str, config: &Config) -> Vec<String> {
    if let Some(absolute) = name.strip_suffix('.') {
        return vec![absolute.to_owned()];
    }
    let mut names: Vec<String> =
        config.search.iter().map(|domain| format!("{name}.{domain}")).collect();
    let dots = name.matches('.').count();
    let position = if dots >= config.ndots { 0 } else { names.len() };
    names.insert(position, name.to_owned());
    names
}

fn ask(server: SocketAddr, name: &str, kind: u8) -> Result<Answer, String> {
    let exchange = || {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.connect(server)?;
        socket.send(&query(name, kind))?;
        let mut buffer = [0; 4096];
        let length = socket.recv(&mut buffer)?;
        Ok(buffer[..length].to_vec())
    };
    let reply: std::io::Result<Vec<u8>> = exchange();
    let reply = reply.map_err(|error| format!("{server} about {name}: {error}"))?;
    parse_answer(&reply).ok_or_else(|| format!("{server} about {name}: a malformed answer"))
}

/// A query for the addresses of `name`, recursion desired.
fn query(name: &str, kind: u8) -> Vec<u8> {
    let mut packet = vec![0xb0, 0x11, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        packet.push(u8::try_from(label.len()).unwrap_or(63));
        packet.extend(label.bytes());
    }
    packet.extend([0, 0, kind, 0, 1]);
    packet
}

fn parse_answer(packet: &[u8]) -> Option<Answer> {
    let number = |at: usize| Some(u16::from_be_bytes([*packet.get(at)?, *packet.get(at + 1)?]));
    let code = packet.get(3)? & 0x0f;
    let mut at = 12;
    for _ in 0..number(4)? {
        at = skip_name(packet, at)? + 4;
    }
    let mut addresses = Vec::new();
    for _ in 0..number(6)? {
        at = skip_name(packet, at)?;
        let (kind, length) = (number(at)?, usize::from(number(at + 8)?));
        let data = packet.get(at + 10..at + 10 + length)?;
        if kind == u16::from(A) {
            addresses.push(IpAddr::from(<[u8; 4]>::try_from(data).ok()?));
        } else if kind == u16::from(AAAA) {
            addresses.push(IpAddr::from(<[u8; 16]>::try_from(data).ok()?));
        }
        at += 10 + length;
    }
    Some(Answer { code, addresses })
}

fn skip_name(packet: &[u8], from: usize) -> Option<usize> {
    let mut at = from;
    loop {
        match *packet.get(at)? {
            0 => return Some(at + 1),
            length if length & 0xc0 == 0xc0 => return Some(at + 2),
            length => at += 1 + usize::from(length),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{A, AAAA, candidates, parse_answer, parse_config, query};

    const POD: &str = "nameserver 10.9.0.10\nsearch a.svc.cluster.local svc.cluster.local\n\
                       options ndots:5\n";

    #[test]
    fn names_are_tried_in_the_order_that_ndots_demands() {
        let config = parse_config(POD);
        let rows = [
            ("web", vec!["web.a.svc.cluster.local", "web.svc.cluster.local", "web"]),
            ("web.a.svc.cluster.local.", vec!["web.a.svc.cluster.local"]),
            (
                "a.b.c.d.e.f",
                vec![
                    "a.b.c.d.e.f",
                    "a.b.c.d.e.f.a.svc.cluster.local",
                    "a.b.c.d.e.f.svc.cluster.local",
                ],
            ),
        ];
        for (name, expected) in rows {
            assert_eq!(candidates(name, &config), expected, "{name}");
        }
    }

    #[test]
    fn addresses_are_read_from_an_answer_with_compressed_names() {
        let mut packet = query("a.b", A);
        packet[2..4].copy_from_slice(&[0x85, 0x80]);
        packet[7] = 2;
        for last in [7, 8] {
            packet.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 5, 0, 4, 10, 9, 8, last]);
        }
        let answer = parse_answer(&packet).unwrap();
        assert_eq!(answer.code, 0);
        assert_eq!(
            answer.addresses,
            ["10.9.8.7", "10.9.8.8"].map(|a| a.parse::<std::net::IpAddr>().unwrap())
        );
        assert!(parse_answer(&packet[..packet.len() - 1]).is_none());
        let mut packet = query("a.b", AAAA);
        packet[2..4].copy_from_slice(&[0x85, 0x80]);
        packet[7] = 1;
        packet.extend([0xc0, 12, 0, AAAA, 0, 1, 0, 0, 0, 5, 0, 16, 0xfd]);
        packet.extend([[0; 14].as_slice(), &[7]].concat());
        let answer = parse_answer(&packet).unwrap();
        assert_eq!(answer.addresses, ["fd00::7".parse::<std::net::IpAddr>().unwrap()]);
    }
}
