//! A line without a wire's slowness: what the program itself costs per question. Compared by `cargo bench` with a plain
//! loop over libmodbus on the same simulated line.

use std::io;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::bench::work::F8N1;
use crate::bench::work::device;
use crate::bench::work::line;
use crate::bench::work::serial_port;
use crate::bus;
use crate::bus::BusError;
use crate::bus::ReadRequest;
use crate::config::plant::Line;
use crate::config::plant::Port;
use crate::point::AddressRange;
use crate::point::Table;
use crate::point::UnitId;
use crate::sim;
use crate::sim::LineOptions;
use crate::sim::SimLine;

/// Registers of each read.
const COUNT: u16 = 20;

/// A line with one device, number 1, that answers at once.
pub fn start() -> io::Result<SimLine> {
    let mut options = LineOptions::new(230_400, F8N1);
    options.paced = false;
    options.turnaround = Duration::ZERO;
    sim::start_line(vec![device(1).shared()], options)
}

/// Reads the same twenty registers so often through the bus; how many a second.
pub async fn run(sim: &SimLine, reads: u32) -> io::Result<f64> {
    let port = Port::Serial(serial_port(sim.path(), 230_400, F8N1));
    let (bus, task) = bus::new(Line { gap: Some(Duration::ZERO), ..line(port) });
    let stop = CancellationToken::new();
    let task = tokio::spawn(task.run(stop.clone()));
    let unit = UnitId::new(1).expect("not broadcast");
    let range = AddressRange::new(0, COUNT).expect("twenty registers");
    let request = ReadRequest { unit, table: Table::Holding, range };
    // As a task, like all who ask in the daemon: what blocks a runtime is woken through its poller, twice a question.
    let asker = tokio::spawn(async move {
        // The first finds out that there is no wire behind the port, which takes a timeout.
        bus.read(request).await?;
        let begun = Instant::now();
        for _ in 0..reads {
            bus.read(request).await?;
        }
        Ok::<_, BusError>(f64::from(reads) / begun.elapsed().as_secs_f64())
    });
    let rate = asker.await.map_err(io::Error::other)?.map_err(io::Error::other)?;
    stop.cancel();
    // The port is free for others once the task has ended.
    let _ = task.await;
    Ok(rate)
}
