//! How near the real bus and poll task come to the wire's limit, on a simulated paced trunk: the reference work of ten
//! devices, planned by the program itself from a plain list of points. What is printed are ratios to the least time; what
//! is counted are breaches of silence, which no machine excuses.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::bench::work::F8E1;
use crate::bench::work::F8N1;
use crate::bench::work::addresses;
use crate::bench::work::device;
use crate::bench::work::line;
use crate::bench::work::reference;
use crate::bench::work::serial_port;
use crate::bus;
use crate::bus::Timing;
use crate::config::plant::CharFormat;
use crate::config::plant::Port;
use crate::point::AddressRange;
use crate::point::PointId;
use crate::point::Table;
use crate::poll;
use crate::poll::forecast;
use crate::poll::plan;
use crate::poll::plan::Cost;
use crate::poll::plan::Holes;
use crate::sample::Sample;
use crate::sim;
use crate::sim::LineOptions;
use crate::sim::LineStats;
use crate::sim::Shared;
use crate::status::DeviceState;

/// Shorter than any scan takes: the line is never idle.
const AT_ONCE: Duration = Duration::from_millis(1);

/// One run of the line bench.
#[derive(Debug, Clone, Copy)]
pub struct Scene {
    /// Bits per second.
    pub baud: u32,
    /// Bits of a character.
    pub format: CharFormat,
    /// Devices miss a request without silence before it.
    pub insist: bool,
    /// How many of the ten devices do not answer.
    pub dead: u8,
    /// `None`: as often as the line can.
    pub period: Option<Duration>,
    /// How long to measure, after everything has settled.
    pub lasting: Duration,
}

impl Scene {
    /// `115200 8N1 insisting` and the like.
    pub fn name(&self) -> String {
        let insist = if self.insist { " insisting" } else { "" };
        let period = self.period.map(|p| format!(" every {p:?}")).unwrap_or_default();
        let dead = if self.dead > 0 { format!(" {} of 10 dead", self.dead) } else { String::new() };
        format!("{} {}{insist}{period}{dead}", self.baud, self.format)
    }
}

/// What came of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// What was run.
    pub what: String,
    /// What a scan, or the period, must at least take.
    pub least: Duration,
    /// It is the period.
    pub is_periodic: bool,
    /// Between two reads of a register.
    pub between: Spread,
    /// Requests the devices heard.
    pub requests: u64,
    /// Frames that began before the silence was over.
    pub violations: u64,
    /// Frames that began while the other side was talking.
    pub collisions: u64,
    /// Share of the time that silent devices cost.
    pub silent_share: f64,
    /// Longest time that a silent device was not asked.
    pub longest_unasked: Duration,
    /// Wire time as the bus counts it, by the time that passed.
    pub load: f64,
    /// The same as it was foreseen, where the line has room.
    pub foreseen: Option<f64>,
}

/// Times between reads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Spread {
    /// How many.
    pub count: usize,
    /// All by their number.
    pub mean: Duration,
    /// The shortest.
    pub shortest: Duration,
    /// One in a hundred is shorter.
    pub p1: Duration,
    /// Half are shorter.
    pub median: Duration,
    /// One in a hundred is longer.
    pub p99: Duration,
    /// The longest.
    pub longest: Duration,
}

impl Spread {
    /// Of these times.
    pub fn of(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        let Some(longest) = times.last().copied() else { return Self::default() };
        let count = times.len();
        let mean = times.iter().sum::<Duration>() / u32::try_from(count).unwrap_or(u32::MAX);
        let part = |hundredths: usize| times[(count - 1) * hundredths / 100];
        Self { count, mean, shortest: times[0], p1: part(1), median: times[count / 2], p99: part(99), longest }
    }
}

impl Outcome {
    /// The mean by the least: 1 is the limit.
    pub fn ratio(&self) -> f64 {
        self.between.mean.div_duration_f64(self.least)
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |d: Duration| d.as_secs_f64() * 1e3;
        let evenness = self.between.p99.div_duration_f64(self.between.median.max(AT_ONCE));
        write!(
            f,
            "{:<34} least {:>7.1} ms  mean {:>7.1}  ratio {:.3}  median {:>7.1}  p99/median {:.3}  requests {:>5}  \
             violations {} collisions {}  load {:.3}",
            self.what,
            ms(self.least),
            ms(self.between.mean),
            self.ratio(),
            ms(self.between.median),
            evenness,
            self.requests,
            self.violations,
            self.collisions,
            self.load,
        )?;
        if self.is_periodic {
            let off = |d: Duration| ms(d) - ms(self.least);
            let (p1, p99) = (off(self.between.p1), off(self.between.p99));
            let (shortest, longest) = (off(self.between.shortest), off(self.between.longest));
            write!(
                f,
                "  period off by {p1:+.2} to {p99:+.2} ms in 98 of 100, at most {shortest:+.2} to {longest:+.2}"
            )?;
        }
        if let Some(foreseen) = self.foreseen {
            write!(f, " ({:.3} of the foreseen)", self.load / foreseen)?;
        }
        if self.silent_share > 0.0 {
            write!(
                f,
                "  silent devices {:.2} % of the time, unasked at most {:.1} s",
                self.silent_share * 1e2,
                self.longest_unasked.as_secs_f64()
            )?;
        }
        Ok(())
    }
}

/// All scenes of the line bench, one after the other: two at once would disturb each other.
pub fn scenes() -> Vec<Scene> {
    let speeds = [(9_600, F8N1, 14), (19_200, F8E1, 12), (115_200, F8N1, 10)];
    let mut scenes = Vec::new();
    for insist in [false, true] {
        scenes.extend(speeds.map(|(baud, format, secs)| Scene {
            baud,
            format,
            insist,
            dead: 0,
            period: None,
            lasting: Duration::from_secs(secs),
        }));
    }
    let second = Scene { period: Some(Duration::from_secs(1)), lasting: Duration::from_secs(20), ..scenes[2] };
    scenes.push(second);
    scenes.push(Scene { dead: 3, lasting: Duration::from_secs(70), ..second });
    scenes
}

/// Runs one scene.
pub async fn run(scene: Scene) -> io::Result<Outcome> {
    let devices: Vec<Shared> = (scene.dead + 1..=10).map(|id| device(id).shared()).collect();
    let mut options = LineOptions::new(scene.baud, scene.format);
    options.insist = scene.insist;
    let sim = sim::start_line(devices, options)?;
    let port = serial_port(sim.path(), scene.baud, scene.format);
    let parts = reference(Port::Serial(port), scene.period.unwrap_or(AT_ONCE));
    let stop = CancellationToken::new();
    let _stopped = stop.clone().drop_guard();
    let (handle, task) = bus::new(parts.line.clone());
    tokio::spawn(task.run(stop.clone()));
    let (out, mut samples) = mpsc::channel(64);
    let (tell, mut events) = mpsc::channel(64);
    let (mut status, task) = poll::new(parts, handle.clone(), out, tell);
    tokio::spawn(task.precise().run(stop.clone()));
    tokio::spawn(async move { while events.recv().await.is_some() {} });
    let settled = status.wait_for(|s| {
        let alive = s.devices.iter().filter(|d| d.state == DeviceState::Online).count();
        let dead = s.devices.iter().filter(|d| d.state == DeviceState::Offline).count();
        (alive, dead) == (usize::from(10 - scene.dead), usize::from(scene.dead))
    });
    tokio::select! {
        _ = settled => {}
        () = async { while samples.recv().await.is_some() {} } => {}
    }
    // The first scan learns how long the devices think, and some are still where the settling has left them.
    measure(&mut samples, scene.period.unwrap_or(Duration::from_secs(2)) * 2).await;
    let used = || {
        let status = handle.status();
        let status = status.borrow();
        (status.busy, status.in_vain)
    };
    let (before, spent, begun) = (sim.stats(), used(), Instant::now());
    let times = measure(&mut samples, scene.lasting).await;
    let (now, lasted) = (used(), begun.elapsed());
    Ok(outcome(scene, times, (before, sim.stats()), ((now.0 - spent.0, now.1 - spent.1), lasted)))
}

fn outcome(
    scene: Scene,
    times: Vec<Duration>,
    (before, after): (LineStats, LineStats),
    (used, lasted): ((Duration, Duration), Duration),
) -> Outcome {
    let heard = (1..=scene.dead).filter_map(|id| after.heard.get(&id));
    Outcome {
        what: scene.name(),
        least: scene.period.unwrap_or_else(|| least(scene)),
        is_periodic: scene.period.is_some(),
        between: Spread::of(times),
        requests: after.requests - before.requests,
        violations: after.violations - before.violations,
        collisions: after.collisions - before.collisions,
        silent_share: used.1.div_duration_f64(lasted),
        longest_unasked: heard.map(|h| h.longest_pause).max().unwrap_or_default(),
        load: used.0.div_duration_f64(lasted),
        foreseen: scene.period.filter(|_| scene.dead == 0).map(|period| foreseen(scene, period)),
    }
}

fn foreseen(scene: Scene, period: Duration) -> f64 {
    let parts = reference(Port::Serial(serial_port("none", scene.baud, scene.format)), period);
    forecast::of(&parts.line, &parts.devices, &parts.points).load
}

/// Times between two reads of each register, as they arrived.
async fn measure(samples: &mut mpsc::Receiver<Vec<Sample>>, lasting: Duration) -> Vec<Duration> {
    let end = Instant::now() + lasting;
    let mut last: HashMap<PointId, u64> = HashMap::new();
    let mut times = Vec::new();
    while let Ok(Some(batch)) = tokio::time::timeout_at(end, samples.recv()).await {
        for sample in batch.iter().filter(|s| s.value().is_some()) {
            let at = sample.taken().mono_us;
            if let Some(before) = last.insert(sample.point(), at) {
                times.push(Duration::from_micros(at.saturating_sub(before)));
            }
        }
    }
    times
}

/// The least time of a scan of all ten devices (frames, turnaround and two silences a read).
fn least(scene: Scene) -> Duration {
    let options = LineOptions::new(scene.baud, scene.format);
    let port = serial_port("none", scene.baud, scene.format);
    let line = line(Port::Serial(port));
    let gap = Timing::new(scene.baud, scene.format, None).gap;
    let cost = Cost::new(&line, options.turnaround + gap);
    let wanted: Vec<AddressRange> = addresses().filter_map(|a| AddressRange::new(a, 1)).collect();
    let reads = plan::plan(Table::Holding, &wanted, 125, cost, &Holes::default());
    reads.iter().map(|r| cost.of(Table::Holding, u32::from(r.count()))).sum::<Duration>() * 10
}
