//! The lines and what is remembered and logged of each, as a table.

use std::time::Duration;

use serde::Deserialize;

use crate::bus::trace::Depth;
use crate::bus::trace::Framing;
use crate::cli::table::Align;
use crate::cli::table::bytes;
use crate::cli::table::render;
use crate::cli::table::span;
use crate::cli::table::thousands;

/// How a line stands, as the daemon says it.
#[derive(Debug, Deserialize)]
pub(super) struct Line {
    line: String,
    framing: Framing,
    remembered: Remembered,
    log: Option<Log>,
}

#[derive(Debug, Deserialize)]
struct Remembered {
    events: u64,
    bytes: u64,
}

#[derive(Debug, Deserialize)]
struct Log {
    depth: Depth,
    seconds_left: u64,
    logged: u64,
    left_out: u64,
}

pub(super) fn table(lines: &[Line]) -> String {
    let head = [("LINE", Align::Left), ("FRAMING", Align::Left), ("REMEMBERED", Align::Right), ("LOG", Align::Left)];
    let rows = lines.iter().map(|line| {
        let framing = match line.framing {
            Framing::Rtu => "RTU",
            Framing::Tcp => "Modbus TCP",
        };
        let remembered = format!("{} events, {}", thousands(line.remembered.events), bytes(line.remembered.bytes));
        vec![line.line.clone(), framing.to_owned(), remembered, log(line)]
    });
    render(&head, &rows.collect::<Vec<_>>())
}

pub(super) fn logged(line: &Line) -> String {
    format!("{}: {}", line.line, log(line))
}

fn log(line: &Line) -> String {
    let Some(log) = &line.log else { return "off".to_owned() };
    let left = span(Duration::from_secs(log.seconds_left));
    let left_out = if log.left_out > 0 { format!(", {} left out", thousands(log.left_out)) } else { String::new() };
    format!("{} for {left} more, {} lines logged{left_out}", log.depth, thousands(log.logged))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_table_says_what_is_logged_and_for_how_long_still() {
        let lines = json!([
            {"line": "hall", "framing": "rtu", "remembered": {"events": 2000, "bytes": 65_000},
             "log": {"depth": "frame", "seconds_left": 599, "logged": 7, "left_out": 1200}},
            {"line": "plc", "framing": "tcp", "remembered": {"events": 0, "bytes": 0}, "log": null},
        ]);
        let lines: Vec<Line> = serde_json::from_value(lines).unwrap();
        let wanted = "\
LINE  FRAMING                 REMEMBERED  LOG
hall  RTU         2,000 events, 63.5 KiB  frame for 9 min 59 s more, 7 lines logged, 1,200 left out
plc   Modbus TCP           0 events, 0 B  off
";
        assert_eq!(table(&lines), wanted);
        assert_eq!(logged(&lines[1]), "plc: off");
    }
}
