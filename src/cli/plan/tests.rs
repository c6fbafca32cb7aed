//! The plan as it is printed, and as programs get it.

use super::*;
use crate::bench::work;
use crate::config::plant::Port;

fn planned(baud: u32, turnaround: Duration) -> Planned<'static> {
    let port = Port::Serial(work::serial_port("none", baud, work::F8N1));
    let parts = work::reference(port, Duration::from_secs(1));
    let forecast = forecast::with_turnaround(&parts.line, &parts.devices, &parts.points, turnaround);
    let proposals = advice::proposals(&parts.line, &parts.devices, &parts.points, turnaround);
    Planned { title: "bench: reference".to_owned(), forecast, proposals, only: None, turnaround }
}

const USUAL: Duration = forecast::USUAL_TURNAROUND;

#[test]
fn a_line_with_room_is_shown_in_three_calm_tables() {
    let text = show::text(&planned(115_200, USUAL), Detail::Most);
    println!("{text}");
    assert!(text.starts_with("line bench: reference\nload 39.2 %\n"), "{text}");
    assert!(text.contains("d1, d2, d3, d4, d5, d6, d7, d8, d9, d10"), "requests that are alike share a row: {text}");
    assert!(!text.contains("cannot") && !text.contains("would fit"), "{text}");
    assert!(text.lines().count() < 35 && text.lines().all(|l| l.chars().count() <= 100), "{text}");
}

#[test]
fn what_cannot_be_met_is_said_with_what_can_and_what_would_help() {
    let text = show::text(&planned(9_600, USUAL), Detail::Most);
    println!("{text}");
    assert!(text.contains("load 217.9 %: more than the wire can carry"), "{text}");
    assert!(text.contains("300 of 300 points cannot have their period"), "{text}");
    assert!(
        text.contains("\n  2.3 s for all points: load 95 %\n  38400 baud, where the devices can: load 76 %\n"),
        "{text}"
    );
    assert!(text.lines().count() < 50 && text.lines().all(|l| l.chars().count() <= 100), "{text}");
}

#[test]
fn all_names_every_point() {
    let text = show::text(&planned(9_600, USUAL), Detail::All);
    assert_eq!(text.matches("r194").count(), 10, "{text}");
    assert!(text.lines().all(|l| l.chars().count() <= 100), "{text}");
}

#[test]
fn slower_devices_cost_what_they_think() {
    let (usual, slow) = (planned(9_600, USUAL), planned(9_600, Duration::from_millis(20)));
    // 15 ms more at each of ten to thirty reads a second.
    let more = slow.forecast.load - usual.forecast.load;
    assert!((0.15..0.75).contains(&more), "{more}");
}

#[test]
fn programs_get_every_point_and_of_each_death_what_it_changes() {
    let planned = planned(9_600, USUAL);
    let document = document::of(&planned, Detail::Most);
    let points = |value: &Value| value.as_array().map(Vec::len);
    assert_eq!(points(&document["points"]), Some(300));
    assert_eq!(points(&document["without"]), Some(10));
    let first = &document["points"][0];
    assert_eq!((&first["met"], &first["period_ms"]), (&json!(false), &json!(1000.0)));
    assert!(first["one_dead"]["worst_ms"].as_f64() > first["worst_ms"].as_f64(), "{first}");
    assert_eq!(document["proposals"][0]["change"], "for-all");
    let all = document::of(&planned, Detail::All);
    assert_eq!(points(&all["without"][0]["points"]), Some(270));
    // With room, nothing is changed by a death once it is noticed.
    let calm = document::of(&self::planned(115_200, USUAL), Detail::Most);
    assert_eq!(points(&calm["without"][0]["points"]), Some(0), "{}", calm["without"][0]);
}

fn asked(filter: &str) -> (Result<(usize, Option<String>), String>, Exit) {
    use clap::Parser;

    #[derive(Parser)]
    struct Alone {
        #[command(flatten)]
        args: Arguments,
    }

    let home = tempfile::tempdir().unwrap();
    let config = home.path().join("gateway.yaml");
    let text = "lines:\n  hall: {serial: /dev/ttyS8}\n  roof: {serial: /dev/ttyS9}\ndevices:\n  \
                - {name: \"m{unit_id}\", line: hall, unit_id: 1-3, points: {a: {holding: 0}}}\n  \
                - {name: sun, line: roof, unit_id: 1, points: {a: {holding: 0}}}\n";
    std::fs::write(&config, text).unwrap();
    let words = ["plan", "-c", config.to_str().unwrap()].into_iter().chain(filter.split_whitespace());
    let args = Alone::try_parse_from(words).unwrap().args;
    let plant = load(&args.file).unwrap().plant;
    let selected = select(&plant, &args).map(|(lines, only)| (lines.len(), only.map(|d| d.name.to_string())));
    (selected, run(&args))
}

#[test]
fn a_line_or_a_device_can_be_chosen_and_an_unknown_name_is_a_mistake_in_the_arguments() {
    assert_eq!(asked(""), (Ok((2, None)), Exit::Well));
    assert_eq!(asked("--line roof --json"), (Ok((1, None)), Exit::Well));
    assert_eq!(asked("--device m2 --turnaround 20ms"), (Ok((1, Some("m2".to_owned()))), Exit::Well));
    let unknown = "no device `m2`; there are: sun".to_owned();
    assert_eq!(asked("--line roof --device m2"), (Err(unknown), Exit::Usage));
    assert_eq!(asked("--line attic"), (Err("no line `attic`; there are: hall, roof".to_owned()), Exit::Usage));
}

#[test]
fn a_turnaround_has_a_unit() {
    assert_eq!(duration("20ms"), Ok(Duration::from_millis(20)));
    assert_eq!(duration("1s"), Ok(Duration::from_secs(1)));
    assert!(["20", "ms", "-1s", "90s"].iter().all(|text| duration(text).is_err()));
}
