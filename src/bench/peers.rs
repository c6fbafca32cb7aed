//! The other side of a bench of the uplink, none of it our own code: Debian's Mosquitto as the cloud, and a plain MQTT
//! client that writes down what it sees. The client library is named here a second time because it is a peer, not a
//! part: what the bridge does with it is what is measured.

use std::io;
use std::net::Ipv4Addr;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use rumqttc::AsyncClient;
use rumqttc::Broker;
use rumqttc::Event;
use rumqttc::MqttOptions;
use rumqttc::Packet;
use rumqttc::PublishOptions;
use rumqttc::QoS;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio::time::sleep;

use crate::time;

/// A broker that does not listen after this long does not start.
const START: Duration = Duration::from_secs(10);
/// Between two looks at something that is starting.
const AGAIN: Duration = Duration::from_millis(20);
/// Seen and not yet counted; full: the peer waits on its socket.
const SEEN: usize = 100_000;

/// Publishes that go out with one write, as the bridge has it.
const BATCH: usize = 64;

/// A Mosquitto of this bench alone; ends when dropped.
#[derive(Debug)]
pub struct Mosquitto {
    child: Child,
    address: SocketAddr,
}

impl Mosquitto {
    /// Starts it, without limits of its own that could be mistaken for losses of ours, and waits until it listens.
    pub async fn start(folder: &Path) -> io::Result<Self> {
        let this = Self::spawn(folder, "max_queued_messages 0\nmax_inflight_messages 1000\n")?;
        listens(this.address).await?;
        Ok(this)
    }

    /// Starts it with more settings; it does not listen yet when this returns.
    pub fn spawn(folder: &Path, settings: &str) -> io::Result<Self> {
        let free = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = free.local_addr()?;
        drop(free);
        let text = format!(
            "listener {} 127.0.0.1\nallow_anonymous true\npersistence false\nset_tcp_nodelay true\nlog_type error\n\
             {settings}",
            address.port()
        );
        let config = folder.join("mosquitto.conf");
        std::fs::write(&config, text)?;
        // Debian keeps servers where a plain user's PATH does not look.
        let spawn = |program| {
            let mut command = Command::new(program);
            command.arg("-c").arg(&config).stdin(Stdio::null()).stderr(Stdio::null()).spawn()
        };
        let child = spawn("mosquitto").or_else(|_| spawn("/usr/sbin/mosquitto"));
        let child = child.map_err(|e| io::Error::new(e.kind(), format!("mosquitto: {e}; install it (Debian: apt)")))?;
        Ok(Self { child, address })
    }

    /// Its process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Where it listens.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until somebody listens there.
pub async fn listens(address: SocketAddr) -> io::Result<()> {
    let until = Instant::now() + START;
    loop {
        match TcpStream::connect(address).await {
            Ok(_) => return Ok(()),
            Err(e) if Instant::now() > until => return Err(e),
            Err(_) => sleep(AGAIN).await,
        }
    }
}

/// One message as it was seen.
#[derive(Debug)]
pub struct Seen {
    /// Its topic.
    pub topic: Box<str>,
    /// Its payload.
    pub payload: Bytes,
    /// Kept by the broker from before.
    pub retained: bool,
    /// Wall time of its arrival in microseconds.
    pub arrived_us: i64,
}

/// A subscriber that writes down everything, and connects again when its broker went away.
#[derive(Debug)]
pub struct Witness {
    seen: mpsc::Receiver<Seen>,
    task: JoinHandle<()>,
}

impl Drop for Witness {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Witness {
    /// Subscribes at QoS 0, which on one machine loses nothing while the connection holds; granted on return.
    pub async fn start(broker: SocketAddr, filter: &'static str) -> io::Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let id = format!("witness-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let mut options = MqttOptions::new(id, Broker::tcp(broker.ip().to_string(), broker.port()));
        options.set_keep_alive(60);
        let (client, mut eventloop) =
            AsyncClient::builder(options).capacity(8).try_build().map_err(io::Error::other)?;
        let (tell, seen) = mpsc::channel(SEEN);
        let (granted, is_granted) = tokio::sync::oneshot::channel();
        let task = tokio::spawn(async move {
            let mut granted = Some(granted);
            loop {
                match eventloop.poll().await {
                    Ok(Event::Incoming(Packet::ConnAck(_))) => {
                        let _ = client.try_subscribe(filter, QoS::AtMostOnce);
                    }
                    Ok(Event::Incoming(Packet::SubAck(_))) => drop(granted.take().map(|g| g.send(()))),
                    Ok(Event::Incoming(Packet::Publish(p))) => {
                        let topic = String::from_utf8_lossy(&p.topic).into();
                        let seen =
                            Seen { topic, payload: p.payload, retained: p.retain, arrived_us: time::now().wall_us };
                        if tell.send(seen).await.is_err() {
                            return;
                        }
                    }
                    Ok(_) => {}
                    Err(_) => sleep(AGAIN).await,
                }
            }
        });
        let this = Self { seen, task };
        let granted = tokio::time::timeout(START, is_granted).await;
        granted.ok().and_then(Result::ok).map(|()| this).ok_or_else(|| io::ErrorKind::TimedOut.into())
    }

    /// The next message. May be cancelled.
    pub async fn next(&mut self) -> Option<Seen> {
        self.seen.recv().await
    }
}

/// What a plain publisher does with this client library: as many messages at QoS 1 as the window takes, nothing kept,
/// nothing rendered. Gives the time from the connection to the last acknowledgement.
pub async fn publish(broker: SocketAddr, message: (&str, Bytes), count: u64, window: u16) -> io::Result<Duration> {
    let id = format!("bare-{}", std::process::id());
    let mut options = MqttOptions::new(id, Broker::tcp(broker.ip().to_string(), broker.port()));
    options.set_keep_alive(60).set_clean_start(true).set_outgoing_inflight_upper_limit(window);
    options.set_max_request_batch(BATCH);
    options.set_socket_connector(|address, _| async move {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true).map(|()| stream)
    });
    let built = AsyncClient::builder(options).capacity(usize::from(window)).try_build();
    let (client, mut eventloop) = built.map_err(io::Error::other)?;
    while !matches!(eventloop.poll().await.map_err(io::Error::other)?, Event::Incoming(Packet::ConnAck(_))) {}
    let began = Instant::now();
    let (topic, payload) = (message.0.to_owned(), message.1);
    let sender = tokio::spawn(async move {
        for _ in 0..count {
            let options = PublishOptions::new(QoS::AtLeastOnce);
            if client.publish(topic.as_str(), payload.clone(), options).await.is_err() {
                return;
            }
        }
    });
    let mut acknowledged = 0;
    while acknowledged < count {
        let event = eventloop.poll().await.map_err(io::Error::other)?;
        acknowledged += u64::from(matches!(event, Event::Incoming(Packet::PubAck(_))));
    }
    let took = began.elapsed();
    sender.abort();
    Ok(took)
}
