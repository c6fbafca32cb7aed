//! The hostile line again, but in memory and under a paused clock: paced to the character, the same on each machine and as
//! often as one likes, with a host that now and then wakes up late. Every value is compared with what the register held.

use std::collections::BTreeMap;
use std::collections::VecDeque;

use super::*;

/// One character at this speed takes a millisecond or so; turnaround and timeouts are as on a slow trunk.
const BAUD: u32 = 9_600;
/// How long a device thinks.
const TURNAROUND: Duration = Duration::from_millis(5);
/// A host that is busy with something else hears what came meanwhile in one go.
const STALL: Duration = Duration::from_millis(30);

/// Devices and wire at the far end.
struct Wire {
    stream: DuplexStream,
    devices: Vec<Shared>,
    hostility: Hostility,
    luck: Dice,
    timing: Timing,
    /// What will be heard when, in order.
    outbox: VecDeque<(Instant, Vec<u8>)>,
    /// Until when a device thinks about an earlier question.
    thinking: BTreeMap<u8, Instant>,
    faults: BTreeMap<Fault, u64>,
}

impl Wire {
    async fn run(mut self) -> BTreeMap<Fault, u64> {
        let mut buffer = [0; 512];
        loop {
            let due = self.outbox.front().map(|(at, _)| *at);
            tokio::select! {
                biased;
                () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => self.deliver().await,
                read = self.stream.read(&mut buffer) => match read {
                    Ok(n @ 1..) => self.serve(&buffer[..n]),
                    _ => return self.faults,
                },
            }
        }
    }

    /// Now and then everything that comes within the host's next hesitation is heard at its end.
    async fn deliver(&mut self) {
        if self.luck.below(50) == 0 {
            tokio::time::sleep(STALL).await;
        }
        let now = Instant::now();
        let mut bytes = Vec::new();
        while self.outbox.front().is_some_and(|(at, _)| *at <= now) {
            bytes.extend(self.outbox.pop_front().unwrap().1);
        }
        // The other end is gone when the test is over.
        let _ = self.stream.write_all(&bytes).await;
    }

    fn serve(&mut self, question: &[u8]) {
        assert!(frame::is_sound(question), "a whole question in one piece: {question:02X?}");
        let ended = Instant::now() + self.timing.of(question.len());
        let (unit, pdu) = (question[0], &question[1..question.len() - 2]);
        let Some(device) = self.devices.iter().find(|d| d.lock().unwrap().unit() == unit) else { return };
        let begins = self.thinking.get(&unit).copied().unwrap_or(ended).max(ended) + self.timing.gap + TURNAROUND;
        let answer = frame::rtu(unit, &device.lock().unwrap().answer(pdu, ended.into_std()));
        let spoilt = match self.hostility.draw() {
            Some(fault) => {
                *self.faults.entry(fault).or_default() += 1;
                self.hostility.spoil(fault, answer)
            }
            None => vec![(Duration::ZERO, answer)],
        };
        let mut free = begins;
        for (n, (delay, bytes)) in spoilt.into_iter().enumerate() {
            // A copy comes after the first has ended, sometimes much later, so that it falls into the silence, into the next
            // question, behind it, or into one much later.
            let begins = if n == 0 { begins + delay } else { free + delay * self.luck.below(25) };
            if n == 0 {
                self.thinking.insert(unit, begins);
            }
            let heard = begins + self.timing.of(bytes.len());
            free = heard;
            self.outbox.push_back((heard, bytes));
        }
        self.outbox.make_contiguous().sort_by_key(|(at, _)| *at);
    }
}

/// How a bus did: asked, answered right, trouble made, what the line counted.
struct Run {
    turns: u32,
    right: u32,
    faults: BTreeMap<Fault, u64>,
    wire: WireCounts,
}

async fn run(mut hostility: Hostility, seed: u64) -> Run {
    let devices: Vec<Shared> = (1..=3).map(full_device).collect();
    hostility.latest = if seed.is_multiple_of(2) { 1.8 } else { 6.0 };
    let (bus, far) = in_memory(line(serial("/dev/none", BAUD, F8N1), 1));
    let Far { stream, stop, task } = far;
    let timing = Timing::new(BAUD, F8N1, None);
    let wire = Wire {
        stream,
        devices: devices.clone(),
        hostility,
        luck: Dice::new(seed + 1000),
        timing,
        outbox: VecDeque::new(),
        thinking: BTreeMap::new(),
        faults: BTreeMap::new(),
    };
    let far = tokio::spawn(wire.run());
    let (turns, right) = soak(bus.clone(), devices, 600, seed).await;
    let wire = bus.status().borrow().wire;
    stop.cancel();
    task.await.unwrap();
    Run { turns, right, faults: far.await.unwrap(), wire }
}

#[tokio::test(start_paused = true)]
async fn a_hostile_paced_line_under_a_paused_clock_never_yields_a_wrong_value() {
    let (mut turns, mut right) = (0, 0);
    let mut faults = BTreeMap::<Fault, u64>::new();
    for seed in 1..=10 {
        let run = run(Hostility::new(0.2, TIMEOUT, seed), seed).await;
        (turns, right) = (turns + run.turns, right + run.right);
        run.faults.into_iter().for_each(|(fault, n)| *faults.entry(fault).or_default() += n);
        assert!(run.wire.stale_replies > 0 && run.wire.garbled > 0 && run.wire.timeouts > 0 && run.wire.exceptions > 0);
    }
    println!("{turns} asked, {right} answered right, faults {faults:?}");
    assert!(right * 10 > turns * 8, "{right} of {turns}");
    assert_eq!(faults.len(), 11, "every kind of trouble happened: {faults:?}");
}

#[tokio::test(start_paused = true)]
async fn a_line_that_repeats_and_delays_everything_never_yields_a_wrong_value() {
    let kinds = [Fault::Repeated, Fault::Repeated, Fault::Repeated, Fault::Repeated, Fault::Late];
    for seed in 21..=28 {
        let run = run(Hostility::new(0.6, TIMEOUT, seed).only(&kinds), seed).await;
        assert!(run.right * 10 > run.turns * 6, "{} of {}", run.right, run.turns);
    }
}
