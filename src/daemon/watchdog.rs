//! Feeds the service manager's watchdog from work that was really done: a line's poll task, the broker's and the spool's
//! owner each show theirs by writing their status. One that stands still for most of the limit starves the watchdog, and is
//! named in the log and to the service manager before that acts. Which lines there are, a reload may change.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::daemon::Group;
use crate::status::{BrokerStatus, LineStatus, SpoolStatus};
use crate::systemd;
use crate::systemd::Watchdog;

/// The lines, as they are now.
pub(super) type Listed = watch::Receiver<Vec<watch::Receiver<LineStatus>>>;

/// Who has to move.
pub(super) struct Workers {
    /// The lines.
    pub lines: Listed,
    /// The broker's owner.
    pub broker: watch::Receiver<BrokerStatus>,
    /// The spool's owner.
    pub spool: watch::Receiver<SpoolStatus>,
}

/// What the service manager is told.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Word {
    /// All move.
    Fed,
    /// These stand still, and nothing is fed.
    Stuck(Vec<String>),
    /// All move again.
    Well,
}

/// Starts feeding, where the unit has a watchdog.
pub(super) fn start(group: &Group, workers: Workers) {
    let Some(watchdog) = Watchdog::from_env() else { return };
    let stop = group.stop.clone();
    let round = watch_over(workers, watchdog.limit(), move |word| tell(watchdog, &word));
    group.tasks.spawn(async move {
        stop.run_until_cancelled(round).await;
    });
}

/// Looks at all of them, again and again, and says what it sees.
async fn watch_over(workers: Workers, limit: Duration, mut say: impl FnMut(Word)) {
    let mut watched = Watched::new(workers);
    let mut stuck = Vec::new();
    loop {
        // The timer only looks; without movement it does not feed.
        sleep(limit / 8).await;
        // With the unit's two minutes 90 s: a device may be waited for 60 s, the longest timeout there is.
        let now = watched.who_stands_still(limit * 3 / 4);
        if now.is_empty() {
            say(Word::Fed);
        }
        if now != stuck {
            say(if now.is_empty() { Word::Well } else { Word::Stuck(now.clone()) });
            stuck = now;
        }
    }
}

fn tell(watchdog: Watchdog, word: &Word) {
    match word {
        Word::Fed => watchdog.feed(),
        Word::Stuck(who) => {
            let who = format!("{} stands still", who.join(", "));
            tracing::error!(limit = ?watchdog.limit(), "{who}: the watchdog is not fed, the service manager will restart the gateway");
            systemd::trouble(&format!("{who}; the watchdog is not fed"));
        }
        Word::Well => {
            tracing::warn!("what stood still moves again, the watchdog is fed");
            systemd::well();
        }
    }
}

/// All who have to move.
struct Watched {
    listed: Listed,
    lines: Vec<Follow<LineStatus>>,
    broker: Follow<BrokerStatus>,
    spool: Follow<SpoolStatus>,
}

impl Watched {
    fn new(workers: Workers) -> Self {
        let Workers { mut lines, broker, spool } = workers;
        let each = lines.borrow_and_update().iter().cloned().map(Follow::new).collect();
        Self { listed: lines, lines: each, broker: Follow::new(broker), spool: Follow::new(spool) }
    }

    /// A line that is there before and after a reload is not forgiven by it.
    fn list_anew(&mut self) {
        let before = std::mem::take(&mut self.lines);
        let mut before: Vec<_> = before.into_iter().map(Some).collect();
        for line in self.listed.borrow_and_update().iter() {
            let known = before.iter_mut().find(|f| f.as_ref().is_some_and(|f| f.status.same_channel(line)));
            self.lines.push(known.and_then(Option::take).unwrap_or_else(|| Follow::new(line.clone())));
        }
    }

    /// All are looked at each time: a look notes who has moved.
    fn who_stands_still(&mut self, limit: Duration) -> Vec<String> {
        if self.listed.has_changed().unwrap_or(false) {
            self.list_anew();
        }
        let mut still = Vec::new();
        for line in &mut self.lines {
            if line.stands_still(limit) {
                still.push(format!("line {}", line.status.borrow().name));
            }
        }
        if self.broker.stands_still(limit) {
            still.push("the broker".to_owned());
        }
        if self.spool.stands_still(limit) {
            still.push("the spool".to_owned());
        }
        still
    }
}

/// When a status was last seen to have been written.
struct Follow<T> {
    status: watch::Receiver<T>,
    moment: Instant,
}

impl<T> Follow<T> {
    fn new(mut status: watch::Receiver<T>) -> Self {
        status.mark_unchanged();
        Self { status, moment: Instant::now() }
    }

    fn stands_still(&mut self, limit: Duration) -> bool {
        if self.status.has_changed().unwrap_or(false) {
            self.status.mark_unchanged();
            self.moment = Instant::now();
        }
        self.moment.elapsed() >= limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::path::Path;

    use futures_util::future::join_all;
    use tokio::sync::mpsc;
    use tokio::time::timeout;
    use tokio_util::sync::CancellationToken;

    use crate::bus::fake;
    use crate::bus::wire;
    use crate::bus::wire::Pace;
    use crate::bus::{Bus, BusError, Data, ReadRequest};
    use crate::config;
    use crate::config::plant::Plant;
    use crate::point::AddressRange;
    use crate::point::Table;
    use crate::point::UnitId;
    use crate::poll;
    use crate::poll::learned::Lessons;

    const LIMIT: Duration = Duration::from_secs(8);
    const EVER: Duration = Duration::from_secs(1 << 31);

    /// One device, asked each second.
    fn plant(name: &str, line: &str) -> Plant {
        let text = format!(
            "gateway: g\nlines: {{{name}: {{{line}}}}}\n\
             devices: [{{name: m, line: {name}, unit_id: 1, every: 1s, points: {{p: {{holding: 0}}}}}}]\n"
        );
        config::load_text("t.yaml", &text, Path::new("")).unwrap_or_else(|r| panic!("{r}")).plant
    }

    /// Polls a line of one device whose answers come from `answer`, until the runtime ends.
    fn polled(name: &str, mut answer: impl FnMut() -> Duration + Send + 'static) -> watch::Receiver<LineStatus> {
        let bus = fake::bus(move |_| (answer(), Ok::<Data, BusError>(Data::Registers(vec![1]))));
        polled_on(&plant(name, "tcp: '127.0.0.1:1'"), bus)
    }

    fn polled_on(plant: &Plant, bus: Bus) -> watch::Receiver<LineStatus> {
        let (samples, mut taken) = mpsc::channel(4);
        let (events, mut told) = mpsc::channel(4);
        let parts = poll::Parts {
            line: plant.lines[0].clone(),
            devices: plant.devices.clone(),
            points: plant.points.clone(),
            lessons: Lessons::default(),
        };
        let (status, task) = poll::new(parts, bus, samples, events);
        tokio::spawn(task.run(CancellationToken::new()));
        tokio::spawn(async move { while taken.recv().await.is_some() {} });
        tokio::spawn(async move { while told.recv().await.is_some() {} });
        status
    }

    /// An owner that writes its status each second, for so many seconds.
    fn owner<T: Default + Clone + Send + Sync + 'static>(rounds: usize) -> watch::Receiver<T> {
        let (status, seen) = watch::channel(T::default());
        tokio::spawn(async move {
            for _ in 0..rounds {
                sleep(Duration::from_secs(1)).await;
                status.send_modify(|_| {});
            }
            sleep(EVER).await;
        });
        seen
    }

    struct Scene {
        words: mpsc::Receiver<Word>,
        listed: watch::Sender<Vec<watch::Receiver<LineStatus>>>,
    }

    fn scene(lines: Vec<watch::Receiver<LineStatus>>, broker_rounds: usize) -> Scene {
        scene_within(LIMIT, lines, broker_rounds)
    }

    fn scene_within(limit: Duration, lines: Vec<watch::Receiver<LineStatus>>, broker_rounds: usize) -> Scene {
        let listed = watch::Sender::new(lines);
        let (say, words) = mpsc::channel(4096);
        let workers = Workers { lines: listed.subscribe(), broker: owner(broker_rounds), spool: owner(usize::MAX) };
        tokio::spawn(watch_over(workers, limit, move |word| say.try_send(word).unwrap()));
        Scene { words, listed }
    }

    impl Scene {
        /// The next word that is not `Fed`, and how often it was fed before.
        async fn until_not_fed(&mut self) -> (usize, Word) {
            let mut fed = 0;
            loop {
                match self.words.recv().await.unwrap() {
                    Word::Fed => fed += 1,
                    word => return (fed, word),
                }
            }
        }
    }

    fn quick() -> Duration {
        Duration::from_millis(20)
    }

    #[tokio::test(start_paused = true)]
    async fn while_all_work_the_watchdog_is_fed_well_within_its_limit() {
        let mut scene = scene(vec![polled("hall", quick), polled("yard", quick)], usize::MAX);
        for _ in 0..100 {
            assert_eq!(timeout(LIMIT / 2, scene.words.recv()).await.unwrap(), Some(Word::Fed));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_poller_that_waits_for_ever_starves_the_watchdog_and_is_named() {
        let mut left = 10;
        let stuck = move || {
            left -= 1;
            if left > 0 { quick() } else { EVER }
        };
        let mut scene = scene(vec![polled("hall", quick), polled("yard", stuck)], usize::MAX);
        let (fed, word) = scene.until_not_fed().await;
        assert!(fed >= 9, "fed {fed} times in nine seconds and the six after them");
        assert_eq!(word, Word::Stuck(vec!["line yard".to_owned()]));
        assert!(timeout(LIMIT * 20, scene.words.recv()).await.is_err(), "neither fed nor said again");
        // The same line is in the plant after a reload, and is as stuck as before.
        scene.listed.send_modify(|lines| lines.reverse());
        assert!(timeout(LIMIT * 20, scene.words.recv()).await.is_err(), "a reload is no food");
    }

    #[tokio::test(start_paused = true)]
    async fn a_poller_that_comes_back_feeds_it_again() {
        let mut asked = 0;
        let slow_once = move || {
            asked += 1;
            if asked == 5 { LIMIT } else { quick() }
        };
        let mut scene = scene(vec![polled("yard", slow_once)], usize::MAX);
        assert_eq!(scene.until_not_fed().await.1, Word::Stuck(vec!["line yard".to_owned()]));
        assert_eq!(scene.until_not_fed().await, (1, Word::Well));
        assert_eq!(scene.words.recv().await, Some(Word::Fed));
    }

    /// The longest timeout there is, and reads that somebody waits for before every poll: the poll waits for ten minutes.
    #[tokio::test(start_paused = true)]
    async fn a_line_that_waits_for_a_silent_device_works_and_feeds_it() {
        let plant = plant("hall", "serial: /dev/ttyS0, baud: 9600, timeout: 60s, retries: 9");
        let line = &plant.lines[0];
        let answer = |unit: u8, _: &[u8]| (unit == 1).then(|| (Duration::from_millis(5), vec![3, 2, 0, 1]));
        let (bus, _wire) = wire::start(line, Pace::slowed(line, 1), answer);
        let status = polled_on(&plant, bus.clone());
        let mut scene = scene_within(Duration::from_secs(120), vec![status.clone()], usize::MAX);
        let silent = ReadRequest {
            unit: UnitId::new(2).unwrap(),
            table: Table::Holding,
            range: AddressRange::new(0, 2).unwrap(),
        };
        let begun = Instant::now();
        let all = join_all((0..3).map(|_| bus.read_next(silent))).await;
        assert!(all.iter().all(Result::is_err) && begun.elapsed() > Duration::from_secs(500), "{:?}", begun.elapsed());
        while let Ok(word) = scene.words.try_recv() {
            assert_eq!(word, Word::Fed);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_stuck_line_that_a_reload_takes_away_starves_nobody_any_more() {
        let mut scene = scene(vec![polled("hall", quick), polled("yard", || EVER)], usize::MAX);
        assert_eq!(scene.until_not_fed().await.1, Word::Stuck(vec!["line yard".to_owned()]));
        scene.listed.send_modify(|lines| drop(lines.pop()));
        assert_eq!(scene.until_not_fed().await, (1, Word::Well));
    }

    #[tokio::test(start_paused = true)]
    async fn an_owner_that_stands_still_starves_it_too() {
        let mut scene = scene(vec![polled("hall", quick)], 10);
        assert_eq!(scene.until_not_fed().await.1, Word::Stuck(vec!["the broker".to_owned()]));
    }
}
