//! The reference outage: a gateway polls 1,000 values a second, its cloud is away for a minute (cut, black hole, or cut
//! and the gateway killed in the middle), and everything that was read is looked for over there. The gateway is a real
//! process, the cloud a real Mosquitto; devices, cable and witnesses live here. What was lost is counted in [`tally`].

mod tally;

use std::fmt;
use std::fmt::Write as _;
use std::io;
use std::net::Ipv4Addr;
use std::net::SocketAddr;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;

use tokio::time::Instant;
use tokio::time::MissedTickBehavior;
use tokio::time::interval;

use self::tally::Moments;
use self::tally::Tally;
pub use self::tally::Verdict;
use super::peers::Mosquitto;
use super::peers::Seen;
use super::peers::Witness;
use super::peers::listens;
use crate::point::Table;
use crate::sim::Cable;
use crate::sim::SimDevice;
use crate::sim::SimTcp;
use crate::time;

/// Registers of a device, one request each second.
const POINTS: u32 = 100;
/// A PLC's answer.
const TURNAROUND: Duration = Duration::from_millis(2);
/// Undisturbed after the backlog has gone.
const AFTER: Duration = Duration::from_secs(5);
/// A backlog that has not gone by then is lost.
const DRAIN: Duration = Duration::from_secs(120);

/// What happens to the uplink.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// Connections are closed, new ones too.
    Cut,
    /// Connections stay and are taken, but nothing passes.
    BlackHole,
    /// Cut, and the gateway is killed in the middle of it and started again.
    Kill,
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cut => "cut",
            Self::BlackHole => "black hole",
            Self::Kill => "kill -9",
        })
    }
}

/// One outage.
#[derive(Debug, Clone)]
pub struct Outage {
    /// What happens.
    pub trouble: Trouble,
    /// Hundreds of values a second.
    pub devices: u8,
    /// Undisturbed before the outage: the yardstick for the polls.
    pub before: Duration,
    /// How long the cloud is away.
    pub lasting: Duration,
    /// `live-first` or `in-order`, as in the configuration.
    pub replay: &'static str,
    /// The gateway's program: usually this one.
    pub program: PathBuf,
}

/// Runs it in `folder`, which must be empty.
pub async fn run(outage: &Outage, folder: &Path) -> io::Result<Verdict> {
    let mut scene = Scene::build(outage, folder).await?;
    scene.watch(outage.before, |_| false).await?;
    let began = time::now().wall_us;
    match outage.trouble {
        Trouble::Cut | Trouble::Kill => scene.cable.cut(),
        Trouble::BlackHole => scene.cable.black_hole(),
    }
    let mut killed = None;
    scene.watch(outage.lasting / 2, |_| false).await?;
    if outage.trouble == Trouble::Kill {
        killed = Some(time::now().wall_us);
        scene.gateway.kill_and_start_again()?;
    }
    scene.watch(outage.lasting / 2, |_| false).await?;
    scene.cable.restore();
    let restored = time::now().wall_us;
    let moments = Moments { began, killed, restored };
    // What was read up to now, all of it, with a second for what is on its way.
    scene.watch(Duration::from_secs(1), |_| false).await?;
    scene.watch(DRAIN, |tally| tally.missing(&moments) == 0).await?;
    scene.watch(AFTER, |_| false).await?;
    Ok(scene.tally.verdict(&moments, scene.gateway.most_resident))
}

struct Scene {
    gateway: Gateway,
    near: Witness,
    far: Witness,
    tally: Tally,
    cable: Cable,
    _cloud: Mosquitto,
    _devices: SimTcp,
}

impl Scene {
    async fn build(outage: &Outage, folder: &Path) -> io::Result<Self> {
        let cloud = Mosquitto::start(folder).await?;
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let cable = Cable::start(any, cloud.address()).await?;
        let words: Vec<u16> = (0..100).collect();
        let devices = (1..=outage.devices).map(|id| SimDevice::new(id).with(Table::Holding, 0, &words).shared());
        let devices = SimTcp::start(any, devices.collect(), TURNAROUND, None).await?;
        let broker = std::net::TcpListener::bind(any)?.local_addr()?;
        let text = yaml(outage, devices.address(), broker, cable.address());
        let gateway = Gateway::start(&outage.program, folder, &text)?;
        listens(broker).await?;
        let far = Witness::start(cloud.address(), "sites/plant/#").await?;
        let near = Witness::start(broker, "plant/#").await?;
        let tally = Tally::default();
        Ok(Self { gateway, near, far, tally, cable, _cloud: cloud, _devices: devices })
    }

    /// Writes down what is seen for so long, or until it is enough.
    async fn watch(&mut self, lasting: Duration, mut enough: impl FnMut(&Tally) -> bool) -> io::Result<()> {
        let over = Instant::now() + lasting;
        let mut ticks = interval(Duration::from_millis(100));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let gone = || io::Error::other("a witness ended");
        loop {
            tokio::select! {
                seen = self.near.next() => self.tally.near(&seen.ok_or_else(gone)?),
                seen = self.far.next() => self.tally.far(&seen.ok_or_else(gone)?),
                _ = ticks.tick() => {
                    self.gateway.look()?;
                    if enough(&self.tally) {
                        return Ok(());
                    }
                }
                () = tokio::time::sleep_until(over) => return Ok(()),
            }
        }
    }
}

fn yaml(outage: &Outage, devices: SocketAddr, broker: SocketAddr, cloud: SocketAddr) -> String {
    let mut points = String::new();
    for n in 0..POINTS {
        let _ = writeln!(points, "      p{n:02}: {{holding: {n}, every: 1s}}");
    }
    format!(
        r#"gateway: plant
lines:
  fast: {{tcp: {devices}}}
devices:
  - name: d{{unit_id}}
    line: fast
    unit_id: 1-{}
    points:
{points}publish:
  report: {{when: poll}}
broker:
  listen: [{{tcp: {broker}}}]
  limits: {{queue: 50000}}
upstreams:
  cloud:
    url: mqtt://{cloud}
    send:
      - {{filter: "plant/#", strip: "plant/", prefix: "sites/plant/", qos: 1}}
spool: {{max_size: 512MiB, replay: {}}}
"#,
        outage.devices, outage.replay
    )
}

/// The gateway's process; killed when dropped.
#[derive(Debug)]
struct Gateway {
    child: Child,
    program: PathBuf,
    folder: PathBuf,
    /// The most memory it ever had, in bytes, over all its lives.
    most_resident: u64,
}

impl Gateway {
    fn start(program: &Path, folder: &Path, yaml: &str) -> io::Result<Self> {
        std::fs::create_dir_all(folder.join("state"))?;
        std::fs::write(folder.join("gateway.yaml"), yaml)?;
        let child = Self::spawn(program, folder)?;
        Ok(Self { child, program: program.to_owned(), folder: folder.to_owned(), most_resident: 0 })
    }

    fn spawn(program: &Path, folder: &Path) -> io::Result<Child> {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(folder.join("gateway.log"))?;
        Command::new(program)
            .args(["run", "-c", "gateway.yaml", "--socket", "control.sock"])
            .current_dir(folder)
            .env("STATE_DIRECTORY", folder.join("state"))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
    }

    /// As a service manager does that restarts at once.
    fn kill_and_start_again(&mut self) -> io::Result<()> {
        self.look()?;
        self.child.kill()?;
        self.child.wait()?;
        self.child = Self::spawn(&self.program, &self.folder)?;
        Ok(())
    }

    /// Whether it still runs, and how much memory it has had at most.
    fn look(&mut self) -> io::Result<()> {
        if let Some(status) = self.child.try_wait()? {
            let log = std::fs::read_to_string(self.folder.join("gateway.log")).unwrap_or_default();
            return Err(io::Error::other(format!("the gateway ended ({status}):\n{log}")));
        }
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let kilobytes = status.lines().find_map(|l| l.strip_prefix("VmHWM:")?.trim().split(' ').next()?.parse().ok());
        self.most_resident = self.most_resident.max(kilobytes.unwrap_or(0_u64) * 1024);
        Ok(())
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
