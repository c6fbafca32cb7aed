//! `docs/conformance.md`: every normative statement of both standards with what shows it. Each number is accounted for:
//! shown by cases or by a named test, about something this server never does, the client's alone, or open with a reason.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;

use serde::Deserialize;

use crate::Case;

/// Sections with ranges of numbers: `3.1.2: 1-18 20`.
type Ranges = BTreeMap<String, String>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Statements {
    v4: Standard,
    v5: Standard,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Standard {
    /// What a server can be held to, by what it sends or by what it refuses.
    server: Ranges,
    /// What only a client can do or fail to do.
    client: Ranges,
    /// Numbers that the standard leaves out.
    #[serde(default)]
    unused: Ranges,
    /// Of the server's: conditions that this server never meets, and why; a case shows that.
    moot: BTreeMap<String, String>,
    /// Of the server's: not shown, and why.
    #[serde(default)]
    open: BTreeMap<String, String>,
    /// Of the server's: shown by these tests, beside cases or where bytes cannot.
    #[serde(default)]
    tests: BTreeMap<String, Vec<String>>,
}

/// `3.1.2-7` in the order of the standard.
fn place(id: &str) -> Vec<u32> {
    id.split(['.', '-']).map(|n| n.parse().unwrap_or(0)).collect()
}

fn all_of(ranges: &Ranges) -> Vec<String> {
    let mut all = Vec::new();
    for (section, ranges) in ranges {
        for range in ranges.split_whitespace() {
            let (from, to) = range.split_once('-').unwrap_or((range, range));
            let (from, to): (u32, u32) = (from.parse().unwrap(), to.parse().unwrap());
            all.extend((from..=to).map(|n| format!("{section}-{n}")));
        }
    }
    all.sort_by_key(|id| place(id));
    all
}

/// Server's, client's and unused numbers together are 1 to n in every section, each once.
fn check_numbering(title: &str, standard: &Standard) {
    let mut sections: BTreeMap<String, Vec<u32>> = BTreeMap::new();
    for id in [&standard.server, &standard.client, &standard.unused].into_iter().flat_map(all_of) {
        let (section, number) = id.split_once('-').unwrap();
        sections.entry(section.to_owned()).or_default().push(number.parse().unwrap());
    }
    for (section, mut numbers) in sections {
        numbers.sort_unstable();
        let want: Vec<u32> = (1..=numbers.len() as u32).collect();
        assert_eq!(numbers, want, "{title}, section {section}: a number is missing or named twice");
    }
}

/// A test that is named must be there.
fn check_tests(standard: &Standard) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut text = String::new();
    for file in rust_files(&root.join("src/broker")).into_iter().chain(rust_files(&root.join("tests"))) {
        text.push_str(&std::fs::read_to_string(file).unwrap());
    }
    for name in standard.tests.values().flatten() {
        assert!(text.contains(&format!("fn {name}(")), "no such test: {name}");
    }
}

fn rust_files(dir: &Path) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|e| e == "rs") {
            files.push(path);
        }
    }
    files
}

/// Names of cases and tests by statement.
fn shown(title: &str, standard: &Standard, cases: &[Case], of: fn(&Case) -> Option<&Vec<String>>) -> Ranges {
    let server = all_of(&standard.server);
    let mut shown: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for case in cases {
        for id in of(case).into_iter().flatten() {
            assert!(server.contains(id), "{title} has no such statement of a server: {id} in `{}`", case.name);
            shown.entry(id.clone()).or_default().insert(case.name.clone());
        }
    }
    for (id, names) in &standard.tests {
        assert!(server.contains(id), "{title} has no such statement of a server: {id}");
        let names = names.iter().map(|name| format!("test `{name}`"));
        shown.entry(id.clone()).or_default().extend(names);
    }
    shown.into_iter().map(|(id, names)| (id, names.into_iter().collect::<Vec<_>>().join("; "))).collect()
}

fn section(text: &mut String, title: &str, standard: &Standard, cases: &[Case], of: fn(&Case) -> Option<&Vec<String>>) {
    check_numbering(title, standard);
    check_tests(standard);
    let (server, client) = (all_of(&standard.server), all_of(&standard.client));
    let shown = shown(title, standard, cases, of);
    for id in &server {
        let (is_shown, is_open) = (shown.contains_key(id), standard.open.contains_key(id));
        assert!(is_shown != is_open, "{title} {id}: neither shown nor said to be open, or both");
    }
    for id in standard.moot.keys().chain(standard.open.keys()) {
        assert!(server.contains(id), "{title} has no such statement of a server: {id}");
    }
    let _ = write!(
        text,
        "\n## MQTT {title}\n\n{} normative statements: {} of a server, {} of the client alone. Of the server's {} are shown, by {} \
         cases and {} further tests, all pass; {} of these are about what this server never does. Open: {}.\n\n\
         | statement | shown by |\n|---|---|\n",
        server.len() + client.len(),
        server.len(),
        client.len(),
        shown.len(),
        cases.iter().filter(|case| of(case).is_some()).count(),
        standard.tests.values().flatten().collect::<BTreeSet<_>>().len(),
        standard.moot.len(),
        standard.open.len(),
    );
    for id in &server {
        let why = standard.moot.get(id).map_or(String::new(), |why| format!("*never: {why}.* "));
        match (shown.get(id), standard.open.get(id)) {
            (Some(names), _) => writeln!(text, "| MQTT-{id} | {why}{names} |"),
            (None, why) => writeln!(text, "| MQTT-{id} | **open**: {} |", why.unwrap()),
        }
        .unwrap();
    }
    let _ = write!(text, "\nThe client's: {}.\n", client.join(", "));
    if !standard.unused.is_empty() {
        let _ = write!(text, "\nNumbers that the standard leaves out: {}.\n", all_of(&standard.unused).join(", "));
    }
}

fn conformance() -> String {
    let text = std::fs::read_to_string(crate::dir().join("statements.yaml")).unwrap();
    let statements: Statements = serde_yaml::from_str(&text).unwrap();
    let cases = crate::cases();
    let mut text = "# Conformance of the broker\n\nWritten by `tests/wire` (`UPDATE=1 cargo test --test wire`) from its `*.yaml`: every \
        case is run over a real socket by every test run, and this page is current only while all pass. All numbered \
        statements of both standards are accounted for. A statement that binds the client stands with the server's where a \
        server can be seen to refuse what breaks it.\n"
        .to_owned();
    section(&mut text, "3.1.1", &statements.v4, &cases, |case| case.v4.as_ref());
    section(&mut text, "5.0", &statements.v5, &cases, |case| case.v5.as_ref());
    text
}

#[test]
fn the_page_on_conformance_is_current_and_accounts_for_every_statement() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/conformance.md");
    let want = conformance();
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, &want).unwrap();
    }
    let have = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(have == want, "docs/conformance.md is not current: UPDATE=1 cargo test --test wire");
}
