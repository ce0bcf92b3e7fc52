//! As much of HTTP/1.1 as the tests need: requests without a body, replies with a length.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// How long a client waits for a connection and for each part of a reply.
const PATIENCE: Duration = Duration::from_secs(5);

/// A client's connection.
pub(crate) struct Connection {
    stream: BufReader<TcpStream>,
    target: SocketAddr,
}

/// What came back.
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) body: String,
    /// The server closes the connection after this reply.
    pub(crate) closes: bool,
}

/// A failed request, and in which phase it failed.
#[derive(Debug)]
pub(crate) struct Failed {
    phase: &'static str,
    error: io::Error,
}

impl std::fmt::Display for Failed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.phase, self.error)
    }
}

fn failed(phase: &'static str) -> impl Fn(io::Error) -> Failed {
    move |error| Failed { phase, error }
}

impl Connection {
    /// Connect, with a limit on the time.
    pub(crate) fn open(target: SocketAddr) -> Result<Self, Failed> {
        let stream = TcpStream::connect_timeout(&target, PATIENCE).map_err(failed("connect"))?;
        let prepare = || {
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.set_write_timeout(Some(PATIENCE))
        };
        prepare().map_err(failed("connect"))?;
        Ok(Self { stream: BufReader::new(stream), target })
    }

    /// The address that the kernel says we are connected to.
    pub(crate) fn peer(&self) -> io::Result<SocketAddr> {
        self.stream.get_ref().peer_addr()
    }

    /// One request, one reply.
    pub(crate) fn get(&mut self, path: &str, keep_alive: bool) -> Result<Reply, Failed> {
        let connection = if keep_alive { "keep-alive" } else { "close" };
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: {connection}\r\n\r\n",
            self.target
        );
        self.stream.get_mut().write_all(request.as_bytes()).map_err(failed("send"))?;
        read_reply(&mut self.stream).map_err(failed("receive"))
    }
}

fn read_reply(stream: &mut BufReader<TcpStream>) -> io::Result<Reply> {
    let head = read_head(stream)?.ok_or(io::ErrorKind::UnexpectedEof)?;
    let invalid = || io::Error::from(io::ErrorKind::InvalidData);
    let status = head
        .first()
        .and_then(|line| line.split_whitespace().nth(1)?.parse().ok())
        .ok_or_else(invalid)?;
    let length: usize =
        header(&head, "content-length").and_then(|v| v.parse().ok()).ok_or_else(invalid)?;
    let mut body = vec![0; length.min(1 << 20)];
    stream.read_exact(&mut body)?;
    let closes = header(&head, "connection").is_some_and(|v| v.eq_ignore_ascii_case("close"));
    Ok(Reply { status, body: String::from_utf8_lossy(&body).into_owned(), closes })
}

/// The lines of a request's or reply's head, or nothing when the peer closed before it.
pub(crate) fn read_head(stream: &mut impl BufRead) -> io::Result<Option<Vec<String>>> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if stream.take(8192).read_line(&mut line)? == 0 {
            return if lines.is_empty() {
                Ok(None)
            } else {
                Err(io::ErrorKind::UnexpectedEof.into())
            };
        }
        let line = line.trim_end().to_owned();
        if line.is_empty() {
            return Ok(Some(lines));
        }
        lines.push(line);
        if lines.len() > 100 {
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
}

/// The value of a header, by its name in lower case.
pub(crate) fn header<'a>(head: &'a [String], name: &str) -> Option<&'a str> {
    head.iter().skip(1).find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

#[cfg(test)]
mod tests {
    use super::{header, read_head};

    #[test]
    fn a_head_ends_at_the_empty_line() {
        let mut text = "GET / HTTP/1.1\r\nHost: a\r\nConnection: Close\r\n\r\nrest".as_bytes();
        let head = read_head(&mut text).unwrap().unwrap();
        assert_eq!(head.len(), 3);
        assert_eq!(header(&head, "connection"), Some("Close"));
        assert_eq!(header(&head, "content-length"), None);
        assert_eq!(text, b"rest");
    }

    #[test]
    fn closing_between_requests_is_no_error_but_within_one_is() {
        assert!(read_head(&mut "".as_bytes()).unwrap().is_none());
        assert!(read_head(&mut "GET / HTTP/1.1\r\n".as_bytes()).is_err());
    }
}
