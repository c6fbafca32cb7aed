//! The network's side of a line: connecting, and nothing else. Framing and checks are the same engine's as on a serial line.

use std::time::Duration;

use tokio::net::TcpStream;

/// A gateway that does not accept in this time is down; a second is already long on a plant's network.
const CONNECT: Duration = Duration::from_secs(3);

/// Connects to `host:port`; small requests go out at once.
pub(super) async fn connect(address: &str) -> Result<TcpStream, String> {
    let stream = match tokio::time::timeout(CONNECT, TcpStream::connect(address)).await {
        Err(_) => return Err(format!("cannot connect to {address}: no answer within {} s", CONNECT.as_secs())),
        Ok(Err(e)) => return Err(format!("cannot connect to {address}: {}", e.to_string().to_lowercase())),
        Ok(Ok(stream)) => stream,
    };
    // Without it a request may wait 40 ms for the acknowledgement of the last; with it or not, the values are right.
    let _ = stream.set_nodelay(true);
    Ok(stream)
}
