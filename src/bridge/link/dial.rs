//! Makes the TCP connection. The kernel repeats a lost SYN after 1, 3, 7 … seconds, so that a link that has come back
//! may not be noticed for long; here a new try begins every second beside the older ones, and the first to get
//! through wins. Each try takes the next of the host's addresses.

use std::io;
use std::net::Shutdown;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::net::TcpStream;
use tokio::net::lookup_host;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// The system's resolver alone may take longer than a whole connection gets.
const RESOLVE: Duration = Duration::from_secs(5);
/// Between two tries.
const AGAIN: Duration = Duration::from_secs(1);

/// Connects as `dial` does, to a socket that ends when `cut` is cancelled: whoever reads or writes it is told so at
/// once, in the middle of a black hole too. The client library must not be stopped from outside, because what it knows
/// of the session would be half a step behind; it has to meet an end of its own.
pub(super) async fn severable(address: String, cut: CancellationToken) -> io::Result<TcpStream> {
    let dialled = cut.run_until_cancelled(dial(address)).await;
    let stream = dialled.unwrap_or_else(|| Err(io::ErrorKind::ConnectionAborted.into()))?;
    let end = std::net::TcpStream::from(stream.as_fd().try_clone_to_owned()?);
    tokio::spawn(async move {
        cut.cancelled().await;
        let _ = end.shutdown(Shutdown::Both);
    });
    Ok(stream)
}

/// The host's addresses, or in words why there are none: the name is a thing of its own that people can look at.
async fn resolve(address: &str) -> io::Result<Vec<SocketAddr>> {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let failed = |why: &str| {
        let words = format!("the name {host} cannot be resolved: {why}; is it spelt right, and does DNS work here?");
        io::Error::new(io::ErrorKind::NotFound, words)
    };
    match tokio::time::timeout(RESOLVE, lookup_host(address)).await {
        Ok(Ok(found)) => Ok(found.collect::<Vec<_>>()).and_then(|all| match all.is_empty() {
            true => Err(failed("it has no address")),
            false => Ok(all),
        }),
        Ok(Err(e)) => Err(failed(&e.to_string())),
        Err(_) => Err(failed(&format!("no answer within {} s", RESOLVE.as_secs()))),
    }
}

/// Connects to `host:port`; whoever calls decides how long that may take.
pub(super) async fn dial(address: String) -> io::Result<TcpStream> {
    let addresses = resolve(&address).await?;
    let mut tries = FuturesUnordered::new();
    for started in 1.. {
        tries.push(TcpStream::connect(addresses[(started - 1) % addresses.len()]));
        let next = Instant::now() + AGAIN;
        while let Ok(Some(tried)) = tokio::time::timeout_at(next, tries.next()).await {
            match tried {
                // Small packets must not wait for each other's TCP acknowledgements.
                Ok(stream) => return stream.set_nodelay(true).map(|()| stream),
                Err(_) if started < addresses.len() => break,
                Err(e) if tries.is_empty() => return Err(e),
                Err(_) => {}
            }
        }
    }
    Err(io::ErrorKind::TimedOut.into())
}
