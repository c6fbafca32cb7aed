//! `trunkline topics [FILTER]`: topics of the embedded broker with their last value, page by page as the gateway gives them.

use std::path::PathBuf;

use serde::Deserialize;
use serde_json::json;

use crate::broker::view::{Topic, Topics};
use crate::cli::table::{Align, render, seconds};
use crate::cli::{Exit, complain, say};
use crate::control;
use crate::control::Client;
use crate::control::client::ClientError;

/// Characters of a value in the table.
const VALUE: usize = 60;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Which topics, as in a subscription, e.g. 'plant-7/+/voltage' or '$SYS/#'
    #[arg(value_name = "FILTER", default_value = "#")]
    filter: String,
    /// At most so many
    #[arg(long, value_name = "N", default_value_t = 1000)]
    limit: usize,
    /// As a tree: what topics have in common is said once
    #[arg(long, conflicts_with = "json")]
    tree: bool,
    /// For programs: one JSON document, payloads up to 4 KiB
    #[arg(long)]
    json: bool,
    /// The gateway's control socket
    #[arg(long, value_name = "FILE")]
    socket: Option<PathBuf>,
}

pub(super) fn run(args: &Arguments) -> Exit {
    match ask(args) {
        Ok(topics) => {
            say(text(args, &topics).trim_end());
            Exit::Well
        }
        Err(error) => {
            complain(&format!("trunkline topics: {error}"));
            Exit::Failed
        }
    }
}

fn ask(args: &Arguments) -> Result<Topics, ClientError> {
    let path = args.socket.clone().unwrap_or_else(control::ask_path);
    let mut client = Client::connect(&path)?;
    let mut all = Topics { topics: Vec::new(), more: true };
    while all.more && all.topics.len() < args.limit {
        let after = all.topics.last().map(|topic| &topic.topic);
        let limit = args.limit - all.topics.len();
        let page = client.call("topics", json!({ "filter": args.filter, "after": after, "limit": limit }))?;
        let page = Topics::deserialize(page)
            .map_err(|e| ClientError::Garbled(format!("{e}; is the daemon of another version?")))?;
        all.topics.extend(page.topics);
        all.more = page.more;
    }
    Ok(all)
}

fn text(args: &Arguments, topics: &Topics) -> String {
    if args.json {
        return serde_json::to_string_pretty(topics).unwrap_or_default();
    }
    if topics.topics.is_empty() {
        return format!("no topic that matches {} has a kept value", args.filter);
    }
    let mut out = if args.tree { tree(&topics.topics) } else { table(&topics.topics) };
    if topics.more {
        out.push_str(&format!("and more: this is the first {}; see --limit\n", topics.topics.len()));
    }
    out
}

fn table(topics: &[Topic]) -> String {
    let rows = topics.iter().map(|topic| row(topic.topic.clone(), Some(topic)));
    draw(&rows.collect::<Vec<_>>())
}

/// Topics come in the tree's order, so that what they have in common with the one before need not be said again.
fn tree(topics: &[Topic]) -> String {
    let mut rows = Vec::new();
    let mut above: Vec<&str> = Vec::new();
    for topic in topics {
        let levels: Vec<&str> = topic.topic.split('/').collect();
        let same = levels.iter().zip(&above).take_while(|(a, b)| a == b).count();
        for (depth, level) in levels.iter().enumerate().skip(same) {
            let value = (depth + 1 == levels.len()).then_some(topic);
            rows.push(row(format!("{}{level}", "  ".repeat(depth)), value));
        }
        above = levels;
    }
    draw(&rows)
}

fn row(name: String, topic: Option<&Topic>) -> Vec<String> {
    let Some(topic) = topic else { return vec![name] };
    vec![name, value(topic), topic.qos.to_string(), seconds(topic.age_s)]
}

fn draw(rows: &[Vec<String>]) -> String {
    render(&[("TOPIC", Align::Left), ("VALUE", Align::Left), ("QOS", Align::Right), ("AGE", Align::Right)], rows)
}

/// On one line, cut where it is long.
fn value(topic: &Topic) -> String {
    let text = match (&topic.payload, &topic.payload_hex) {
        (Some(text), _) => text.replace(['\n', '\r', '\t'], " "),
        (None, hex) => format!("0x{}", hex.as_deref().unwrap_or_default()),
    };
    if text.chars().count() <= VALUE {
        return text;
    }
    let shown: String = text.chars().take(VALUE).collect();
    format!("{shown}… ({} bytes)", topic.bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topic(name: &str, payload: &str) -> Topic {
        let (bytes, payload) = (payload.len(), Some(payload.to_owned()));
        Topic { topic: name.to_owned(), payload, bytes, qos: 1, age_s: 5, ..Topic::default() }
    }

    #[test]
    fn each_topic_has_a_line_with_its_value() {
        let hex = Topic { payload: None, payload_hex: Some("ff00".into()), ..topic("b", "") };
        let text = table(&[topic("a/b", "x\ny"), topic("a/long", &"z".repeat(100)), hex]);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[1].starts_with("a/b     x y") && lines[1].ends_with("  1  5 s"), "{text}");
        assert!(lines[2].contains(&format!("{}… (100 bytes)", "z".repeat(60))), "{text}");
        assert!(lines[3].contains("0xff00"), "{text}");
    }

    #[test]
    fn the_tree_says_once_what_topics_have_in_common() {
        let text = tree(&[topic("a", "0"), topic("a/b/c", "1"), topic("a/b/d", "2"), topic("e/b/c", "3")]);
        let lines: Vec<_> = text.lines().skip(1).map(|l| l.strip_suffix("1  5 s").unwrap_or(l).trim_end()).collect();
        assert_eq!(lines, ["a      0", "  b", "    c  1", "    d  2", "e", "  b", "    c  3"]);
    }
}
