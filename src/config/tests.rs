//! The language as a person meets it: what is right becomes a plant, what is wrong is told with its place.

use std::path::Path;
use std::time::Duration;

use crate::config::load_text;
use crate::config::plant::Plant;
use crate::config::plant::Schedule;
use crate::config::plant::Source;
use crate::config::plant::When;
use crate::config::plant::Wire;
use crate::payload::Format;
use crate::point::Table;

const GOOD: &str = "\
gateway: plant
schedules: {fast: {every: 200ms}}
lines:
  hall: {serial: /dev/ttyS9, baud: 19200}
  plc: {tcp: 10.0.0.1}
devices:
  - name: meter-{unit_id}
    line: hall
    unit_id: 1-2, 5
    tags: {hall: A}
    every: 2s
    points:
      voltage: {input: 0, type: f32, schedule: fast}
      mode: {modicon: 40102, values: {0: off, 1: on}, write: true}
      power: {compute: voltage * 2, report: {deadband: 2%}}
publish: {report: {when: poll}, topic: \"{gateway}/{tags.hall}/{device}/{point}\"}
upstreams:
  up: {url: \"mqtts://h\", send: [{filter: \"plant/#\", strip: plant/}]}
";

fn plant(text: &str) -> Plant {
    load_text("t.yaml", text, Path::new("")).unwrap_or_else(|r| panic!("{r}")).plant
}

fn said(text: &str) -> String {
    load_text("t.yaml", text, Path::new("")).expect_err("refused").to_string()
}

fn wire(plant: &Plant, n: usize) -> &Wire {
    match &plant.points[n].source {
        Source::Wire(wire) => wire,
        Source::Compute(_) => panic!("computed"),
    }
}

#[test]
fn a_range_of_unit_ids_is_as_many_devices() {
    let plant = plant(GOOD);
    let names: Vec<_> = plant.devices.iter().map(|d| &*d.name).collect();
    assert_eq!(names, ["meter-1", "meter-2", "meter-5"]);
    assert_eq!(plant.points.len(), 9);
    assert_eq!(plant.points[3].series.topic.as_str(), "plant/A/meter-2/voltage");
    assert_eq!(plant.devices[1].points, 3..6);
}

#[test]
fn the_nearest_word_wins() {
    let plant = plant(GOOD);
    let every = |n: usize| match plant.points[n].schedule {
        Schedule::Every { period, .. } => period,
        Schedule::Cron(_) => Duration::ZERO,
    };
    assert_eq!((every(0), every(1)), (Duration::from_millis(200), Duration::from_secs(2)));
    assert_eq!(plant.points[2].report.when, When::Poll);
    assert!(plant.points[2].report.deadband.is_some());
    assert_eq!(plant.points[0].series.format, Format::Json);
}

#[test]
fn modicon_numbers_name_table_and_address_at_once() {
    let plant = plant(GOOD);
    let mode = wire(&plant, 1);
    assert_eq!((mode.table, mode.range.start()), (Table::Holding, 101));
    assert_eq!(mode.names.get(&1).map(|n| &**n), Some("on"));
}

#[test]
fn the_usual_settings_need_no_words() {
    let plant = plant(GOOD);
    assert_eq!(plant.broker.listen[0].address.to_string(), "127.0.0.1:1883");
    assert_eq!(plant.upstreams[0].endpoints[0].to_string(), "mqtts://h:8883");
    assert_eq!(&*plant.upstreams[0].client_id, "plant");
    assert!(plant.web.is_none());
}

#[test]
fn raw_access_is_off_until_a_line_says_so_and_is_never_given_to_everybody() {
    assert!(plant(GOOD).lines.iter().all(|line| !line.raw_access));
    let one = GOOD.replace("baud: 19200", "baud: 19200, raw_access: true");
    assert_eq!(plant(&one).lines.iter().map(|line| line.raw_access).collect::<Vec<_>>(), [true, false]);
    let rule = |rule: &str| format!("{GOOD}broker: {{access: [{rule}]}}\n");
    plant(&rule("{user: ann, write: [\"plant/+/$modbus\"]}"));
    let text = said(&rule("{write: [\"plant/+/$modbus\"]}"));
    assert!(text.contains("`$modbus` for everybody") && text.contains("name the `user`"), "{text}");
}

#[test]
fn the_shortest_wait_is_a_tenth_of_a_second_but_never_above_the_timeout() {
    for (line, ms) in [("", 100), (", timeout: 50ms", 50), (", timeout: 50ms, min_timeout: 20ms", 20)] {
        let plant = plant(&GOOD.replace("baud: 19200", &format!("baud: 19200{line}")));
        assert_eq!(plant.lines[0].min_timeout, Duration::from_millis(ms), "{line}");
    }
}

/// Old text, new text, line of the problem, what must be said.
const WRONG: &[(&str, &str, usize, &str)] = &[
    ("gateway: plant", "gateway: a/b", 1, "contains `/`"),
    ("gateway: plant", "gatway: plant", 1, "did you mean `gateway`?"),
    ("every: 200ms", "every: 200", 2, "has no unit"),
    ("every: 200ms", "every: 0s", 2, "outside 20ms to 366d"),
    ("every: 200ms", "cron: nope", 2, "no cron line"),
    ("baud: 19200", "baud: 5", 4, "from 50"),
    ("baud: 19200", "format: 7E1", 4, "8E1 is the Modbus default"),
    ("baud: 19200", "min_timeout: 600ms", 4, "above the timeout of 500ms"),
    ("baud: 19200", "min_timeout: 5ms", 4, "at least 10ms"),
    ("tcp: 10.0.0.1", "tcp: 10.0.0.1:x", 5, "host:port"),
    ("tcp: 10.0.0.1", "tcp: h, baud: 1", 5, "means nothing on a `tcp` line"),
    ("tcp: 10.0.0.1", "serial: /dev/ttyS9", 5, "has the port of line `hall`"),
    ("line: hall", "line: hal", 8, "did you mean `hall`?"),
    ("1-2, 5", "1-2, 2", 9, "unit id 2 stands here twice"),
    ("1-2, 5", "0", 9, "broadcast"),
    ("1-2, 5", "1-300", 9, "no unit id"),
    ("1-2, 5", "250", 9, "reserved by the standard"),
    ("meter-{unit_id}", "meter", 7, "meter-{unit_id}"),
    ("input: 0", "input: 65535", 13, "ends at 65536"),
    ("input: 0", "input: 70000", 13, "65535"),
    ("input: 0", "input: 010", 13, "looks octal"),
    ("type: f32", "type: f23", 13, "did you mean `f32`?"),
    ("type: f32", "bit: 16", 13, "bit: 0 to 15"),
    ("type: f32", "scale: 0", 13, "makes every value 0"),
    ("type: f32", "invalid: 0x10000", 13, "16 bits"),
    ("type: f32", "range: [9, 1]", 13, "9 is above 1"),
    ("type: f32", "write: true", 13, "only coils and holding registers"),
    ("schedule: fast", "schedule: fst", 13, "did you mean `fast`?"),
    ("schedule: fast", "coil: 1", 13, "both `coil` and `input`"),
    ("40102", "50102", 14, "no modicon address"),
    ("1: on", "1: off", 14, "two raw numbers have the name `off`"),
    ("write: true", "write: yes", 14, "true or false"),
    ("write: true", "write: {min: 3, max: 2}", 14, "`min` is above `max`"),
    ("voltage * 2", "volt * 2", 15, "`volt` is no other point"),
    ("deadband: 2%", "deadband: -1", 15, "below zero"),
    ("when: poll", "when: pol", 16, "did you mean `poll`?"),
    ("{tags.hall}", "{tags.room}", 16, "`{tags.room}` is not known"),
    ("/{point}", "/get", 16, "ends in `get`, as commands do"),
    ("/{device}/", "/", 16, "two points have the topic"),
    ("mqtts://h", "http://h", 18, "no broker's URL"),
    ("strip: plant/", "strip: plan7/", 18, "begins with `plan7/`"),
    ("plant/#", "plant#", 18, "wildcard"),
];

#[test]
fn what_is_wrong_is_told_with_its_place_and_what_to_do() {
    let mut missing = Vec::new();
    for (old, new, line, words) in WRONG {
        assert!(GOOD.contains(old), "{old}");
        let said = said(&GOOD.replace(old, new));
        if !said.contains(&format!("t.yaml:{line}:")) || !said.contains(words) {
            missing.push(format!("{new}: no line {line} with `{words}` in\n{said}"));
        }
    }
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}

#[test]
fn two_devices_with_one_address_are_told_with_both_names() {
    let again = "  - {name: b, line: hall, unit_id: 5, points: {p: {coil: 1}}}\npublish";
    let said = said(&GOOD.replace("publish", again));
    assert!(said.contains("t.yaml:16:") && said.contains("unit id 5 on line `hall` is `meter-5` already"), "{said}");
}

#[test]
fn every_problem_is_told_at_once() {
    let text =
        GOOD.replace("200ms", "5").replace("line: hall", "line: x").replace("f32", "f31").replace("mqtts", "ftp");
    let said = said(&text);
    for line in [2, 8, 13, 18] {
        assert!(said.contains(&format!("t.yaml:{line}:")), "{line} in\n{said}");
    }
}

#[test]
fn a_secret_in_the_file_is_refused_and_not_repeated() {
    let text = GOOD.replace("url:", "password: hunter2, nokey: 1, url:");
    let said = said(&text);
    assert!(said.contains("never written in the file") && said.contains("nokey"), "{said}");
    assert!(!said.contains("hunter2"), "{said}");
    let said = said_of_url();
    assert!(!said.contains("hunter2") && said.contains("username"), "{said}");
}

fn said_of_url() -> String {
    said(&GOOD.replace("mqtts://h", "mqtts://me:hunter2@h"))
}

#[test]
fn a_profile_that_does_not_exist_has_near_names() {
    let said = said(&GOOD.replace("    every: 2s", "    profile: eastron/sdm12"));
    assert!(said.contains("t.yaml:11:") && said.contains("did you mean `eastron/sdm120`?"), "{said}");
}

#[test]
fn a_point_of_the_profile_can_be_changed_and_left_out() {
    let text = "gateway: g\nlines: {l: {tcp: h}}\ndevices:\n  - name: d\n    line: l\n    unit_id: 1\n    \
                profile: eastron/sdm120\n    points: {voltage: {every: 200ms}}\n    without: [frequency]\n";
    let plant = plant(text);
    let voltage = plant.points.iter().find(|p| &*p.name == "voltage").unwrap();
    assert_eq!(voltage.schedule, Schedule::Every { period: Duration::from_millis(200), align: false });
    assert_eq!(&*voltage.series.unit, "V");
    assert!(plant.points.iter().all(|p| &*p.name != "frequency"));
}

#[test]
fn the_shipped_examples_load_and_warn_only_of_factory_settings() {
    for (name, text) in [
        ("config/gateway.yaml", include_str!("../../config/gateway.yaml")),
        ("config/demo.yaml", include_str!("../../config/demo.yaml")),
    ] {
        let loaded = load_text(name, text, Path::new("config")).unwrap_or_else(|r| panic!("{r}"));
        // Devices on one trunk must be set alike; that they leave their factories differently is said, and right.
        let other = loaded.warnings.problems().iter().find(|p| !p.message.contains("leaves its factory"));
        assert_eq!(other, None);
    }
}

#[test]
fn a_client_may_fall_behind_by_two_readings_of_a_large_site() {
    let limit = |points: usize, broker: &str| {
        let points: Vec<String> = (0..points).map(|n| format!("p{n}: {{holding: {n}}}")).collect();
        let yaml = format!(
            "gateway: g\nlines: {{a: {{tcp: \"127.0.0.1:502\"}}}}\n{broker}\ndevices:\n\
             - {{name: d, line: a, unit_id: 1, points: {{{}}}}}\n",
            points.join(", ")
        );
        load_text("test", &yaml, Path::new("")).unwrap().plant.broker.limits.queue
    };
    assert_eq!(limit(10, ""), 1000);
    assert_eq!(limit(700, ""), 1400);
    assert_eq!(limit(700, "broker: {limits: {clients: 9}}"), 1400);
    assert_eq!(limit(700, "broker: {limits: {queue: 50}}"), 50);
}

#[test]
fn a_client_certificate_that_ends_soon_is_told_before_it_stops_the_upstream() {
    let folder = tempfile::tempdir().unwrap();
    let new = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=g"];
    for (days, warned) in [("3", true), ("300", false)] {
        let mut openssl = std::process::Command::new("openssl");
        let made = openssl.args(new).args(["-days", days, "-keyout", "k", "-out", "c"]);
        assert!(made.current_dir(folder.path()).output().unwrap().status.success());
        let text = GOOD.replace("mqtts://h\"", "mqtts://h\", tls: {cert: c, key: k}");
        let loaded = load_text("t.yaml", &text, folder.path()).unwrap_or_else(|r| panic!("{r}"));
        let said = loaded.warnings.to_string();
        assert_eq!(said.contains("t.yaml:18:") && said.contains("/c expires on 20"), warned, "{said}");
    }
}
