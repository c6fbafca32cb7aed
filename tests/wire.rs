//! The broker held to the standards, statement by statement: `tests/wire/*.yaml` are conversations over real sockets, bytes
//! in, bytes out, each named by the normative statements it shows. `docs/conformance.md` is written from them
//! (`UPDATE=1 cargo test --test wire`), and a test checks that it is current.
//!
//! A step is `who verb rest`. Verbs: `joins` (`kept`: session of 1000 s, `present`: and it was there), `subscribes FILTER
//! QOS`, `>` bytes, `repeats N` bytes (`%` counts), `<` the next packet, `skips N`, `quiet` (nothing but the answer to a ping), `closed [code]`, `drops`, `leaves`; `5?` before a verb: with 5.0 only.

#![allow(clippy::unwrap_used, reason = "a test may")]

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::collections::HashMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use serde::Deserialize;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::timeout;
use trunkline::broker;
use trunkline::config::plant;

const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Deserialize)]
struct Case {
    name: String,
    /// Statements of 3.1.1 it shows; present: it runs with 3.1.1.
    v4: Option<Vec<String>>,
    /// The same for 5.0.
    v5: Option<Vec<String>>,
    steps: String,
}

#[derive(Deserialize)]
struct Statements {
    v4: BTreeMap<String, String>,
    v5: BTreeMap<String, String>,
}

fn cases() -> Vec<Case> {
    let mut files: Vec<_> = std::fs::read_dir(dir()).unwrap().map(|f| f.unwrap().path()).collect();
    files.sort();
    let cases = files.iter().filter(|f| !f.ends_with("statements.yaml"));
    let read = |file: &std::path::PathBuf| -> Vec<Case> {
        let text = std::fs::read_to_string(file).unwrap();
        serde_yaml::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", file.display()))
    };
    cases.flat_map(read).collect()
}

fn dir() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/wire")
}

/// Bytes to send or to expect; `None` in the middle is any byte, `open` allows any end.
#[derive(Default)]
struct Pattern {
    bytes: Vec<Option<u8>>,
    open: bool,
}

struct Tokens<'a> {
    rest: &'a str,
    v5: bool,
}

impl Tokens<'_> {
    fn pattern(&mut self) -> Pattern {
        let mut out = Pattern::default();
        while let Some(token) = self.token() {
            if token == "]" {
                break;
            }
            self.one(&token, &mut out);
        }
        out
    }

    /// The next word; a quoted text is one word.
    fn token(&mut self) -> Option<String> {
        self.rest = self.rest.trim_start();
        let first = self.rest.chars().next()?;
        let end = match first {
            '"' | '\'' => 2 + self.rest[1..].find(first).expect("the quote is closed"),
            _ => self.rest.find(' ').unwrap_or(self.rest.len()),
        };
        let (token, rest) = self.rest.split_at(end);
        self.rest = rest;
        Some(token.to_owned())
    }

    fn one(&mut self, token: &str, out: &mut Pattern) {
        let mut put = |bytes: &[u8]| out.bytes.extend(bytes.iter().copied().map(Some));
        if let Some((version, token)) = token.split_once('/').filter(|(v, _)| *v == "5" || *v == "4") {
            if (version == "5") == self.v5 {
                self.one(token, out);
            }
            return;
        }
        if let Some(text) = token.strip_prefix('"') {
            let text = text.trim_end_matches('"').as_bytes();
            put(&u16::try_from(text.len()).unwrap().to_be_bytes());
            return put(text);
        }
        if let Some(text) = token.strip_prefix('\'') {
            return put(text.trim_end_matches('\'').as_bytes());
        }
        if let Some((kind, number)) = token.split_once(':') {
            let (kind, times) = kind.split_once('*').map_or((kind, 1), |(kind, n)| (kind, n.parse().unwrap()));
            let number: u32 = number.parse().unwrap();
            let bytes = number.to_be_bytes();
            for _ in 0..times {
                put(match kind {
                    "u8" => &bytes[3..],
                    "u16" => &bytes[2..],
                    "u32" => &bytes,
                    _ => panic!("{token}?"),
                });
            }
            return;
        }
        match token {
            "[" => {
                let inner = self.pattern();
                let mut length = inner.bytes.len();
                out.open |= inner.open;
                loop {
                    let more = if length > 127 { 0x80 } else { 0 };
                    // What ends openly has any length.
                    out.bytes.push((!inner.open).then_some((length & 0x7F) as u8 | more));
                    length >>= 7;
                    if length == 0 || inner.open {
                        break;
                    }
                }
                out.bytes.extend(inner.bytes);
            }
            "{}" if self.v5 => put(&[0]),
            "{}" => {}
            ".." => out.open = true,
            "." => out.bytes.push(None),
            hex => put(&[first_byte(hex).unwrap_or_else(|| panic!("{hex}?"))]),
        }
    }
}

fn first_byte(token: &str) -> Option<u8> {
    if let Some(publish) = token.strip_prefix("PUB").filter(|p| p.starts_with(['0', '1', '2', '3'])) {
        let qos = publish.as_bytes()[0] - b'0';
        let flag = |c: char, bit: u8| if publish.contains(c) { bit } else { 0 };
        return Some(0x30 | qos << 1 | flag('d', 8) | flag('r', 1));
    }
    Some(match token {
        "CONNECT" => 0x10,
        "CONNACK" => 0x20,
        "PUBACK" => 0x40,
        "PUBREC" => 0x50,
        "PUBREL" => 0x62,
        "PUBCOMP" => 0x70,
        "SUBSCRIBE" => 0x82,
        "SUBACK" => 0x90,
        "UNSUBSCRIBE" => 0xA2,
        "UNSUBACK" => 0xB0,
        "PINGREQ" => 0xC0,
        "PINGRESP" => 0xD0,
        "DISCONNECT" => 0xE0,
        "AUTH" => 0xF0,
        hex => u8::from_str_radix(hex, 16).ok()?,
    })
}

struct Stage {
    address: SocketAddr,
    v5: bool,
    clients: HashMap<String, TcpStream>,
}

impl Stage {
    fn pattern(&self, text: &str) -> Pattern {
        Tokens { rest: text, v5: self.v5 }.pattern()
    }

    async fn act(&mut self, step: &str) -> Result<(), String> {
        let (who, rest) = step.split_once(' ').ok_or("a step is `who verb …`")?;
        let (only_v5, rest) = rest.strip_prefix("5? ").map_or((false, rest), |rest| (true, rest));
        if only_v5 && !self.v5 {
            return Ok(());
        }
        let (verb, rest) = rest.split_once(' ').unwrap_or((rest, ""));
        match verb {
            "joins" => self.join(who, rest).await,
            "subscribes" => {
                let (filter, qos) = rest.split_once(' ').ok_or("subscribes FILTER QOS")?;
                self.say(who, &format!("SUBSCRIBE [ u16:9 {{}} \"{filter}\" 0{qos} ]")).await?;
                self.expect(who, &format!("SUBACK [ u16:9 {{}} 0{qos} ]")).await
            }
            ">" => self.say(who, rest).await,
            "repeats" => {
                let (count, text) = rest.split_once(' ').ok_or("repeats COUNT bytes")?;
                for n in 1..=count.parse::<u32>().map_err(|e| e.to_string())? {
                    self.say(who, &text.replace('%', &n.to_string())).await?;
                }
                Ok(())
            }
            "skips" => {
                let stream = self.clients.get_mut(who).ok_or("not connected")?;
                for _ in 0..rest.parse::<u32>().map_err(|e| e.to_string())? {
                    packet(stream).await.ok_or("closed instead")?;
                }
                Ok(())
            }
            "<" => self.expect(who, rest).await,
            "quiet" => {
                self.say(who, "PINGREQ [ ]").await?;
                self.expect(who, "PINGRESP [ ]").await
            }
            "closed" => {
                if !rest.is_empty() && self.v5 {
                    self.expect(who, &format!("DISCONNECT [ {rest} .. ]")).await?;
                }
                self.gone(who).await
            }
            "drops" => {
                self.clients.remove(who);
                Ok(())
            }
            "leaves" => {
                self.say(who, "DISCONNECT [ ]").await?;
                self.gone(who).await
            }
            _ => Err(format!("no such verb: {verb}")),
        }
    }

    async fn join(&mut self, who: &str, how: &str) -> Result<(), String> {
        let kept = how.starts_with("kept");
        let flags = if kept { "00" } else { "02" };
        let properties = if kept { "5/05 5/11 5/u32:1000" } else { "5/00" };
        let level = if self.v5 { "05" } else { "04" };
        self.say(who, &format!("CONNECT [ \"MQTT\" {level} {flags} u16:0 {properties} \"{who}\" ]")).await?;
        let present = u8::from(how.ends_with("present"));
        self.expect(who, &format!("CONNACK [ 0{present} 00 .. ]")).await
    }

    async fn say(&mut self, who: &str, text: &str) -> Result<(), String> {
        let bytes: Vec<u8> = self.pattern(text).bytes.into_iter().flatten().collect();
        // CONNECT, and whatever else is first, comes on a new connection; `10` is one on the same.
        if text.starts_with("CONNECT") || !self.clients.contains_key(who) {
            let stream = TcpStream::connect(self.address).await.map_err(|e| e.to_string())?;
            self.clients.insert(who.to_owned(), stream);
        }
        let stream = self.clients.get_mut(who).ok_or("not connected")?;
        stream.write_all(&bytes).await.map_err(|e| e.to_string())
    }

    async fn expect(&mut self, who: &str, text: &str) -> Result<(), String> {
        let want = self.pattern(text);
        let stream = self.clients.get_mut(who).ok_or("not connected")?;
        let Some(got) = packet(stream).await else { return Err("closed instead".to_owned()) };
        let long = if want.open { got.len() >= want.bytes.len() } else { got.len() == want.bytes.len() };
        let same = want.bytes.iter().zip(&got).all(|(want, got)| want.is_none_or(|want| want == *got));
        if long && same { Ok(()) } else { Err(format!("got {got:02x?}")) }
    }

    async fn gone(&mut self, who: &str) -> Result<(), String> {
        let mut stream = self.clients.remove(who).ok_or("not connected")?;
        match packet(&mut stream).await {
            None => Ok(()),
            Some(got) => Err(format!("got {got:02x?}")),
        }
    }
}

/// The next whole packet; `None` when the broker closes.
async fn packet(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let read = async {
        let mut bytes = vec![stream.read_u8().await.ok()?];
        let mut length = 0;
        for n in 0.. {
            let byte = stream.read_u8().await.ok()?;
            bytes.push(byte);
            length |= usize::from(byte & 0x7F) << (7 * n);
            if byte & 0x80 == 0 {
                break;
            }
        }
        let head = bytes.len();
        bytes.resize(head + length, 0);
        stream.read_exact(&mut bytes[head..]).await.ok()?;
        Some(bytes)
    };
    timeout(PATIENCE, read).await.expect("the broker answers or closes")
}

async fn play(case: &Case, v5: bool) -> Result<(), String> {
    let state = tempfile::tempdir().unwrap();
    let limits = plant::Limits { clients: 50, packet: 100_000, queue: 1000, ..plant::Limits::default() };
    let settings = plant::Broker {
        listen: vec![plant::Listener { limits, ..plant::Listener::plain("127.0.0.1:0".parse().unwrap()) }],
        anonymous: plant::Anonymous::Always,
        users: None,
        access: Vec::new(),
        limits,
    };
    let options = broker::Options { gateway: "test".into(), state_dir: state.path().to_owned(), users: Vec::new() };
    let broker = broker::start(settings, options).unwrap();
    let mut stage = Stage { address: broker.addresses()[0], v5, clients: HashMap::new() };
    let mut result = Ok(());
    for step in case.steps.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        result = stage.act(step).await.map_err(|e| format!("at `{step}`: {e}"));
        if result.is_err() {
            break;
        }
    }
    // Sockets that are gone need no time to read a goodbye.
    drop(stage);
    broker.stop().await;
    result
}

async fn play_both(case: Case) -> Vec<String> {
    let mut failures = Vec::new();
    for (level, v5) in [(&case.v4, false), (&case.v5, true)] {
        if level.is_some()
            && let Err(why) = play(&case, v5).await
        {
            failures.push(format!("{} ({}) {why}", case.name, if v5 { "5.0" } else { "3.1.1" }));
        }
    }
    failures
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_case_of_the_table_holds() {
    let (mut left, mut running, mut failures) = (cases(), tokio::task::JoinSet::new(), Vec::new());
    let count = left.len();
    // A broker each, some at a time.
    while !left.is_empty() || !running.is_empty() {
        while running.len() < 16
            && let Some(case) = left.pop()
        {
            running.spawn(play_both(case));
        }
        failures.extend(running.join_next().await.into_iter().flat_map(Result::unwrap));
    }
    assert!(failures.is_empty(), "{} of {} fail:\n{}", failures.len(), count, failures.join("\n"));
}

/// `3.1.2-7` in the order of the standard.
fn place(id: &str) -> Vec<u32> {
    id.split(['.', '-']).map(|n| n.parse().unwrap_or(0)).collect()
}

fn all_of(chapters: &BTreeMap<String, String>) -> Vec<String> {
    let mut all = Vec::new();
    for (section, ranges) in chapters {
        for range in ranges.split_whitespace() {
            let (from, to) = range.split_once('-').unwrap_or((range, range));
            let (from, to): (u32, u32) = (from.parse().unwrap(), to.parse().unwrap());
            all.extend((from..=to).map(|n| format!("{section}-{n}")));
        }
    }
    all.sort_by_key(|id| place(id));
    all
}

fn conformance() -> String {
    let statements: Statements =
        serde_yaml::from_str(&std::fs::read_to_string(dir().join("statements.yaml")).unwrap()).unwrap();
    let cases = cases();
    let mut text = "# Conformance of the broker\n\nWritten by `tests/wire.rs` (`UPDATE=1 cargo test --test wire`) from \
        `tests/wire/*.yaml`: every case is run over a real socket by every test run, and this page is current only while \
        all pass. Statements are the normative ones that a server can be seen to meet from its clients' side.\n"
        .to_owned();
    for (title, wanted, of) in [
        ("3.1.1", all_of(&statements.v4), (|c: &Case| c.v4.clone()) as fn(&Case) -> Option<Vec<String>>),
        ("5.0", all_of(&statements.v5), |c: &Case| c.v5.clone()),
    ] {
        let mut shown: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for case in &cases {
            for id in of(case).unwrap_or_default() {
                shown.entry(id).or_default().insert(case.name.clone());
            }
        }
        let unknown: Vec<_> = shown.keys().filter(|id| !wanted.contains(*id)).collect();
        assert!(unknown.is_empty(), "no such statements of {title}: {unknown:?}");
        let open: Vec<&str> = wanted.iter().filter(|id| !shown.contains_key(*id)).map(String::as_str).collect();
        let count = cases.iter().filter(|case| of(case).is_some()).count();
        let _ = write!(
            text,
            "\n## MQTT {title}\n\n{} of {} statements shown by {count} cases, all pass.\n\n| statement | shown by |\n|---|---|\n",
            shown.len(),
            wanted.len()
        );
        for id in wanted.iter().filter(|id| shown.contains_key(*id)) {
            let names: Vec<&str> = shown[id].iter().map(String::as_str).collect();
            let _ = writeln!(text, "| MQTT-{id} | {} |", names.join("; "));
        }
        let _ =
            write!(text, "\nNot shown here: {}.\n", if open.is_empty() { "none".to_owned() } else { open.join(", ") });
    }
    text
}

#[test]
fn the_page_on_conformance_is_current() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/conformance.md");
    let want = conformance();
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, &want).unwrap();
    }
    let have = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(have == want, "docs/conformance.md is not current: UPDATE=1 cargo test --test wire");
}
