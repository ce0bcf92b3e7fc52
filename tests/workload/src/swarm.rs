//! Many backends in one process, and a client that visits many services.
//!
//! `answer` is one listener for every local address: each connection is told which of them it
//! reached. `visit` connects to services picked at random, all the time, and says of each
//! connection when it began and ended and whom it reached, so that a test can hold that against
//! what was true at that moment.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Value, json};

use crate::load::Budget;
use crate::options::Options;

const PATIENCE: Duration = Duration::from_secs(5);

/// One connection: begin and end in microseconds since 1970, the service's number, and the address
/// that answered or the error.
type Visit = (u128, u128, u32, Result<IpAddr, String>);

/// Tell every connection the local address that it reached, until standard input closes.
pub(crate) fn answer(options: &Options) -> Result<Value, String> {
    let port = options.or("port", 9000_u16)?;
    // Takes clients of both families.
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port))
        .map_err(|error| format!("cannot listen on {port}: {error}"))?;
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            if let Ok(address) = stream.local_addr() {
                // A client that is gone misses its answer, nobody else does.
                drop(stream.write_all(address.ip().to_canonical().to_string().as_bytes()));
            }
        }
    });
    Budget::new(None).wait();
    Ok(Value::Null)
}

/// Visit services at consecutive addresses until standard input closes.
pub(crate) fn visit(options: &Options) -> Result<Value, String> {
    let first = options.target(0)?;
    let services = options.or("services", 1_u32)?;
    let every = Duration::from_micros(options.or("every-us", 0)?);
    let budget = Budget::new(None);
    let threads: Vec<JoinHandle<Vec<Visit>>> = (1..=options.or("workers", 2_u64)?)
        .map(|seed| {
            let budget = budget.clone();
            std::thread::spawn(move || {
                let (mut visits, mut random) =
                    (Vec::new(), seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
                while !budget.is_over() {
                    let start = Instant::now();
                    // xorshift64: even enough to pick services.
                    random ^= random << 13;
                    random ^= random >> 7;
                    random ^= random << 17;
                    let number = (((random >> 32) * u64::from(services)) >> 32) as u32;
                    let begun = now();
                    let reached = ask((after(first.ip(), number), first.port()).into());
                    visits.push((begun, now(), number, reached));
                    std::thread::sleep(every.saturating_sub(start.elapsed()));
                }
                visits
            })
        })
        .collect();
    let mut all = Vec::new();
    for thread in threads {
        all.extend(thread.join().map_err(|_| "a worker panicked".to_owned())?);
    }
    let rows = all.into_iter().map(|(begun, ended, service, reached)| match reached {
        Ok(address) => json!([begun as u64, ended as u64, service, address, null]),
        Err(error) => json!([begun as u64, ended as u64, service, null, error]),
    });
    Ok(rows.collect())
}

/// The address so many places after another.
fn after(first: IpAddr, number: u32) -> IpAddr {
    match first {
        IpAddr::V4(first) => Ipv4Addr::from_bits(first.to_bits() + number).into(),
        IpAddr::V6(first) => Ipv6Addr::from_bits(first.to_bits() + u128::from(number)).into(),
    }
}

fn ask(target: SocketAddr) -> Result<IpAddr, String> {
    let mut stream = TcpStream::connect_timeout(&target, PATIENCE)
        .map_err(|error| format!("connect: {error}"))?;
    let failed = |error: std::io::Error| format!("read: {error}");
    stream.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
    let mut text = String::new();
    stream.read_to_string(&mut text).map_err(failed)?;
    text.parse().map_err(|_| format!("read: {text:?} is no address"))
}

fn now() -> u128 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |time| time.as_micros())
}
