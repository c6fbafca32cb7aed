//! `trunkline check`: loads by the code that `run` uses and says every problem, or what would run.

use crate::cli::{ConfigFile, Exit, complain, load, say, summary};
use crate::config::plant::{Line, Plant, Port};
use crate::config::report::Problem;
use crate::config::{Loaded, Report};
use crate::poll::forecast::{self, USUAL_TURNAROUND, advice};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    file: ConfigFile,
}

pub(super) fn run(args: &Arguments) -> Exit {
    match load(&args.file) {
        Ok(loaded) => {
            let overloaded = overloaded(&loaded);
            if !overloaded.is_empty() {
                complain(overloaded.to_string().trim_end());
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

/// A problem for each trunk of which more is asked than its wire can carry, where the trunk is written.
fn overloaded(loaded: &Loaded) -> Report {
    // How long a TCP device thinks is not known beforehand, and then it is all there is.
    let trunks = loaded.plant.lines.iter().zip(&loaded.line_places);
    let trunks = trunks.filter(|(line, _)| matches!(line.port, Port::Serial(_)));
    Report::of(trunks.filter_map(|(line, place)| too_much(&loaded.plant, line, place)))
}

fn too_much(plant: &Plant, line: &Line, place: &Problem) -> Option<Problem> {
    let load = forecast::load(line, &plant.devices, &plant.points, USUAL_TURNAROUND);
    if load <= 1.0 {
        return None;
    }
    let message = format!(
        "the points of line {} ask for {:.0} % of the time there is, even if every device answers within {} ms",
        line.name,
        load * 100.0,
        USUAL_TURNAROUND.as_millis()
    );
    let proposals = advice::proposals(line, &plant.devices, &plant.points, USUAL_TURNAROUND);
    let proposals: Vec<String> = proposals.iter().map(ToString::to_string).collect();
    Some(Problem { message, help: proposals.join("\n      = or: "), ..place.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(every: &str) -> (Exit, String, tempfile::TempDir) {
        let home = tempfile::tempdir().unwrap();
        let config = home.path().join("gateway.yaml");
        let text = format!(
            "gateway: g\nlines:\n  hall: {{serial: /dev/ttyS9, baud: 9600}}\ndevices:\n  - name: m\n    line: hall\n    \
             unit_id: 1\n    every: {every}\n    points:\n      a: {{holding: 0, type: u16}}\n"
        );
        std::fs::write(&config, text).unwrap();
        let file = ConfigFile { config };
        let said = overloaded(&load(&file).unwrap()).to_string();
        (run(&Arguments { file }), said, home)
    }

    #[test]
    fn more_than_the_wire_can_carry_fails_the_check() {
        assert_eq!(check("1s").0, Exit::Well);
        assert_eq!(check("20ms").0, Exit::Configuration);
    }

    #[test]
    fn the_overloaded_line_is_named_where_it_is_written_with_what_would_help() {
        let (_, said, home) = check("20ms");
        let place = format!("{}/gateway.yaml:3:3: the points of line hall ask for 1", home.path().display());
        assert!(said.starts_with(&place), "{said}");
        assert!(said.contains("\n    3 |   hall: {serial: /dev/ttyS9, baud: 9600}\n"), "{said}");
        assert!(said.contains(" for all points: load 9") && said.contains("= or: 19200 baud, where"), "{said}");
    }
}
