//! What may be written by the hand of whoever confirms. The daemon says where its file lies and what stands in it, and a daemon
//! that somebody has taken over lies: by root's hand it would write anything anywhere. So the file is one that the caller
//! named or that is a configuration now, its folder is none of the daemon's, and the text is a configuration too.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::process::{getegid, geteuid};

use crate::cli::{CONFIG, apply::advice};
use crate::config;

const GROUP_WRITES: u32 = 0o020;
const OTHERS_WRITE: u32 = 0o002;
/// In such a folder everybody may make files, and rename none but their own.
const STICKY: u32 = 0o1000;

/// What the caller said.
#[derive(Debug, Default)]
pub(super) struct Meant<'a> {
    /// With -c: this file and no other.
    pub(super) file: Option<&'a Path>,
    /// What `apply` was given: this text and no other.
    pub(super) text: Option<&'a str>,
}

/// Where to write what the daemon says, links followed; the error says what was refused and what to do.
pub(super) fn vouched(told: &Path, text: &str, meant: &Meant<'_>, command: &str) -> Result<PathBuf, String> {
    let unreadable = |path: &Path, e: &io::Error| {
        let path = path.display();
        format!("{path} cannot be read: {e}; nothing was written; {}", advice(e, command))
    };
    let file = fs::canonicalize(told).map_err(|e| unreadable(told, &e))?;
    match meant.file {
        Some(given) if fs::canonicalize(given).map_err(|e| unreadable(given, &e))? != file => {
            return Err(format!(
                "the gateway says that it runs from {}, not from {}; nothing was written. See which is right in the command that \
                 started it (systemctl cat trunkline), and name that with -c",
                told.display(),
                given.display()
            ));
        }
        Some(_) => {}
        None if told == Path::new(CONFIG) => {}
        None => is_configuration(told, &file).map_err(|why| match why {
            Unfit::Unreadable(error) => unreadable(told, &error),
            Unfit::Wrong(why) => format!(
                "the gateway says that it runs from {told}, and what lies there is no configuration ({why}); nothing was \
                 written. If the gateway was started with this file (systemctl cat trunkline), call: trunkline {command} -c \
                 {told}; if not, do not trust what it says",
                told = told.display()
            ),
        })?,
    }
    folders_are_safe(&file, command)?;
    if meant.text.is_some_and(|meant| meant != text) {
        return Err(format!(
            "what the gateway would have written to {} is another text than the one given here; nothing was written. See \
             who else applies something now (trunkline status), then call this again",
            told.display()
        ));
    }
    sound(told, text).map_err(|why| {
        format!(
            "what the gateway would have written to {} is no configuration ({why}); nothing was written. Take it back \
             (trunkline revert), and check the file that was meant (trunkline check -c FILE)",
            told.display()
        )
    })?;
    Ok(file)
}

enum Unfit {
    Unreadable(io::Error),
    Wrong(String),
}

fn is_configuration(told: &Path, file: &Path) -> Result<(), Unfit> {
    // A pipe would hold this up for ever.
    if !fs::metadata(file).map_err(Unfit::Unreadable)?.is_file() {
        return Err(Unfit::Wrong("no file".to_owned()));
    }
    let text = fs::read(file).map_err(Unfit::Unreadable)?;
    let text = String::from_utf8(text).map_err(|_| Unfit::Wrong("no text in UTF-8".to_owned()))?;
    sound(told, &text).map_err(Unfit::Wrong)
}

/// Judged as the daemon judges it, whose secrets need not be handed to this process.
fn sound(told: &Path, text: &str) -> Result<(), String> {
    let folder = told.parent().unwrap_or(Path::new(""));
    config::load_text_for_daemon(&told.display().to_string(), text, folder).map(drop).map_err(|report| {
        let first = report.problems().first();
        first.map_or_else(String::new, |p| format!("line {}: {}", p.line, p.message))
    })
}

/// Whoever may change a folder may put a link there between the look and the writing.
fn folders_are_safe(file: &Path, command: &str) -> Result<(), String> {
    for (up, folder) in file.ancestors().skip(1).enumerate() {
        let meta = fs::metadata(folder).map_err(|e| format!("{} cannot be read: {e}", folder.display()))?;
        // Nothing may be made beside the file itself; above it, nothing may be renamed.
        let sticky = up > 0 && meta.mode() & STICKY != 0;
        let Some(who) = stranger(&meta, (geteuid().as_raw(), getegid().as_raw())).filter(|_| !sticky) else { continue };
        return Err(format!(
            "{} is refused: the folder {} can be changed by {who}, who could lead the writing elsewhere; nothing was written. \
             Call this as the folder's owner (sudo -u '#{}' trunkline {command}), or make the folder root's: sudo chown root \
             {folder}; sudo chmod go-w {folder}",
            file.display(),
            folder.display(),
            meta.uid(),
            folder = folder.display(),
        ));
    }
    Ok(())
}

/// Who, beside root and the caller, may change what lies in a folder.
fn stranger(folder: &fs::Metadata, (user, group): (u32, u32)) -> Option<String> {
    let ours = |id: u32, own: u32| id == 0 || id == own;
    if !ours(folder.uid(), user) {
        return Some(format!("user {}", folder.uid()));
    }
    if folder.mode() & OTHERS_WRITE != 0 {
        return Some("everybody".to_owned());
    }
    (folder.mode() & GROUP_WRITES != 0 && !ours(folder.gid(), group)).then(|| format!("group {}", folder.gid()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    const GOOD: &str = "gateway: g\nbroker: {listen: [{tcp: 127.0.0.1:0}]}\n";

    fn at(path: &Path, text: &str, file: Option<&Path>) -> Result<PathBuf, String> {
        vouched(path, text, &Meant { file, text: None }, "confirm")
    }

    #[test]
    fn only_what_is_a_configuration_now_or_was_named_is_written_over() {
        let folder = tempfile::tempdir().unwrap();
        let (good, table) = (folder.path().join("gateway.yaml"), folder.path().join("passwd"));
        fs::write(&good, GOOD).unwrap();
        fs::write(&table, "root:x:0:0:root:/root:/bin/sh\n").unwrap();
        assert_eq!(at(&good, GOOD, None).unwrap(), fs::canonicalize(&good).unwrap());
        let said = at(&table, GOOD, None).unwrap_err();
        assert!(said.contains("passwd") && said.contains("-c") && said.contains("nothing was written"), "{said}");
        assert!(at(&table, GOOD, Some(&good)).unwrap_err().contains("gateway.yaml"));
        assert!(at(&table, GOOD, Some(&table)).is_ok(), "the caller has named it");
        assert!(at(folder.path(), GOOD, None).unwrap_err().contains("no file"));
        assert!(at(&folder.path().join("none"), GOOD, None).unwrap_err().contains("cannot be read"));
    }

    #[test]
    fn only_a_configuration_is_written_and_only_the_one_that_was_meant() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("gateway.yaml");
        fs::write(&file, GOOD).unwrap();
        let said = at(&file, "gateway: g\nbrokr: {}\n", Some(&file)).unwrap_err();
        assert!(said.contains("line 2") && said.contains("trunkline revert"), "{said}");
        let meant = Meant { file: None, text: Some("gateway: other\n") };
        assert!(vouched(&file, GOOD, &meant, "apply").unwrap_err().contains("another text"));
    }

    #[test]
    fn a_folder_that_others_may_change_is_refused_and_a_link_leads_to_the_folder_that_counts() {
        let folder = tempfile::tempdir().unwrap();
        let open = folder.path().join("open");
        fs::create_dir(&open).unwrap();
        fs::write(open.join("gateway.yaml"), GOOD).unwrap();
        let link = folder.path().join("link.yaml");
        symlink(open.join("gateway.yaml"), &link).unwrap();
        assert_eq!(at(&link, GOOD, None).unwrap(), fs::canonicalize(open.join("gateway.yaml")).unwrap());
        for mode in [0o777, 0o1777] {
            fs::set_permissions(&open, fs::Permissions::from_mode(mode)).unwrap();
            let said = at(&link, GOOD, Some(&link)).unwrap_err();
            assert!(said.contains("everybody") && said.contains("/open"), "{said}");
        }
    }

    #[test]
    fn root_and_the_caller_are_no_strangers() {
        let folder = tempfile::tempdir().unwrap();
        let of = |mode, ids| {
            fs::set_permissions(folder.path(), fs::Permissions::from_mode(mode)).unwrap();
            stranger(&fs::metadata(folder.path()).unwrap(), ids)
        };
        let meta = fs::metadata(folder.path()).unwrap();
        let own = (meta.uid(), meta.gid());
        assert_eq!((of(0o700, own), of(0o770, own)), (None, None));
        assert!(of(0o702, own).is_some());
        let other = (own.0 + 1, own.1 + 1);
        // Root's folders are nobody's risk.
        assert_eq!(of(0o700, other).is_none(), own.0 == 0);
    }
}
