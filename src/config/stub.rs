//! stands in for the loader until it lands
#![allow(missing_docs, clippy::all, clippy::unwrap_used, clippy::too_many_lines)]
use crate::config::Report;
use crate::config::plant::{
    Anonymous, Broker, CharFormat, Device, Endpoint, Keep, Limits, Line, Listener, ListenerKind, Mapping, MqttVersion,
    Parity, Plant, Point, Port, Replay, RetainRule, Schedule, Scheme, SerialPort, Source, Spool, Tls, Upstream, When,
    WhenFull, Wire,
};
use crate::point::*;
use crate::topic::*;
use std::path::*;
use std::sync::Arc;
use std::time::Duration;

#[derive(Debug)]
pub struct Loaded {
    pub plant: Plant,
    pub warnings: Report,
    pub files: Vec<PathBuf>,
}
pub fn load(_path: &Path) -> Result<Loaded, Report> {
    load_text("", "", Path::new("/tmp"))
}
pub fn schema() -> String {
    String::new()
}
pub fn load_text(_: &str, _: &str, base: &Path) -> Result<Loaded, Report> {
    let mut points = Vec::new();
    let mut devices = Vec::new();
    let names = ["voltage", "current", "power", "frequency", "energy_total"];
    for d in 0..9u32 {
        let first = u32::try_from(points.len()).unwrap();
        for (i, n) in names.iter().enumerate() {
            points.push(Point {
                id: PointId(u32::try_from(points.len()).unwrap()),
                device: DeviceId(d),
                name: Arc::from(*n),
                source: Source::Wire(Wire {
                    table: Table::Input,
                    range: AddressRange::new(i as u16 * 2, 2).unwrap(),
                    data_type: DataType::F32,
                    order: WordOrder::Abcd,
                    bits: None,
                    scale: Scale::default(),
                    scale_from: None,
                    names: Default::default(),
                    invalid: vec![],
                }),
                unit: Arc::from(["V", "A", "W", "Hz", "kWh"][i]),
                range: None,
                schedule: Schedule::Every { period: Duration::from_millis(500), align: false },
                report: Report2 {
                    when: When::Change,
                    deadband: None,
                    at_least: Some(Duration::from_secs(60)),
                    at_most: None,
                },
                write: None,
                topic: TopicName::new(format!("demo/meter-{d}/{n}")).unwrap(),
                payload: crate::payload::Format::Json,
                qos: Qos::AtLeastOnce,
                retain: true,
                class: Default::default(),
            });
        }
        devices.push(Device {
            id: DeviceId(d),
            name: format!("meter-{d}").into(),
            line: LineId(u16::from(d == 8)),
            unit_id: UnitId::new(d as u8 + 1).unwrap(),
            profile: None,
            max_registers: 125,
            max_bits: 2000,
            tags: Default::default(),
            points: first..first + 5,
        });
    }
    let line = |id, name: &str, port| Line {
        id: LineId(id),
        name: name.into(),
        port,
        timeout: Duration::from_millis(300),
        retries: 1,
        gap: None,
    };
    let plant = Plant {
        gateway: "demo".into(),
        lines: vec![
            line(
                0,
                "hall",
                Port::Serial(SerialPort {
                    path: "/dev/null".into(),
                    baud: 19200,
                    format: CharFormat { data_bits: 8, parity: Parity::Even, stop_bits: 1 },
                    rs485: None,
                    echo: false,
                }),
            ),
            line(1, "plc", Port::Tcp("127.0.0.1:1502".into())),
        ],
        devices,
        points,
        broker: Broker {
            listen: vec![Listener { address: "127.0.0.1:1883".parse().unwrap(), kind: ListenerKind::Tcp }],
            anonymous: Anonymous::Loopback,
            users: None,
            access: vec![],
            limits: Limits { clients: 200, packet: 262144, queue: 1000 },
        },
        upstreams: vec![Upstream {
            name: "cloud".into(),
            endpoints: vec![Endpoint {
                scheme: Scheme::Mqtt,
                host: "127.0.0.1".into(),
                port: 1884,
                path: "/mqtt".into(),
            }],
            version: MqttVersion::V5,
            client_id: "demo".into(),
            username: None,
            password: None,
            tls: Tls::default(),
            keep_alive: Duration::from_secs(30),
            in_flight: 100,
            send: vec![Mapping {
                filter: TopicFilter::new("demo/#").unwrap(),
                strip: "demo/".into(),
                prefix: "sites/demo/".into(),
                qos: Qos::AtLeastOnce,
                retain: RetainRule::Keep,
            }],
            receive: vec![],
        }],
        spool: Spool {
            path: base.join("spool.db"),
            keep: Keep::Offline,
            max_size: 64 << 20,
            max_age: Duration::from_secs(86400),
            when_full: WhenFull::DropOldest,
            replay: Replay::InOrder,
            replay_rate: None,
        },
        web: None,
        state_dir: base.to_owned(),
    };
    Ok(Loaded { plant, warnings: Report::default(), files: vec![] })
}
use crate::config::plant::Report as Report2;
