//! The fuzz targets of `fuzz/`, compiled and run over their seeds at every test run, so that they cannot rot, and over
//! everything that ever broke them. A little mutation with a fixed seed goes a little further than the seeds alone.

#![allow(clippy::unwrap_used, reason = "a test may")]

use std::path::Path;
use std::path::PathBuf;

#[allow(dead_code, missing_docs, unreachable_pub, reason = "a workspace of its own, with habits of its own")]
#[path = "../fuzz/src/lib.rs"]
mod targets;

/// Mutations of each seed.
const MUTATIONS: u64 = 40;

type Target = fn(&[u8]);

const TARGETS: [(&str, Target); 6] = [
    ("packet", targets::packet::run),
    ("connections", targets::connections::run),
    ("matching", targets::matching::run),
    ("frames", targets::frames::run),
    ("yaml", targets::yaml::run),
    ("command", targets::command::run),
];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

/// The seeds of a target, as `fuzz/run` has them: bytes as hexadecimal lines, texts as lines, or files.
fn seeds(target: &str) -> Vec<(String, Vec<u8>)> {
    let beside = |name: &str| folder().join("seeds").join(name);
    let lines = |end: &str| std::fs::read_to_string(beside(&format!("{target}.{end}"))).unwrap_or_default();
    let hex = lines("hex");
    let bytes = hex.lines().filter(|line| !line.starts_with('#')).map(|line| {
        let (name, digits) = line.rsplit_once(": ").unwrap();
        let byte = |at: usize| u8::from_str_radix(&digits[at..at + 2], 16).unwrap();
        (name.to_owned(), (0..digits.len()).step_by(2).map(byte).collect())
    });
    let texts = lines("txt");
    let texts = texts.lines().map(|line| (line.to_owned(), line.as_bytes().to_vec()));
    let mut files = files(&beside(target));
    if target == "yaml" {
        files.extend(self::files(&folder().join("../config")));
    }
    let files = files.into_iter().map(|file| (file.display().to_string(), std::fs::read(&file).unwrap()));
    bytes.chain(texts).chain(files).collect()
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).filter(|path| path.is_file()).collect();
    files.sort();
    files
}

/// xorshift: the same every time.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % end as u64) as usize
    }

    fn mutate(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..1 + self.below(4) {
            let at = self.below(bytes.len() + 1);
            match self.below(4) {
                0 => bytes.insert(at, self.below(256) as u8),
                1 if at < bytes.len() => bytes[at] ^= 1 << self.below(8),
                2 if at < bytes.len() => drop(bytes.remove(at)),
                _ if at < bytes.len() => bytes[at] = [0, 0xFF, 0x80, 0x30, b'/'][self.below(5)],
                _ => {}
            }
        }
    }
}

/// Tells what was being tried when the target panicked.
struct Shown<'a> {
    what: String,
    bytes: &'a [u8],
}

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let hex: String = self.bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            println!("broken by {}: {hex}\n{:?}", self.what, String::from_utf8_lossy(self.bytes));
        }
    }
}

fn replay(name: &str) {
    let (_, target) = TARGETS.iter().find(|(target, _)| *target == name).unwrap();
    let seeds = seeds(name);
    assert!(!seeds.is_empty());
    for (n, (file, bytes)) in seeds.iter().enumerate() {
        let said = |what: &str, bytes: &[u8]| {
            let shown = Shown { what: format!("{file}{what}"), bytes };
            target(bytes);
            drop(shown);
        };
        said("", bytes);
        for seed in 0..MUTATIONS {
            let mut mutated = bytes.clone();
            Dice(0x9E37_79B9 + seed * 1000 + n as u64).mutate(&mut mutated);
            said(&format!(" mutated {seed}"), &mutated);
        }
    }
}

#[test]
fn the_seeds_of_packets_run_clean() {
    replay("packet");
}

#[test]
fn the_seeds_of_connections_run_clean() {
    replay("connections");
}

#[test]
fn the_seeds_of_matching_run_clean() {
    replay("matching");
}

#[test]
fn the_seeds_of_frames_run_clean() {
    replay("frames");
}

#[test]
fn the_seeds_of_yaml_run_clean() {
    replay("yaml");
}

#[test]
fn the_seeds_of_commands_run_clean() {
    replay("command");
}

#[test]
fn every_target_that_can_be_fuzzed_is_replayed_here() {
    let manifest = std::fs::read_to_string(folder().join("Cargo.toml")).unwrap();
    let bins = manifest.split("[[bin]]").skip(1).map(|bin| bin.split('"').nth(1).unwrap().to_owned());
    assert_eq!(bins.collect::<Vec<_>>(), TARGETS.map(|(name, _)| name.to_owned()));
}
