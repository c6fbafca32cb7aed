//! `trunkline demo`: the main job, shown.

use std::io::IsTerminal;
use std::time::Duration;

use tokio::runtime::Builder;

use crate::cli::logging::{self, Filter};
use crate::cli::{Exit, complain};
use crate::demo;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Leave the upstream up (else it is cut for ten seconds every minute)
    #[arg(long)]
    pub steady: bool,
    /// End by itself after this long, e.g. 75s or 5m
    #[arg(long = "for", value_name = "DURATION", value_parser = duration)]
    pub duration: Option<Duration>,
    /// Port of the gateway's broker on 127.0.0.1
    #[arg(long, value_name = "PORT", default_value_t = 1883)]
    pub broker_port: u16,
    /// Port of the stand-in cloud on 127.0.0.1
    #[arg(long, value_name = "PORT", default_value_t = 1884)]
    pub cloud_port: u16,
}

pub(super) fn run(args: &Arguments, log: &Filter) -> Exit {
    // Log lines would tear the picture; without a terminal they belong beside it.
    if !(std::io::stdout().is_terminal() && std::io::stderr().is_terminal()) {
        let _ = logging::start(log);
    }
    let settings = demo::Settings {
        steady: args.steady,
        duration: args.duration,
        broker_port: args.broker_port,
        cloud_port: args.cloud_port,
    };
    let runtime = match Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            complain(&format!("trunkline demo: {error}"));
            return Exit::Failed;
        }
    };
    let ended = runtime.block_on(demo::run(settings));
    runtime.shutdown_background();
    match ended {
        Ok(true) => Exit::Well,
        Ok(false) => Exit::Failed,
        Err(error) => {
            complain(&format!("trunkline demo: {error}"));
            Exit::Failed
        }
    }
}

/// `75s`, `5m`, `1h`: a number and its unit, as in the configuration.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: u64 = digits.parse().map_err(|_| format!("`{text}` is no duration: write 75s, 5m or 1h"))?;
    let seconds = match &text[digits.len()..] {
        "" => return Err(format!("`{text}` has no unit of time: write {text}s, {text}m or {text}h")),
        "s" => 1,
        "m" | "min" => 60,
        "h" => 3600,
        "d" => 86_400,
        other => return Err(format!("`{other}` is no unit of time: write 75s, 5m or 1h")),
    };
    Ok(Duration::from_secs(number.saturating_mul(seconds)))
}
