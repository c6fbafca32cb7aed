//! What is logged and how: to standard error, one line an event. Under journald without times and colours, which it adds.

use std::io::IsTerminal;
use std::str::FromStr;

use tracing::Level;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

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
        Ok(Self(targets))
    }
}

/// Starts logging to standard error.
pub(super) fn start(filter: &Filter) {
    let journal = crate::systemd::journal_reads_us();
    let layer = tracing_subscriber::fmt::layer()
        .compact()
        .with_target(false)
        .with_ansi(!journal && std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    let registry = tracing_subscriber::registry().with(filter.0.clone());
    let _ = if journal { registry.with(layer.without_time()).try_init() } else { registry.with(layer).try_init() };
    log_panics();
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
        assert!("loud".parse::<Filter>().is_err());
    }
}
