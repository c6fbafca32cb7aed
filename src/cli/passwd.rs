//! `trunkline passwd`: sets or removes a user of the embedded broker in the users file. The password is typed twice without
//! echo, or comes as one line from a pipe; only its salted hash is written.

use std::collections::BTreeMap;
use std::io::{self, BufRead, IsTerminal, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};

use crate::broker::hash_password;
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
    writeln!(file, "# Written by `trunkline passwd`: salted hashes, no passwords.")?;
    for (name, hash) in all {
        writeln!(file, "{name}: '{hash}'")?;
    }
    file.sync_all()?;
    std::fs::rename(beside, path)
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
