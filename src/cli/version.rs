//! `trunkline version`: what was built, from what, and when. A build by hand knows only the version; released ones are told the
//! commit and its date by `cross/build`.

use crate::cli::{Exit, say};

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The commit, and its date: the same commit gives the same bytes whenever it is built.
const ORIGIN: (Option<&str>, Option<&str>) = (option_env!("TRUNKLINE_COMMIT"), option_env!("TRUNKLINE_DATE"));

pub(super) fn run() -> Exit {
    say(&text(ORIGIN));
    Exit::Well
}

fn text(origin: (Option<&str>, Option<&str>)) -> String {
    match origin {
        (Some(commit), Some(date)) => format!("trunkline {VERSION} (commit {commit}, {date})"),
        _ => format!("trunkline {VERSION} (built by hand)"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_released_build_names_its_commit_and_date() {
        assert_eq!(
            text((Some("0123abcd"), Some("2026-11-21"))),
            format!("trunkline {VERSION} (commit 0123abcd, 2026-11-21)")
        );
        assert!(text((None, None)).ends_with("(built by hand)"));
    }
}
