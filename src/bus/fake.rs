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

/// A handle whose requests go to `answer`, one after the other; each takes as long as it says.
pub(crate) fn bus(mut answer: impl FnMut(ReadRequest) -> (Duration, Result<Data, BusError>) + Send + 'static) -> Bus {
    let (reads, mut queue) = mpsc::channel::<Job>(4);
    let (status, seen) = watch::channel(BusStatus { up: true, ..BusStatus::default() });
    tokio::spawn(async move {
        while let Some((request, done)) = queue.recv().await {
            let (took, result) = answer(request);
            tokio::time::sleep(took).await;
            status.send_modify(|s| s.busy += took);
            let reply = result.map(|data| Reply { data, arrived: Instant::now(), turnaround: took });
            let _ = done.send(reply);
        }
    });
    Bus { reads, status: seen }
}
