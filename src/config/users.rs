//! The file of users: `name: <argon2 hash>`, one a line, written by `trunkline passwd`. Read apart from the rest, because it
//! is changed without touching the configuration. What a hash is, the broker knows.

use std::path::Path;

use crate::config::node::Kind;
use crate::config::node::Reader;

/// Reads the users and their hashes; the error says what is wrong and in which line, never a hash.
pub fn load(path: &Path) -> Result<Vec<(String, String)>, String> {
    let text = std::fs::read_to_string(path).map_err(|e| format!("users file {}: {e}", path.display()))?;
    parse(&text).map_err(|(line, why)| format!("users file {}:{line}: {why}", path.display()))
}

/// As [`load`], of a text. An empty file has no users.
pub fn parse(text: &str) -> Result<Vec<(String, String)>, (usize, String)> {
    if text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#')) {
        return Ok(Vec::new());
    }
    let mut reader = Reader::default();
    let root = reader.parse("", text);
    if let Some(problem) = reader.errors.problems().first() {
        return Err((problem.line, problem.message.clone()));
    }
    let Some(root) = root.filter(|root| matches!(root.kind, Kind::Map(_))) else {
        return Err((1, "not a list of `name: hash` (one user a line; `trunkline passwd` writes it)".to_owned()));
    };
    let mut users = Vec::new();
    for (name, at, value) in root.entries() {
        match &value.kind {
            Kind::Scalar { text, .. } if !name.is_empty() && text.starts_with("$argon2") => {
                users.push((name.clone(), text.clone()));
            }
            _ => {
                return Err((at.line, format!("user `{name}` has no argon2 hash; set one with `trunkline passwd`")));
            }
        }
    }
    Ok(users)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_users_file_is_names_and_hashes() {
        let users = parse("# people\nhmi: $argon2id$v=19$m=1,t=1,p=1$c2FsdA$aGFzaA\n").unwrap();
        assert_eq!(users.len(), 1);
        assert_eq!(users[0].0, "hmi");
        assert!(parse("\n# nobody\n").unwrap().is_empty());
    }

    #[test]
    fn a_plain_password_is_refused_and_not_repeated() {
        for text in ["a: $argon2a\nhmi: secret\n", "a: $argon2a\nhmi: {pass: secret}\n", "a: $argon2a\nhmi: [secret\n"]
        {
            let (line, error) = parse(text).unwrap_err();
            assert!((2..=3).contains(&line) && !error.contains("secret"), "{line}: {error}");
        }
        assert!(parse("hmi: secret\n").unwrap_err().1.contains("hmi"));
    }

    #[test]
    fn a_user_who_stands_there_twice_is_told_with_the_line() {
        let (line, error) = parse("hmi: $argon2a\nhmi: $argon2b\n").unwrap_err();
        assert_eq!((line, error.as_str()), (2, "`hmi` is written twice"));
    }
}
