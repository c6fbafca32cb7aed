//! The house rules a machine can check: who may import whom, one door per dependency,
//! a module doc on every file. Std only.
#![expect(clippy::unwrap_used, reason = "a test all through")]

use std::fs;
use std::path::{Path, PathBuf};

/// Modules in the order of the data's way: each may use those before it, never those behind.
const ORDER: &[&str] = &[
    "time",
    "database",
    "topic",
    "formula",
    "point",
    "sample",
    "message",
    "payload",
    "status",
    "backoff",
    "supervise",
    "systemd",
    "decode",
    "config",
    "bus",
    "poll",
    "publish",
    "broker",
    "spool",
    "bridge",
    "command",
    "control",
    "web",
    "sim",
    "bench",
    "daemon",
    "demo",
    "cli",
];
/// Neighbours in the order that still have nothing to do with each other; `daemon`, `demo` and `cli` know everyone.
const STRANGERS: &[(&str, &[&str])] = &[
    ("message", &["message", "payload", "sample", "topic"]),
    ("status", &["time"]),
    ("backoff", &[]),
    ("database", &[]),
    ("supervise", &["backoff", "status", "time"]),
    ("systemd", &[]),
    ("formula", &[]),
    ("decode", &["formula", "point", "sample"]),
    ("bus", &["point", "time", "config", "backoff", "status"]),
    ("poll", &["point", "sample", "time", "config", "backoff", "status", "decode", "bus"]),
    ("publish", &["point", "sample", "topic", "message", "payload", "time", "config", "status", "poll"]),
    ("broker", &["sample", "topic", "message", "payload", "time", "config", "status"]),
    ("spool", &["database", "point", "sample", "topic", "message", "payload", "time", "config", "status"]),
    ("bridge", &["sample", "topic", "message", "payload", "time", "config", "backoff", "status", "spool"]),
    ("control", &["status", "time"]),
    ("web", &["status", "time"]),
    ("sim", &["point", "sample", "config", "bus", "time"]),
];
/// Crate, and the files that may name it (a folder ends in a slash).
const DOORS: &[(&str, &[&str])] = &[
    ("tokio_serial", &["bus/line.rs"]),
    ("tokio_modbus", &["bus/ask.rs", "sim/"]),
    ("rusqlite", &["database.rs", "spool/", "broker/store/", "command/audit/journal.rs"]),
    // As a peer to measure against it is no part of the house.
    ("rumqttc", &["bridge/link/", "bench/peers.rs"]),
    ("rumqttc_v4", &["bridge/link/"]),
    // Read by tests alone: the program reads with the parser below it.
    ("serde_yaml", &[]),
    ("granit_parser", &["config/"]),
    ("axum", &["web/"]),
    ("clap", &["cli/"]),
    ("sd_notify", &["systemd.rs"]),
    ("argon2", &["broker/access.rs"]),
];

#[test]
fn imports_follow_the_datas_way_and_every_heavy_crate_has_one_door() {
    let mut broken = Vec::new();
    let mut files = Vec::new();
    walk(Path::new("src"), &mut files);
    assert!(!files.is_empty(), "run from the crate root");
    for path in files {
        let text = fs::read_to_string(&path).unwrap();
        broken.extend(check(&path, &text));
    }
    assert!(broken.is_empty(), "\n{}", broken.join("\n"));
}

fn check(path: &Path, text: &str) -> Vec<String> {
    let mut broken = Vec::new();
    let module = module_of(path);
    let inside = path.strip_prefix("src").unwrap().to_string_lossy().into_owned();
    if !text.starts_with("//!") {
        broken.push(format!("{}: begins without a module doc (//!)", path.display()));
    }
    for (n, line) in body(text).filter(|(_, l)| !l.trim_start().starts_with("//")) {
        let mut say = |what: String| broken.push(format!("{}:{}: {what}", path.display(), n + 1));
        if line.contains("crate::{") {
            say("write one `use crate::` per line".to_owned());
        }
        for used in line.split("crate::").skip(1).map(first_word).filter(|u| *u != module && ORDER.contains(u)) {
            if !may_use(&module, used) {
                say(format!("{module} may not use {used}"));
            }
        }
        for (name, doors) in DOORS {
            let named = line.split("::").any(|part| words(part).next_back() == Some(*name));
            if named && !doors.iter().any(|d| if d.ends_with('/') { inside.starts_with(d) } else { inside == *d }) {
                say(format!("{name} has one door: {}", doors.join(", ")));
            }
        }
    }
    broken
}

/// The lines before the tests at the foot of the file, which may reach for anything.
fn body(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.split("\n#[cfg(test)]\n").next().unwrap().lines().enumerate()
}

fn may_use(module: &str, used: &str) -> bool {
    if let Some((_, allowed)) = STRANGERS.iter().find(|(m, _)| *m == module) {
        return allowed.contains(&used);
    }
    let place = |m: &str| ORDER.iter().position(|o| *o == m);
    // lib.rs and main.rs are the map, not a room.
    place(module).is_none_or(|own| place(used) < Some(own))
}

fn module_of(path: &Path) -> String {
    let inner = path.strip_prefix("src").unwrap().components().next().unwrap();
    inner.as_os_str().to_string_lossy().trim_end_matches(".rs").to_owned()
}

fn words(line: &str) -> impl DoubleEndedIterator<Item = &str> {
    line.split(|c: char| !c.is_alphanumeric() && c != '_')
}

fn first_word(s: &str) -> &str {
    words(s).next().unwrap()
}

/// Files of tests only (`tests.rs`, `tests/`) may reach for anything, like the tests at the foot of a file.
fn walk(dir: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.file_stem().is_some_and(|s| s == "tests") {
            continue;
        }
        if path.is_dir() {
            walk(&path, files);
        } else if path.extension().is_some_and(|e| e == "rs") {
            files.push(path);
        }
    }
}

#[test]
fn every_module_has_its_place_in_the_order() {
    for entry in fs::read_dir("src").unwrap() {
        let module = module_of(&entry.unwrap().path());
        assert!(ORDER.contains(&&*module) || ["lib", "main"].contains(&&*module), "{module} has no place in ORDER");
    }
}

#[test]
fn each_broken_rule_is_caught() {
    let text = "use crate::spool::Spool;\nuse rumqttc::Client;\nuse crate::{a, b};\n";
    let found = check(Path::new("src/decode/mod.rs"), text).join("\n");
    let wanted = [
        "module doc",
        "decode may not use spool",
        "rumqttc has one door: bridge/link/, bench/peers.rs",
        "one `use crate::` per line",
    ];
    for part in wanted {
        assert!(found.contains(part), "{part} is not in {found}");
    }
    let well = "//! ok\nuse crate::point::Point;\nuse crate::poll::schedule::Step;\n";
    assert!(check(Path::new("src/poll/plan.rs"), well).is_empty());
}
