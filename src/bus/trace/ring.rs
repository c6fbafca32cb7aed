//! The last events of a line in a fixed piece of memory: records one behind the other, the newest over the oldest. Pure
//! and without allocation, because it is written on every transaction whether anybody looks or not. A reader keeps a
//! [`Cursor`], and learns from it how many records were lost to it.

/// What a trunk remembers: some 600 reads of 20 registers.
pub(super) const TRUNK: usize = 64 * 1024;
/// What a Modbus TCP line remembers: some 60 reads of 100 registers. One device is behind it, and there may be hundreds.
pub(super) const SOCKET: usize = 16 * 1024;
/// Length, tag, time.
const HEAD: usize = 2 + 1 + 8;

/// What a record tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tag {
    Sent,
    Heard,
    Aside,
    Answered,
    Missed,
}

/// In the order of the declaration, to find a tag by its number.
const TAGS: [Tag; 5] = [Tag::Sent, Tag::Heard, Tag::Aside, Tag::Answered, Tag::Missed];

/// A place between two records, counted since the beginning in bytes and in records.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Cursor {
    offset: u64,
    records: u64,
}

/// A copy of one record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) at_us: u64,
    pub(super) tag: Tag,
    pub(super) payload: Vec<u8>,
}

/// The memory.
#[derive(Debug)]
pub(super) struct Ring {
    bytes: Box<[u8]>,
    first: Cursor,
    end: Cursor,
}

impl Ring {
    /// Of so many bytes; the system gives the pages when they are first written.
    pub(super) fn new(capacity: usize) -> Self {
        Self { bytes: vec![0; capacity].into_boxed_slice(), first: Cursor::default(), end: Cursor::default() }
    }

    /// A payload that could push out more than half of what is remembered is cut; none of this house comes near that.
    pub(super) fn push(&mut self, at_us: u64, tag: Tag, payload: &[u8]) {
        let most = (self.bytes.len() / 2).min(usize::from(u16::MAX));
        let payload = &payload[..payload.len().min(most)];
        let size = (HEAD + payload.len()) as u64;
        while self.end.offset + size - self.first.offset > self.bytes.len() as u64 {
            self.first = self.after(self.first);
        }
        let mut head = [0; HEAD];
        head[..2].copy_from_slice(&(payload.len() as u16).to_le_bytes());
        head[2] = tag as u8;
        head[3..].copy_from_slice(&at_us.to_le_bytes());
        self.put(self.end.offset, &head);
        self.put(self.end.offset + HEAD as u64, payload);
        self.end = Cursor { offset: self.end.offset + size, records: self.end.records + 1 };
    }

    /// Before the oldest record that is remembered.
    pub(super) const fn oldest(&self) -> Cursor {
        self.first
    }

    /// Behind the newest.
    pub(super) const fn newest(&self) -> Cursor {
        self.end
    }

    /// Records and bytes remembered.
    pub(super) const fn size(&self) -> (u64, u64) {
        (self.end.records - self.first.records, self.end.offset - self.first.offset)
    }

    /// Moves a cursor whose records are gone to the oldest that is there; how many it missed.
    pub(super) fn catch_up(&self, cursor: &mut Cursor) -> u64 {
        let missed = self.first.records.saturating_sub(cursor.records);
        if missed > 0 {
            *cursor = self.first;
        }
        missed
    }

    /// The record at the cursor, which moves behind it; `None` at the end. The cursor has been caught up.
    pub(super) fn read(&self, cursor: &mut Cursor) -> Option<Record> {
        if cursor.records >= self.end.records {
            return None;
        }
        let head = self.head(cursor.offset);
        let at_us = u64::from_le_bytes(head[3..].try_into().expect("eight of eleven bytes"));
        let mut payload = vec![0; length(head)];
        self.get(cursor.offset + HEAD as u64, &mut payload);
        *cursor = self.after(*cursor);
        Some(Record { at_us, tag: TAGS[usize::from(head[2])], payload })
    }

    fn after(&self, at: Cursor) -> Cursor {
        let size = HEAD + length(self.head(at.offset));
        Cursor { offset: at.offset + size as u64, records: at.records + 1 }
    }

    fn head(&self, offset: u64) -> [u8; HEAD] {
        let mut head = [0; HEAD];
        self.get(offset, &mut head);
        head
    }

    fn put(&mut self, offset: u64, from: &[u8]) {
        let at = (offset % self.bytes.len() as u64) as usize;
        let straight = from.len().min(self.bytes.len() - at);
        self.bytes[at..at + straight].copy_from_slice(&from[..straight]);
        self.bytes[..from.len() - straight].copy_from_slice(&from[straight..]);
    }

    fn get(&self, offset: u64, to: &mut [u8]) {
        let at = (offset % self.bytes.len() as u64) as usize;
        let straight = to.len().min(self.bytes.len() - at);
        let rest = to.len() - straight;
        to[..straight].copy_from_slice(&self.bytes[at..at + straight]);
        to[straight..].copy_from_slice(&self.bytes[..rest]);
    }
}

fn length(head: [u8; HEAD]) -> usize {
    usize::from(u16::from_le_bytes([head[0], head[1]]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn all(ring: &Ring) -> Vec<Record> {
        let mut cursor = ring.oldest();
        std::iter::from_fn(|| ring.read(&mut cursor)).collect()
    }

    #[test]
    fn a_reader_too_slow_learns_how_many_it_missed() {
        let mut ring = Ring::new(64);
        let mut cursor = ring.newest();
        for n in 0..10 {
            ring.push(n, Tag::Heard, &[n as u8; 9]);
        }
        assert_eq!(ring.catch_up(&mut cursor), 7, "three records of 20 bytes are in 64");
        assert_eq!(ring.read(&mut cursor).unwrap().payload, [7; 9]);
        assert_eq!(ring.catch_up(&mut cursor), 0);
    }

    #[test]
    fn a_payload_longer_than_the_memory_is_cut_not_a_panic() {
        let mut ring = Ring::new(64);
        ring.push(1, Tag::Sent, &[5; 200]);
        assert_eq!(all(&ring)[0].payload, [5; 32]);
    }

    /// Prints what a transaction costs the line: a question, two pieces of an answer, and that it was one.
    #[test]
    fn a_long_run_keeps_the_newest() {
        let mut ring = Ring::new(TRUNK);
        let begun = std::time::Instant::now();
        let turns = 100_000;
        for n in 0..turns {
            ring.push(4 * n, Tag::Sent, &[1; 8]);
            ring.push(4 * n + 1, Tag::Heard, &[2; 9]);
            ring.push(4 * n + 2, Tag::Heard, &[3; 36]);
            ring.push(4 * n + 3, Tag::Answered, &[4; 7]);
        }
        let (records, bytes) = ring.size();
        println!(
            "{:.0} ns a transaction, {records} records in {bytes} bytes",
            begun.elapsed().as_nanos() as f64 / turns as f64
        );
        let times: Vec<u64> = all(&ring).iter().map(|r| r.at_us).collect();
        assert_eq!(times.last(), Some(&(4 * turns - 1)));
        assert!(times.windows(2).all(|pair| pair[1] == pair[0] + 1));
        assert!(records / 4 > 600, "{records}");
    }

    proptest! {
        #[test]
        fn what_is_remembered_is_the_end_of_what_was_pushed(
            payloads in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..60),
        ) {
            let mut ring = Ring::new(256);
            for (n, payload) in payloads.iter().enumerate() {
                ring.push(n as u64, TAGS[n % 5], payload);
            }
            let kept = all(&ring);
            let from = payloads.len() - kept.len();
            for (n, record) in kept.iter().enumerate() {
                let pushed = from + n;
                prop_assert_eq!(&record.payload, &payloads[pushed]);
                prop_assert_eq!((record.at_us, record.tag), (pushed as u64, TAGS[pushed % 5]));
            }
            prop_assert_eq!(kept.is_empty(), payloads.is_empty());
            prop_assert!(ring.size().1 <= 256);
        }
    }
}
