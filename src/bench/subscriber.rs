//! A local subscriber that asks for everything and notes, for each value, which topic, what the device's clock showed when it
//! answered, and how long ago the gateway says the reply came. A blocking socket on a thread of its own, so that what it
//! measures is the gateway and not a runtime. It speaks just the MQTT 3.1.1 that this takes.

use std::collections::HashMap;
use std::io;
use std::io::Read;
use std::io::Write;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;
use std::time::Instant;

use crate::sim;
use crate::time;
use crate::topic::Qos;

/// How often a silent socket is left to see whether the end has come.
const LOOK_UP: Duration = Duration::from_millis(100);
/// Longest packet that can be one of the bench's values; anything else is no value of ours.
const LONGEST: usize = 1 << 20;

/// One value as it came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heard {
    /// Its topic, numbered as they came.
    pub topic: u32,
    /// What the device's clock showed, in tenths of milliseconds.
    pub clock: u16,
    /// How old it was by that clock, in tenths of milliseconds.
    pub age: u16,
    /// How old it was by its own `time`, in milliseconds.
    pub behind: u16,
    /// When it was here, since the bench began.
    pub at: Duration,
}

/// The thread that listens.
#[derive(Debug)]
pub struct Subscriber {
    stop: Arc<AtomicBool>,
    all_here: mpsc::Receiver<()>,
    thread: JoinHandle<io::Result<Vec<Heard>>>,
}

struct Ear {
    stream: TcpStream,
    qos: Qos,
    begun: Instant,
    topics: HashMap<Vec<u8>, u32>,
    heard: Vec<Heard>,
    answers: Vec<u8>,
}

impl Subscriber {
    /// Subscribes to `filter`. `topics` is how many topics there are in the end; `begun` is where the devices' clock begins.
    pub fn start(broker: &str, filter: &str, qos: Qos, (topics, begun): (usize, Instant)) -> io::Result<Self> {
        let mut stream = TcpStream::connect(broker)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(LOOK_UP))?;
        stream.write_all(&hello())?;
        stream.write_all(&subscribe(filter, qos))?;
        let stop = Arc::new(AtomicBool::new(false));
        let (tell, all_here) = mpsc::sync_channel(1);
        let told = Arc::clone(&stop);
        let mut ear = Ear { stream, qos, begun, topics: HashMap::new(), heard: Vec::new(), answers: Vec::new() };
        let thread = std::thread::Builder::new().name("subscriber".to_owned()).spawn(move || {
            ear.listen(topics, &tell, &told)?;
            Ok(ear.heard)
        })?;
        Ok(Self { stop, all_here, thread })
    }

    /// Waits until every topic has been heard, at most so long.
    pub fn all_topics(&self, at_most: Duration) -> bool {
        self.all_here.recv_timeout(at_most).is_ok()
    }

    /// Ends it; everything it heard.
    pub fn stop(self) -> io::Result<Vec<Heard>> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| io::Error::other("the subscriber's thread panicked"))?
    }
}

impl Ear {
    fn listen(&mut self, topics: usize, all_here: &mpsc::SyncSender<()>, stop: &AtomicBool) -> io::Result<()> {
        let mut buffer = vec![0; 256 * 1024];
        let mut filled = 0;
        while !stop.load(Ordering::Relaxed) {
            match self.stream.read(&mut buffer[filled..]) {
                Ok(0) => return Err(io::Error::other("the broker has closed the connection")),
                Ok(n) => filled += n,
                Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => continue,
                Err(e) => return Err(e),
            }
            let (arrived, wall_ms) = (Instant::now(), time::now().wall_us / 1000);
            let mut used = 0;
            while let Some((body, whole)) = packet(&buffer[used..filled])? {
                let first = buffer[used];
                let packet = used + body..used + whole;
                if first >> 4 == 3 {
                    self.publish(first, &buffer[packet], (arrived, wall_ms));
                }
                used += whole;
            }
            buffer.copy_within(used..filled, 0);
            filled -= used;
            if !self.answers.is_empty() {
                self.stream.write_all(&std::mem::take(&mut self.answers))?;
            }
            if self.topics.len() >= topics {
                // Said once; nobody waits for it a second time.
                let _ = all_here.try_send(());
            }
        }
        Ok(())
    }

    /// What is no value (states, retained leftovers) is passed over.
    fn publish(&mut self, first: u8, body: &[u8], (arrived, wall_ms): (Instant, i64)) {
        let Some((length, rest)) = body.split_first_chunk() else { return };
        let length = usize::from(u16::from_be_bytes(*length));
        let Some((topic, mut rest)) = rest.split_at_checked(length) else { return };
        if first & 0b0110 != 0 {
            let Some((id, payload)) = rest.split_at_checked(2) else { return };
            if self.qos == Qos::AtLeastOnce {
                self.answers.extend([0x40, 2, id[0], id[1]]);
            }
            rest = payload;
        }
        let Some((clock, in_minute_ms)) = value_and_time(rest) else { return };
        // A retained value was taken before this subscriber was there.
        if first & 1 != 0 {
            return;
        }
        let count = self.topics.len() as u32;
        let topic = match self.topics.get(topic) {
            Some(n) => *n,
            None => *self.topics.entry(topic.to_vec()).or_insert(count),
        };
        let behind = (wall_ms - in_minute_ms).rem_euclid(60_000) as u16;
        let age = sim::tenths(self.begun, arrived).wrapping_sub(clock);
        self.heard.push(Heard { topic, clock, age, behind, at: arrived.duration_since(self.begun) });
    }
}

/// Where the body begins and the packet ends, once it is all there.
fn packet(bytes: &[u8]) -> io::Result<Option<(usize, usize)>> {
    let mut length = 0_usize;
    for (n, byte) in bytes.iter().skip(1).take(4).enumerate() {
        length |= usize::from(byte & 0x7F) << (7 * n);
        if byte & 0x80 == 0 {
            if length > LONGEST {
                return Err(io::Error::other(format!("a packet of {length} bytes, longer than any value")));
            }
            let head = n + 2;
            return Ok((bytes.len() >= head + length).then_some((head, head + length)));
        }
    }
    Ok(None)
}

/// The number after `"value":`, and of the `time` the milliseconds in its minute: `…T01:02:SS.mmmZ"}`.
fn value_and_time(payload: &[u8]) -> Option<(u16, i64)> {
    let text = std::str::from_utf8(payload).ok()?;
    let digits = text.strip_prefix("{\"value\":")?;
    let end = digits.find(|c: char| !c.is_ascii_digit())?;
    let seconds = text.strip_suffix("Z\"}")?;
    let seconds = seconds.get(seconds.len().checked_sub(6)?..)?;
    let (whole, part) = seconds.split_once('.')?;
    Some((digits[..end].parse().ok()?, whole.parse::<i64>().ok()? * 1000 + part.parse::<i64>().ok()?))
}

/// CONNECT: clean session, keep-alive off, and a name that says who it is.
fn hello() -> Vec<u8> {
    let name = b"trunkline-bench";
    let body = [b"\0\x04MQTT\x04\x02\0\0\0", &[name.len() as u8][..], name].concat();
    [&[0x10, body.len() as u8], &body[..]].concat()
}

fn subscribe(filter: &str, qos: Qos) -> Vec<u8> {
    let filter = filter.as_bytes();
    let body = [&[0, 1, 0, filter.len() as u8], filter, &[u8::from(qos)]].concat();
    [&[0x82, body.len() as u8], &body[..]].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_read_with_its_time_and_a_state_is_none() {
        let json = br#"{"value":513,"quality":"good","time":"2026-11-21T01:02:03.456Z"}"#;
        assert_eq!(value_and_time(json), Some((513, 3_456)));
        assert_eq!(value_and_time(b"online"), None);
        assert_eq!(value_and_time(br#"{"value":null,"quality":"bad","time":"2026-11-21T01:02:03.456Z"}"#), None);
    }

    #[test]
    fn a_packet_is_taken_when_it_is_whole() {
        assert_eq!(packet(&[0x30, 3, 1, 2]).unwrap(), None);
        assert_eq!(packet(&[0x30, 3, 1, 2, 3, 0x30]).unwrap(), Some((2, 5)));
        assert_eq!(packet(&[0x30, 0x80]).unwrap(), None);
        assert!(packet(&[0x30, 0xFF, 0xFF, 0xFF, 0x7F]).is_err());
    }
}
