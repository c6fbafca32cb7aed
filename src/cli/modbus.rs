//! `trunkline modbus LINE UNIT …`: reads, writes and identifies whatever hangs on a line of the running gateway, for whoever stands
//! in front of the cabinet. The gateway asks, between two of its own questions; only root and its group may.

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::cli::{Exit, complain, say};
use crate::control;
use crate::control::Client;
use crate::control::client::ClientError;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The line's name in the configuration
    line: String,
    /// The device's address on it; 0, in a write, is all of them
    unit: u8,
    #[command(subcommand)]
    what: What,
    /// The gateway's control socket
    #[arg(long, value_name = "FILE", global = true)]
    socket: Option<PathBuf>,
    /// For programs: the answer as JSON
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Read: `read holding 0 10`
    Read {
        #[arg(value_enum)]
        table: Table,
        /// Zero-based, decimal or 0x hex
        #[arg(value_parser = number)]
        address: u16,
        /// How many
        #[arg(default_value = "1", value_parser = number)]
        count: u16,
    },
    /// Write: `write holding 5 7 8`, `write coil 3 on`
    Write {
        #[arg(value_enum)]
        table: Writable,
        /// Zero-based, decimal or 0x hex
        #[arg(value_parser = number)]
        address: u16,
        /// Numbers (decimal, 0x hex, negative), or on and off
        #[arg(required = true, allow_negative_numbers = true)]
        values: Vec<String>,
        /// By the function for many (15, 16) also where it is one
        #[arg(long)]
        many: bool,
    },
    /// Ask for vendor, product code and revision (function 43/14)
    Identify {
        /// Everything it has to say
        #[arg(long)]
        all: bool,
    },
    /// Any request, as it stands on {gateway}/{line}/$modbus: `raw '{"function": 22, "address": 5, "and": 65520, "or": 3}'`
    Raw {
        /// JSON, without `unit`
        request: String,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Table {
    Coil,
    Discrete,
    Input,
    Holding,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Writable {
    Coil,
    Holding,
}

pub(super) fn run(args: &Arguments) -> Exit {
    let request = match request(args) {
        Ok(request) => request,
        Err(why) => {
            complain(&format!("trunkline modbus: {why}"));
            return Exit::Usage;
        }
    };
    match ask(args, &request) {
        Ok(answer) => {
            let is_well = answer["result"] != "failed";
            say(&if args.json { answer.to_string() } else { text(args, &request, &answer) });
            if is_well { Exit::Well } else { Exit::Failed }
        }
        Err(error) => {
            complain(&format!("trunkline modbus: {error}"));
            Exit::Failed
        }
    }
}

fn ask(args: &Arguments, request: &Value) -> Result<Value, ClientError> {
    let path = args.socket.clone().unwrap_or_else(control::ask_path);
    let mut client = Client::connect(&path)?;
    // A slow line tries for longer than a daemon may be silent otherwise, and it does answer.
    client.wait_for_ever()?;
    client.call("modbus", json!({"line": args.line, "request": request}))
}

fn request(args: &Arguments) -> Result<Value, String> {
    let unit = args.unit;
    Ok(match &args.what {
        What::Read { table, address, count } => {
            let function = match table {
                Table::Coil => 1,
                Table::Discrete => 2,
                Table::Holding => 3,
                Table::Input => 4,
            };
            json!({"unit": unit, "function": function, "address": address, "count": count})
        }
        What::Write { table, address, values, many } => {
            let is_one = values.len() == 1 && !many;
            let (function, values) = match table {
                Writable::Coil => (if is_one { 5 } else { 15 }, list(values, coil)?),
                Writable::Holding => (if is_one { 6 } else { 16 }, list(values, word)?),
            };
            json!({"unit": unit, "function": function, "address": address, "values": values})
        }
        What::Identify { all } => {
            json!({"unit": unit, "function": 43, "category": if *all { "extended" } else { "basic" }})
        }
        What::Raw { request } => {
            let mut request: Value =
                serde_json::from_str(request).map_err(|e| format!("`{request}` is no JSON: {e}"))?;
            request.as_object_mut().ok_or("a request is a map")?.insert("unit".to_owned(), json!(unit));
            request
        }
    })
}

fn list(values: &[String], one: fn(&str) -> Option<Value>) -> Result<Vec<Value>, String> {
    values.iter().map(|text| one(text).ok_or_else(|| format!("`{text}` cannot be written there"))).collect()
}

fn coil(text: &str) -> Option<Value> {
    match text {
        "on" | "true" | "1" => Some(json!(true)),
        "off" | "false" | "0" => Some(json!(false)),
        _ => None,
    }
}

fn word(text: &str) -> Option<Value> {
    let number = match text.strip_prefix("0x") {
        Some(hex) => i64::from_str_radix(hex, 16).ok(),
        None => text.parse::<i64>().ok(),
    };
    number.map(|n| json!(n))
}

fn number(text: &str) -> Result<u16, String> {
    let number = match text.strip_prefix("0x") {
        Some(hex) => u16::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    };
    number.ok_or_else(|| "a whole number from 0 to 65535, decimal or 0x hex".to_owned())
}

/// A line a register, with what it is in the three ways in which manuals give it.
fn text(args: &Arguments, request: &Value, answer: &Value) -> String {
    let took = format!("{} ms", answer["duration_ms"]);
    if let Some(reason) = answer["reason"].as_str().filter(|_| answer["result"] == "failed") {
        return format!("unit {} of {}: {reason} ({took})", args.unit, args.line);
    }
    if let Some(objects) = answer["objects"].as_array() {
        return objects.iter().map(object).collect::<Vec<_>>().join("\n");
    }
    let first = request["address"].as_u64().unwrap_or_default();
    let values = answer["values"].as_array().cloned().unwrap_or_default();
    if values.is_empty() {
        let why = answer["reason"].as_str().map(|why| format!(": {why}")).unwrap_or_default();
        return format!("{} ({took}){why}", answer["result"].as_str().unwrap_or_default());
    }
    let lines = (first..).zip(&values).map(|(address, value)| match value.as_u64() {
        Some(word) => format!("{address:>5}  {word:>5}  {:>6}  0x{word:04X}", signed(word)),
        None => format!("{address:>5}  {}", if *value == json!(true) { "on" } else { "off" }),
    });
    lines.collect::<Vec<_>>().join("\n")
}

const fn signed(word: u64) -> i64 {
    let word = (word & 0xFFFF).cast_signed();
    if word >= 0x8000 { word - 0x1_0000 } else { word }
}

fn object(object: &Value) -> String {
    let id = object["id"].to_string();
    let name = object["name"].as_str().map_or_else(|| format!("object {id}"), |name| name.replace('_', " "));
    let value = object["value"].as_str().map(str::to_owned);
    let value = value.or_else(|| Some(format!("{} (no text)", object["bytes"].as_str()?)));
    format!("{name:<16}{}", value.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: Arguments,
    }

    fn args(line: &str) -> Arguments {
        Line::try_parse_from(line.split(' ')).unwrap_or_else(|e| panic!("{e}")).args
    }

    #[test]
    fn what_is_typed_is_the_request_of_the_manual() {
        for (line, want) in [
            ("x hall 5 read holding 0x10 10", json!({"unit": 5, "function": 3, "address": 16, "count": 10})),
            ("x hall 5 read coil 3", json!({"unit": 5, "function": 1, "address": 3, "count": 1})),
            ("x hall 5 write holding 7 -1", json!({"unit": 5, "function": 6, "address": 7, "values": [-1]})),
            ("x hall 5 write holding 7 1 0x2", json!({"unit": 5, "function": 16, "address": 7, "values": [1, 2]})),
            ("x hall 5 write --many holding 7 1", json!({"unit": 5, "function": 16, "address": 7, "values": [1]})),
            ("x hall 5 write coil 3 on", json!({"unit": 5, "function": 5, "address": 3, "values": [true]})),
            ("x hall 0 write coil 3 on off", json!({"unit": 0, "function": 15, "address": 3, "values": [true, false]})),
            ("x hall 5 identify", json!({"unit": 5, "function": 43, "category": "basic"})),
            ("x hall 5 raw {\"function\":43,\"object\":5}", json!({"unit": 5, "function": 43, "object": 5})),
        ] {
            assert_eq!(request(&args(line)).unwrap(), want, "{line}");
        }
        assert!(request(&args("x hall 5 write coil 3 7")).is_err() && request(&args("x hall 5 raw 7")).is_err());
        assert!(Line::try_parse_from("x hall 5 read holding 70000".split(' ')).is_err());
    }

    #[test]
    fn registers_are_shown_in_the_three_ways_in_which_manuals_give_them() {
        let read = args("x hall 5 read holding 100 2");
        let answer = json!({"result": "read", "values": [7, 65535], "duration_ms": 12});
        assert_eq!(
            text(&read, &request(&read).unwrap(), &answer),
            "  100      7       7  0x0007\n  101  65535      -1  0xFFFF"
        );
        let coils = json!({"result": "read", "values": [true, false], "duration_ms": 12});
        assert_eq!(text(&read, &request(&read).unwrap(), &coils), "  100  on\n  101  off");
    }

    #[test]
    fn the_rest_is_said_in_a_line_each() {
        let who = args("x hall 5 identify");
        let objects = json!({"result": "read", "objects": [
            {"id": 0, "name": "vendor", "value": "ACME"}, {"id": 129, "bytes": "00FF"}]});
        assert_eq!(text(&who, &Value::Null, &objects), "vendor          ACME\nobject 129      00FF (no text)");
        let failed = json!({"result": "failed", "reason": "exception 1: illegal function", "duration_ms": 9});
        assert_eq!(text(&who, &Value::Null, &failed), "unit 5 of hall: exception 1: illegal function (9 ms)");
        let written = json!({"result": "written", "duration_ms": 9});
        assert_eq!(text(&who, &Value::Null, &written), "written (9 ms)");
    }
}
