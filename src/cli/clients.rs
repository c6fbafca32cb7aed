//! `trunkline clients`: who is connected to the embedded broker or has a session there, one client closely, and a client sent
//! away.

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::broker::view::{Away, Clients, Portrait};
use crate::cli::table::{Align, bytes, render, seconds, thousands};
use crate::cli::{Exit, complain, say};
use crate::control;
use crate::control::Client;
use crate::control::client::ClientError;
use crate::status::ClientStatus;

/// A session that is kept for ever.
const FOR_EVER: u32 = u32::MAX;

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct Arguments {
    #[command(subcommand)]
    what: Option<What>,
    #[command(flatten)]
    show: Show,
}

#[derive(Debug, Subcommand)]
enum What {
    /// End a client's connection; its session stays, and most clients come back at once
    Kick(Kick),
}

#[derive(Debug, Args)]
struct Show {
    /// Only this client, with its subscriptions
    #[arg(value_name = "NAME")]
    client: Option<String>,
    /// The gateway's control socket
    #[arg(long, value_name = "FILE")]
    socket: Option<PathBuf>,
    /// For programs: one JSON document
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct Kick {
    /// Its client id
    #[arg(value_name = "NAME")]
    client: String,
    /// The gateway's control socket
    #[arg(long, value_name = "FILE")]
    socket: Option<PathBuf>,
}

pub(super) fn run(args: &Arguments) -> Exit {
    let said = match &args.what {
        Some(What::Kick(kick)) => sent_away(kick),
        None => shown(&args.show),
    };
    match said {
        Ok(text) => {
            say(text.trim_end());
            Exit::Well
        }
        Err(error) => {
            complain(&format!("trunkline clients: {error}"));
            Exit::Failed
        }
    }
}

fn ask(socket: Option<&PathBuf>, method: &str, client: Option<&str>) -> Result<Value, ClientError> {
    let path = socket.cloned().unwrap_or_else(control::ask_path);
    let params = client.map_or(Value::Null, |client| json!({ "client": client }));
    Client::connect(&path)?.call(method, params)
}

fn sent_away(args: &Kick) -> Result<String, ClientError> {
    ask(args.socket.as_ref(), "clients.kick", Some(&args.client))?;
    Ok(format!("{} was told and its connection ended", args.client))
}

fn shown(args: &Show) -> Result<String, ClientError> {
    let value = ask(args.socket.as_ref(), "clients", args.client.as_deref())?;
    if args.json {
        return Ok(serde_json::to_string_pretty(&value).unwrap_or_default());
    }
    match args.client {
        Some(_) => Ok(portrait(&read(value)?)),
        None => Ok(everybody(&read(value)?)),
    }
}

fn read<T: DeserializeOwned>(value: Value) -> Result<T, ClientError> {
    serde_json::from_value(value).map_err(|e| ClientError::Garbled(format!("{e}; is the daemon of another version?")))
}

fn everybody(clients: &Clients) -> String {
    let mut out = match clients.connected.is_empty() {
        true => "nobody is connected\n".to_owned(),
        false => connected(&clients.connected),
    };
    if !clients.away.is_empty() {
        let _ = write!(out, "\n{}", away(&clients.away));
    }
    out
}

fn connected(clients: &[ClientStatus]) -> String {
    let head = [
        ("CLIENT", Align::Left),
        ("ADDRESS", Align::Left),
        ("MQTT", Align::Left),
        ("USER", Align::Left),
        ("SINCE", Align::Right),
        ("KEEP-ALIVE", Align::Right),
        ("SESSION", Align::Left),
        ("SUBS", Align::Right),
        ("QUEUED", Align::Right),
        ("IN FLIGHT", Align::Right),
        ("MSG/S IN", Align::Right),
        ("OUT", Align::Right),
        ("B/S IN", Align::Right),
        ("OUT", Align::Right),
    ];
    let rows = clients.iter().map(|c| {
        vec![
            c.id.clone(),
            c.address.clone(),
            c.version.clone(),
            user(c.user.as_deref()),
            seconds(c.connected_s),
            keep_alive(c),
            session(c),
            c.subscriptions.to_string(),
            c.queued.to_string(),
            c.in_flight.to_string(),
            rate(c.rates.messages_in),
            rate(c.rates.messages_out),
            rate(c.rates.bytes_in),
            rate(c.rates.bytes_out),
        ]
    });
    render(&head, &rows.collect::<Vec<_>>())
}

fn away(clients: &[Away]) -> String {
    let head = [
        ("AWAY", Align::Left),
        ("USER", Align::Left),
        ("FOR", Align::Right),
        ("KEPT", Align::Right),
        ("SUBS", Align::Right),
        ("QUEUED", Align::Right),
        ("BYTES", Align::Right),
    ];
    let rows = clients.iter().map(|c| {
        vec![
            c.id.clone(),
            user(c.user.as_deref()),
            seconds(c.away_s),
            expiry(c.session_expiry_s),
            c.subscriptions.to_string(),
            thousands(c.queued as u64),
            bytes(c.queued_bytes as u64),
        ]
    });
    render(&head, &rows.collect::<Vec<_>>())
}

fn portrait(client: &Portrait) -> String {
    let mut out = String::new();
    if let Some(c) = &client.connected {
        out.push_str(&connected(std::slice::from_ref(c)));
    }
    if let Some(c) = &client.away {
        out.push_str(&away(std::slice::from_ref(c)));
    }
    let waiting = bytes(client.queued_bytes as u64);
    let will = client.will.as_deref().unwrap_or("none");
    let _ = writeln!(out, "\nwaiting and in flight: {waiting} · last will: {will}\n");
    if client.subscriptions.is_empty() {
        out.push_str("no subscriptions\n");
        return out;
    }
    let head = [("SUBSCRIPTION", Align::Left), ("QOS", Align::Right), ("IDENTIFIER", Align::Right), ("", Align::Left)];
    let rows = client.subscriptions.iter().map(|s| {
        let identifier = s.identifier.map_or_else(|| "–".to_owned(), |n| n.to_string());
        let local = if s.no_local { "no local" } else { "" };
        vec![s.filter.clone(), s.qos.to_string(), identifier, local.to_owned()]
    });
    out.push_str(&render(&head, &rows.collect::<Vec<_>>()));
    if client.left_out > 0 {
        let _ = writeln!(out, "and {} more", thousands(client.left_out as u64));
    }
    out
}

fn user(name: Option<&str>) -> String {
    name.unwrap_or("–").to_owned()
}

fn keep_alive(client: &ClientStatus) -> String {
    match client.keep_alive_s {
        0 => "off".to_owned(),
        s => format!("{s} s"),
    }
}

/// How it began and how long it is kept: `clean, ends with it`.
fn session(client: &ClientStatus) -> String {
    let begin = if client.clean_start { "clean" } else { "resumed" };
    match client.session_expiry_s {
        0 => format!("{begin}, ends with it"),
        s => format!("{begin}, kept {}", expiry(s)),
    }
}

fn expiry(s: u32) -> String {
    match s {
        FOR_EVER => "for ever".to_owned(),
        s => seconds(s.into()),
    }
}

/// One decimal below ten, none above, nothing for nothing.
fn rate(per_second: f64) -> String {
    match per_second {
        0.0 => "–".to_owned(),
        r if r < 10.0 => format!("{r:.1}"),
        r => format!("{r:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::view::Subscribed;
    use crate::status::Rates;

    fn hmi() -> ClientStatus {
        ClientStatus {
            id: "hmi".into(),
            address: "10.0.0.7:4321".into(),
            version: "5".into(),
            keep_alive_s: 60,
            session_expiry_s: FOR_EVER,
            connected_s: 66,
            rates: Rates { messages_in: 0.0, messages_out: 12.34, bytes_in: 0.5, bytes_out: 1234.0 },
            subscriptions: 1,
            ..ClientStatus::default()
        }
    }

    #[test]
    fn those_who_are_there_and_those_who_are_away_have_a_line_each() {
        let away =
            Away { id: "laptop".into(), away_s: 90_000, session_expiry_s: 3600, queued: 1234, ..Away::default() };
        let text = everybody(&Clients { connected: vec![hmi()], away: vec![away] });
        let lines: Vec<&str> = text.lines().collect();
        for want in ["hmi", "10.0.0.7:4321", "1 min 6 s", "60 s", "resumed, kept for ever", " 12 ", " 0.5 ", "1234"] {
            assert!(lines[1].contains(want), "no {want} in\n{text}");
        }
        assert!(lines[4].starts_with("laptop") && lines[4].contains("1 d 1 h") && lines[4].contains("1,234"), "{text}");
        assert!(everybody(&Clients::default()).starts_with("nobody is connected"));
    }

    #[test]
    fn one_client_is_shown_with_its_subscriptions() {
        let subscribed = Subscribed { filter: "plant/#".into(), qos: 1, no_local: true, identifier: Some(7) };
        let subscriptions = vec![subscribed];
        let will = Some("plant/hmi".into());
        let text =
            portrait(&Portrait { connected: Some(hmi()), will, subscriptions, left_out: 2000, ..Portrait::default() });
        for want in ["last will: plant/hmi", "plant/#         1           7  no local", "and 2,000 more"] {
            assert!(text.contains(want), "no {want} in\n{text}");
        }
    }

    #[test]
    fn an_id_with_control_characters_cannot_write_to_the_terminal() {
        let text =
            everybody(&Clients { connected: vec![ClientStatus { id: "\x1b[2Jx".into(), ..hmi() }], away: vec![] });
        assert!(!text.contains('\x1b') && text.contains("\u{FFFD}[2Jx"), "{text:?}");
    }
}
