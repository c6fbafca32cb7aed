//! Measures the log as it is built, without the network: how fast it takes in, what an entry costs on disk, how long
//! it takes to open again, and whether draining slows down with depth. Drives the log itself, so that what is measured
//! is what runs; prints nothing.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::Link;
use super::SpoolError;
use super::Subscriber;
use super::flash::Flash;
use super::log::Log;
use super::log::PACE;
use crate::config::plant::Keep;
use crate::config::plant::Replay;
use crate::config::plant::Spool as Settings;
use crate::config::plant::WhenFull;
use crate::message::Class;
use crate::message::Message;
use crate::message::OwnValue;
use crate::message::Retain;
use crate::payload::Format;
use crate::payload::Series;
use crate::point::PointId;
use crate::sample::Sample;
use crate::sample::Value;
use crate::time::Stamp;
use crate::topic::Qos;
use crate::topic::TopicFilter;
use crate::topic::TopicName;

pub use super::disk::Durability;

/// Entries between two commits.
const GROUP: u64 = 5_000;
/// Entries read at once, as the bridge does.
const READ: usize = 500;
/// Points whose values are appended in turn.
const POINTS: u64 = 100;

/// What is appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Load {
    /// The gateway's own values, 100 a second by their stamps.
    Values,
    /// Messages of local clients with this many bytes of payload.
    Messages(usize),
}

/// What was measured.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Figures {
    /// Entries a second, commits included.
    pub appended_per_s: f64,
    /// Bytes of the file for one entry.
    pub bytes_each: f64,
    /// To open the log again.
    pub reopened: Duration,
    /// Entries a second over the first tenth, acknowledgements and deletions included.
    pub drained_first: f64,
    /// The same over the last tenth.
    pub drained_last: f64,
    /// Bytes of the file after the drain.
    pub bytes_after: u64,
}

/// Appends `count` entries to a new log in `folder`, opens it again and drains it.
pub fn measure(folder: &Path, count: u64, load: Load, durability: Durability) -> Result<Figures, SpoolError> {
    let path = folder.join("bench.db");
    let settings = settings(path.clone());
    let open = || Log::open(settings.clone(), vec![subscriber()], 1);
    let mut log = open()?;
    log.durability(durability);
    let series: Vec<_> = (0..POINTS).filter_map(series).collect();
    let began = Instant::now();
    for group in (0..count).step_by(usize::try_from(GROUP).unwrap_or(1)) {
        let entries = group..count.min(group + GROUP);
        log.append(entries.map(|n| entry(n, load, &series)).collect(), stamp(group));
        log.tick(stamp(group));
    }
    log.close();
    let appended_per_s = rate(count, began.elapsed());
    drop(log);
    let size = || fs::metadata(&path).map_or(0, |m| m.len());
    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    let bytes_each = size() as f64 / count as f64;
    let began = Instant::now();
    let mut log = open()?;
    let reopened = began.elapsed();
    log.durability(durability);
    let tenth = count / 10;
    let drained_first = drain(&mut log, tenth);
    drain(&mut log, count - 2 * tenth);
    let drained_last = drain(&mut log, tenth);
    log.close();
    Ok(Figures { appended_per_s, bytes_each, reopened, drained_first, drained_last, bytes_after: size() })
}

fn settings(path: PathBuf) -> Settings {
    Settings {
        path,
        keep: Keep::Always,
        max_size: 64 << 30,
        max_age: Duration::from_secs(365 * 86_400),
        when_full: WhenFull::DropOldest,
        replay: Replay::InOrder,
        replay_rate: None,
    }
}

fn subscriber() -> Subscriber {
    Subscriber { name: "bench".into(), filters: TopicFilter::new("#").into_iter().collect() }
}

/// A site at work, as flash sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scene {
    /// `keep: offline`, and each value acknowledged within a commit interval.
    OfflineUp,
    /// `keep: offline`, the link down.
    OfflineDown,
    /// `keep: always`, and each value acknowledged one commit interval later.
    AlwaysUp,
}

/// Seconds of a site's work that are measured for [`flash_a_day`], in entries: long enough for some checkpoints.
const FLASH_ENTRIES: u64 = 30_000;
/// Entries of 100 values a second in a commit interval.
const A_TICK: u64 = 25;

/// Bytes a day that the log gives to the disk at 100 values a second, as the kernel counts them for this thread.
pub fn flash_a_day(folder: &Path, scene: Scene) -> Result<u64, SpoolError> {
    let keep = if scene == Scene::AlwaysUp { Keep::Always } else { Keep::Offline };
    let settings = Settings { keep, max_size: 512 << 20, ..settings(folder.join("flash.db")) };
    let mut log = Log::open(settings, vec![subscriber()], 1)?.paced(PACE);
    let link = if scene == Scene::OfflineDown { Link::Down } else { Link::Up };
    log.link(0, link);
    let series: Vec<_> = (0..POINTS).filter_map(series).collect();
    let flash = Flash::new();
    for from in (0..FLASH_ENTRIES).step_by(25) {
        if scene == Scene::AlwaysUp {
            drain(&mut log, A_TICK);
        }
        log.append((from..from + A_TICK).map(|n| entry(n, Load::Values, &series)).collect(), stamp(from));
        if scene == Scene::OfflineUp {
            drain(&mut log, A_TICK);
        }
        log.tick(stamp(from + A_TICK));
    }
    Ok(flash.bytes() * (86_400 * 100 / FLASH_ENTRIES))
}

/// Reads and acknowledges so many entries; a commit as often as the daemon would at this speed.
fn drain(log: &mut Log, count: u64) -> f64 {
    let (began, mut done, mut since) = (Instant::now(), 0, 0);
    while done < count {
        let batch = log.read(super::log::Question::oldest(READ), stamp(0));
        if batch.entries.is_empty() {
            break;
        }
        log.acknowledge(0, batch.upto);
        done += batch.entries.len() as u64;
        since += batch.entries.len() as u64;
        if since >= GROUP {
            log.tick(stamp(0));
            since = 0;
        }
    }
    rate(done, began.elapsed())
}

fn rate(count: u64, took: Duration) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    let count = count as f64;
    count / took.as_secs_f64()
}

/// 100 values a second since a day in 2026.
fn stamp(n: u64) -> Stamp {
    let us = n * 10_000;
    Stamp { mono_us: 3_600_000_000 + us, wall_us: 1_795_222_923_000_000 + us.cast_signed() }
}

fn series(n: u64) -> Option<Arc<Series>> {
    let series = Series {
        topic: TopicName::new(format!("plant/meter-{}/voltage-{n}", n / 10)).ok()?,
        format: Format::Json,
        unit: "V".into(),
        names: BTreeMap::new(),
        qos: Qos::AtLeastOnce,
        retain: true,
        class: Class::Normal,
    };
    Some(Arc::new(series))
}

fn entry(n: u64, load: Load, series: &[Arc<Series>]) -> Message {
    let series = &series[usize::try_from(n % POINTS).unwrap_or(0)];
    let payload = match load {
        Load::Values => Bytes::new(),
        Load::Messages(size) => Bytes::from(vec![b'x'; size]),
    };
    let mut message = Message::plain(series.topic.clone(), payload, Qos::AtLeastOnce, Retain::No);
    if load == Load::Values {
        let value = Value::Decimal(rust_decimal::Decimal::new(2_300 + (n % 97).cast_signed(), 1));
        let sample = Sample::good(PointId(0), value, stamp(n));
        message.own = Some(OwnValue { series: Arc::clone(series), sample });
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `cargo test --release the_log_measured -- --ignored --nocapture`; `TRUNKLINE_ENTRIES=8600000` is a day.
    #[test]
    #[ignore = "a measurement, not a test"]
    fn the_log_measured() {
        let count = std::env::var("TRUNKLINE_ENTRIES").ok().and_then(|n| n.parse().ok()).unwrap_or(1_000_000);
        for load in [Load::Values, Load::Messages(200)] {
            for durability in [Durability::Full, Durability::Normal] {
                let folder = tempfile::tempdir().unwrap();
                eprintln!("{load:?} {durability:?} {:#?}", measure(folder.path(), count, load, durability).unwrap());
            }
        }
    }

    #[test]
    fn a_healthy_link_wears_no_flash_and_a_cut_one_does() {
        // Not in the folder for temporary files, which may lie in memory.
        let folder = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        assert_eq!(flash_a_day(folder.path(), Scene::OfflineUp).unwrap(), 0);
        let down = flash_a_day(folder.path(), Scene::OfflineDown).unwrap();
        assert!(down > 8_640_000 * 20, "a day of values is not written with {down} bytes");
    }

    #[test]
    fn a_measurement_holds_what_it_says() {
        let folder = tempfile::tempdir().unwrap();
        let figures = measure(folder.path(), 20_000, Load::Values, Durability::Normal).unwrap();
        assert!(figures.bytes_each <= 48.0, "{figures:?}");
        assert!(figures.bytes_after < 128 << 10, "{figures:?}");
    }
}
