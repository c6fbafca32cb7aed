//! What the gateway of the demo finds around it: simulated devices behind a paced pty and a TCP socket, a second broker as the
//! cloud, and a cable to it. The devices are those of the shipped `config/demo.yaml`; only addresses and paths are filled in.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::broker;
use crate::config;
use crate::config::plant::{self, Anonymous, Limits, Listener, Port, Source};
use crate::decode;
use crate::demo::{Broker, BrokerError, DemoError, LocalSubscription, Plant, Settings, here};
use crate::point::{DeviceId, Table};
use crate::sample::Value;
use crate::sim::{Cable, LineOptions, Shared, SimDevice, SimLine, SimTcp, start_line};
use crate::topic::{Qos, TopicFilter};

const YAML: &str = include_str!("../../config/demo.yaml");
/// A PLC answers faster than a meter on a trunk.
const TCP_TURNAROUND: Duration = Duration::from_millis(3);

/// The shipped plant with the demo's ports and a state directory of its own.
pub(super) fn plant(settings: &Settings, home: &Path) -> Result<Plant, DemoError> {
    let loaded = config::load_text("config/demo.yaml", YAML, home).map_err(|r| DemoError::Config(r.to_string()))?;
    let mut plant = loaded.plant;
    plant.state_dir = home.to_owned();
    plant.spool.path = home.join("spool.db");
    plant.broker = listening(plant.broker, settings.broker_port);
    // One port less that can be taken; the demo has a view of its own.
    plant.web = None;
    Ok(plant)
}

fn listening(broker: plant::Broker, port: u16) -> plant::Broker {
    plant::Broker { listen: vec![Listener::plain(here(port))], users: None, ..broker }
}

/// Lives as long as the demo.
pub(super) struct Scenery {
    _lines: Vec<SimLine>,
    _tcp: Vec<SimTcp>,
    cable: Option<Cable>,
    cloud: Broker,
}

impl Scenery {
    /// Builds it and writes the addresses into the plant.
    pub(super) async fn build(settings: &Settings, plant: &mut Plant) -> Result<Self, DemoError> {
        let cloud = start_cloud(settings, plant)?;
        let (mut lines, mut tcp) = (Vec::new(), Vec::new());
        for n in 0..plant.lines.len() {
            let devices = simulated(plant, n);
            match &mut plant.lines[n].port {
                Port::Serial(port) => {
                    let options = LineOptions::new(port.baud, port.format);
                    let line = start_line(devices, options).map_err(|e| DemoError::Simulation("a serial line", e))?;
                    line.path().clone_into(&mut port.path);
                    lines.push(line);
                }
                Port::Tcp(to) | Port::RtuOverTcp(to) => {
                    let server = SimTcp::start(here(0), devices, TCP_TURNAROUND, None).await;
                    let server = server.map_err(|e| DemoError::Simulation("a TCP device", e))?;
                    *to = server.address().to_string();
                    tcp.push(server);
                }
            }
        }
        let cable = Cable::start(here(0), here(settings.cloud_port)).await;
        let cable = cable.map_err(|e| DemoError::Simulation("a cable to the cloud", e))?;
        for endpoint in plant.upstreams.iter_mut().flat_map(|u| &mut u.endpoints) {
            endpoint.host = cable.address().ip().to_string();
            endpoint.port = cable.address().port();
        }
        Ok(Self { _lines: lines, _tcp: tcp, cable: Some(cable), cloud })
    }

    /// Everything that arrives at the cloud.
    pub(super) async fn subscribe_cloud(&self, capacity: usize) -> LocalSubscription {
        let all = TopicFilter::new("#").expect("a filter");
        self.cloud.subscribe("account", vec![(all, Qos::ExactlyOnce)], capacity).await
    }

    /// Cuts or mends the cable.
    pub(super) fn cut(&self, cut: bool) {
        match &self.cable {
            Some(cable) if cut => cable.cut(),
            Some(cable) => cable.restore(),
            None => {}
        }
    }

    /// Mends the cable.
    pub(super) fn restore(&self) {
        self.cut(false);
    }

    /// Ends the cloud; the rest ends by being dropped.
    pub(super) async fn stop(self) {
        self.cloud.stop().await;
    }
}

fn simulated(plant: &Plant, line: usize) -> Vec<Shared> {
    let id = plant.lines[line].id;
    let own = plant.devices.iter().filter(|d| d.line == id);
    own.map(|d| without_gaps(SimDevice::of(d, &plant.points, to_words), plant, d.id).shared()).collect()
}

/// Real meters answer zeros for the small gaps of their maps, and the planner counts on it. It must not be shown a device
/// that refuses each of them, nor one without any end.
fn without_gaps(mut sim: SimDevice, plant: &Plant, device: DeviceId) -> SimDevice {
    const SMALL: u16 = 64;
    let mut held: Vec<(Table, u16, u32)> =
        plant.points.iter().filter(|p| p.device == device).filter_map(|p| held_by(p)).collect();
    held.sort_unstable();
    for pair in held.windows(2) {
        let ((table, _, end), (next_table, start, _)) = (pair[0], pair[1]);
        let Ok(end) = u16::try_from(end) else { continue };
        if table == next_table && end < start && start - end <= SMALL {
            sim = sim.with(table, end, &vec![0; usize::from(start - end)]);
        }
    }
    sim
}

fn held_by(point: &plant::Point) -> Option<(Table, u16, u32)> {
    match &point.source {
        Source::Wire(wire) => Some((wire.table, wire.range.start(), wire.range.end())),
        Source::Compute(_) => None,
    }
}

fn to_words(wire: &plant::Wire, value: &Value) -> Option<Vec<u16>> {
    // Scale factors stand at zero in the simulation.
    decode::encode_scaled(wire, value, wire.scale_from.map(|_| 0)).ok()
}

fn start_cloud(settings: &Settings, plant: &Plant) -> Result<Broker, DemoError> {
    let limits = Limits { queue: 10_000, ..plant.broker.limits };
    let cloud = plant::Broker {
        listen: vec![Listener { limits, ..Listener::plain(here(settings.cloud_port)) }],
        anonymous: Anonymous::Loopback,
        users: None,
        access: Vec::new(),
        limits,
    };
    let options =
        broker::Options { gateway: Arc::from("cloud"), state_dir: plant.state_dir.join("cloud"), users: Vec::new() };
    broker::start(cloud, options).map_err(|error| match error {
        BrokerError::Bind { .. } => DemoError::CloudPort(settings.cloud_port),
        other => DemoError::Cloud(other),
    })
}
