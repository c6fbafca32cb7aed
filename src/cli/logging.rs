//! What is logged and how: to standard error, one line an event, with time and colour. Where systemd's journal reads us, to
//! the journal itself, with priority and fields; it adds the time.

mod journal;
mod limit;
mod repeats;

use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::str::FromStr;

use tracing::Level;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::cli::logging::journal::Journal;
use crate::cli::logging::limit::Limit;

pub(super) use crate::cli::logging::limit::LeftOut;

/// `--log`: a level for this program, or levels by module.
#[derive(Debug, Clone)]
pub(super) struct Filter(Targets);

impl FromStr for Filter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(level) = Level::from_str(text) {
            // Libraries speak up from `warn`, and below `debug` only when everything is wanted.
            let others = if level == Level::TRACE { LevelFilter::DEBUG } else { LevelFilter::WARN };
            let others = others.min(LevelFilter::from_level(level));
            return Ok(Self(Targets::new().with_default(others).with_target("trunkline", level)));
        }
        let hint = "error, warn, info, debug or trace, or like `info,trunkline::bus=trace`";
        let targets = Targets::from_str(text).map_err(|_| hint.to_owned())?;
        let bare = text.split(',').filter(|part| !part.contains('='));
        // `Targets` takes an unknown word for a module's name; a mistyped level must not silence the log.
        for part in bare {
            LevelFilter::from_str(part).map_err(|_| hint.to_owned())?;
        }
        // How many were left out of what was asked for is part of it.
        Ok(Self(targets.with_target(limit::SUMS, LevelFilter::INFO)))
    }
}

/// Starts logging. What repeats itself is left out, and told by the next line that is logged, or by whoever asks for it.
pub(super) fn start(filter: &Filter) -> LeftOut {
    let limit = Limit::new(limit::say);
    let left_out = limit.left_out();
    let registry = tracing_subscriber::registry().with(filter.0.clone()).with(limit);
    let layer = tracing_subscriber::fmt::layer().compact().with_target(false);
    // A container may have the journal as its standard error without its socket.
    let _ = match crate::systemd::journal_reads_us().then(|| Journal::at(Path::new(journal::SOCKET))) {
        Some(Ok(journal)) => registry.with(journal).try_init(),
        Some(Err(_)) => {
            let plain = layer.without_time().with_level(false).with_ansi(false).with_writer(journal::ByLevel);
            registry.with(plain).try_init()
        }
        None => registry.with(layer.with_ansi(io::stderr().is_terminal()).with_writer(io::stderr)).try_init(),
    };
    log_panics();
    left_out
}

/// Words of a command for people, on standard error; under the journal they have their priority.
pub(super) fn complain(level: Level, text: &str) {
    let text = format!("{text}\n");
    let _ = if crate::systemd::journal_reads_us() {
        journal::Prefixed(level).write_all(text.as_bytes())
    } else {
        io::stderr().lock().write_all(text.as_bytes())
    };
}

/// A panic is one log line with its place, instead of text between the log's lines.
fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let thread = std::thread::current().name().unwrap_or("unnamed").to_owned();
        let text = panic.payload().downcast_ref::<&str>().copied();
        let what = text.or_else(|| panic.payload().downcast_ref::<String>().map(String::as_str)).unwrap_or("no words");
        tracing::error!(place, thread, "panic: {what}");
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_level_is_ours_and_libraries_stay_quiet() {
        let Filter(targets) = "debug".parse().unwrap();
        assert!(targets.would_enable("trunkline::bus", &Level::DEBUG));
        assert!(!targets.would_enable("rumqttc", &Level::INFO));
    }

    #[test]
    fn modules_may_be_named_and_a_mistyped_level_is_refused() {
        let Filter(targets) = "warn,trunkline::bus=trace".parse().unwrap();
        assert!(targets.would_enable("trunkline::bus::line", &Level::TRACE));
        assert!(!targets.would_enable("trunkline::poll", &Level::INFO));
        assert!(targets.would_enable(limit::SUMS, &Level::INFO), "how many of the bus's lines were left out");
        assert!("loud".parse::<Filter>().is_err());
    }
}
