//! What leaves without acknowledgement is told exactly: every entry is delivered or counted in one gap, never both, never
//! neither, whatever is read, cut, evicted, expired and reopened in between.

use proptest::prelude::*;

use super::*;

/// Room for some fifty entries of this size.
const PAYLOAD: usize = 2_000;

#[derive(Debug, Clone)]
enum Step {
    Append(u8, bool, bool),
    Read(usize, u8),
    Acknowledge(usize, u8),
    Cut(usize),
    Tick,
    Age,
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        5 => (1u8..30, any::<bool>(), prop::bool::weighted(0.1)).prop_map(|(n, a, alarm)| Step::Append(n, a, alarm)),
        4 => (0usize..2, 1u8..9).prop_map(|(u, n)| Step::Read(u, n)),
        3 => (0usize..2, 1u8..9).prop_map(|(u, n)| Step::Acknowledge(u, n)),
        1 => (0usize..2).prop_map(Step::Cut),
        4 => Just(Step::Tick),
        1 => Just(Step::Age),
        1 => Just(Step::Reopen),
    ]
}

/// What one upstream's bridge sees.
#[derive(Default)]
struct Reader {
    appended: u64,
    after: Option<Seq>,
    out: Vec<(Seq, String)>,
    got: Vec<String>,
}

impl Reader {
    fn read(&mut self, log: &mut Log, upstream: usize, (max, now): (usize, Stamp)) -> bool {
        let batch = log.batch(upstream, self.after, max, now);
        self.after = Some(batch.upto);
        let short = |m: &Message| says(m).trim_end_matches('.').to_owned();
        self.out.extend(batch.entries.iter().map(|e| (e.seq, short(&e.message))));
        !batch.entries.is_empty()
    }

    fn acknowledge(&mut self, log: &mut Log, upstream: usize, n: usize) {
        let n = n.min(self.out.len());
        if n > 0 {
            log.acknowledge(upstream, self.out[n - 1].0);
            self.got.extend(self.out.drain(..n).map(|(_, text)| text));
        }
    }

    fn cut(&mut self) {
        self.after = None;
        self.out.clear();
    }
}

fn message(n: u64, (to_a, alarm): (bool, bool)) -> Message {
    let text = format!("{n}{}", ".".repeat(PAYLOAD));
    let mut message = foreign(if to_a { "a/x" } else { "b/x" }, &text);
    message.class = if alarm { Class::Alarm } else { Class::Normal };
    message
}

fn exact(settings: &Settings, steps: Vec<Step>) -> Result<(), TestCaseError> {
    let open = || Log::open(settings.clone(), upstreams(), 1).unwrap();
    let mut log = open();
    let mut readers = [Reader::default(), Reader::default()];
    let (mut count, mut now) = (0, 0);
    for step in steps {
        now += 100;
        match step {
            Step::Append(n, to_a, alarm) => {
                let messages = (count..count + u64::from(n)).map(|n| message(n, (to_a, alarm))).collect();
                log.append(messages, at(now));
                count += u64::from(n);
                readers[0].appended += u64::from(n);
                readers[1].appended += if to_a { u64::from(n) } else { 0 };
            }
            Step::Read(u, max) => {
                readers[u].read(&mut log, u, (usize::from(max), at(now)));
            }
            Step::Acknowledge(u, n) => readers[u].acknowledge(&mut log, u, usize::from(n)),
            Step::Cut(u) => {
                log.link(u, Link::Down);
                readers[u].cut();
            }
            Step::Tick => log.tick(at(now)),
            Step::Age => {
                now += 2 * 86_400_000;
                log.tick(at(now));
            }
            Step::Reopen => {
                log.close();
                drop(log);
                log = open();
                readers.iter_mut().for_each(Reader::cut);
            }
        }
        for ledger in log.status().ledger.values() {
            prop_assert!(adds_up(ledger), "{ledger:?}");
        }
    }
    for (u, reader) in readers.iter_mut().enumerate() {
        log.link(u, Link::Down);
        reader.cut();
        while reader.read(&mut log, u, (7, at(now))) {
            reader.acknowledge(&mut log, u, 7);
        }
        let ledger = log.status().ledger[&*upstreams()[u].name];
        let (missing, values) = gaps(reader.got.clone());
        let numbers: Vec<u64> = values.iter().map(|v| v.parse().unwrap()).collect();
        prop_assert!(numbers.is_sorted_by(|a, b| a < b), "out of order or twice: {numbers:?}");
        prop_assert_eq!((numbers.len() as u64, missing), (ledger.acknowledged, ledger.evicted + ledger.expired));
        prop_assert_eq!(numbers.len() as u64 + missing, reader.appended);
        prop_assert_eq!((ledger.in_flight, ledger.stored, ledger.damaged), (0, 0, 0));
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, max_shrink_iters: 400, ..ProptestConfig::default() })]
    #[test]
    fn every_entry_is_delivered_or_told_in_one_gap(
        steps in prop::collection::vec(step(), 1..60),
        drop_newest: bool,
    ) {
        let folder = tempfile::tempdir().unwrap();
        let when_full = if drop_newest { WhenFull::DropNewest } else { WhenFull::DropOldest };
        exact(&Settings { max_size: 160 << 10, when_full, ..settings(folder.path()) }, steps)?;
    }
}
