//! `trunkline check`: loads by the code that `run` uses and says every problem, or what would run.

use crate::cli::{ConfigFile, Exit, load, say, summary};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    file: ConfigFile,
}

pub(super) fn run(args: &Arguments) -> Exit {
    match load(&args.file) {
        Ok(loaded) => {
            say(&format!("{} is sound. It would run:\n", args.file.config.display()));
            say(summary::of(&loaded.plant).trim_end());
            Exit::Well
        }
        Err(exit) => exit,
    }
}
