//! A large site: many Modbus TCP devices polled by a gateway in a process of its own, each value on a topic of its own through
//! the embedded broker to a subscriber on the box. What is told: the gateway's processor time and memory, whether periods are
//! kept, and how old values are when they arrive, by the devices' own clocks.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;
use std::time::Instant;

use crate::bench::line::Spread;
use crate::bench::process;
use crate::bench::process::Gateway;
use crate::bench::process::Memory;
use crate::bench::subscriber::Heard;
use crate::bench::subscriber::Subscriber;
use crate::sim::SimDevice;
use crate::sim::SimTcp;
use crate::topic::Qos;

/// All devices have to be heard by then.
const PATIENCE: Duration = Duration::from_secs(60);
/// The first moments (connections, the first retained values, memory that is given back) are not measured.
const SETTLED_AFTER: Duration = Duration::from_secs(3);

/// What is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fleet {
    /// Modbus TCP devices, each behind a connection of its own.
    pub devices: u16,
    /// Holding registers of each, all read, all published.
    pub registers: u16,
    /// How often.
    pub period: Duration,
    /// With what the subscriber subscribes.
    pub qos: Qos,
    /// How long to measure, after everything has settled.
    pub lasting: Duration,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// Values that arrived, a second.
    pub values_per_s: f64,
    /// Share of the readings between a topic's first and last that arrived.
    pub arrived: f64,
    /// Processor time of the gateway: 1 is a whole core.
    pub load: f64,
    /// Of the simulated devices and the subscriber, for whoever wonders what kept the machine busy.
    pub own_load: f64,
    /// The gateway's memory at the end.
    pub memory: Memory,
    /// From the device's answer to the subscriber.
    pub age: Spread,
    /// From the reply's arrival in the gateway, by the value's `time`, to the subscriber.
    pub behind: Spread,
    /// Between two answers of a device about the same register.
    pub between: Spread,
    /// How far the worst topic's mean period is off, as a share.
    pub worst_period: f64,
}

impl Fleet {
    /// Values a second.
    pub fn rate(&self) -> f64 {
        f64::from(self.devices) * f64::from(self.registers) / self.period.as_secs_f64()
    }

    fn topics(&self) -> usize {
        usize::from(self.devices) * usize::from(self.registers)
    }

    /// Runs it with `program` as the gateway. `folder` is empty and stays with what the gateway leaves.
    pub fn run(&self, program: &Path, folder: &Path) -> io::Result<Outcome> {
        let begun = Instant::now();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let devices = runtime.block_on(self.start_devices(begun))?;
        let addresses: Vec<SocketAddr> = devices.iter().map(SimTcp::address).collect();
        fs::write(folder.join("gateway.yaml"), self.yaml(&addresses))?;
        let gateway = Gateway::start(program, folder)?;
        let subscriber = Subscriber::start(&gateway.broker, "fleet/#", self.qos, (self.topics(), begun))?;
        if !subscriber.all_topics(PATIENCE) {
            let heard = subscriber.stop()?.iter().map(|h| h.topic + 1).max().unwrap_or(0);
            return Err(io::Error::other(format!("only {heard} of {} values were ever heard", self.topics())));
        }
        std::thread::sleep(SETTLED_AFTER);
        let (from, before, own_before) = (begun.elapsed(), gateway.used()?, process::used("self")?);
        std::thread::sleep(self.lasting);
        let (to, after, own_after) = (begun.elapsed(), gateway.used()?, process::used("self")?);
        let memory = gateway.memory()?;
        let heard = subscriber.stop()?;
        gateway.stop()?;
        let heard: Vec<Heard> = heard.into_iter().filter(|h| (from..to).contains(&h.at)).collect();
        let lasted = to - from;
        let loads = ((after - before).div_duration_f64(lasted), (own_after - own_before).div_duration_f64(lasted));
        Ok(self.outcome(&heard, lasted, loads, memory))
    }

    async fn start_devices(&self, begun: Instant) -> io::Result<Vec<SimTcp>> {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut devices = Vec::new();
        for _ in 0..self.devices {
            let device = SimDevice::clock(1, self.registers, begun).shared();
            devices.push(SimTcp::start(any, vec![device], Duration::ZERO, None).await?);
        }
        Ok(devices)
    }

    /// What somebody with this plant would write: a line and a device for each address.
    fn yaml(&self, addresses: &[SocketAddr]) -> String {
        let mut text = String::from("gateway: fleet\nlines:\n");
        let mut put =
            |line: std::fmt::Arguments<'_>| writeln!(text, "{line}").expect("writing to a string does not fail");
        for (n, address) in addresses.iter().enumerate() {
            put(format_args!("  plc-{n}: {{tcp: \"{address}\"}}"));
        }
        put(format_args!("devices:"));
        for n in 0..addresses.len() {
            put(format_args!("  - name: plc-{n}\n    line: plc-{n}\n    unit_id: 1\n    points:"));
            for address in 0..self.registers {
                put(format_args!("      r{address}: {{holding: {address}}}"));
            }
        }
        let every = self.period.as_millis();
        put(format_args!("publish: {{every: {every}ms, report: {{when: poll}}}}"));
        put(format_args!("broker: {{listen: [{{tcp: \"127.0.0.1:0\"}}]}}"));
        text
    }

    fn outcome(&self, heard: &[Heard], lasted: Duration, loads: (f64, f64), memory: Memory) -> Outcome {
        let tenths = |n: u16| Duration::from_micros(u64::from(n) * 100);
        let millis = |n: u16| Duration::from_millis(u64::from(n));
        let (between, worst_period) = self.periods(heard);
        let arrived = self.arrived(heard);
        #[expect(clippy::cast_precision_loss, reason = "counts of values, far below 2^52")]
        let values_per_s = heard.len() as f64 / lasted.as_secs_f64();
        Outcome {
            values_per_s,
            arrived,
            load: loads.0,
            own_load: loads.1,
            memory,
            age: Spread::of(heard.iter().map(|h| tenths(h.age)).collect()),
            behind: Spread::of(heard.iter().map(|h| millis(h.behind)).collect()),
            between,
            worst_period,
        }
    }

    /// Told by the gaps: all values of a period come together, so that counting them would be off by what is just coming when
    /// the measuring begins or ends.
    fn arrived(&self, heard: &[Heard]) -> f64 {
        let mut last: HashMap<u32, Duration> = HashMap::with_capacity(self.topics());
        let (mut came, mut due) = (0.0, 0.0);
        for h in heard {
            if let Some(before) = last.insert(h.topic, h.at) {
                came += 1.0;
                due += (h.at - before).div_duration_f64(self.period).round().max(1.0);
            }
        }
        if due > 0.0 { came / due } else { 0.0 }
    }

    /// By the devices' clocks, which know nothing of the gateway's.
    fn periods(&self, heard: &[Heard]) -> (Spread, f64) {
        let mut last: HashMap<u32, u16> = HashMap::with_capacity(self.topics());
        let mut sums: HashMap<u32, (u32, u32)> = HashMap::with_capacity(self.topics());
        let mut times = Vec::with_capacity(heard.len());
        for h in heard {
            let Some(before) = last.insert(h.topic, h.clock) else { continue };
            let time = h.clock.wrapping_sub(before);
            times.push(Duration::from_micros(u64::from(time) * 100));
            let (sum, count) = sums.entry(h.topic).or_default();
            *sum += u32::from(time);
            *count += 1;
        }
        let period = self.period.as_secs_f64();
        let off = |(sum, count): &(u32, u32)| (f64::from(*sum) / 1e4 / f64::from(*count) / period - 1.0).abs();
        let worst = sums.values().map(off).fold(0.0, f64::max);
        (Spread::of(times), worst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    fn fleet() -> Fleet {
        let second = Duration::from_secs(1);
        Fleet { devices: 2, registers: 3, period: second, qos: Qos::AtMostOnce, lasting: second }
    }

    #[test]
    fn the_configuration_of_a_fleet_is_one_that_the_gateway_accepts() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("gateway.yaml");
        let addresses = ["127.0.0.1:1502".parse().unwrap(), "127.0.0.1:1503".parse().unwrap()];
        fs::write(&path, fleet().yaml(&addresses)).unwrap();
        let loaded = config::load(&path).unwrap();
        assert_eq!((loaded.plant.lines.len(), loaded.plant.points.len()), (2, 6));
    }

    #[test]
    fn a_reading_that_is_missing_between_two_others_is_told() {
        let at = |ms| Heard { topic: 0, clock: 0, age: 0, behind: 0, at: Duration::from_millis(ms) };
        let heard = [at(10), at(1_030), at(3_005), at(4_000)];
        assert!((fleet().arrived(&heard) - 0.75).abs() < 1e-9);
    }

    #[test]
    fn periods_are_taken_from_the_devices_clocks_also_where_these_turn_over() {
        let at = |topic, clock| Heard { topic, clock, age: 0, behind: 0, at: Duration::ZERO };
        let heard = [at(0, 60_000), at(1, 0), at(0, 4_464), at(1, 10_500), at(0, 14_464)];
        let (between, worst) = fleet().periods(&heard);
        assert_eq!((between.count, between.longest), (3, Duration::from_millis(1050)));
        assert!((worst - 0.05).abs() < 1e-9, "{worst}");
    }
}
