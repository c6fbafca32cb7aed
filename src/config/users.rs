//! The file of users: `name: <argon2 hash>`, one a line, written by `trunkline passwd`. Read apart from the rest, because it
//! is changed without touching the configuration. What a hash is, the broker knows.

use std::collections::BTreeMap;
use std::path::Path;

/// Reads the users and their hashes; the error says what is wrong and where, never a hash.
pub fn load(path: &Path) -> Result<Vec<(String, String)>, String> {
    let text = std::fs::read_to_string(path).map_err(|e| format!("users file {}: {e}", path.display()))?;
    parse(&text).map_err(|e| format!("users file {}: {e}", path.display()))
}

/// As [`load`], of a text. An empty file has no users.
pub fn parse(text: &str) -> Result<Vec<(String, String)>, String> {
    if text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#')) {
        return Ok(Vec::new());
    }
    let users: BTreeMap<String, String> = serde_yaml::from_str(text)
        .map_err(|_| "not a list of `name: hash` (one user a line; `trunkline passwd` writes it)".to_owned())?;
    match users.iter().find(|(name, hash)| name.is_empty() || !hash.starts_with("$argon2")) {
        Some((name, _)) => Err(format!("user {name:?} has no argon2 hash; set one with `trunkline passwd`")),
        None => Ok(users.into_iter().collect()),
    }
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
        let error = parse("hmi: secret\n").unwrap_err();
        assert!(error.contains("hmi") && !error.contains("secret"), "{error}");
        assert!(parse("hmi: $argon2a\nhmi: $argon2b\n").is_err(), "the same user twice");
        assert!(!parse("hmi: {pass: secret}\n").unwrap_err().contains("secret"));
    }
}
