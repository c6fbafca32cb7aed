//! Files to plant: the main file, what it includes, the profiles it names.
//! Included files have the same top-level keys; lists are joined, maps are joined by name, everything else stands once.

use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use crate::config::Plant;
use crate::config::Report;
use crate::config::check::Checker;
use crate::config::check::Handed;
use crate::config::check::ROOT_KEYS;
use crate::config::node::At;
use crate::config::node::Node;
use crate::config::node::Reader;
use crate::config::plant::Direction;
use crate::config::report::Problem;

/// Where databases live when the service manager does not say.
const STATE_DIR: &str = "/var/lib/trunkline";

/// A configuration that may run.
#[derive(Debug)]
pub struct Loaded {
    /// What is meant.
    pub plant: Plant,
    /// What is allowed but probably not meant.
    pub warnings: Report,
    /// Every file that was read or is named to be read, the main file first: secrets, users and certificates too.
    pub files: Vec<PathBuf>,
    /// Where each line of the plant is written, in order: a problem without a message yet.
    pub line_places: Vec<Problem>,
    /// What a preset set that the file does not say.
    pub notes: Vec<Note>,
    /// Where each rule of `send` and `receive` stands.
    pub rules: Vec<RulePlace>,
}

/// Something that a preset decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// For which upstream.
    pub upstream: Arc<str>,
    /// What, and why.
    pub text: String,
}

/// Where a rule stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RulePlace {
    /// Whose rule.
    pub upstream: Arc<str>,
    /// `send` or `receive`.
    pub direction: Direction,
    /// Its index there.
    pub index: usize,
    /// `gateway.yaml:27`
    pub place: String,
}

/// Reads and checks a configuration file with all that it names.
///
/// # Errors
/// Every problem at once, each with its place.
pub fn load(path: &Path) -> Result<Loaded, Report> {
    let text = fs::read_to_string(path).map_err(|e| unreadable(path, &e))?;
    let folder = path.parent().unwrap_or(Path::new("")).to_owned();
    check(&path.display().to_string(), &text, Checker::new(folder, state_dir()))
}

/// As [`load`], of a text: relative paths, and profiles, count from `base`.
///
/// # Errors
/// As [`load`].
pub fn load_text(name: &str, text: &str, base: &Path) -> Result<Loaded, Report> {
    check(name, text, Checker::new(base.to_owned(), state_dir()))
}

/// As [`load_text`], for a daemon that has more than this process: what its environment or its credentials hold is taken for
/// sound. Not for running.
///
/// # Errors
/// As [`load`].
pub fn load_text_for_daemon(name: &str, text: &str, base: &Path) -> Result<Loaded, Report> {
    let mut checker = Checker::new(base.to_owned(), state_dir());
    checker.handed = Handed::ToAnother;
    check(name, text, checker)
}

fn check(name: &str, text: &str, mut checker: Checker) -> Result<Loaded, Report> {
    let Some(root) = checker.reader.parse(name, text) else { return Err(checker.reader.errors) };
    let roots = with_included(&mut checker, root);
    let plant = checker.plant(&roots);
    let line_places = checker.line_places();
    let rules = checker.rules.iter().map(|rule| rule.placed(&checker.reader)).collect();
    let Checker { reader: Reader { errors, warnings, files, .. }, notes, named, .. } = checker;
    let files = files.into_iter().map(|(name, _)| PathBuf::from(name)).chain(named).collect();
    match plant {
        Some(plant) if errors.is_empty() => Ok(Loaded { plant, warnings, files, line_places, notes, rules }),
        _ => Err(errors),
    }
}

/// systemd names it; several are separated by colons, the first is ours.
fn state_dir() -> PathBuf {
    let named = std::env::var("STATE_DIRECTORY").unwrap_or_default();
    PathBuf::from(named.split(':').next().filter(|d| !d.is_empty()).unwrap_or(STATE_DIR))
}

fn unreadable(path: &Path, error: &std::io::Error) -> Report {
    let mut report = Report::default();
    report.push(Problem {
        file: path.display().to_string(),
        line: 0,
        column: 0,
        message: format!("cannot be read: {error}"),
        help: match error.kind() {
            std::io::ErrorKind::PermissionDenied => {
                let path = path.display();
                format!(
                    "secrets may lie beside it, so it is not for everybody: call this as its owner or group, or by sudo. The \
                     gateway reads it as its own user: sudo chown root:trunkline {path}; sudo chmod 640 {path}"
                )
            }
            std::io::ErrorKind::IsADirectory => "a folder lies there: name the file".to_owned(),
            std::io::ErrorKind::InvalidData => "write it as plain text, in UTF-8".to_owned(),
            _ => "put it there; `check`, `plan` and `run` take another with -c".to_owned(),
        },
        excerpt: String::new(),
    });
    report
}

/// The main file's tree and those of the files it includes, in order of name.
fn with_included(checker: &mut Checker, root: Node) -> Vec<Node> {
    checker.reader.keys(&root, ROOT_KEYS);
    let patterns = root.get("include").cloned();
    let mut roots = vec![root];
    let Some(patterns) = patterns else { return roots };
    for pattern in checker.reader.items(&patterns).to_vec() {
        let Some(text) = checker.reader.text(&pattern) else { continue };
        let path = checker.beside(pattern.at, &text);
        for file in matching(checker, &path, pattern.at) {
            roots.extend(included(checker, &file, pattern.at));
        }
    }
    roots
}

fn included(checker: &mut Checker, file: &Path, at: At) -> Option<Node> {
    let text = match fs::read_to_string(file) {
        Ok(text) => text,
        Err(e) => {
            checker.reader.error(at, format!("{} cannot be read: {e}", file.display()), "");
            return None;
        }
    };
    checker.folders.push(file.parent().unwrap_or(Path::new("")).to_owned());
    let node = checker.reader.parse(&file.display().to_string(), &text)?;
    let keys: Vec<_> = ROOT_KEYS.iter().copied().filter(|k| *k != "include").collect();
    checker.reader.keys(&node, &keys);
    Some(node)
}

/// The files of a pattern: `*` stands for any run of characters in the last part of the path.
fn matching(checker: &mut Checker, pattern: &Path, at: At) -> Vec<PathBuf> {
    let name = pattern.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let folder = pattern.parent().unwrap_or(Path::new(""));
    if folder.to_string_lossy().contains('*') {
        let help = "write it as lines/*.yaml";
        checker.reader.error(at, "`*` stands only in the last part of a path", help);
        return Vec::new();
    }
    if !name.contains('*') {
        return vec![pattern.to_owned()];
    }
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) => {
            checker.reader.error(
                at,
                format!("{} cannot be read: {e}", folder.display()),
                "make the folder, or take the line out",
            );
            return Vec::new();
        }
    };
    let mut files: Vec<_> = entries
        .flatten()
        .map(|e| e.path())
        .filter(|p| fits(&name, &p.file_name().unwrap_or_default().to_string_lossy()))
        .collect();
    files.sort();
    files
}

/// Whether a file name fits a pattern with `*`.
fn fits(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((head, tail)) => name
            .strip_prefix(head)
            .is_some_and(|rest| (0..=rest.len()).filter(|n| rest.is_char_boundary(*n)).any(|n| fits(tail, &rest[n..]))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_run_of_characters() {
        for (pattern, name, want) in [
            ("*.yaml", "a.yaml", true),
            ("*.yaml", "a.yml", false),
            ("l-*-x.yaml", "l-1-x.yaml", true),
            ("a.yaml", "a.yaml", true),
        ] {
            assert_eq!(fits(pattern, name), want, "{pattern} {name}");
        }
    }

    #[test]
    fn included_files_join_the_main_file_and_their_problems_name_them() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("devices")).unwrap();
        fs::write(dir.path().join("g.yaml"), "include: [devices/*.yaml]\nlines:\n  a: {tcp: \"h:502\"}\n").unwrap();
        let device = "devices:\n  - {name: d, line: a, unit_id: 1, points: {p: {holding: 1}}}\n";
        fs::write(dir.path().join("devices/d.yaml"), device).unwrap();
        let loaded = load(&dir.path().join("g.yaml")).unwrap();
        assert_eq!((loaded.plant.devices.len(), loaded.files.len()), (1, 2));
        fs::write(dir.path().join("devices/d.yaml"), device.replace("line: a", "line: b")).unwrap();
        let report = load(&dir.path().join("g.yaml")).unwrap_err();
        assert!(report.to_string().contains("d.yaml:2:"), "{report}");
    }

    #[test]
    fn secrets_users_and_certificates_are_among_the_files_as_they_too_shall_survive_a_power_cut() {
        let dir = tempfile::tempdir().unwrap();
        let named =
            ["g.yaml", "users.yaml", "own.pem", "own.key", "ca.pem", "cloud.password"].map(|n| dir.path().join(n));
        for file in &named {
            fs::write(file, "\n# \n").unwrap();
        }
        fs::write(dir.path().join("cloud.password"), "geheim\n").unwrap();
        let text = "broker: {users: users.yaml, listen: [{tls: 127.0.0.1:8883, cert: own.pem, key: own.key}]}\nupstreams:\n  \
                    c: {url: mqtts://h, tls: {ca: ca.pem}, username: u, password: {file: cloud.password}}\n";
        fs::write(&named[0], text).unwrap();
        let files = load(&named[0]).unwrap().files;
        assert_eq!(files[0], named[0]);
        assert!(named.iter().all(|file| files.contains(file)), "{files:?}");
    }

    #[test]
    fn a_secret_that_is_handed_to_the_daemon_alone_is_missed_only_by_who_would_run() {
        let text = "upstreams:\n  c: {url: mqtts://h, username: u, password: {credential: nowhere}}\n";
        assert!(load_text("g.yaml", text, Path::new("")).is_err());
        assert!(load_text_for_daemon("g.yaml", text, Path::new("")).is_ok());
        assert!(load_text_for_daemon("g.yaml", &text.replace("url", "urk"), Path::new("")).is_err());
    }
}
