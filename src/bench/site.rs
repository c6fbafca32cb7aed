//! The box as it stands in a cabinet: twenty devices on four trunks with 500 points, a cloud (a real Mosquitto) behind a cable,
//! three clients on site. What it takes at rest, how soon the first value is there, and, with trouble (cables cut, devices
//! dying, clients coming and going, reloads), whether anything grows with time. The gateway is a process of its own.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::net::SocketAddr;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

use tokio::time::timeout;

use crate::bench::peers::Mosquitto;
use crate::bench::peers::Witness;
use crate::bench::process;
use crate::bench::process::Gateway;
use crate::bench::process::Memory;
use crate::sim::Cable;
use crate::sim::SimDevice;
use crate::sim::SimTcp;

/// Trunks, each with its devices.
const TRUNKS: u8 = 4;
/// On each trunk.
const DEVICES: u8 = 5;
/// Of each device.
const REGISTERS: u16 = 25;
/// On site: an HMI, a logger, a laptop.
const CLIENTS: usize = 3;
/// A PLC's answer.
const TURNAROUND: Duration = Duration::from_millis(5);
/// A gateway that publishes nothing for this long will not.
const PATIENCE: Duration = Duration::from_secs(30);
/// Connections, first values and what the start itself takes are not measured.
const SETTLED_AFTER: Duration = Duration::from_secs(5);

/// What is run.
#[derive(Debug, Clone)]
pub struct Site {
    /// The gateway's program: usually this one.
    pub program: PathBuf,
    /// How long to watch.
    pub lasting: Duration,
    /// Between two looks at what it takes.
    pub look: Duration,
    /// How often something happens; `None` leaves it in peace.
    pub trouble: Option<Duration>,
}

/// One look.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Look {
    /// Since the measuring began.
    pub at: Duration,
    /// Memory.
    pub memory: Memory,
    /// Open files and sockets.
    pub handles: usize,
    /// Threads.
    pub threads: usize,
    /// Databases and notes in the state directory.
    pub kept: u64,
    /// Values that one client on site was given since the look before, a second.
    pub values_per_s: f64,
    /// Processor time since the look before: 1 is a whole core.
    pub load: f64,
}

/// What was done to it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Done {
    /// The cloud cut off, and back.
    pub cuts: u32,
    /// A trunk silent, and back.
    pub silences: u32,
    /// Clients that came, listened and went.
    pub visits: u32,
    /// Configurations taken.
    pub reloads: u32,
    /// Configurations refused; none should be.
    pub refused: u32,
}

/// What came of it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Outcome {
    /// From the start of the process to the first value at a client, in which the device's own time is contained.
    pub first_value: Duration,
    /// In order.
    pub looks: Vec<Look>,
    /// What was done.
    pub done: Done,
    /// Threads of the gateway that panicked.
    pub panics: usize,
}

impl Site {
    /// Runs it in `folder`, which must be empty.
    pub async fn run(&self, folder: &Path) -> io::Result<Outcome> {
        let mut scene = Scene::build(self, folder).await?;
        let mut outcome = Outcome { first_value: scene.first_value, ..Outcome::default() };
        scene.listen(SETTLED_AFTER).await?;
        let begun = Instant::now();
        let mut before = (Duration::ZERO, scene.gateway.used()?);
        let mut act = 0;
        while begun.elapsed() < self.lasting {
            let mut heard = 0;
            let next = before.0 + self.look;
            while let Some(rest) = next.checked_sub(begun.elapsed()).filter(|rest| !rest.is_zero()) {
                heard += scene.listen(self.trouble.map_or(rest, |pause| pause.min(rest))).await?;
                if self.trouble.is_some() {
                    scene.act(act, &mut outcome.done).await?;
                    act += 1;
                }
            }
            let now = (begun.elapsed(), scene.gateway.used()?);
            outcome.looks.push(scene.look(now, before, heard)?);
            before = now;
        }
        outcome.panics = scene.gateway.panics();
        scene.gateway.stop()?;
        Ok(outcome)
    }
}

struct Scene {
    gateway: Gateway,
    program: PathBuf,
    folder: PathBuf,
    first_value: Duration,
    clients: Vec<Witness>,
    cloud: Cable,
    trunks: Vec<Cable>,
    _devices: Vec<SimTcp>,
    _mosquitto: Mosquitto,
}

impl Scene {
    async fn build(site: &Site, folder: &Path) -> io::Result<Self> {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let mosquitto = Mosquitto::start(folder).await?;
        let cloud = Cable::start(any, mosquitto.address()).await?;
        let (mut devices, mut trunks) = (Vec::new(), Vec::new());
        for _ in 0..TRUNKS {
            let units = (1..=DEVICES).map(|unit| SimDevice::clock(unit, REGISTERS, Instant::now()).shared());
            let trunk = SimTcp::start(any, units.collect(), TURNAROUND, None).await?;
            trunks.push(Cable::start(any, trunk.address()).await?);
            devices.push(trunk);
        }
        let own = folder.join("gateway");
        fs::create_dir(&own)?;
        fs::write(own.join("gateway.yaml"), yaml(&trunks, cloud.address(), 0))?;
        let begun = Instant::now();
        let (program, started_in) = (site.program.clone(), own.clone());
        let started = tokio::task::spawn_blocking(move || Gateway::start(&program, &started_in));
        let gateway = started.await.map_err(io::Error::other)??;
        let broker: SocketAddr = gateway.broker.parse().map_err(io::Error::other)?;
        let mut first = Witness::start(broker, "site/#").await?;
        timeout(PATIENCE, value(&mut first)).await.map_err(|_| io::Error::other("no value came"))??;
        let first_value = begun.elapsed();
        let mut clients = vec![first];
        for _ in 1..CLIENTS {
            clients.push(Witness::start(broker, "site/#").await?);
        }
        let program = site.program.clone();
        Ok(Self {
            gateway,
            program,
            folder: own,
            first_value,
            clients,
            cloud,
            trunks,
            _devices: devices,
            _mosquitto: mosquitto,
        })
    }

    /// All clients take what comes; how many values the first was given.
    async fn listen(&mut self, lasting: Duration) -> io::Result<u64> {
        let [first, second, third] = &mut self.clients[..] else {
            return Err(io::Error::other("as many clients as the site has"));
        };
        let gone = || io::Error::other("a client ended");
        let over = tokio::time::sleep(lasting);
        tokio::pin!(over);
        let mut heard = 0;
        loop {
            tokio::select! {
                seen = value(first) => {
                    seen?;
                    heard += 1;
                }
                seen = second.next() => drop(seen.ok_or_else(gone)?),
                seen = third.next() => drop(seen.ok_or_else(gone)?),
                () = &mut over => return Ok(heard),
            }
        }
    }

    /// Each moment with the processor time that the gateway had used by then.
    fn look(&self, now: (Duration, Duration), before: (Duration, Duration), heard: u64) -> io::Result<Look> {
        let (at, lasted) = (now.0, now.0 - before.0);
        let id = self.gateway.id();
        #[expect(clippy::cast_precision_loss, reason = "counts of values, far below 2^52")]
        let values_per_s = heard as f64 / lasted.as_secs_f64();
        Ok(Look {
            at,
            memory: self.gateway.memory()?,
            handles: process::handles(id)?,
            threads: fs::read_dir(format!("/proc/{id}/task"))?.count(),
            kept: kept(&self.folder)?,
            values_per_s,
            load: (now.1 - before.1).div_duration_f64(lasted),
        })
    }

    /// One after the other, so that every trouble meets every other.
    async fn act(&mut self, turn: usize, done: &mut Done) -> io::Result<()> {
        let trunk = &self.trunks[turn % self.trunks.len()];
        match turn % 7 {
            0 => {
                self.cloud.cut();
                done.cuts += 1;
            }
            1 => self.reload(turn, done).await?,
            2 => self.cloud.restore(),
            3 => {
                trunk.black_hole();
                done.silences += 1;
            }
            4 => self.visit(done).await?,
            5 => self.trunks.iter().for_each(Cable::restore),
            _ => {
                trunk.cut();
                self.reload(turn, done).await?;
                self.trunks.iter().for_each(Cable::restore);
                done.silences += 1;
            }
        }
        Ok(())
    }

    /// A client comes, is told everything that is retained, and goes.
    async fn visit(&self, done: &mut Done) -> io::Result<()> {
        let broker: SocketAddr = self.gateway.broker.parse().map_err(io::Error::other)?;
        let mut visitor = Witness::start(broker, "#").await?;
        let said =
            timeout(PATIENCE, visitor.next()).await.map_err(|_| io::Error::other("a visitor was told nothing"))?;
        done.visits += u32::from(said.is_some());
        Ok(())
    }

    /// A configuration with another period for one device of each trunk, and one trunk's timeout changed.
    async fn reload(&self, turn: usize, done: &mut Done) -> io::Result<()> {
        fs::write(self.folder.join("gateway.yaml"), yaml(&self.trunks, self.cloud.address(), turn))?;
        let mut command = Command::new(&self.program);
        command.arg("reload").arg("--socket").arg(self.folder.join("control.sock"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let ended = tokio::task::spawn_blocking(move || command.status()).await.map_err(io::Error::other)??;
        let counter = if ended.success() { &mut done.reloads } else { &mut done.refused };
        *counter += 1;
        Ok(())
    }
}

/// The next message that is a value, and not what the gateway says of itself. May be cancelled.
async fn value(client: &mut Witness) -> io::Result<()> {
    loop {
        let seen = client.next().await.ok_or_else(|| io::Error::other("a client ended"))?;
        if !seen.topic.contains('$') {
            return Ok(());
        }
    }
}

/// `turn` changes what somebody would who looks for a good setting.
fn yaml(trunks: &[Cable], cloud: SocketAddr, turn: usize) -> String {
    let mut text = String::from("gateway: site\nlines:\n");
    let mut put = |line: std::fmt::Arguments<'_>| writeln!(text, "{line}").expect("writing to a string does not fail");
    for (n, cable) in trunks.iter().enumerate() {
        let longer = if n == turn % trunks.len() { 100 } else { 0 };
        put(format_args!("  trunk-{n}: {{tcp: \"{}\", timeout: {}ms}}", cable.address(), 400 + longer));
    }
    put(format_args!("devices:"));
    for n in 0..trunks.len() {
        for unit in 1..=DEVICES {
            put(format_args!("  - name: meter-{n}{unit}\n    line: trunk-{n}\n    unit_id: {unit}"));
            if unit == DEVICES && turn % 2 == 1 {
                put(format_args!("    every: 2s"));
            }
            put(format_args!("    points:"));
            for address in 0..REGISTERS {
                put(format_args!("      r{address}: {{holding: {address}}}"));
            }
        }
    }
    put(format_args!("publish: {{every: 1s, report: {{when: poll}}}}"));
    put(format_args!("broker: {{listen: [{{tcp: \"127.0.0.1:0\"}}]}}"));
    put(format_args!("upstreams:\n  cloud:\n    url: mqtt://{cloud}\n    send: [{{filter: \"site/#\", qos: 1}}]"));
    put(format_args!("spool: {{max_size: 32MiB}}"));
    text
}

fn kept(folder: &Path) -> io::Result<u64> {
    let mut sum = 0;
    for entry in fs::read_dir(folder)? {
        // What is replaced by a newer one between the listing and the look is not there any more.
        sum += entry?.metadata().map_or(0, |m| m.len());
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    #[tokio::test]
    async fn the_configuration_of_a_site_is_one_that_the_gateway_accepts_at_every_turn() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("gateway.yaml");
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let cable = Cable::start(any, any).await.unwrap();
        for turn in 0..4 {
            fs::write(&path, yaml(std::slice::from_ref(&cable), cable.address(), turn)).unwrap();
            let loaded = config::load(&path).unwrap();
            assert_eq!(loaded.plant.points.len(), usize::from(DEVICES) * usize::from(REGISTERS));
        }
    }
}
