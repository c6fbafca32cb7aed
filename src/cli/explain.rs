//! `trunkline explain TOPIC`: which rule sends a topic where under which name, or why it goes nowhere, in both directions; by
//! the code that the bridge, the broker and the checker run. Ends with 1 where it goes nowhere, so that a script can ask.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::net::Ipv4Addr;

use serde_json::Value;
use serde_json::json;

use crate::bridge::mapping;
use crate::bridge::mapping::Explained;
use crate::broker::access::Access;
use crate::broker::access::Grant;
use crate::cli::table::span;
use crate::cli::{ConfigFile, Exit, complain, load, say};
use crate::config::Loaded;
use crate::config::plant::Direction;
use crate::config::plant::Mapping;
use crate::config::plant::Plant;
use crate::config::plant::Point;
use crate::config::plant::RetainRule;
use crate::config::plant::Schedule;
use crate::config::plant::Upstream;
use crate::config::users;
use crate::topic::Qos;
use crate::topic::RAW;
use crate::topic::TopicFilter;
use crate::topic::TopicName;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// A topic, as it is named here
    topic: String,
    /// The topic is one of this upstream's: say what becomes of it here
    #[arg(long, value_name = "UPSTREAM")]
    from: Option<String>,
    #[command(flatten)]
    file: ConfigFile,
    /// For programs: one JSON document
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Arguments) -> Exit {
    let topic = match TopicName::new(args.topic.as_str()) {
        Ok(topic) => topic,
        Err(e) => {
            complain(&format!("`{}` is no topic: {e}", args.topic));
            return Exit::Usage;
        }
    };
    let loaded = match load(&args.file) {
        Ok(loaded) => loaded,
        Err(exit) => return exit,
    };
    let explained = match &args.from {
        None => outward(&loaded, &topic),
        Some(name) => match loaded.plant.upstreams.iter().find(|u| *u.name == **name) {
            Some(upstream) => inward(&loaded, upstream, &topic),
            None => {
                let names: Vec<&str> = loaded.plant.upstreams.iter().map(|u| &*u.name).collect();
                complain(&format!("there is no upstream `{name}`; known: {}", names.join(", ")));
                return Exit::Usage;
            }
        },
    };
    say(&if args.json { format!("{:#}", document(&explained)) } else { text(&explained) });
    if explained.ways.iter().any(|way| way.goes.is_ok()) { Exit::Well } else { Exit::Failed }
}

/// All there is to say.
struct Explanation {
    topic: TopicName,
    /// The upstream it comes from; `None`: it is a topic of this gateway.
    from: Option<String>,
    ways: Vec<Way>,
    /// What the gateway itself has to do with the topic, under its name here.
    own: Option<String>,
    access: Vec<Right>,
}

/// What one upstream does with the topic, or what this gateway does with one that comes.
struct Way {
    upstream: String,
    /// The rule that decides, from one, and its place.
    rule: Option<(usize, String)>,
    /// Where it goes, or why nowhere.
    goes: Result<Goes, String>,
}

struct Goes {
    topic: TopicName,
    qos: Qos,
    retain: Flag,
    /// One of the gateway's own points goes like this; of other messages this is the most.
    exact: bool,
}

/// The retain flag on the other side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flag {
    AsPublished,
    Never,
    Set,
}

impl Flag {
    const fn words(self) -> &'static str {
        match self {
            Self::AsPublished => "retain flag as published",
            Self::Never => "never retained",
            Self::Set => "retained",
        }
    }
}

/// What one user may do with the topic.
struct Right {
    who: String,
    read: bool,
    write: bool,
}

fn outward(loaded: &Loaded, topic: &TopicName) -> Explanation {
    let plant = &loaded.plant;
    let point = plant.points.iter().find(|p| p.series.topic == *topic);
    let ways = plant.upstreams.iter().map(|upstream| {
        let mut way = way(loaded, upstream, (Direction::Send, &upstream.send), topic);
        if let (Ok(goes), Some(point)) = (&mut way.goes, point) {
            goes.exact = true;
            goes.qos = goes.qos.min(point.series.qos);
            let set = point.series.retain && goes.retain == Flag::AsPublished;
            goes.retain = if set { Flag::Set } else { Flag::Never };
        }
        if let (Ok(goes), Some(preset)) = (&way.goes, upstream.preset) {
            let there = goes.topic.as_str();
            let why = preset.own_refusal(topic.as_str(), there).or_else(|| preset.topic_refusal(there));
            if let Some(why) = why {
                way.goes = Err(format!("put aside: {why}"));
            }
        }
        way
    });
    Explanation {
        topic: topic.clone(),
        from: None,
        ways: ways.collect(),
        own: own(plant, topic),
        access: access(plant, topic),
    }
}

fn inward(loaded: &Loaded, upstream: &Upstream, topic: &TopicName) -> Explanation {
    let way = way(loaded, upstream, (Direction::Receive, &upstream.receive), topic);
    let here = way.goes.as_ref().ok().map(|goes| goes.topic.clone());
    let plant = &loaded.plant;
    let own = here.as_ref().and_then(|here| own(plant, here));
    let access = here.map(|here| access(plant, &here)).unwrap_or_default();
    Explanation { topic: topic.clone(), from: Some(upstream.name.to_string()), ways: vec![way], own, access }
}

fn way(loaded: &Loaded, upstream: &Upstream, (direction, rules): (Direction, &[Mapping]), topic: &TopicName) -> Way {
    let placed = |index: usize| {
        let mut places = loaded.rules.iter().filter(|r| r.upstream == upstream.name && r.direction == direction);
        (index + 1, places.find(|r| r.index == index).map(|r| r.place.clone()).unwrap_or_default())
    };
    let (rule, goes) = match mapping::explain(rules, topic) {
        Explained::Goes { rule, topic } if direction == Direction::Receive && !rules[rule].admits(&topic) => {
            (Some(placed(rule)), Err("raw access to a line passes only by a rule that ends in `$modbus`".to_owned()))
        }
        Explained::Goes { rule, topic } => {
            let retain = match rules[rule].retain {
                RetainRule::Keep => Flag::AsPublished,
                RetainRule::Never => Flag::Never,
            };
            (Some(placed(rule)), Ok(Goes { topic, qos: rules[rule].qos, retain, exact: false }))
        }
        Explained::NoRule => {
            let filters: Vec<&str> = rules.iter().map(|rule| rule.filter.as_str()).collect();
            let why = match filters.len() {
                0 => format!("it has no `{direction}` rules"),
                _ => format!("no `{direction}` rule matches: {}", filters.join(", ")),
            };
            (None, Err(why))
        }
        Explained::NoTopic { rule, why } => {
            (Some(placed(rule)), Err(format!("what the rule makes is no topic: {why}")))
        }
    };
    Way { upstream: upstream.name.to_string(), rule, goes }
}

/// What the gateway itself says or does under this topic.
fn own(plant: &Plant, topic: &TopicName) -> Option<String> {
    if let Some(point) = plant.points.iter().find(|p| p.series.topic == *topic) {
        return Some(value_of(plant, point));
    }
    let rest = topic.as_str().strip_prefix(&*plant.gateway)?.strip_prefix('/')?;
    let levels: Vec<&str> = rest.split('/').collect();
    let named = |device: &str, point: &str| {
        let device = plant.devices.iter().find(|d| *d.name == *device)?;
        plant.points_of(device.id).iter().find(|p| *p.name == *point)
    };
    match levels[..] {
        ["$state"] => Some("whether the gateway is online; retained".to_owned()),
        [line, RAW] => plant.lines.iter().find(|l| *l.name == *line).map(|l| {
            let state = if l.raw_access { "refused when retained or older than 10 s" } else { "which is off: refused" };
            format!("raw Modbus requests to line {line}, {state}")
        }),
        ["$gap"] => Some("told to an upstream where entries had to be dropped; not published here".to_owned()),
        [device, "$state"] => {
            let known = plant.devices.iter().any(|d| *d.name == *device);
            known.then(|| format!("whether device {device} is online; retained"))
        }
        [device, point, "set"] => named(device, point).map(|p| command_to(device, p)),
        [device, point, "set", "result"] => {
            named(device, point).map(|_| format!("the answer to a command to point {point} of device {device}"))
        }
        [device, point, "$fail_safe"] => {
            let point = named(device, point)?;
            let known = plant.fail_safes.iter().any(|rule| rule.point == point.id);
            known.then(|| format!("how the fail-safe of point {} of device {device} stands; retained", point.name))
        }
        _ => None,
    }
}

fn value_of(plant: &Plant, point: &Point) -> String {
    let device = plant.device(point.device);
    let when = match &point.schedule {
        Schedule::Every { period, .. } => format!("read every {}", span(*period)),
        Schedule::Cron(fields) => format!("read by cron \"{fields}\""),
    };
    let retained = if point.series.retain { ", retained" } else { "" };
    let writable = match point.write {
        Some(_) => format!("; written by {}/{}/{}/set", plant.gateway, device.name, point.name),
        None => "; read-only".to_owned(),
    };
    format!("point {} of device {}, {when}, QoS {}{retained}{writable}", point.name, device.name, point.series.qos)
}

fn command_to(device: &str, point: &Point) -> String {
    let Some(write) = &point.write else {
        return format!("a command to point {} of device {device}, which is read-only: refused", point.name);
    };
    let bound = |word, limit: Option<_>| limit.map(|n| format!(", {word} {n}")).unwrap_or_default();
    let (min, max, step) = (bound("min", write.min), bound("max", write.max), bound("step", write.step));
    let expires = span(write.expires);
    format!(
        "a command to point {} of device {device}{min}{max}{step}; refused when retained or older than {expires}",
        point.name
    )
}

/// Whoever the configuration names, and strangers, as the broker judges them.
fn access(plant: &Plant, topic: &TopicName) -> Vec<Right> {
    let broker = &plant.broker;
    // A users file that cannot be read is a matter of the start; the rules name who is meant all the same.
    let users = broker.users.as_ref().and_then(|path| users::load(path).ok()).unwrap_or_default();
    let mut names: Vec<String> = users.iter().map(|(name, _)| name.clone()).collect();
    names.extend(broker.access.iter().filter_map(|rule| rule.user.as_deref().map(str::to_owned)));
    names.sort_unstable();
    names.dedup();
    let judge = Access::new(broker.anonymous, users, broker.access.clone());
    let away = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
    let right = |who: String, grant: &Grant| {
        let read = TopicFilter::new(topic.as_str()).is_ok_and(|filter| grant.may_read(&filter));
        Right { who, read, write: grant.may_write(topic) }
    };
    let mut rights =
        vec![right("without a name, on this machine".to_owned(), &judge.grant(None, "", Ipv4Addr::LOCALHOST.into()))];
    rights.extend(names.into_iter().map(|name| {
        let grant = judge.grant(Some(&name), "", away);
        right(format!("user {name}"), &grant)
    }));
    rights.extend(broker.access.iter().filter_map(|rule| {
        let pattern = rule.client.as_deref()?;
        let user = rule.user.as_deref();
        let grant = judge.grant(user, pattern.trim_end_matches('*'), away);
        let who = user.map_or_else(|| "anyone".to_owned(), |name| format!("user {name}"));
        Some(right(format!("{who} as client {pattern}"), &grant))
    }));
    rights
}

fn text(explained: &Explanation) -> String {
    let mut out = match &explained.from {
        None => format!("{}\n", explained.topic),
        Some(upstream) => format!("{} from {upstream}\n", explained.topic),
    };
    if let (Some(own), None) = (&explained.own, &explained.from) {
        let _ = writeln!(out, "  is        {own}");
    }
    if explained.ways.is_empty() {
        out.push_str("  goes nowhere: there are no upstreams\n");
    }
    for way in &explained.ways {
        let rule = way.rule.as_ref().map(|(n, place)| format!(", by rule {n} ({place})")).unwrap_or_default();
        let to = if explained.from.is_some() { "this gateway" } else { &*way.upstream };
        let _ = match &way.goes {
            Ok(goes) => {
                let Goes { topic, qos, retain, exact } = goes;
                let most = if *exact { "" } else { "at most " };
                writeln!(out, "  to {to}\n    as      {topic}{rule}\n    with    {most}QoS {qos}, {}", retain.words())
            }
            Err(why) => writeln!(out, "  not to {to}{rule}: {why}"),
        };
    }
    if explained.from.is_some() {
        if let Some(own) = &explained.own {
            let _ = writeln!(out, "  is there  {own}");
        }
        out.push_str("  not sent on: what comes from an upstream goes to none\n");
    }
    for Right { who, read, write } in &explained.access {
        let may = match (read, write) {
            (true, true) => "may read and write it",
            (true, false) => "may read it",
            (false, true) => "may write it",
            (false, false) => "may neither read nor write it",
        };
        let _ = writeln!(out, "  {who}: {may}");
    }
    out.trim_end().to_owned()
}

fn document(explained: &Explanation) -> Value {
    let ways = explained.ways.iter().map(|way| {
        let (rule, place) = way.rule.clone().unzip();
        match &way.goes {
            Ok(goes) => json!({
                "upstream": way.upstream, "rule": rule, "place": place, "topic": goes.topic.as_str(),
                "qos": u8::from(goes.qos), "retain": match goes.retain {
                    Flag::AsPublished => "keep",
                    Flag::Never => "never",
                    Flag::Set => "set",
                },
            }),
            Err(why) => json!({ "upstream": way.upstream, "rule": rule, "place": place, "topic": null, "why": why }),
        }
    });
    let access = explained.access.iter().map(|r| json!({ "who": r.who, "read": r.read, "write": r.write }));
    json!({
        "schema": 1,
        "topic": explained.topic.as_str(),
        "from": explained.from,
        "ways": ways.collect::<Vec<_>>(),
        "own": explained.own,
        "access": access.collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const CONFIG: &str = "\
gateway: plant
lines:
  plc: {tcp: 192.0.2.1}
devices:
  - name: chiller
    line: plc
    unit_id: 1
    points:
      supply: {holding: 100, every: 5s}
      setpoint: {holding: 101, write: {min: 4, max: 18}, fail_safe: {value: 6, when: {upstream: cloud}, after: 60s}}
broker:
  access: [{client: panel-*, read: [\"plant/$state\"]},
           {user: hmi, read: [\"plant/#\"], write: [\"plant/+/+/set\"]}]
upstreams:
  cloud:
    url: mqtt://h
    send:
      - {filter: \"plant/$state\", prefix: x/}
      - {filter: \"plant/+/+\", strip: plant/, prefix: sites/}
    receive:
      - {filter: \"sites/+/+/set\", strip: sites/, prefix: plant/}
  aws:
    preset: aws
    url: mqtts://a
    username: u
    send:
      - {filter: \"plant/#\", prefix: a/b/c/}
";

    fn loaded() -> Loaded {
        crate::config::load_text("g.yaml", CONFIG, Path::new("")).unwrap_or_else(|r| panic!("{r}"))
    }

    fn of(topic: &str) -> String {
        text(&outward(&loaded(), &TopicName::new(topic).unwrap()))
    }

    fn from_cloud(topic: &str) -> String {
        let loaded = loaded();
        text(&inward(&loaded, &loaded.plant.upstreams[0], &TopicName::new(topic).unwrap()))
    }

    #[test]
    fn a_point_is_followed_to_each_upstream() {
        let want = "\
plant/chiller/supply
  is        point supply of device chiller, read every 5000 ms, QoS 1, retained; read-only
  to cloud
    as      sites/chiller/supply, by rule 2 (g.yaml:19)
    with    QoS 1, retained
  to aws
    as      a/b/c/plant/chiller/supply, by rule 1 (g.yaml:27)
    with    QoS 1, never retained
  without a name, on this machine: may read and write it
  user hmi: may read it
  anyone as client panel-*: may neither read nor write it";
        assert_eq!(of("plant/chiller/supply"), want);
    }

    #[test]
    fn why_a_topic_goes_nowhere_is_said() {
        let text = of("else/where");
        assert!(text.contains("not to cloud: no `send` rule matches: plant/$state, plant/+/+"), "{text}");
        assert!(text.contains("user hmi: may neither read nor write it"), "{text}");
        assert!(
            of("plant/chiller/setpoint/$fail_safe").contains("how the fail-safe of point setpoint of device chiller")
        );
        assert!(!of("plant/chiller/supply/$fail_safe").contains("fail-safe of"));
        let text = of("plant/1/2/3/4/5/6");
        assert!(text.contains("not to aws, by rule 1 (g.yaml:27): put aside: 9 slashes"), "{text}");
    }

    #[test]
    fn a_command_is_followed_from_the_cloud_to_its_point() {
        let text = from_cloud("sites/chiller/setpoint/set");
        assert!(text.contains("as      plant/chiller/setpoint/set, by rule 1 (g.yaml:21)"), "{text}");
        assert!(text.contains("is there  a command to point setpoint of device chiller, min 4, max 18"), "{text}");
        let text = from_cloud("sites/chiller/supply/set");
        assert!(text.contains("which is read-only: refused"), "{text}");
        assert!(from_cloud("sites/x").contains("not to this gateway: no `receive` rule matches"));
    }

    #[test]
    fn raw_access_is_followed_only_by_rules_that_name_it() {
        let of = |filter: &str| {
            let rule = "{filter: \"sites/+/+/set\", strip: sites/, prefix: plant/}";
            let config = CONFIG.replace(rule, &format!("{{filter: \"{filter}\", strip: orders/, prefix: plant/}}"));
            let loaded = crate::config::load_text("g.yaml", &config, Path::new("")).unwrap_or_else(|r| panic!("{r}"));
            text(&inward(&loaded, &loaded.plant.upstreams[0], &TopicName::new("orders/plc/$modbus").unwrap()))
        };
        let named = of("orders/+/$modbus");
        assert!(named.contains("as      plant/plc/$modbus") && named.contains("which is off: refused"), "{named}");
        let wide = of("orders/+/+");
        assert!(wide.contains("passes only by a rule that ends in `$modbus`"), "{wide}");
    }

    #[test]
    fn a_script_is_told_by_the_exit_code() {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("g.yaml");
        let tried = |text: &str, topic: &str, from: Option<&str>| {
            std::fs::write(&config, text).unwrap();
            let file = ConfigFile { config: config.clone() };
            run(&Arguments { topic: topic.to_owned(), from: from.map(str::to_owned), file, json: true })
        };
        assert_eq!(tried(CONFIG, "plant/chiller/supply", None), Exit::Well);
        assert_eq!(tried(CONFIG, "else/where", None), Exit::Failed);
        assert_eq!(tried(CONFIG, "sites/chiller/setpoint/set", Some("cloud")), Exit::Well);
        assert_eq!(tried(CONFIG, "sites/chiller/setpoint/set", Some("aws")), Exit::Failed);
        assert_eq!(tried(CONFIG, "a/+", None), Exit::Usage);
        assert_eq!(tried(CONFIG, "a", Some("clowd")), Exit::Usage);
        assert_eq!(tried("gateway: a/b\n", "a", None), Exit::Configuration);
    }

    #[test]
    fn programs_get_every_way() {
        let document = document(&outward(&loaded(), &TopicName::new("plant/$state").unwrap()));
        assert_eq!(document["ways"][0]["topic"], "x/plant/$state");
        assert_eq!(document["ways"][1]["retain"], "never");
        assert_eq!(document["own"], "whether the gateway is online; retained");
        assert_eq!(document["access"][1], json!({ "who": "user hmi", "read": true, "write": false }));
        assert_eq!(document["access"][2], json!({ "who": "anyone as client panel-*", "read": true, "write": false }));
    }
}
