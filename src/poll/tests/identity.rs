//! Devices that must be the right ones before they are believed.

use super::*;
use crate::bus::mei::Objects;
use crate::config::fingerprint::{Expected, Fingerprint};
use crate::sample::Reason;
use crate::status::Recognition;

/// A device that says `ACME` of itself, or it is another.
fn marked(unit: u8) -> Device {
    let objects = vec![(0, Expected::new(["ACME".to_owned()]))];
    Device { fingerprint: Some(Arc::new(Fingerprint { objects, register: None })), ..device(unit) }
}

fn vendor(name: &str) -> Answer {
    Ok(Data::Objects(Objects { conformity: 1, next: None, objects: vec![(0, name.as_bytes().to_vec())] }))
}

/// One device on a trunk, the vendor's name as `who` says, two registers that hold their addresses.
fn marked_scene(mut who: impl FnMut(u64) -> Answer + Send + 'static) -> Scene {
    let points = vec![point(1, 4, wire(4)), every(60_000, point(1, 6, wire(600)))];
    scene_of((trunk(0), Lessons::default()), vec![marked(1)], points, move |ms, asked| match (asked, who(ms)) {
        (_, Err(BusError::NoReply)) => Err(BusError::NoReply),
        (Asked::Identify(_), said) => said,
        (Asked::Read(request), _) => own_address(request),
    })
}

impl Scene {
    fn events(&mut self) -> Vec<(bool, Option<Reason>)> {
        std::iter::from_fn(|| self.events.try_recv().ok()).map(|event| (event.online, event.reason)).collect()
    }

    fn recognition(&self) -> (DeviceState, Recognition) {
        let line = self.status.borrow();
        (line.devices[0].state, line.devices[0].recognition)
    }
}

#[tokio::test(start_paused = true)]
async fn the_right_device_is_asked_once_who_it_is_and_then_polled() {
    let mut scene = marked_scene(|_| vendor("ACME"));
    assert_eq!(scene.until(3_500).await, ["4=4", "6=600", "4=4", "4=4", "4=4"]);
    let asked = scene.asked_what();
    assert_eq!(asked[..3], ["1 holding 4", "1 objects from 0", "1 holding 4"], "first whether it is there at all");
    assert_eq!(asked.iter().filter(|what| what.contains("objects")).count(), 1);
    assert_eq!((scene.events(), scene.recognition()), (vec![(true, None)], (DeviceState::Online, Recognition::Right)));
}

#[tokio::test(start_paused = true)]
async fn no_value_of_another_device_is_taken_and_it_is_never_said_to_be_online() {
    let mut scene = marked_scene(|_| vendor("B"));
    let seen = scene.until(30_000).await;
    assert!(!seen.is_empty() && seen.iter().all(|s| s.ends_with("!another device")), "{seen:?}");
    assert!(seen.contains(&"6!another device".to_owned()), "points that were not due say so too");
    let read = scene.asked().into_iter().filter(|(ms, what)| *ms > 0 && !what.contains("objects")).count();
    assert_eq!(read, 0, "nothing but its name is asked for");
    let event = scene.events.try_recv().unwrap();
    assert_eq!(event.detail.as_deref(), Some("vendor is \"B\", expected \"ACME\""));
    assert_eq!((event.online, event.reason), (false, Some(Reason::AnotherDevice)));
    assert!(scene.events().is_empty(), "said once");
    assert_eq!(scene.recognition(), (DeviceState::Offline, Recognition::Another));
}

#[tokio::test(start_paused = true)]
async fn the_right_device_in_the_place_of_another_is_polled_within_seconds() {
    let mut scene = marked_scene(|ms| vendor(if ms < 20_000 { "B" } else { "ACME" }));
    scene.until(20_000).await;
    let seen = scene.until(27_000).await;
    assert!(seen.contains(&"4=4".to_owned()) && seen.contains(&"6=600".to_owned()), "the slow one too: {seen:?}");
    assert_eq!(scene.events(), [(false, Some(Reason::AnotherDevice)), (true, None)]);
}

#[tokio::test(start_paused = true)]
async fn another_device_that_comes_back_in_the_place_of_the_right_one_is_found_before_a_value_is_taken() {
    let mut scene = marked_scene(|ms| match ms {
        0..5_000 => vendor("ACME"),
        5_000..20_000 => Err(BusError::NoReply),
        _ => vendor("B"),
    });
    scene.until(19_990).await;
    assert_eq!(scene.events(), [(true, None), (false, Some(Reason::Timeout))]);
    assert_eq!(scene.recognition(), (DeviceState::Offline, Recognition::Open));
    let seen = scene.until(60_000).await;
    assert!(seen.iter().all(|s| s.contains('!')), "{seen:?}");
    assert_eq!(scene.events(), [(false, Some(Reason::AnotherDevice))]);
    assert_eq!(scene.recognition(), (DeviceState::Offline, Recognition::Another));
}

#[tokio::test(start_paused = true)]
async fn another_device_that_goes_away_is_offline_and_the_right_one_is_known_when_it_comes() {
    let mut scene = marked_scene(|ms| match ms {
        0..8_000 => vendor("B"),
        8_000..40_000 => Err(BusError::NoReply),
        _ => vendor("ACME"),
    });
    scene.until(30_000).await;
    assert_eq!(scene.recognition(), (DeviceState::Offline, Recognition::Open));
    let seen = scene.until(80_000).await;
    assert!(seen.contains(&"4=4".to_owned()), "{seen:?}");
    let another = (false, Some(Reason::AnotherDevice));
    assert_eq!(scene.events(), [another, (false, Some(Reason::Timeout)), (true, None)]);
}

#[tokio::test(start_paused = true)]
async fn another_device_that_is_busy_is_not_said_to_be_online() {
    let mut scene = marked_scene(|ms| if ms < 4_000 { vendor("B") } else { Err(BusError::Refused(6)) });
    let seen = scene.until(60_000).await;
    assert!(seen.iter().all(|s| s.contains('!')), "{seen:?}");
    assert_eq!(scene.events(), [(false, Some(Reason::AnotherDevice))]);
}

#[tokio::test(start_paused = true)]
async fn a_device_that_cannot_say_who_it_is_is_polled_and_that_is_told() {
    let mut scene = marked_scene(|_| Err(BusError::Refused(1)));
    assert_eq!(scene.until(1_500).await, ["4=4", "6=600", "4=4"]);
    assert_eq!(
        (scene.events(), scene.recognition()),
        (vec![(true, None)], (DeviceState::Online, Recognition::Unknown))
    );
}

#[tokio::test(start_paused = true)]
async fn a_device_that_never_answers_is_asked_no_more_than_one_without_a_fingerprint() {
    let mut marked = marked_scene(|_| Err(BusError::NoReply));
    let mut plain = scene_with(
        (trunk(0), Lessons::default()),
        &[1],
        vec![point(1, 4, wire(4)), every(60_000, point(1, 6, wire(600)))],
        |_, _| Err(BusError::NoReply),
    );
    marked.until(30_000).await;
    plain.until(30_000).await;
    assert_eq!(marked.asked_what(), plain.asked_what());
    assert_eq!(marked.events(), [(false, Some(Reason::Timeout))]);
}

#[tokio::test(start_paused = true)]
async fn a_line_that_was_down_may_have_another_device_on_it_now() {
    let mut scene =
        scene_of((trunk(0), Lessons::default()), vec![marked(1)], vec![point(1, 4, wire(4))], |ms, asked| {
            match (ms, asked) {
                (3_000..12_000, _) => Err(BusError::LineDown("unplugged".into())),
                (_, Asked::Identify(_)) => vendor(if ms < 12_000 { "ACME" } else { "B" }),
                (_, Asked::Read(request)) => own_address(request),
            }
        });
    assert!(scene.until(2_900).await.contains(&"4=4".to_owned()));
    let seen = scene.until(30_000).await;
    assert!(seen.iter().all(|s| s.contains('!')), "{seen:?}");
    let another = (false, Some(Reason::AnotherDevice));
    assert_eq!(scene.events(), [(true, None), (false, Some(Reason::LineDown)), another]);
}

#[tokio::test(start_paused = true)]
async fn whoever_ends_a_pause_may_have_put_another_device_there() {
    let mut scene = marked_scene(|ms| vendor(if ms < 3_000 { "ACME" } else { "B" }));
    scene.until(2_500).await;
    scene.desk.send(Order::Pause(DeviceId(1))).await.unwrap();
    scene.until(4_500).await;
    scene.desk.send(Order::Resume(DeviceId(1))).await.unwrap();
    let seen = scene.until(10_000).await;
    assert!(!seen.is_empty() && seen.iter().all(|s| s.contains('!')), "{seen:?}");
    let (paused, another) = ((false, Some(Reason::Paused)), (false, Some(Reason::AnotherDevice)));
    assert_eq!(scene.events(), [(true, None), paused, another]);
}
