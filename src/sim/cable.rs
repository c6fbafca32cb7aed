//! A TCP cable that can be cut: forwards connections to a target, closes them all when cut, swallows everything when it is a
//! black hole (as a firewall that has forgotten the connection does). For outages in the demo and in tests.

use std::io;
use std::net::SocketAddr;

use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::sync::DropGuard;

/// What the cable does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Whole,
    Cut,
    BlackHole,
}

/// A cable; gone when dropped.
#[derive(Debug)]
pub struct Cable {
    address: SocketAddr,
    state: watch::Sender<State>,
    _stop: DropGuard,
}

impl Cable {
    /// From `listen` (port 0 for any) to `target`.
    pub async fn start(listen: SocketAddr, target: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(listen).await?;
        let address = listener.local_addr()?;
        let (state, seen) = watch::channel(State::Whole);
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        tokio::spawn(async move {
            while let Some(Ok((near, _))) = stopped.run_until_cancelled(listener.accept()).await {
                let (seen, stopped) = (seen.clone(), stopped.clone());
                tokio::spawn(async move { stopped.run_until_cancelled(carry(near, target, seen)).await });
            }
        });
        Ok(Self { address, state, _stop: stop.drop_guard() })
    }

    /// Where to connect instead of the target.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Closes all connections; new ones are closed at once.
    pub fn cut(&self) {
        self.state.send_replace(State::Cut);
    }

    /// Connections stay and new ones are accepted, but nothing passes.
    pub fn black_hole(&self) {
        self.state.send_replace(State::BlackHole);
    }

    /// New connections pass again; so do those a black hole held.
    pub fn restore(&self) {
        self.state.send_replace(State::Whole);
    }
}

/// Returns, and so closes both ends, when either end closes or the cable is cut.
async fn carry(near: TcpStream, target: SocketAddr, mut state: watch::Receiver<State>) {
    if state.wait_for(|s| *s != State::BlackHole).await.is_err() || *state.borrow() == State::Cut {
        return;
    }
    let Ok(far) = TcpStream::connect(target).await else { return };
    let _ = (near.set_nodelay(true), far.set_nodelay(true));
    let (near_in, near_out) = near.into_split();
    let (far_in, far_out) = far.into_split();
    let cut = async {
        // The cable itself is gone when this fails; then too nothing passes any more.
        let _ = state.clone().wait_for(|s| *s == State::Cut).await;
    };
    tokio::select! {
        () = cut => {}
        () = forward(near_in, far_out, state.clone()) => {}
        () = forward(far_in, near_out, state.clone()) => {}
    }
}

async fn forward(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    mut state: watch::Receiver<State>,
) {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let Ok(n @ 1..) = from.read(&mut buffer).await else { return };
        if state.wait_for(|s| *s != State::BlackHole).await.is_err() || to.write_all(&buffer[..n]).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_cut_cable_closes_what_is_open_and_refuses_until_it_is_whole_again() {
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let target = TcpListener::bind(any).await.unwrap();
        let cable = Cable::start(any, target.local_addr().unwrap()).await.unwrap();
        let mut near = TcpStream::connect(cable.address()).await.unwrap();
        let (mut far, _) = target.accept().await.unwrap();
        near.write_all(b"one").await.unwrap();
        let mut got = [0; 3];
        far.read_exact(&mut got).await.unwrap();
        cable.cut();
        assert_eq!(near.read(&mut got).await.unwrap_or(0), 0);
        assert_eq!(far.read(&mut got).await.unwrap_or(0), 0);
        let mut refused = TcpStream::connect(cable.address()).await.unwrap();
        assert_eq!(refused.read(&mut got).await.unwrap_or(0), 0);
        cable.restore();
        let mut near = TcpStream::connect(cable.address()).await.unwrap();
        let (mut far, _) = target.accept().await.unwrap();
        near.write_all(b"two").await.unwrap();
        far.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"two");
    }
}
