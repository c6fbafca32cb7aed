//! `trunkline check`: loads by the code that `run` uses and says every problem, or what would run.

use crate::cli::{ConfigFile, Exit, complain, load, say, summary};
use crate::config::plant::{Plant, Port};
use crate::poll::forecast;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    file: ConfigFile,
}

pub(super) fn run(args: &Arguments) -> Exit {
    match load(&args.file) {
        Ok(loaded) => {
            let overloaded = overloaded(&loaded.plant);
            if !overloaded.is_empty() {
                complain(&overloaded.join("\n"));
                complain(&format!("`trunkline plan -c {}` shows what takes how long", args.file.config.display()));
                return Exit::Configuration;
            }
            say(&format!("{} is sound. It would run:\n", args.file.config.display()));
            say(summary::of(&loaded.plant).trim_end());
            let notes = summary::presets(&loaded);
            if !notes.is_empty() {
                say(&format!("\n{}", notes.trim_end()));
            }
            Exit::Well
        }
        Err(exit) => exit,
    }
}

/// A sentence for each trunk of which more is asked than its wire can carry.
fn overloaded(plant: &Plant) -> Vec<String> {
    // How long a TCP device thinks is not known beforehand, and then it is all there is.
    let trunks = plant.lines.iter().filter(|l| matches!(l.port, Port::Serial(_)));
    let loads = trunks.map(|l| (&l.name, forecast::load(l, &plant.devices, &plant.points)));
    let over = loads.filter(|(_, load)| *load > 1.0).map(|(line, load)| {
        format!(
            "line {line}: its points ask for {:.0} % of the time there is, even if every device answers within {} ms; \
             give some of them a longer period, or the line a higher baud rate",
            load * 100.0,
            forecast::USUAL_TURNAROUND.as_millis()
        )
    });
    over.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(every: &str) -> (Exit, tempfile::TempDir) {
        let home = tempfile::tempdir().unwrap();
        let config = home.path().join("gateway.yaml");
        let text = format!(
            "gateway: g\nlines:\n  hall: {{serial: /dev/ttyS9, baud: 9600}}\ndevices:\n  - name: m\n    line: hall\n    \
             unit_id: 1\n    every: {every}\n    points:\n      a: {{holding: 0, type: u16}}\n"
        );
        std::fs::write(&config, text).unwrap();
        (run(&Arguments { file: ConfigFile { config } }), home)
    }

    #[test]
    fn more_than_the_wire_can_carry_fails_the_check() {
        assert_eq!(check("1s").0, Exit::Well);
        assert_eq!(check("20ms").0, Exit::Configuration);
    }
}
