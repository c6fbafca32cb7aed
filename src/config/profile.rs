//! Device maps: found beside the configuration (`profiles/`), then among those that are shipped inside the program.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::rc::Rc;

use rust_embed::Embed;

use crate::config::check::Checker;
use crate::config::check::POINT_KEYS;
use crate::config::node::At;
use crate::config::node::Kind;
use crate::config::node::Node;
use crate::config::node::near;

const PROFILE_KEYS: &[&str] = &["title", "source", "serial", "limits", "functions", "defaults", "points"];

#[derive(Embed)]
#[folder = "config/profiles"]
struct Shipped;

/// Profiles read so far; a broken one is reported once.
#[derive(Debug, Default)]
pub(super) struct Shelf(BTreeMap<String, Option<Rc<Node>>>);

/// The profile of that name; reported where `at` is when there is none.
pub(super) fn find(checker: &mut Checker, name: &str, at: At) -> Option<Rc<Node>> {
    if let Some(known) = checker.shelf.0.get(name) {
        return known.clone();
    }
    let profile = read(checker, name, at).map(Rc::new);
    checker.shelf.0.insert(name.to_owned(), profile.clone());
    profile
}

fn read(checker: &mut Checker, name: &str, at: At) -> Option<Node> {
    let own = checker.main_folder().join("profiles").join(format!("{name}.yaml"));
    let (place, text) = if let Ok(text) = fs::read_to_string(&own) {
        (own, text)
    } else if let Some(file) = Shipped::get(&format!("{name}.yaml")) {
        (PathBuf::from(format!("profiles/{name}.yaml")), String::from_utf8_lossy(&file.data).into_owned())
    } else {
        missing(checker, name, at);
        return None;
    };
    checker.folders.push(place.parent().map(PathBuf::from).unwrap_or_default());
    let node = checker.reader.parse(&place.display().to_string(), &text)?;
    checker.reader.keys(&node, PROFILE_KEYS);
    if let Some(defaults) = node.get("defaults") {
        checker.reader.keys(defaults, POINT_KEYS);
    }
    match node.get("points") {
        Some(points) if matches!(points.kind, Kind::Map(_)) => {}
        _ => checker.reader.error(node.at, "a profile has `points`", "see docs/profiles.md"),
    }
    Some(node)
}

fn missing(checker: &mut Checker, name: &str, at: At) {
    let names: Vec<String> = names(checker);
    let near = near(name, names.iter().map(String::as_str));
    let vendor = name.split('/').next().unwrap_or_default();
    let same: Vec<_> = names.iter().filter(|n| n.starts_with(&format!("{vendor}/"))).map(String::as_str).collect();
    let help = match (near, same.is_empty()) {
        (Some(near), _) => format!("did you mean `{near}`?"),
        (None, false) => format!("of {vendor} there are: {}", same.join(", ")),
        (None, true) => format!("there are: {}; your own go to profiles/ beside the configuration", names.join(", ")),
    };
    checker.reader.error(at, format!("no profile `{name}`"), help);
}

/// The names of all profiles that can be found.
fn names(checker: &Checker) -> Vec<String> {
    let mut names: Vec<_> = Shipped::iter().filter_map(|f| f.strip_suffix(".yaml").map(str::to_owned)).collect();
    let root = checker.main_folder().join("profiles");
    for vendor in fs::read_dir(&root).into_iter().flatten().flatten() {
        for model in fs::read_dir(vendor.path()).into_iter().flatten().flatten() {
            let path = model.path();
            let name = path.strip_prefix(&root).unwrap_or(&path).with_extension("");
            names.push(name.display().to_string());
        }
    }
    names.sort();
    names.dedup();
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::load_text;

    #[test]
    fn every_shipped_profile_loads_without_a_word() {
        assert!(Shipped::iter().count() >= 8, "profiles are shipped");
        for file in Shipped::iter() {
            let name = file.strip_suffix(".yaml").unwrap();
            let text = format!(
                "gateway: g\nlines: {{l: {{tcp: \"h:502\"}}}}\ndevices: [{{name: d, line: l, unit_id: 1, profile: {name}}}]\n"
            );
            let loaded =
                load_text("t.yaml", &text, std::path::Path::new("")).unwrap_or_else(|r| panic!("{name}:\n{r}"));
            assert!(loaded.warnings.is_empty(), "{name}: {}", loaded.warnings);
            assert!(!loaded.plant.points.is_empty(), "{name} has points");
        }
    }
}
