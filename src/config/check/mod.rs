//! From what is written to what is meant. Every section takes its nodes and leaves its part of the plant; what cannot be
//! understood is reported and stood in for, so that the sections behind it can still be judged.

mod audit;
mod broker;
mod cloud;
mod devices;
mod failsafe;
mod fingerprint;
mod functions;
mod lines;
mod listener;
mod loops;
mod mapping;
mod point;
mod rules;
mod shared;
mod site;
mod source;
mod upstream;

use std::collections::BTreeMap;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use crate::config::Note;
use crate::config::Plant;
use crate::config::failsafe::FailSafe;
use crate::config::node::At;
use crate::config::node::Kind;
use crate::config::node::Node;
use crate::config::node::Reader;
use crate::config::plant::Endpoint;
use crate::config::plant::Schedule;
use crate::config::profile::Shelf;
use crate::config::report::Problem;
use shared::Shared;

pub(super) use audit::AUDIT_KEYS;
pub(super) use broker::ACCESS_KEYS;
pub(super) use broker::BROKER_KEYS;
pub(super) use devices::DEVICE_KEYS;
pub(super) use devices::PUBLISH_KEYS;
pub(super) use failsafe::FAIL_SAFE_KEYS;
pub(super) use fingerprint::IDENTIFY_KEYS;
pub(super) use fingerprint::REGISTER_KEYS;
pub(super) use lines::LINE_KEYS;
pub(super) use listener::LIMIT_KEYS;
pub(super) use listener::LISTENER_KEYS;
pub(super) use mapping::MAPPING_KEYS;
pub(super) use point::POINT_KEYS;
pub(super) use rules::REPORT_KEYS;
pub(super) use site::SPOOL_KEYS;
pub(super) use upstream::UPSTREAM_KEYS;

/// The keys a file may begin with.
pub(super) const ROOT_KEYS: &[&str] = &[
    "gateway",
    "include",
    "schedules",
    "lines",
    "devices",
    "publish",
    "broker",
    "upstreams",
    "spool",
    "audit",
    "stats",
    "web",
];

/// Whom the service manager hands what lies in no file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Handed {
    /// This process, which lacks what it does not find.
    ToUs,
    /// The daemon, for which another process checks.
    ToAnother,
}

/// The state of one check.
pub(super) struct Checker {
    pub(super) reader: Reader,
    /// The folder of each file read, in step with `reader.files`: relative paths count from it.
    pub(super) folders: Vec<PathBuf>,
    pub(super) shelf: Shelf,
    /// The files that are named and are no YAML of ours: secrets, certificates; and the users.
    pub(super) named: Vec<PathBuf>,
    pub(super) handed: Handed,
    state_dir: PathBuf,
    gateway: Arc<str>,
    schedules: BTreeMap<String, Schedule>,
    shared: Shared,
    /// Where the plant's lines are written, in their order.
    line_at: Vec<At>,
    /// What presets decided.
    pub(super) notes: Vec<Note>,
    /// The rules of all upstreams and where they stand.
    pub(super) rules: Vec<mapping::Ruled>,
    /// The URLs of all upstreams and where they stand.
    urls: Vec<(At, Endpoint)>,
    /// Every `fail_safe`, and where its commander is named.
    fail_safes: Vec<(FailSafe, At)>,
}

impl Checker {
    pub(super) fn new(folder: PathBuf, state_dir: PathBuf) -> Self {
        Self {
            reader: Reader::default(),
            folders: vec![folder],
            shelf: Shelf::default(),
            named: Vec::new(),
            handed: Handed::ToUs,
            state_dir,
            gateway: "".into(),
            schedules: BTreeMap::new(),
            shared: Shared::default(),
            line_at: Vec::new(),
            notes: Vec::new(),
            rules: Vec::new(),
            urls: Vec::new(),
            fail_safes: Vec::new(),
        }
    }

    /// Where each line is written, ready for a message about it.
    pub(super) fn line_places(&self) -> Vec<Problem> {
        self.line_at.iter().map(|at| self.reader.problem(*at, String::new(), String::new())).collect()
    }

    /// The folder of the main file.
    pub(super) fn main_folder(&self) -> &Path {
        &self.folders[0]
    }

    /// A path as seen from the file it is written in.
    pub(super) fn beside(&self, at: At, path: &str) -> PathBuf {
        self.folders.get(at.file).map_or_else(|| PathBuf::from(path), |folder| folder.join(path))
    }

    /// A path that is written in a file.
    fn file(&mut self, node: &Node) -> Option<PathBuf> {
        let path = self.reader.text(node)?;
        Some(self.beside(node.at, &path))
    }

    /// A path to a file that must be there to be read when the gateway starts.
    fn readable(&mut self, node: &Node) -> Option<PathBuf> {
        let path = self.file(node)?;
        if let Err(e) = std::fs::File::open(&path) {
            let help =
                "paths count from the file they are written in; the user that runs the gateway must be able to read it";
            self.reader.error(node.at, format!("{} cannot be read: {e}", path.display()), help);
        }
        self.named.push(path.clone());
        Some(path)
    }

    /// The whole plant; `None` only where there is nothing to build on. Worth something only without errors.
    pub(super) fn plant(&mut self, roots: &[Node]) -> Option<Plant> {
        self.gateway = self.gateway_name(roots);
        self.schedules = self.read_schedules(roots);
        let lines = self.lines(roots);
        let publish = self.once(roots, "publish");
        let (devices, mut points) = self.devices(roots, &lines, publish);
        // They stay as long as the process; what the vector grew ahead is megabytes on a large site.
        points.shrink_to_fit();
        if devices.is_empty() && self.reader.errors.is_empty() {
            self.reader.warn(
                roots[0].at,
                "there are no `devices`: only the broker would run",
                "they say what is polled; a whole example lies in /usr/share/doc/trunkline/examples, or in config/ of the sources",
            );
        }
        let section = self.once(roots, "broker");
        let broker = self.broker(section, points.len());
        let upstreams = self.upstreams(roots);
        let fail_safes = self.fail_safes(&upstreams);
        self.topics_of_points(&upstreams, &points);
        self.loops(&upstreams, &broker);
        let section = self.once(roots, "spool");
        let spool = self.spool(section);
        let section = self.once(roots, "audit");
        let audit = self.audit(section, &spool);
        let section = self.once(roots, "stats");
        let stats = self.stats(section);
        let section = self.once(roots, "web");
        let web = self.web(section, &broker);
        Some(Plant {
            gateway: Arc::clone(&self.gateway),
            lines,
            devices,
            points,
            fail_safes,
            broker,
            upstreams,
            spool,
            audit,
            stats,
            web,
            state_dir: self.state_dir.clone(),
        })
    }

    /// A section that stands once in all files; a second one is reported.
    fn once<'a>(&mut self, roots: &'a [Node], key: &str) -> Option<&'a Node> {
        let mut found = roots.iter().filter_map(|root| root.get(key));
        let first = found.next();
        for again in found {
            let help = "it stands in another file already; only lines, devices, upstreams and schedules are joined";
            self.reader.error(again.at, format!("`{key}` is written twice"), help);
        }
        first
    }

    /// The entries of a map that may be spread over files; a name that stands twice is reported.
    fn joined<'a>(&mut self, roots: &'a [Node], key: &str) -> Vec<(&'a str, At, &'a Node)> {
        let mut entries: Vec<(&str, At, &Node)> = Vec::new();
        for section in roots.iter().filter_map(|root| root.get(key)) {
            if !matches!(section.kind, Kind::Map(_)) {
                self.reader.error(section.at, format!("`{key}` is a map: `name: …`"), "");
            }
            for (name, at, node) in section.entries() {
                if entries.iter().any(|(n, ..)| n == name) {
                    self.reader.error(*at, format!("`{name}` stands in `{key}` already"), "choose another name");
                } else {
                    entries.push((name, *at, node));
                }
            }
        }
        entries
    }

    fn gateway_name(&mut self, roots: &[Node]) -> Arc<str> {
        let Some(node) = self.once(roots, "gateway") else { return host_name().into() };
        let name = self.reader.text(node).unwrap_or_default();
        self.name(node.at, &name);
        name.into()
    }

    /// A name that becomes a level of a topic.
    fn name(&mut self, at: At, name: &str) -> bool {
        if name.is_empty() {
            self.reader.error(at, "a name has at least one character", "");
            return false;
        }
        let wrong = name.chars().find(|c| matches!(c, '/' | '+' | '#' | '\0'));
        if let Some(c) = wrong {
            self.reader.error(
                at,
                format!("the name `{name}` contains `{c}`"),
                "a name is one level of a topic: no / + #",
            );
        } else if name.starts_with('$') {
            self.reader.error(at, format!("the name `{name}` begins with `$`"), "such levels are the gateway's own");
        }
        wrong.is_none() && !name.starts_with('$')
    }

    fn read_schedules(&mut self, roots: &[Node]) -> BTreeMap<String, Schedule> {
        let mut schedules = BTreeMap::new();
        for (name, _, node) in self.joined(roots, "schedules") {
            self.reader.keys(node, &["every", "align", "cron"]);
            // A broken one is reported where it stands; whoever names it need not hear of it again.
            let schedule = self.schedule(node).unwrap_or(rules::DEFAULT_SCHEDULE);
            schedules.insert(name.to_owned(), schedule);
        }
        schedules
    }
}

fn host_name() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let name = name.split('.').next().unwrap_or_default().to_owned();
    if name.is_empty() { "gateway".to_owned() } else { name }
}
