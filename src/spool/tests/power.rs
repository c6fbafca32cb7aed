//! The power goes at any instant: the files as they lie at that moment are copied while a thread writes them, some with
//! torn or missing sectors in what was not pressed onto the disk yet, and each copy is opened as the next start would
//! open it.

use std::io::Read;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::SeqCst;

use super::*;
use crate::database::with_suffix;

/// Cuts; the test takes some seconds.
const CUTS: usize = 240;

/// A page in the journal, with its head.
const FRAME: usize = 24 + 4096;

/// What the writer has said and done so far, in entries.
#[derive(Default)]
struct Progress {
    appended: AtomicU64,
    committed: AtomicU64,
    acknowledged: AtomicU64,
    acknowledged_on_disk: AtomicU64,
    /// The journal's head, and how much of it was pressed onto the disk.
    pressed: Mutex<(Vec<u8>, usize)>,
    stop: AtomicBool,
}

/// Small numbers without a pattern; the same in every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n.max(1)
    }
}

/// Lets the writer end, also when the test fails.
struct Stopped<'a>(&'a Progress);

impl Drop for Stopped<'_> {
    fn drop(&mut self) {
        self.0.stop.store(true, SeqCst);
    }
}

fn small(path: PathBuf) -> Settings {
    // So small that its journal holds 32 pages: checkpoints come all the time.
    Settings { path, max_size: 2 << 20, ..settings(Path::new("")) }
}

fn alone() -> Vec<Subscriber> {
    vec![upstreams().remove(0)]
}

fn write(path: &Path, progress: &Progress) {
    let mut log = Log::open(small(path.to_owned()), alone(), 1).unwrap();
    let mut dice = Dice(7);
    while !progress.stop.load(SeqCst) {
        let from = progress.appended.load(SeqCst);
        let to = from + dice.below(200);
        progress.appended.store(to, SeqCst);
        append(&mut log, from..to);
        let batch = log.batch(0, None, 300, at(0));
        let done = dice.below(batch.entries.len() as u64 + 1);
        if done > 0 {
            progress.acknowledged.fetch_add(done, SeqCst);
            log.acknowledge(0, batch.entries[usize::try_from(done).unwrap() - 1].seq);
        }
        log.tick(at(0));
        assert_eq!(log.status().error, None);
        assert_eq!(log.status().evicted, 0, "the writer outruns its reader");
        let journal = fs::read(with_suffix(path, "-wal")).unwrap_or_default();
        *progress.pressed.lock().unwrap() = (head_of(&journal), end_of(&journal));
        progress.committed.store(to, SeqCst);
        progress.acknowledged_on_disk.store(progress.acknowledged.load(SeqCst), SeqCst);
    }
}

fn head_of(journal: &[u8]) -> Vec<u8> {
    journal.get(..32).unwrap_or_default().to_vec()
}

/// Where the frames of this generation end: behind them lie old ones, with other salts.
fn end_of(journal: &[u8]) -> usize {
    let salts = journal.get(16..24).unwrap_or_default();
    let frames = journal.get(32..).unwrap_or_default().chunks_exact(FRAME);
    32 + frames.take_while(|frame| frame[8..16] == *salts).count() * FRAME
}

fn wal_header(path: &Path) -> Vec<u8> {
    let mut head = Vec::new();
    if let Ok(file) = fs::File::open(path) {
        file.take(32).read_to_end(&mut head).unwrap();
    }
    head
}

/// Both files as they lay at one instant: a copy during which a checkpoint moved something is thrown away.
fn at_one_instant(path: &Path) -> (Vec<u8>, Vec<u8>) {
    let wal = with_suffix(path, "-wal");
    loop {
        let database = fs::read(path).unwrap_or_default();
        let head = wal_header(&wal);
        let journal = fs::read(&wal).unwrap_or_default();
        let quiet =
            head == wal_header(&wal) && journal.starts_with(&head) && fs::read(path).unwrap_or_default() == database;
        if quiet && !database.is_empty() {
            return (database, journal);
        }
    }
}

/// Where in the journal it is open whether the disk has it: its last transaction, unless the writer has said that this
/// is committed, or a checkpoint has begun to move it into the database, which comes after pressing it.
fn open_from(journal: &[u8], database: &[u8], said: [(Vec<u8>, usize); 2]) -> usize {
    let end = end_of(journal);
    let frames = || (32..end).step_by(FRAME).map(|at| (at, &journal[at..at + FRAME]));
    let mut commits = frames().filter(|(_, frame)| frame[4..8] != [0; 4]).map(|(at, _)| at + FRAME);
    let from = commits.rfind(|at| *at < end).unwrap_or(32);
    let moved = |frame: &[u8]| {
        let page = u32::from_be_bytes(frame[..4].try_into().unwrap()) as usize;
        database.get((page - 1) * 4096..page * 4096) == Some(&frame[24..])
    };
    let is_moved = frames().filter(|(at, _)| *at >= from).any(|(_, frame)| moved(frame));
    let head = head_of(journal);
    let committed = said.into_iter().filter(|(of, _)| *of == head).map(|(_, upto)| upto);
    if is_moved { end } else { committed.fold(from, usize::max) }
}

/// What a cut can do to the end of the journal that was not pressed onto the disk yet.
fn torn(mut journal: Vec<u8>, cut: usize, (from, dice): (usize, &mut Dice)) -> Vec<u8> {
    let Some(open) = end_of(&journal).checked_sub(from) else { return journal };
    let place = from + usize::try_from(dice.below(open as u64 + 1)).unwrap();
    match cut % 4 {
        2 => journal.truncate(place),
        3 => {
            // Sectors that never came: whatever lay there before.
            let sector = from.max(place & !511);
            let end = (sector + 512 * (1 + usize::try_from(dice.below(20)).unwrap())).min(journal.len());
            journal[sector.min(end)..end].fill(0xa5);
        }
        _ => {}
    }
    journal
}

/// Opens the copy and holds its account against its entries.
fn survives(folder: &Path, cut: usize) -> Ledger {
    let path = folder.join("spool.db");
    let mut log = Log::open(small(path), alone(), 2).unwrap();
    let status = log.status();
    assert_eq!((&status.set_aside, &status.error), (&None, &None), "cut {cut}");
    let ledger = status.ledger["all"];
    assert_eq!((ledger.unaccounted(), ledger.in_flight), (0, 0), "cut {cut}: {ledger:?}");
    assert_eq!(ledger.appended, ledger.acknowledged + ledger.stored, "cut {cut}: {ledger:?}");
    let got = drain(&mut log, 0);
    assert_eq!(got, numbers(ledger.acknowledged..ledger.appended), "cut {cut}: {ledger:?}");
    append(&mut log, 0..1);
    log.tick(at(1));
    assert_eq!((drain(&mut log, 0), log.status().error), (numbers(0..1), None), "cut {cut}: it goes on");
    ledger
}

#[test]
fn a_power_cut_at_any_instant_leaves_an_unbroken_stretch_and_an_account_that_adds_up() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("spool.db");
    let progress = Progress::default();
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| write(&path, &progress));
        let (stopped, mut dice) = (Stopped(&progress), Dice(11));
        while progress.committed.load(SeqCst) == 0 {
            assert!(!writer.is_finished());
            std::thread::yield_now();
        }
        for cut in 0..CUTS {
            let (least, gone) = (progress.committed.load(SeqCst), progress.acknowledged_on_disk.load(SeqCst));
            let said = || progress.pressed.lock().unwrap().clone();
            let before = said();
            let (database, journal) = at_one_instant(&path);
            let from = open_from(&journal, &database, [before, said()]);
            let (most, asked) = (progress.appended.load(SeqCst), progress.acknowledged.load(SeqCst));
            let copy = tempfile::tempdir().unwrap();
            let there = copy.path().join("spool.db");
            fs::write(&there, database).unwrap();
            fs::write(with_suffix(&there, "-wal"), torn(journal, cut, (from, &mut dice))).unwrap();
            if cut % 4 == 1 {
                fs::write(with_suffix(&there, "-shm"), vec![0xff; 32_768]).unwrap();
            }
            let ledger = survives(copy.path(), cut);
            assert!(ledger.appended <= most && ledger.acknowledged <= asked, "cut {cut}: {ledger:?} {most} {asked}");
            assert!(ledger.appended >= least, "cut {cut}: committed and lost: {ledger:?} {least}");
            assert!(ledger.acknowledged >= gone, "cut {cut}: acknowledged and back: {ledger:?} {gone}");
        }
        drop(stopped);
        writer.join().unwrap();
    });
    assert!(progress.committed.load(SeqCst) > 1_000, "the writer hardly wrote");
}
