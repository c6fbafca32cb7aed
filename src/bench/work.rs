//! The work that benches do, made without YAML: ten devices, each with 20 registers in a row and 10 scattered, as every peer
//! was measured with.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::config::plant::CharFormat;
use crate::config::plant::Device;
use crate::config::plant::Line;
use crate::config::plant::Parity;
use crate::config::plant::Point;
use crate::config::plant::Port;
use crate::config::plant::Report;
use crate::config::plant::Schedule;
use crate::config::plant::SerialPort;
use crate::config::plant::Source;
use crate::config::plant::When;
use crate::config::plant::Wire;
use crate::message::Class;
use crate::payload::Format;
use crate::payload::Series;
use crate::point::AddressRange;
use crate::point::DataType;
use crate::point::DeviceId;
use crate::point::LineId;
use crate::point::PointId;
use crate::point::Scale;
use crate::point::Table;
use crate::point::UnitId;
use crate::point::WordOrder;
use crate::poll;
use crate::sim::SimDevice;
use crate::topic::Qos;
use crate::topic::TopicName;

/// Eight bits, no parity.
pub const F8N1: CharFormat = CharFormat { data_bits: 8, parity: Parity::None, stop_bits: 1 };
/// Eight bits, even parity: the Modbus default.
pub const F8E1: CharFormat = CharFormat { data_bits: 8, parity: Parity::Even, stop_bits: 1 };
/// How long the host waits for an answer.
const TIMEOUT: Duration = Duration::from_millis(300);
const MIN_TIMEOUT: Duration = Duration::from_millis(100);
/// The scattered registers of the reference work: gaps of 1, 3, 8 and 30.
const SCATTERED: [u16; 10] = [100, 102, 106, 115, 146, 148, 152, 161, 192, 194];

/// What is wanted of each device.
pub(crate) fn addresses() -> impl Iterator<Item = u16> {
    (0..20).chain(SCATTERED)
}

/// A register for every address up to the last, each with a value of its own.
pub fn device(id: u8) -> SimDevice {
    let words: Vec<u16> = (0..200).map(|n| u16::from(id) << 8 | n).collect();
    SimDevice::new(id).with(Table::Holding, 0, &words)
}

/// A plain port.
pub fn serial_port(path: impl Into<PathBuf>, baud: u32, format: CharFormat) -> SerialPort {
    SerialPort { path: path.into(), baud, format, rs485: None, echo: false }
}

pub(crate) fn line(port: Port) -> Line {
    Line {
        id: LineId(0),
        name: "bench".into(),
        port,
        timeout: TIMEOUT,
        min_timeout: MIN_TIMEOUT,
        retries: 1,
        gap: None,
        raw_access: false,
    }
}

/// The reference work: ten devices, 20 registers in a row and 10 scattered.
pub fn reference(port: Port, period: Duration) -> poll::Parts {
    let mut parts =
        poll::Parts { line: line(port), devices: Vec::new(), points: Vec::new(), lessons: Default::default() };
    for id in 1..=10_u8 {
        let first = u32::try_from(parts.points.len()).unwrap_or(0);
        let device = DeviceId(u32::from(id) - 1);
        let one = |(n, address)| Arc::new(point(PointId(n), device, address, period));
        parts.points.extend((first..).zip(addresses()).map(one));
        parts.devices.push(Device {
            id: device,
            name: format!("d{id}").into(),
            line: LineId(0),
            unit_id: UnitId::new(id).expect("counted from one"),
            profile: None,
            max_registers: 125,
            max_bits: 2000,
            functions: Default::default(),
            tags: BTreeMap::new(),
            points: first..u32::try_from(parts.points.len()).unwrap_or(0),
        });
    }
    parts
}

/// One register, told at every poll, as a bare value.
pub(crate) fn point(id: PointId, device: DeviceId, address: u16, period: Duration) -> Point {
    Point {
        id,
        device,
        name: format!("r{address}").into(),
        source: Source::Wire(Arc::new(Wire {
            table: Table::Holding,
            range: AddressRange::new(address, 1).expect("one register"),
            data_type: DataType::U16,
            order: WordOrder::Abcd,
            bits: None,
            scale: Scale::default(),
            scale_from: None,
            names: BTreeMap::new(),
            invalid: Vec::new(),
        })),
        range: None,
        schedule: Schedule::Every { period, align: false },
        report: Arc::new(Report { when: When::Poll, deadband: None, at_least: None, at_most: None }),
        write: None,
        series: Arc::new(Series {
            topic: TopicName::new(format!("bench/{}/r{address}", device.0)).expect("a plain topic"),
            format: Format::Value,
            unit: "".into(),
            names: BTreeMap::new(),
            qos: Qos::AtMostOnce,
            retain: false,
            class: Class::Normal,
        }),
    }
}
