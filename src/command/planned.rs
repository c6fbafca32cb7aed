//! What goes on the wire for a value, or why it may not. Pure: a point and a value in, one request or a refusal out.

use crate::bus::WriteKind;
use crate::command::request::Refusal;
use crate::config::functions::Choice;
use crate::config::functions::How;
use crate::config::functions::Single;
use crate::config::plant::Point;
use crate::config::plant::Source;
use crate::config::plant::Wire;
use crate::config::write;
use crate::point::Table;
use crate::sample::Value;

/// Judges value against the point and says what to put on the wire. `exponent` as in [`crate::decode::decode`].
///
/// # Errors
/// Every [`Refusal`] that needs no clock.
pub fn judge(point: &Point, value: &Value, exponent: Option<i32>) -> Result<Planned, Refusal> {
    let (Some(write), Source::Wire(wire)) = (&point.write, &point.source) else {
        return Err(Refusal::ReadOnly(point.name.to_string()));
    };
    let words = write::judge(wire, write, value, exponent)?;
    Ok(Planned { kind: kind(wire, write.how, &words), choice: write.how.choice, words })
}

/// A judged write.
#[derive(Debug, Clone, PartialEq)]
pub struct Planned {
    /// The request for the bus.
    pub kind: WriteKind,
    /// Whether another function may do the same.
    pub choice: Choice,
    /// The words a read-back must show (of a bit field: those bits).
    pub words: Vec<u16>,
}

/// The values of one point always go in one request, and a part of a register without touching its neighbours (pitfall 14).
fn kind(wire: &Wire, how: How, words: &[u16]) -> WriteKind {
    let address = wire.range.start();
    match (wire.table, wire.bits) {
        (Table::Coil | Table::Discrete, _) => match how.single {
            Single::One => WriteKind::Coil { address, on: words[0] != 0 },
            Single::Many => WriteKind::Coils { address, values: vec![words[0] != 0] },
        },
        (_, Some(span)) => {
            let mask = u16::MAX >> (15 - (span.high - span.low)) << span.low;
            WriteKind::Bits { address, and: !mask, or: words[0] & mask, by: how }
        }
        _ if words.len() == 1 && how.single == Single::One => WriteKind::Register { address, value: words[0] },
        _ => WriteKind::Registers { address, values: words.to_vec() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::request;
    use crate::command::request::Request;
    use crate::config::plant::Write;
    use crate::config::write::Unfit;
    use rust_decimal::Decimal;

    use crate::config::plant::Report;
    use crate::config::plant::Schedule;
    use crate::config::plant::When;
    use crate::message::Class;
    use crate::payload::Format;
    use crate::payload::Series;
    use crate::point::AddressRange;
    use crate::point::BitSpan;
    use crate::point::DataType;
    use crate::point::DeviceId;
    use crate::point::PointId;
    use crate::point::Scale;
    use crate::point::WordOrder;
    use crate::topic::Qos;
    use crate::topic::TopicName;
    use std::collections::BTreeMap;
    use std::sync::Arc;
    use std::time::Duration;

    fn setpoint() -> Point {
        let limits = |n: i64| Some(Decimal::from(n));
        Point {
            id: PointId(0),
            device: DeviceId(0),
            name: "setpoint".into(),
            source: Source::Wire(Arc::new(Wire {
                table: Table::Holding,
                range: AddressRange::new(101, 1).unwrap(),
                data_type: DataType::I16,
                order: WordOrder::Abcd,
                bits: None,
                scale: Scale { factor: "0.1".parse().unwrap(), ..Scale::default() },
                scale_from: None,
                names: BTreeMap::new(),
                invalid: Vec::new(),
            })),
            range: None,
            schedule: Schedule::Every { period: Duration::from_secs(1), align: false },
            report: Arc::new(Report { when: When::Change, deadband: None, at_least: None, at_most: None }),
            write: Some(Box::new(Write {
                min: limits(4),
                max: limits(18),
                step: Some("0.5".parse().unwrap()),
                verify: true,
                expires: Duration::from_secs(10),
                how: How::default(),
            })),
            series: Arc::new(Series {
                topic: TopicName::new("g/d/setpoint").unwrap(),
                format: Format::Json,
                unit: "°C".into(),
                names: BTreeMap::new(),
                qos: Qos::AtLeastOnce,
                retain: true,
                class: Class::Normal,
            }),
        }
    }

    #[test]
    fn the_largest_number_there_is_is_refused_and_breaks_nothing() {
        let mut point = setpoint();
        let write = point.write.as_mut().unwrap();
        (write.min, write.max) = (Some(Decimal::from(-1)), None);
        let Request { value, .. } = request::parse(b"79228162514264337593543950335").unwrap();
        assert!(matches!(judge(&point, &value, None), Err(Refusal::Unfit(Unfit::OffStep { .. }))));
    }

    #[test]
    fn limits_and_steps_are_judged_before_the_first_byte() {
        let point = setpoint();
        let judged = |text: &str| judge(&point, &request::parse(text.as_bytes()).unwrap().value, None);
        assert_eq!(judged("6.5").unwrap().kind, WriteKind::Register { address: 101, value: 65 });
        assert_eq!(judged("3.5").unwrap_err().to_string(), "3.5 is outside 4 to 18");
        assert_eq!(judged("6.3").unwrap_err().to_string(), "6.3 is not a whole number of steps of 0.5 from 4");
        assert!(matches!(judged("warm"), Err(Refusal::Unfit(Unfit::Encode(_)))));
    }

    #[test]
    fn true_and_false_are_held_to_the_limits_as_one_and_zero() {
        let mut point = setpoint();
        let judged = |point: &Point, text: &str| judge(point, &request::parse(text.as_bytes()).unwrap().value, None);
        assert_eq!(judged(&point, "false").unwrap_err().to_string(), "0 is outside 4 to 18");
        assert_eq!(judged(&point, "{\"value\": true}").unwrap_err().to_string(), "1 is outside 4 to 18");
        let write = point.write.as_mut().unwrap();
        (write.min, write.max) = (Some(Decimal::ZERO), Some(Decimal::ONE));
        assert_eq!(judged(&point, "true").unwrap().kind, WriteKind::Register { address: 101, value: 10 });
        point.write.as_mut().unwrap().step = Some(Decimal::TWO);
        assert_eq!(judged(&point, "true").unwrap_err().to_string(), "1 is not a whole number of steps of 2 from 0");
        assert!(judged(&point, "false").is_ok());
    }

    #[test]
    fn nothing_is_writable_unless_its_point_says_so() {
        let point = Point { write: None, ..setpoint() };
        assert!(matches!(judge(&point, &Value::Int(5), None), Err(Refusal::ReadOnly(_))));
    }

    #[test]
    fn a_bit_never_touches_its_neighbours() {
        let mut point = setpoint();
        point.write = Some(Box::new(Write { min: None, max: None, step: None, ..*point.write.unwrap() }));
        if let Source::Wire(wire) = &mut point.source {
            let wire = Arc::make_mut(wire);
            wire.data_type = DataType::U16;
            wire.scale = Scale::default();
            wire.bits = Some(BitSpan { low: 4, high: 7 });
        }
        let planned = judge(&point, &Value::Int(9), None).unwrap();
        let by = How::default();
        assert_eq!(planned.kind, WriteKind::Bits { address: 101, and: 0xFF0F, or: 0x0090, by });
    }

    #[test]
    fn the_functions_for_many_write_one_where_the_device_wants_it() {
        let mut point = setpoint();
        let how = How { single: Single::Many, ..How::default() };
        point.write = Some(Box::new(Write { how, ..*point.write.clone().unwrap() }));
        let kind = judge(&point, &Value::Int(5), None).unwrap().kind;
        assert_eq!(kind, WriteKind::Registers { address: 101, values: vec![50] });
        if let Source::Wire(wire) = &mut point.source {
            let wire = Arc::make_mut(wire);
            (wire.table, wire.data_type, wire.scale) = (Table::Coil, DataType::Bool, Scale::default());
        }
        let unlimited = Write { min: None, max: None, step: None, ..*point.write.unwrap() };
        let point = Point { write: Some(Box::new(unlimited)), ..point };
        let kind = judge(&point, &Value::Bool(true), None).unwrap().kind;
        assert_eq!(kind, WriteKind::Coils { address: 101, values: vec![true] });
    }
}
