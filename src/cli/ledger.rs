//! `trunkline ledger [POINT]`: what became of each point's readings. Each is counted once, so that a person can add them up.

use std::path::PathBuf;

use serde::Deserialize;

use crate::cli::table::{Align, render, thousands};
use crate::cli::{Exit, complain, say};
use crate::control;
use crate::control::Client;
use crate::control::client::ClientError;
use crate::status::{Books, PublishStatus};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Only points with this in their name, e.g. meter-7/ or /voltage
    #[arg(value_name = "POINT", default_value = "")]
    point: String,
    /// The gateway's control socket
    #[arg(long, value_name = "FILE")]
    socket: Option<PathBuf>,
    /// For programs: one JSON document
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Arguments) -> Exit {
    let path = args.socket.clone().unwrap_or_else(control::ask_path);
    match ask(&path) {
        Ok(mut books) => {
            books.points.retain(|p| p.point.contains(&args.point));
            say(&if args.json { serde_json::to_string_pretty(&books).unwrap_or_default() } else { table(&books) });
            Exit::Well
        }
        Err(error) => {
            complain(&format!("trunkline ledger: {error}"));
            Exit::Failed
        }
    }
}

fn ask(path: &std::path::Path) -> Result<Books, ClientError> {
    let value = Client::connect(path)?.call("ledger", serde_json::Value::Null)?;
    Books::deserialize(value).map_err(|e| ClientError::Garbled(format!("{e}; is the daemon of another version?")))
}

fn table(books: &Books) -> String {
    let head = [
        ("POINT", Align::Left),
        ("POLLED", Align::Right),
        ("= SUPPRESSED", Align::Right),
        ("+ PUBLISHED", Align::Right),
        ("+ FAILED", Align::Right),
        ("+ HELD", Align::Right),
        ("TOLD", Align::Right),
        ("ADDS UP", Align::Left),
    ];
    let row = |name: &str, a: &PublishStatus| {
        let counts = [a.polled, a.suppressed, a.published, a.failed, a.held, a.told].map(thousands);
        let verdict = match a.unaccounted() {
            0 => "yes".to_owned(),
            n if n > 0 => format!("NO: {n} unknown"),
            n => format!("NO: {} twice", -n),
        };
        std::iter::once(name.to_owned()).chain(counts).chain([verdict]).collect::<Vec<_>>()
    };
    let rows = books.points.iter().map(|p| row(&p.point, &p.account));
    let rows: Vec<_> = rows.chain([row("all points, ever", &books.total)]).collect();
    render(&head, &rows).trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::PointAccount;

    #[test]
    fn a_point_whose_sum_does_not_come_out_says_by_how_much() {
        let right = PublishStatus { polled: 1500, suppressed: 1000, published: 400, failed: 100, held: 0, told: 7 };
        let wrong = PublishStatus { polled: 1502, ..right };
        let point = |point: &str, account| PointAccount { point: point.into(), account };
        let books = Books { total: right, points: vec![point("m/a", right), point("m/b", wrong)] };
        let text = table(&books);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[1].starts_with("m/a") && lines[1].ends_with("yes"), "{text}");
        assert!(lines[2].ends_with("NO: 2 unknown"), "{text}");
        assert!(lines[3].starts_with("all points, ever   1,500"), "{text}");
    }
}
