//! `trunkline passwd`: sets or removes a user of the embedded broker in the users file. The password is typed twice without
//! echo, or comes as one line from a pipe; only its salted hash is written.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, IsTerminal, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};

use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};

use crate::broker::hash_password;
use crate::cli::apply::place::take_after;
use crate::cli::{Exit, complain, say};
use crate::config::users;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The users file, as named by `broker: {users: …}`
    #[arg(short, long, value_name = "FILE", default_value = "/etc/trunkline/users.yaml")]
    file: PathBuf,
    /// Remove the user
    #[arg(long)]
    delete: bool,
    /// Name of the user
    user: String,
}

pub(super) fn run(args: &Arguments) -> Exit {
    match change(args) {
        Ok(done) => {
            say(&done);
            Exit::Well
        }
        Err(why) => {
            complain(&format!("trunkline passwd: {why}"));
            Exit::Failed
        }
    }
}

fn change(args: &Arguments) -> Result<String, String> {
    let name = &args.user;
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '@');
    if name.is_empty() || !name.chars().all(plain) {
        return Err(format!("user name `{name}`: letters, digits, `-`, `_`, `.` and `@` only"));
    }
    let mut all: BTreeMap<String, String> = match args.file.exists() {
        true => users::load(&args.file)?.into_iter().collect(),
        false => BTreeMap::new(),
    };
    let done = if args.delete {
        all.remove(name).ok_or_else(|| format!("{} has no user `{name}`", args.file.display()))?;
        format!("user {name} removed from {}", args.file.display())
    } else {
        let hash = hash_password(&ask()?).ok_or("the password cannot be hashed")?;
        all.insert(name.clone(), hash);
        format!("password of {name} set in {}", args.file.display())
    };
    write(&args.file, &all).map_err(|e| format!("cannot write {}: {e}", args.file.display()))?;
    Ok(done)
}

/// Written beside and renamed, so that a power cut leaves the old file or the new one.
fn write(path: &Path, all: &BTreeMap<String, String>) -> io::Result<()> {
    let beside = path.with_extension("yaml.new");
    let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o640).open(&beside)?;
    give(&file, path)?;
    writeln!(file, "# Written by `trunkline passwd`: salted hashes, no passwords.")?;
    for (name, hash) in all {
        writeln!(file, "{name}: '{hash}'")?;
    }
    file.sync_all()?;
    std::fs::rename(beside, path)
}

/// To whom the file before it belonged; a new one to its folder's group, which is the daemon's: root writes it, and another user
/// reads it.
fn give(file: &File, path: &Path) -> io::Result<()> {
    match std::fs::metadata(path) {
        Ok(old) => take_after(file, &old),
        // Only root can, and only root needs to.
        Err(_) if file.metadata()?.uid() != 0 => Ok(()),
        Err(_) => {
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
            fchown(file, None, Some(std::fs::metadata(folder)?.gid()))
        }
    }
}

fn ask() -> Result<String, String> {
    if !io::stdin().is_terminal() {
        return line();
    }
    let first = hidden("Password: ")?;
    if hidden("Again: ")? == first {
        Ok(first)
    } else {
        Err("the two passwords differ; nothing was changed".to_owned())
    }
}

fn hidden(prompt: &str) -> Result<String, String> {
    let terminal = io::stdin();
    let before = tcgetattr(&terminal).map_err(|e| format!("cannot hide the password: {e}"))?;
    let mut silent = before.clone();
    silent.local_modes.remove(LocalModes::ECHO);
    let _ = write!(io::stderr(), "{prompt}");
    tcsetattr(&terminal, OptionalActions::Flush, &silent).map_err(|e| format!("cannot hide the password: {e}"))?;
    let typed = line();
    let _ = tcsetattr(&terminal, OptionalActions::Flush, &before);
    let _ = writeln!(io::stderr());
    typed
}

fn line() -> Result<String, String> {
    let mut typed = String::new();
    io::stdin().lock().read_line(&mut typed).map_err(|e| format!("cannot read the password: {e}"))?;
    let typed = typed.trim_end_matches(['\r', '\n']);
    if typed.is_empty() { Err("an empty password is none".to_owned()) } else { Ok(typed.to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn who_could_read_the_users_before_can_still() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("users.yaml");
        let all = BTreeMap::from([("hmi".to_owned(), "hash".to_owned())]);
        let facts = || std::fs::metadata(&file).map(|m| (m.mode() & 0o777, m.gid())).unwrap();
        // The daemon's group, as the package gives the folder to it; only root can.
        let group = if rustix::process::getuid().is_root() { 1 } else { std::fs::metadata(&folder).unwrap().gid() };
        std::os::unix::fs::chown(folder.path(), None, Some(group)).unwrap();
        write(&file, &all).unwrap();
        assert_eq!(facts(), (0o640, group), "a new one");
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o660)).unwrap();
        write(&file, &all).unwrap();
        assert_eq!(facts(), (0o660, group), "one that was there");
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1);
    }
}
