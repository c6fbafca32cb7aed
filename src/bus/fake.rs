//! A line without a wire, for tests of those who use a bus: a closure answers, after the time it says.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::bus::Bus;
use crate::bus::BusError;
use crate::bus::BusStatus;
use crate::bus::Data;
use crate::bus::Job;
use crate::bus::ReadRequest;
use crate::bus::Reply;
use crate::bus::mei;
use crate::bus::mei::Category;
use crate::bus::mei::IdentifyRequest;
use crate::bus::trace::Tap;
use crate::point::AddressRange;
use crate::point::Table;
use crate::point::UnitId;

/// Of the time an answer takes, what the device thinks; the rest is characters.
const THINKS: Duration = Duration::from_millis(5);

/// What a line is asked by its poll task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    Read(ReadRequest),
    Identify(IdentifyRequest),
}

/// A handle whose questions go to `answer`, one after the other; each takes as long as it says. Writes and what goes next are shut
/// down.
pub(crate) fn bus(mut answer: impl FnMut(Asked) -> (Duration, Result<Data, BusError>) + Send + 'static) -> Bus {
    let (urgent, _) = mpsc::channel(1);
    let (reads, mut queue) = mpsc::channel::<Job>(4);
    let (status, seen) = watch::channel(BusStatus { up: true, ..BusStatus::default() });
    let (beat, pulse) = watch::channel(());
    tokio::spawn(async move {
        while let Some(job) = queue.recv().await {
            let (took, result) = answer(asked(&job));
            tokio::time::sleep(took).await;
            status.send_modify(|s| s.busy += took);
            beat.send_replace(());
            let reply = result.map(|data| Reply { data, arrived: Instant::now(), turnaround: took.min(THINKS) });
            let _ = job.done.send(reply);
        }
    });
    Bus { urgent, reads, retries: 0, status: seen, pulse, tap: Tap::default() }
}

/// A handle whose writes and reads on demand go to `answer` as unit and PDU, one after the other; each takes as long as it says,
/// and only then is it done. Reads of a poll wait for ever. Nothing is tried again.
pub(crate) fn urgent<Done>(mut answer: impl FnMut(u8, Vec<u8>) -> (Duration, Done) + Send + 'static) -> Bus
where
    Done: FnOnce() -> Result<Data, BusError> + Send + 'static,
{
    let (urgent, mut queue) = mpsc::channel::<Job>(4);
    let (reads, waiting) = mpsc::channel(4);
    let (_, status) = watch::channel(BusStatus { up: true, ..BusStatus::default() });
    let (_, pulse) = watch::channel(());
    tokio::spawn(async move {
        let _waiting = waiting;
        while let Some(job) = queue.recv().await {
            if job.done.is_closed() {
                continue;
            }
            if job.turn.is_over() {
                let _ = job.done.send(Err(BusError::TooLate));
                continue;
            }
            let (took, done) = answer(job.ask.unit, job.ask.pdu());
            tokio::time::sleep(took).await;
            let reply = done().map(|data| Reply { data, arrived: Instant::now(), turnaround: took.min(THINKS) });
            let _ = job.done.send(reply);
        }
    });
    Bus { urgent, reads, retries: 0, status, pulse, tap: Tap::default() }
}

fn asked(job: &Job) -> Asked {
    let pdu = job.ask.pdu();
    let word = |at: usize| u16::from_be_bytes([pdu[at], pdu[at + 1]]);
    let unit = UnitId::new(job.ask.unit).expect("reads are never broadcast");
    let table = match pdu[0] {
        mei::FUNCTION => {
            let categories = [Category::Basic, Category::Regular, Category::Extended, Category::One];
            let category = categories.into_iter().find(|c| c.code() == pdu[2]).expect("an ask was checked");
            return Asked::Identify(IdentifyRequest { unit, category, object: pdu[3] });
        }
        1 => Table::Coil,
        2 => Table::Discrete,
        4 => Table::Input,
        _ => Table::Holding,
    };
    let range = AddressRange::new(word(1), word(3)).expect("an ask was checked");
    Asked::Read(ReadRequest { unit, table, range })
}
