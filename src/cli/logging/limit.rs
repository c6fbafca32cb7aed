//! Keeps a fault that goes on for hours from filling the log: a layer before all that write, which asks [`Repeats`] about each
//! event. Alike are events of one place that are about the same (line, device, upstream, client …) and say the same but for
//! numbers. What somebody asked to see (debug, trace, the log of a line) is not touched; what is said costs no memory.

use std::fmt::{self, Write};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::{DefaultFields, Writer};
use tracing_subscriber::layer::{Context, Layer};

use crate::cli::logging::repeats::{Kind, Must, Repeats, Sum, Verdict};
use crate::command::RAW_LOG;
use crate::daemon::WIRE_LOG;

/// Who an event is about: these are taken letter by letter, everything else without its digits.
const SUBJECTS: &[&str] = &[
    "line", "device", "upstream", "client", "point", "topic", "filter", "task", "unit", "endpoint", "address", "port",
    "path",
];
/// Of the line that stands for those left out.
const SAMPLE_BYTES: usize = 240;
/// Of the sums themselves.
pub(super) const SUMS: &str = "trunkline::repeated";

/// The first line that was left out of a window.
#[derive(Debug, Clone)]
pub(super) struct Sample {
    level: Level,
    text: String,
    line: Option<String>,
    device: Option<String>,
    upstream: Option<String>,
    client: Option<String>,
}

/// What was left out and is not told yet.
#[derive(Debug, Clone)]
pub(in crate::cli) struct LeftOut(Arc<Mutex<Repeats<Sample>>>);

impl LeftOut {
    fn new() -> Self {
        Self(Arc::new(Mutex::new(Repeats::new())))
    }

    /// Held for moments: nothing is written meanwhile.
    fn repeats(&self) -> MutexGuard<'_, Repeats<Sample>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells how many there were where their while is over. For who has nothing else to say.
    pub(in crate::cli) fn tell(&self) {
        let sums = self.repeats().ended(Instant::now());
        sums.iter().for_each(say);
    }

    /// Tells all of it: the log ends.
    pub(in crate::cli) fn tell_all(&self) {
        let sums = self.repeats().rest(Instant::now());
        sums.iter().for_each(say);
    }
}

/// The layer; `say` is given what is to be told of those that were left out.
pub(super) struct Limit<Say> {
    left_out: LeftOut,
    say: Say,
}

impl<Say: Fn(&Sum<Sample>)> Limit<Say> {
    pub(super) fn new(say: Say) -> Self {
        Self { left_out: LeftOut::new(), say }
    }

    pub(super) fn left_out(&self) -> LeftOut {
        self.left_out.clone()
    }

    fn judge(&self, event: &Event<'_>, now: Instant) -> Verdict {
        let must = if *event.metadata().level() == Level::ERROR { Must::BeSaidOnce } else { Must::Nothing };
        let kind = kind(event);
        let (verdict, sums) = {
            let mut repeats = self.left_out.repeats();
            let mut sums = repeats.ended(now);
            let (verdict, forgotten) = repeats.judge(kind, must, now);
            if verdict == Verdict::LeftOutFirst {
                repeats.remember(kind, Sample::of(event));
            }
            sums.extend(forgotten);
            (verdict, sums)
        };
        sums.iter().for_each(&self.say);
        verdict
    }
}

impl<S: Subscriber, Say: Fn(&Sum<Sample>) + 'static> Layer<S> for Limit<Say> {
    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        let metadata = event.metadata();
        // The log of a line has a limit of its own, and a person who reads it; of raw access every use is told, because who read
        // what stands nowhere else.
        let is_wanted = *metadata.level() > Level::INFO || matches!(metadata.target(), WIRE_LOG | RAW_LOG | SUMS);
        is_wanted || self.judge(event, Instant::now()) == Verdict::Said
    }
}

/// Tells how many were left out, at their level and with what they were about.
pub(super) fn say(sum: &Sum<Sample>) {
    let Sum { left_out, over, sample } = sum;
    let (over, text) = (words(*over), &sample.text);
    let [line, device, upstream, client] =
        [&sample.line, &sample.device, &sample.upstream, &sample.client].map(Option::as_deref);
    macro_rules! say {
        ($level:ident) => {
            tracing::$level!(target: SUMS, line, device, upstream, client, "{left_out} more like this in the last {over}: {text}")
        };
    }
    match sample.level {
        Level::ERROR => say!(error),
        Level::WARN => say!(warn),
        _ => say!(info),
    }
}

/// `60 s`, `10 min`.
fn words(span: Duration) -> String {
    let seconds = span.as_secs();
    if seconds < 120 { format!("{seconds} s") } else { format!("{} min", (seconds + 30) / 60) }
}

fn kind(event: &Event<'_>) -> Kind {
    let mut place = DefaultHasher::new();
    event.metadata().callsite().hash(&mut place);
    let mut line = Letters { hasher: place.clone(), info: *event.metadata().level() == Level::INFO, whole: true };
    event.record(&mut line);
    Kind { line: line.hasher.finish(), place: place.finish() }
}

/// Hashes what an event says as it is written, without keeping it.
struct Letters {
    hasher: DefaultHasher,
    /// What informs may differ by a number alone, like a list of changes.
    info: bool,
    whole: bool,
}

impl Letters {
    fn begin(&mut self, field: &Field) {
        field.name().hash(&mut self.hasher);
        self.whole = SUBJECTS.contains(&field.name()) || (self.info && field.name() == "message");
    }
}

impl Visit for Letters {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.begin(field);
        let _ = self.write_str(value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.begin(field);
        let _ = write!(self, "{value:?}");
    }
}

impl Write for Letters {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.bytes().filter(|byte| self.whole || !byte.is_ascii_digit()).for_each(|byte| self.hasher.write_u8(byte));
        Ok(())
    }
}

impl Sample {
    fn of(event: &Event<'_>) -> Self {
        let (line, device, upstream, client) = (None, None, None, None);
        let mut text = String::new();
        let _ = DefaultFields::new().format_fields(Writer::new(&mut text), event);
        if let Some((cut, _)) = text.char_indices().find(|(at, _)| *at >= SAMPLE_BYTES) {
            text.truncate(cut);
            text.push('…');
        }
        let mut sample = Self { level: *event.metadata().level(), text, line, device, upstream, client };
        event.record(&mut sample);
        sample
    }

    fn subject(&mut self, field: &Field) -> Option<&mut Option<String>> {
        match field.name() {
            "line" => Some(&mut self.line),
            "device" => Some(&mut self.device),
            "upstream" => Some(&mut self.upstream),
            "client" => Some(&mut self.client),
            _ => None,
        }
    }
}

impl Visit for Sample {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if let Some(subject) = self.subject(field) {
            *subject = Some(format!("{value:?}").chars().take(SAMPLE_BYTES).collect());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::sync::Arc;

    use tracing_subscriber::layer::SubscriberExt;

    type Say = fn(&Sum<Sample>);

    /// What was written while `events` ran, and the layer that left out the rest.
    fn logged(events: impl FnOnce()) -> (Vec<String>, Limit<Say>) {
        let written = Arc::new(Mutex::new(Vec::new()));
        let limit = Arc::new(Limit::<Say>::new(|_| {}));
        let subscriber =
            tracing_subscriber::registry().with(Shared(Arc::clone(&limit))).with(Writes(Arc::clone(&written)));
        tracing::subscriber::with_default(subscriber, events);
        let written = written.lock().unwrap().clone();
        (written, Arc::into_inner(limit).unwrap())
    }

    struct Shared(Arc<Limit<Say>>);

    impl<S: Subscriber> Layer<S> for Shared {
        fn event_enabled(&self, event: &Event<'_>, context: Context<'_, S>) -> bool {
            self.0.event_enabled(event, context)
        }
    }

    struct Writes(Arc<Mutex<Vec<String>>>);

    impl<S: Subscriber> Layer<S> for Writes {
        fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
            self.0.lock().unwrap().push(Sample::of(event).text);
        }
    }

    fn offline(device: &str, tries: u32) {
        tracing::warn!(device, tries, "device offline");
    }

    #[test]
    fn the_same_of_one_device_is_said_five_times_whatever_its_numbers_and_another_device_as_well() {
        let (written, limit) = logged(|| {
            (0..100).for_each(|tries| offline("meter-1", tries));
            offline("meter-2", 3);
        });
        assert_eq!(written.len(), 6, "{written:?}");
        assert!(written[5].contains("meter-2"));
        let sums = limit.left_out.repeats().ended(Instant::now() + Duration::from_secs(60));
        let [sum] = &sums[..] else { panic!("{sums:?}") };
        assert_eq!((sum.left_out, sum.sample.device.as_deref()), (95, Some("meter-1")));
        assert_eq!(sum.sample.text, "device offline device=\"meter-1\" tries=5");
    }

    #[test]
    fn an_error_in_other_words_is_said_however_many_there_were_before() {
        let fault = |why: &str| tracing::error!(path = "/var/spool.db", "cannot be written: {why}");
        let (written, _) = logged(|| {
            (0..100).for_each(|n| fault(&format!("disk full at {n}")));
            fault("read-only file system");
        });
        assert_eq!(written.len(), 6, "{written:?}");
        assert!(written[5].contains("read-only"));
    }

    #[test]
    fn a_list_of_changes_and_what_somebody_asked_to_see_are_told_in_full() {
        let (written, _) = logged(|| {
            (0..50).for_each(|n| tracing::info!("  + device meter-{n}"));
            (0..50).for_each(|_| tracing::debug!(line = "hall", "the same"));
            (0..50).for_each(|_| tracing::info!(target: WIRE_LOG, line = "hall", "the same"));
        });
        assert_eq!(written.len(), 150);
    }

    #[test]
    fn clients_with_a_new_port_each_time_are_alike() {
        let (written, _) = logged(|| {
            (0..100).for_each(|port| tracing::info!(peer = %format_args!("10.0.0.5:{port}"), "TLS handshake failed"));
        });
        assert_eq!(written.len(), 5);
    }

    #[test]
    fn a_long_line_stands_for_the_others_cut() {
        let (_, limit) = logged(|| (0..6).for_each(|_| tracing::warn!("{}", "ä".repeat(10_000))));
        let sums = limit.left_out.repeats().ended(Instant::now() + Duration::from_secs(60));
        assert!(sums[0].sample.text.len() < SAMPLE_BYTES + 8 && sums[0].sample.text.ends_with('…'));
    }
}
