//! What one client can make the broker keep, case by case: each was a way to make memory grow without limit, or could have
//! become one. The connection's task runs over a pipe in memory under a paused clock, so "it waits" needs no waiting.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;
use std::time::Instant;

use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::io::DuplexStream;
use tokio::task::LocalSet;
use tokio::time::timeout;

use super::access::Access;
use super::client;
use super::core::Core;
use super::hub::Hub;
use crate::config::plant::Anonymous;
use crate::config::plant::Limits;

/// With a paused clock this is over as soon as nobody can go on.
const IDLE: Duration = Duration::from_secs(1);

fn core() -> Core {
    let access = Access::new(Anonymous::Always, Vec::new(), Vec::new());
    Core::new(Limits { clients: 10, packet: 4096, queue: 100 }, access, Instant::now())
}

/// A client that has just been let in.
async fn join(hub: &Rc<Hub>) -> DuplexStream {
    let (mut near, far) = tokio::io::duplex(1024);
    let peer: SocketAddr = "127.0.0.1:1".parse().unwrap();
    tokio::task::spawn_local(client::serve(far, peer, Rc::clone(hub)));
    near.write_all(b"\x10\x0D\0\x04MQTT\x04\x02\0\0\0\x01c").await.unwrap();
    let mut answer = [0; 4];
    near.read_exact(&mut answer).await.unwrap();
    assert_eq!(answer, [0x20, 2, 0, 0]);
    near
}

/// How many bytes of `packet` again and again are taken before the broker stops reading.
async fn taken(client: &mut DuplexStream, packet: &[u8], enough: usize) -> usize {
    let chunk = packet.repeat(1024 / packet.len());
    let mut taken = 0;
    while taken < enough {
        match timeout(IDLE, client.write_all(&chunk)).await {
            Ok(sent) => sent.unwrap(),
            Err(_) => break,
        }
        taken += chunk.len();
    }
    taken
}

#[tokio::test(start_paused = true)]
async fn a_client_that_asks_and_never_reads_the_answers_is_not_read_any_more() {
    let work = async {
        for packet in [&b"\xC0\0"[..], b"\x32\x05\0\x01t\0\x01"] {
            let hub = Hub::new(core());
            let mut client = join(&hub).await;
            let enough = 16 * 1024 * 1024;
            let taken = taken(&mut client, packet, enough).await;
            assert!(taken > 512 * 1024, "it is heard for a while: {taken}");
            assert!(taken < 4 * 1024 * 1024, "{taken} bytes of {packet:02x?} were answered into memory");
        }
    };
    LocalSet::new().run_until(work).await;
}
