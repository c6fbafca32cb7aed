//! The command line: one file a command, each a function from its arguments to an [`Exit`].
//! Output goes through `writeln!`, because `println!` panics when the reader of a pipe has gone.

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Parser, Subcommand};
use tracing::Level;

mod apply;
mod audit;
mod bench;
mod check;
mod clients;
mod demo;
mod explain;
mod forget;
mod ledger;
mod logging;
mod modbus;
mod passwd;
mod plan;
mod reload;
mod run;
mod schema;
mod spool;
mod status;
mod summary;
mod table;
mod topics;
mod trace;
mod version;

/// How a command ended; the codes of `sysexits.h` where there is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Done.
    Well,
    /// It did not work; the reason was said.
    Failed,
    /// What was asked about is down. Of `status` alone, where 1 says that it is degraded.
    Down,
    /// The arguments are wrong.
    Usage,
    /// The configuration is wrong.
    Configuration,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Well => 0,
            Exit::Failed => 1,
            Exit::Down => 2,
            Exit::Usage => 64,
            Exit::Configuration => 78,
        })
    }
}

/// Polls Modbus devices, publishes through its own MQTT broker, forwards upstream without losing a value.
#[derive(Debug, Parser)]
#[command(name = "trunkline", version, arg_required_else_help = true, max_term_width = 100)]
struct Arguments {
    /// What is logged: error, warn, info, debug, trace, or per module (`info,trunkline::bus=trace`)
    #[arg(long, env = "TRUNKLINE_LOG", value_name = "LEVEL", default_value = "info")]
    log: logging::Filter,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the gateway
    Run(Logging<run::Arguments>),
    /// Check a configuration and say what would run
    Check(check::Arguments),
    /// Say what each line will carry: requests, load, and how old values get
    Plan(plan::Arguments),
    /// Say which rule sends a topic where under which name, or why nowhere
    Explain(explain::Arguments),
    /// Show the whole thing at work with simulated devices and a stand-in cloud
    Demo(Logging<demo::Arguments>),
    /// Ask the running gateway how it stands; ends with 0 when it is well, 1 when it is degraded, 2 when it is down
    Status(status::Arguments),
    /// Let the running gateway read its configuration anew
    Reload(reload::Arguments),
    /// Let the running gateway try another configuration, and go back by itself unless it is confirmed
    Apply(apply::Arguments),
    /// Keep the configuration that was applied
    Confirm(apply::Confirm),
    /// Go back to the configuration before the one that was applied
    Revert(apply::Socket),
    /// Show who is connected to the embedded broker, one client closely, or end a connection
    Clients(clients::Arguments),
    /// Show topics of the embedded broker with their last value
    Topics(topics::Arguments),
    /// Ask a device again for what it has refused so far
    Forget(forget::Arguments),
    /// Show what became of each point's readings: suppressed, published, failed
    Ledger(ledger::Arguments),
    /// Show who wrote what to which machine, and what came of it
    Audit(audit::Arguments),
    /// Show, export or clear what waits for the cloud
    Spool(spool::Arguments),
    /// Show what passes, or has passed, on a line of the running gateway
    Trace(trace::Arguments),
    /// Read, write or identify whatever hangs on a line of the running gateway
    Modbus(modbus::Arguments),
    /// Measure this machine against what is physically possible
    Bench(bench::Arguments),
    /// Set the password of a user of the embedded broker
    Passwd(passwd::Arguments),
    /// Print the JSON Schema of the configuration, for editors
    Schema,
    /// Print the version
    Version,
}

/// A command that logs: its level may follow it. The others have no use for one, and `trace` has a `--log` of its own.
#[derive(Debug, clap::Args)]
struct Logging<T: clap::Args> {
    #[command(flatten)]
    args: T,
    /// What is logged, as before the command
    #[arg(id = "level", long = "log", value_name = "LEVEL")]
    level: Option<logging::Filter>,
}

/// Where the configuration lies unless it is said.
const CONFIG: &str = "/etc/trunkline/gateway.yaml";

/// The configuration file, the same option for every command that reads it.
#[derive(Debug, clap::Args)]
struct ConfigFile {
    /// The configuration
    #[arg(short, long = "config", value_name = "FILE", default_value = CONFIG)]
    config: PathBuf,
}

/// Runs the command that `args` name.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let parsed = match Arguments::try_parse_from(args) {
        Ok(parsed) => parsed,
        Err(error) => return refused(&error).into(),
    };
    let log = parsed.log;
    let exit = match parsed.command {
        Command::Run(run) => run::run(&run.args, &run.level.unwrap_or(log)),
        Command::Check(args) => check::run(&args),
        Command::Plan(args) => plan::run(&args),
        Command::Explain(args) => explain::run(&args),
        Command::Demo(demo) => demo::run(&demo.args, &demo.level.unwrap_or(log)),
        Command::Status(args) => status::run(&args),
        Command::Reload(args) => reload::run(&args),
        Command::Apply(args) => apply::run(&args),
        Command::Confirm(args) => apply::confirm(&args),
        Command::Revert(args) => apply::revert(&args),
        Command::Clients(args) => clients::run(&args),
        Command::Topics(args) => topics::run(&args),
        Command::Forget(args) => forget::run(&args),
        Command::Ledger(args) => ledger::run(&args),
        Command::Audit(args) => audit::run(&args),
        Command::Spool(args) => spool::run(&args),
        Command::Trace(args) => trace::run(&args),
        Command::Modbus(args) => modbus::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Passwd(args) => passwd::run(&args),
        Command::Schema => schema::run(),
        Command::Version => version::run(),
    };
    exit.into()
}

/// Help and version are answers, everything else is a mistake in the arguments.
fn refused(error: &clap::Error) -> Exit {
    let _ = error.print();
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Exit::Well,
        _ => Exit::Usage,
    }
}

/// Prints to standard output; a reader that has gone is no failure.
fn say(text: &str) {
    let _ = writeln!(io::stdout().lock(), "{text}");
}

/// Prints to standard error: why it did not work.
fn complain(text: &str) {
    logging::complain(Level::ERROR, text);
}

/// Prints to standard error: what is done all the same.
fn caution(text: &str) {
    logging::complain(Level::WARN, text);
}

/// Loads the configuration or says every problem it has. Warnings are said either way.
fn load(file: &ConfigFile) -> Result<crate::config::Loaded, Exit> {
    match crate::config::load(&file.config) {
        Ok(loaded) => {
            if !loaded.warnings.is_empty() {
                caution(&loaded.warnings.to_string());
            }
            Ok(loaded)
        }
        Err(report) => {
            complain(&report.to_string());
            Err(Exit::Configuration)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;
    use std::time::Duration;

    fn parse(line: &str) -> Result<Arguments, clap::Error> {
        Arguments::try_parse_from(line.split(' '))
    }

    #[test]
    fn the_definition_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn the_demo_takes_its_options() {
        let Command::Demo(demo) = parse("trunkline demo --steady --for 75s --cloud-port 2884").unwrap().command else {
            panic!("another command");
        };
        let demo = demo.args;
        assert!(demo.steady);
        assert_eq!((demo.duration, demo.broker_port, demo.cloud_port), (Some(Duration::from_secs(75)), 1883, 2884));
    }

    #[test]
    fn wrong_arguments_are_usage_and_help_is_not() {
        for line in ["trunkline", "trunkline dance", "trunkline demo --for soon", "trunkline --log loud version"] {
            assert_eq!(refused(&parse(line).unwrap_err()), Exit::Usage, "{line}");
        }
        assert_eq!(refused(&parse("trunkline run --help").unwrap_err()), Exit::Well);
    }

    #[test]
    fn one_device_or_all_are_forgotten_not_both_nor_none() {
        assert!(parse("trunkline forget meter-1").is_ok() && parse("trunkline forget --all").is_ok());
        assert!(parse("trunkline forget").is_err() && parse("trunkline forget meter-1 --all").is_err());
    }

    #[test]
    fn a_configuration_on_trial_has_a_time() {
        let Command::Apply(_) = parse("trunkline apply new.yaml --confirm 60s --dry-run").unwrap().command else {
            panic!("another command");
        };
        assert!(parse("trunkline apply").is_err() && parse("trunkline apply a.yaml --confirm 60").is_err());
        assert!(
            parse("trunkline confirm -c g.yaml").is_ok()
                && parse("trunkline confirm").is_ok()
                && parse("trunkline revert --socket s").is_ok()
        );
    }

    #[test]
    fn clients_are_shown_one_or_all_or_sent_away() {
        for line in ["clients", "clients hmi --json", "clients kick hmi", "clients -- kick", "topics a/# --tree"] {
            assert!(parse(&format!("trunkline {line}")).is_ok(), "{line}");
        }
        assert!(parse("trunkline clients kick").is_err() && parse("trunkline topics --tree --json").is_err());
    }

    #[test]
    fn a_level_may_follow_the_command() {
        let Command::Run(run) = parse("trunkline run -c a.yaml --log debug").unwrap().command else {
            panic!("another command");
        };
        assert!(run.level.is_some());
        assert!(parse("trunkline --log debug trace hall --log frame").is_ok(), "there it is the line's");
    }
}
