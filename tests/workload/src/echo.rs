//! Echo servers over TCP and UDP.

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};

/// Send every byte back, each connection in a thread.
pub(crate) fn tcp(listener: TcpListener) {
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut reader = &stream;
                let mut writer = &stream;
                // The connection's end, of whatever kind, is the end of its echo.
                drop(io::copy(&mut reader, &mut writer));
            });
        }
    });
}

/// Answer every datagram with who answered, whom it saw, and what was sent.
pub(crate) fn udp(own: SocketAddr, pod: String) -> Result<(), String> {
    let socket = UdpSocket::bind(own)
        .map_err(|error| format!("cannot listen on UDP {}: {error}", own.port()))?;
    std::thread::spawn(move || {
        let mut buffer = [0; 2048];
        while let Ok((length, client)) = socket.recv_from(&mut buffer) {
            let text = String::from_utf8_lossy(&buffer[..length]);
            let seen = client.ip().to_canonical();
            let answer = serde_json::json!({ "pod": pod, "client": seen, "text": text });
            // A client that is gone misses its answer, nobody else does.
            drop(socket.send_to(answer.to_string().as_bytes(), client));
        }
    });
    Ok(())
}
