//! Keeps what devices have taught over a restart: `learned.json` in the state directory, read at the start, written by a task.
//! It is a convenience, never a condition: a file that cannot be understood is set aside and named, a disk that cannot be
//! written is said once, and the gateway goes on without. The trick is to spare the flash: holes are written soon, what only
//! drifts a quarter of an hour later or at the stop, and nothing at all while nothing is news.

use std::fs;
use std::io;
use std::io::Read;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::config;
use crate::config::Plant;
use crate::config::plant::Device;
use crate::control::Forget;
use crate::control::forget::Forgotten;
use crate::control::forget::Which;
use crate::daemon::Group;
use crate::daemon::file;
use crate::poll::learned::ByDevice;
use crate::poll::learned::Identity;
use crate::poll::learned::Lesson;
use crate::poll::learned::Lessons;
use crate::supervise;
use crate::supervise::Panics;

const FILE: &str = "learned.json";
/// Grows when an older program would misunderstand the file. Unknown fields are passed over without that.
const VERSION: u32 = 1;
/// Ten thousand devices with ten holes each fill half of it; a larger file is not ours.
const LARGEST: u64 = 8 << 20;
/// Holes are found in bursts, one split after the other: one write for all.
const HOLES_AFTER: Duration = Duration::from_secs(5);
/// A write every quarter of an hour at the very most is 35,000 a year, nothing to a flash cell that is moved around.
const PACE_AFTER: Duration = Duration::from_secs(15 * 60);

/// The file.
#[derive(Debug, Serialize, Deserialize)]
struct Notes {
    version: u32,
    devices: Vec<Note>,
}

/// One device in it.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Note {
    #[serde(flatten)]
    whose: Identity,
    #[serde(flatten)]
    lesson: Lesson,
}

/// Of a file only its version, to tell a newer one from a broken one.
#[derive(Debug, Deserialize)]
struct Stamp {
    version: u32,
}

/// What the file told, and who will write it.
pub(super) struct Memory {
    pub(super) lessons: Lessons,
    keeper: Keeper,
}

/// Whoever writes the file.
#[derive(Debug, Clone)]
struct Keeper {
    path: PathBuf,
    lessons: Lessons,
    /// Whose lessons are worth writing, a reload may change.
    plants: watch::Receiver<Arc<Plant>>,
    /// As the file has it.
    written: ByDevice,
    /// It could not be written, and that was said.
    failing: bool,
}

impl Memory {
    /// Reads what is remembered of this plant's devices, and says how much that is.
    pub(super) fn open(plants: watch::Receiver<Arc<Plant>>) -> Self {
        let plant = plants.borrow().clone();
        let plant = &*plant;
        let path = plant.state_dir.join(FILE);
        let notes = read(&path).unwrap_or_else(|why| {
            let aside = file::set_aside(&path);
            tracing::warn!("{} cannot be used: {why}; {aside}, devices are learnt anew", path.display());
            Vec::new()
        });
        let known: ByDevice =
            plant.devices.iter().filter_map(|device| recall(&notes, &identity(plant, device), plant, device)).collect();
        let count = |lesson: &Lesson| lesson.named().len();
        let holes: usize = known.values().map(count).sum();
        if holes > 0 {
            let devices = known.values().filter(|lesson| count(lesson) > 0).count();
            tracing::info!(holes, devices, "remembers what devices refuse; `trunkline forget DEVICE` asks again");
        }
        let lessons = Lessons::new(known.clone());
        // What the file has of others is dropped with the next write, so what it has of these is what is written.
        Self { lessons: lessons.clone(), keeper: Keeper { path, lessons, plants, written: known, failing: false } }
    }

    /// Starts writing; the last time when the group is told to stop.
    pub(super) fn start(self, group: &Group, panics: &Panics) {
        let (keeper, stop) = (self.keeper, group.stop.clone());
        supervise::leaf(&group.tasks, panics, "memory", stop.clone(), move || keeper.clone().run(stop.clone()));
    }
}

/// Lets the control socket leave wishes to forget.
pub(super) fn forget(lessons: Lessons, plants: watch::Receiver<Arc<Plant>>) -> Forget {
    Forget::new(move |which| {
        let plant = plants.borrow().clone();
        let names: Vec<&Arc<str>> = plant.devices.iter().map(|device| &device.name).collect();
        let forgotten = |name: &Arc<str>| Forgotten { device: name.to_string(), holes: lessons.forget(name) };
        match which {
            Which::All => Ok(names.into_iter().map(forgotten).collect()),
            Which::Device(wanted) => match names.iter().find(|name| ****name == **wanted) {
                Some(name) => Ok(vec![forgotten(name)]),
                None => Err(config::near(wanted, names.iter().map(|name| &***name)).map(str::to_owned)),
            },
        }
    })
}

fn identity(plant: &Plant, device: &Device) -> Identity {
    Identity::of(device, plant.line(device.line))
}

/// What the notes have of a device, as far as it still fits its points.
fn recall(notes: &[Note], whose: &Identity, plant: &Plant, device: &Device) -> Option<(Arc<str>, Lesson)> {
    let note = notes.iter().find(|note| note.whose == *whose)?;
    let points = plant.points.iter().map(|p| &**p).filter(|p| p.device == device.id);
    Some((device.name.clone(), note.lesson.clone().fitting(points)))
}

impl Keeper {
    async fn run(mut self, stop: CancellationToken) {
        while stop.run_until_cancelled(self.news()).await.is_some() {
            self.write().await;
        }
        self.write().await;
    }

    /// Until other holes are known than are written, for some seconds, or until it is time to look at the pace.
    async fn news(&self) {
        let mut known = self.lessons.subscribe();
        let pause = if self.failing { PACE_AFTER } else { HOLES_AFTER };
        let holes = async {
            // It cannot fail: one sender is here.
            let _ = known.wait_for(|now| self.has_other_holes(now)).await;
            // A device that was away is asked again, and mostly the same is found meanwhile: then nothing is written.
            tokio::time::sleep(pause).await;
        };
        let _ = tokio::time::timeout(PACE_AFTER, holes).await;
    }

    fn has_other_holes(&self, now: &ByDevice) -> bool {
        now.iter().any(|(device, lesson)| !lesson.has_holes_of(&self.as_written(device)))
    }

    fn as_written(&self, device: &str) -> Lesson {
        self.written.get(device).cloned().unwrap_or_default()
    }

    /// Writes what is known now, where it is news.
    async fn write(&mut self) {
        let now = self.lessons.subscribe().borrow().clone();
        if !now.iter().any(|(device, lesson)| lesson.is_news_after(&self.as_written(device))) {
            return;
        }
        let lesson = |whose: &Identity| now.get(whose.device.as_str()).filter(|lesson| !lesson.is_empty()).cloned();
        let note = |whose: Identity| Some(Note { lesson: lesson(&whose)?, whose });
        let plant = self.plants.borrow().clone();
        let devices = plant.devices.iter().map(|device| identity(&plant, device));
        let notes = Notes { version: VERSION, devices: devices.filter_map(note).collect() };
        let path = self.path.clone();
        // A card may stall for seconds: not on a thread that polls.
        let done = tokio::task::spawn_blocking(move || file::replace(&path, &serde_json::to_vec_pretty(&notes)?)).await;
        match done.unwrap_or_else(|bug| Err(io::Error::other(bug))) {
            Ok(()) => {
                self.written = now;
                self.failing = false;
            }
            Err(why) if !std::mem::replace(&mut self.failing, true) => {
                let path = self.path.display();
                tracing::warn!(
                    "{path} cannot be written: {why}; what devices teach will be learnt anew after a restart"
                );
            }
            Err(_) => {}
        }
    }
}

/// No file is no note. The error says why a file cannot be used.
fn read(path: &Path) -> Result<Vec<Note>, String> {
    let mut text = Vec::new();
    let file = match fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error.to_string()),
    };
    file.take(LARGEST + 1).read_to_end(&mut text).map_err(|e| e.to_string())?;
    if text.len() as u64 > LARGEST {
        return Err(format!("it is larger than {LARGEST} bytes"));
    }
    let stamp: Stamp = serde_json::from_slice(&text).map_err(|e| format!("it is damaged ({e})"))?;
    if stamp.version > VERSION {
        return Err(format!("it is of a newer program (version {}, this one writes {VERSION})", stamp.version));
    }
    let notes: Notes = serde_json::from_slice(&text).map_err(|e| format!("it is damaged ({e})"))?;
    Ok(notes.devices)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::point::AddressRange;
    use crate::point::Table;
    use crate::poll::learned::Pace;
    use crate::poll::plan::Holes;

    const YAML: &str = "\
lines: {hall: {tcp: 127.0.0.1:502}}
devices:
  - {name: a, line: hall, unit_id: 1, points: {p: {holding: 4, type: u32}, q: {holding: 9}}}
  - {name: b, line: hall, unit_id: 2, points: {p: {holding: 4}}}
";

    fn plant(folder: &Path, yaml: &str) -> watch::Receiver<Arc<Plant>> {
        let mut plant = config::load_text("t.yaml", yaml, Path::new("")).unwrap_or_else(|r| panic!("{r}")).plant;
        plant.state_dir = folder.to_owned();
        watch::channel(Arc::new(plant)).1
    }

    fn lesson(refused: &[(u16, u16)], usual_ms: u64) -> Lesson {
        let mut holes = Holes::default();
        refused.iter().for_each(|(start, count)| _ = holes.bury(AddressRange::new(*start, *count).unwrap(), 2));
        let usual = Duration::from_millis(usual_ms);
        Lesson::new([(&Table::Holding, &holes)], Some(Pace { usual, deviation: usual / 10 }))
    }

    fn note(lessons: &Lessons, device: &str, lesson: Lesson) {
        lessons.note([(Arc::from(device), lesson)].into_iter());
    }

    /// A keeper at work, until `stopped`.
    struct Kept {
        group: Group,
        lessons: Lessons,
        path: PathBuf,
    }

    impl Kept {
        fn start(folder: &Path, yaml: &str) -> Self {
            let memory = Memory::open(plant(folder, yaml));
            let (group, lessons) = (Group::default(), memory.lessons.clone());
            memory.start(&group, &Panics::new());
            Self { group, lessons, path: folder.join(FILE) }
        }

        async fn stopped(self) {
            self.group.stop.cancel();
            self.group.tasks.close();
            self.group.tasks.wait().await;
        }

        /// Whether it was written since the last look, with the clock moved on so far.
        async fn writes_within(&self, time: Duration) -> bool {
            let _ = fs::remove_file(&self.path);
            tokio::time::sleep(time).await;
            self.path.exists()
        }
    }

    #[tokio::test]
    async fn what_was_taught_is_known_after_a_restart_but_not_of_another_device() {
        let folder = tempfile::tempdir().unwrap();
        let kept = Kept::start(folder.path(), YAML);
        note(&kept.lessons, "a", lesson(&[(4, 2), (9, 1)], 40));
        kept.stopped().await;
        let known = |yaml: &str, device: &str| Memory::open(plant(folder.path(), yaml)).lessons.of(device);
        assert_eq!(known(YAML, "a"), lesson(&[(4, 2), (9, 1)], 40));
        assert!(known(YAML, "b").is_empty());
        assert_eq!(
            known(&YAML.replace("type: u32", "type: u16"), "a"),
            lesson(&[(9, 1)], 40),
            "the point was corrected"
        );
        for (old, new) in [("unit_id: 1", "unit_id: 3"), ("name: a", "name: c"), ("hall", "yard")] {
            let yaml = YAML.replace(old, new);
            assert!(known(&yaml, "a").is_empty() && known(&yaml, "c").is_empty(), "{new}");
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside it");
    }

    /// `b` answers differently each second, as devices do; only holes, and a pace that really moved, are worth a write.
    #[tokio::test(start_paused = true)]
    async fn holes_are_written_within_seconds_drifting_paces_hardly_ever() {
        let folder = tempfile::tempdir().unwrap();
        let kept = Kept::start(folder.path(), YAML);
        note(&kept.lessons, "b", lesson(&[], 40));
        assert!(!kept.writes_within(Duration::from_secs(14 * 60)).await, "too early for a pace");
        assert!(kept.writes_within(Duration::from_secs(2 * 60)).await);
        note(&kept.lessons, "b", lesson(&[], 45));
        assert!(!kept.writes_within(Duration::from_secs(3_600)).await, "it has not really moved");
        note(&kept.lessons, "a", lesson(&[(9, 1)], 10));
        assert!(kept.writes_within(Duration::from_secs(6)).await);
        note(&kept.lessons, "a", lesson(&[], 10));
        tokio::time::sleep(Duration::from_secs(2)).await;
        note(&kept.lessons, "a", lesson(&[(9, 1)], 10));
        assert!(!kept.writes_within(Duration::from_secs(600)).await, "asked again, the same found");
        note(&kept.lessons, "a", lesson(&[], 10));
        assert!(kept.writes_within(Duration::from_secs(6)).await);
        kept.stopped().await;
        assert!(Memory::open(plant(folder.path(), YAML)).lessons.of("a").named().is_empty());
    }

    #[test]
    fn a_file_that_cannot_be_understood_is_set_aside_by_name_and_never_in_the_way() {
        let newer = r#"{"version": 2, "devices": {"a": 1}}"#;
        let torn = r#"{"version": 1, "devices": [{"line": "hall", "unit"#;
        for (n, bad) in ["", torn, newer, "[]", "\0\0\0", r#"{"devices": []}"#].into_iter().enumerate() {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join(FILE);
            fs::write(&path, bad).unwrap();
            fs::write(folder.path().join("learned.json.set-aside-1"), "an older one").unwrap();
            assert!(Memory::open(plant(folder.path(), YAML)).lessons.of("a").is_empty(), "{n}");
            assert!(!path.exists(), "{n}");
            assert_eq!(fs::read_to_string(folder.path().join("learned.json.set-aside-2")).unwrap(), bad);
        }
    }

    #[test]
    fn fields_of_later_times_are_passed_over_and_devices_that_are_gone_too() {
        let folder = tempfile::tempdir().unwrap();
        let text = r#"{"version": 1, "mood": "fine", "devices": [
            {"line": "hall", "unit_id": 9, "device": "gone", "profile": "x/y", "refused": {"coil": [[1, 1, 2]]}},
            {"line": "hall", "unit_id": 1, "device": "a", "profile": null, "since": 7, "refused": {"holding": [[9, 1, 2]]}}
        ]}"#;
        fs::write(folder.path().join(FILE), text).unwrap();
        let memory = Memory::open(plant(folder.path(), YAML));
        assert_eq!(memory.lessons.of("a").named(), ["holding 9"]);
        assert!(memory.lessons.of("gone").is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_disk_that_cannot_be_written_is_no_reason_to_stop_and_is_tried_again() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state");
        let kept = Kept::start(&state, YAML);
        note(&kept.lessons, "a", lesson(&[(9, 1)], 10));
        assert!(!kept.writes_within(Duration::from_secs(60)).await, "there is no such folder");
        fs::create_dir(&state).unwrap();
        assert!(kept.writes_within(Duration::from_secs(31 * 60)).await);
        kept.stopped().await;
    }

    #[test]
    fn an_unknown_device_is_answered_with_a_name_like_it() {
        let folder = tempfile::tempdir().unwrap();
        let plant = plant(folder.path(), &YAML.replace("name: a", "name: chiller"));
        let lessons = Lessons::default();
        note(&lessons, "chiller", lesson(&[(9, 1)], 10));
        let forget = forget(lessons.clone(), plant);
        let ask = |which: &Which| forget.wish(which);
        assert_eq!(ask(&Which::Device("chillr".into())), Err(Some("chiller".into())));
        assert_eq!(ask(&Which::Device("pump".into())), Err(None));
        let known = Forgotten { device: "chiller".into(), holes: vec!["holding 9".into()] };
        assert_eq!(ask(&Which::Device("chiller".into())), Ok(vec![known.clone()]));
        let other = Forgotten { device: "b".into(), holes: vec![] };
        assert_eq!(ask(&Which::All), Ok(vec![known, other]));
        assert_eq!(lessons.take_wishes(|_| true).len(), 2);
    }
}
