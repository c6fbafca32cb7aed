//! How fast a backlog leaves: the real spool and the real bridge into a Mosquitto at QoS 1, turn about with a bare
//! publisher of the same client library and the same window, in one run on one machine. What is given is the ratio.

use std::io;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::peers::Mosquitto;
use super::peers::publish;
use crate::bridge;
use crate::config::plant;
use crate::config::plant::Keep;
use crate::config::plant::Replay;
use crate::config::plant::WhenFull;
use crate::message::Message;
use crate::message::Retain;
use crate::spool;
use crate::spool::Subscriber;
use crate::topic::Qos;
use crate::topic::TopicFilter;
use crate::topic::TopicName;

/// As many bytes as a JSON value with quality and time has.
const PAYLOAD: usize = 200;
/// Appended at once; the log has a bound on what waits to be taken in.
const GROUP: u64 = 5_000;
/// A backlog that has not left by then does not leave.
const PATIENCE: Duration = Duration::from_secs(600);

/// What to measure.
#[derive(Debug, Clone, Copy)]
pub struct Drain {
    /// Messages of each turn.
    pub count: u64,
    /// Unacknowledged publishes at once.
    pub window: u16,
}

/// One turn of each, messages a second.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Turn {
    /// From the log through the bridge.
    pub bridge: f64,
    /// The bare publisher.
    pub bare: f64,
}

/// One turn; `folder` must be empty.
pub async fn turn(drain: Drain, folder: &Path) -> io::Result<Turn> {
    let cloud = Mosquitto::start(folder).await?;
    let payload = Bytes::from(vec![b'x'; PAYLOAD]);
    let bare = publish(cloud.address(), ("up/bench/v", payload.clone()), drain.count, drain.window).await?;
    let bridge = bridged(drain, folder, &cloud, payload).await?;
    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    let rate = |took: Duration| drain.count as f64 / took.as_secs_f64();
    Ok(Turn { bridge: rate(bridge), bare: rate(bare) })
}

/// From the connection to the last acknowledgement, everything on disk before.
async fn bridged(drain: Drain, folder: &Path, cloud: &Mosquitto, payload: Bytes) -> io::Result<Duration> {
    let settings = plant::Spool {
        path: folder.join("spool.db"),
        keep: Keep::Offline,
        max_size: 64 << 30,
        max_age: Duration::from_secs(86_400),
        when_full: WhenFull::DropOldest,
        replay: Replay::InOrder,
        replay_rate: None,
    };
    let filter = TopicFilter::new("bench/#").expect("a filter");
    let subscriber = Subscriber { name: "cloud".into(), filters: vec![filter.clone()] };
    let (spool, thread) = spool::open(settings, vec![subscriber]).map_err(io::Error::other)?;
    let mut log = spool.status();
    let topic = TopicName::new("bench/v").expect("a topic");
    for first in (0..drain.count).step_by(usize::try_from(GROUP).unwrap_or(1)) {
        let end = drain.count.min(first + GROUP);
        let message = |_| Message::plain(topic.clone(), payload.clone(), Qos::AtLeastOnce, Retain::No);
        spool.append((first..end).map(message).collect()).await;
        log.wait_for(|s| s.on_disk >= end).await.map_err(io::Error::other)?;
    }
    let (to_local, _received) = mpsc::channel(1);
    let (mut status, task) = bridge::new(upstream(drain, cloud, filter), "bench", spool.clone(), to_local);
    let cancel = CancellationToken::new();
    let task = tokio::spawn(task.run(cancel.clone()));
    let drained = async {
        status.wait_for(|s| s.connects > 0).await.map_err(io::Error::other)?;
        let began = Instant::now();
        status.wait_for(|s| s.acknowledged >= drain.count).await.map_err(io::Error::other)?;
        Ok(began.elapsed())
    };
    let took = tokio::time::timeout(PATIENCE, drained).await.map_err(io::Error::other)?;
    cancel.cancel();
    let _ = task.await;
    spool.close().await;
    let _ = tokio::task::spawn_blocking(move || thread.join()).await;
    took
}

fn upstream(drain: Drain, cloud: &Mosquitto, filter: TopicFilter) -> plant::Upstream {
    let endpoint = plant::Endpoint {
        scheme: plant::Scheme::Mqtt,
        host: cloud.address().ip().to_string(),
        port: cloud.address().port(),
        path: String::new(),
    };
    let rule = plant::Mapping {
        rest: plant::Rest::AsIs,
        filter,
        strip: String::new(),
        prefix: "up/".to_owned(),
        qos: Qos::AtLeastOnce,
        retain: plant::RetainRule::Keep,
    };
    plant::Upstream {
        preset: None,
        name: "cloud".into(),
        endpoints: vec![endpoint],
        version: plant::MqttVersion::V5,
        client_id: "bench".into(),
        username: None,
        password: None,
        tls: plant::Tls::default(),
        keep_alive: Duration::from_secs(30),
        in_flight: drain.window,
        send: vec![rule],
        receive: Vec::new(),
    }
}
