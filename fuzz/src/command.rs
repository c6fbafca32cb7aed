//! Any payload as a command on points of every kind: understood or refused, never a panic; and what is judged fit to be
//! written has as many words as the point has registers.

use std::sync::Arc;
use std::sync::LazyLock;
use std::time::Duration;

use trunkline::command::planned;
use trunkline::command::request;
use trunkline::command::request::Age;
use trunkline::config;
use trunkline::config::plant::Point;
use trunkline::config::plant::Source;
use trunkline::point::Table;

const PLANT: &str = include_str!("command.yaml");

static POINTS: LazyLock<Vec<Arc<Point>>> = LazyLock::new(|| {
    let loaded = config::load_text("command.yaml", PLANT, std::path::Path::new("fuzz-nothing-here"));
    loaded.unwrap_or_else(|report| panic!("{report}")).plant.points
});

pub fn run(data: &[u8]) {
    let _ = (request::parse_action(data), request::parse_get(data));
    let mut values = Vec::new();
    if let Ok(batch) = request::parse_batch(data) {
        assert!(!batch.writes.is_empty());
        values.extend(batch.writes.into_iter().map(|(_, value)| value));
    }
    let asked = request::parse(data);
    for point in POINTS.iter() {
        if let (Ok(asked), Some(write)) = (&asked, &point.write) {
            let age = Age { expires_us: asked.expires_us, lives: None, waited: Duration::from_secs(3) };
            let _ = request::in_time(age, write.expires, 1_800_000_000_000_000);
        }
        for value in values.iter().chain(asked.as_ref().ok().map(|asked| &asked.value)) {
            for exponent in [None, Some(0), Some(-3), Some(i32::MAX), Some(i32::MIN)] {
                let Ok(planned) = planned::judge(point, value, exponent) else { continue };
                let Source::Wire(wire) = &point.source else { panic!("{} is not on the wire", point.name) };
                let registers = if wire.table == Table::Coil { 1 } else { usize::from(wire.range.count()) };
                assert_eq!(planned.words.len(), registers, "{} = {value:?}", point.name);
            }
        }
    }
}
