//! What the answers of a device mean, one by one.

use std::collections::BTreeMap;

use super::*;
use crate::config::plant::Wire;
use crate::point::DataType;
use crate::point::Scale;
use crate::point::WordOrder;

fn expected(text: &str) -> Expected {
    Expected::new([text.to_owned()])
}

/// The register at 7 holds its model.
fn register(model: &str) -> Option<(Arc<Wire>, Expected)> {
    let wire = Wire {
        table: Table::Holding,
        range: AddressRange::new(7, 1).unwrap(),
        data_type: DataType::U16,
        order: WordOrder::Abcd,
        bits: None,
        scale: Scale::default(),
        scale_from: None,
        names: BTreeMap::new(),
        invalid: Vec::new(),
    };
    Some((Arc::new(wire), expected(model)))
}

fn identity(objects: &[(u8, &str)], register: Option<(Arc<Wire>, Expected)>) -> Identity {
    let objects = objects.iter().map(|(id, text)| (*id, expected(text))).collect();
    Identity::new(Some(Arc::new(Fingerprint { objects, register })))
}

fn says(objects: &[(u8, &str)], next: Option<u8>) -> Heard {
    let objects = objects.iter().map(|(id, text)| (*id, text.as_bytes().to_vec())).collect();
    Heard::Said(Data::Objects(Objects { conformity: 0x83, next, objects }))
}

fn holds(word: u16) -> Heard {
    Heard::Said(Data::Registers(vec![word]))
}

fn at(s: u64) -> Duration {
    Duration::from_secs(s)
}

fn why(identity: &Identity) -> (Recognition, String) {
    let (recognition, why) = identity.told();
    (recognition, why.as_deref().unwrap_or_default().to_owned())
}

const OBJECTS: Question = Question::Objects(Category::Basic, 0);

#[test]
fn who_says_what_is_expected_is_polled() {
    let mut right = identity(&[(0, "ACME"), (1, "X-1*")], None);
    assert_eq!(right.step(at(0)), Step::Ask(OBJECTS));
    assert!(right.heard(&says(&[(0, "ACME\0 "), (1, "X-1/b"), (2, "9")], None), at(0)));
    assert_eq!((right.step(at(0)), right.told().0), (Step::Pass, Recognition::Right));
    assert_eq!(right.step(at(99_999)), Step::Pass, "nor is it asked again");
}

#[test]
fn who_says_something_else_is_a_stranger_until_it_says_what_is_expected() {
    let mut other = identity(&[(0, "ACME"), (1, "X-1")], register("5"));
    assert!(other.heard(&says(&[(0, "ACME"), (1, "Y-9")], None), at(0)), "its register need not be read");
    let said = "product code is \"Y-9\", expected \"X-1\"";
    assert_eq!(why(&other), (Recognition::Another, said.to_owned()));
    assert_eq!((other.step(at(0)), other.step(at(5))), (Step::Stranger, Step::Ask(OBJECTS)));
    assert!(!other.heard(&says(&[(0, "ACME"), (1, "Y-9")], None), at(5)), "that is not news");
    assert_eq!(other.step(at(9)), Step::Stranger);
    assert!(!other.heard(&says(&[(0, "ACME"), (1, "X-1")], None), at(10)), "its register is still to be read");
    assert!(other.is_another());
    assert!(other.heard(&holds(5), at(11)));
    assert_eq!(other.step(at(11)), Step::Pass);
}

#[test]
fn a_register_that_holds_another_model_is_enough() {
    let mut other = identity(&[], register("5"));
    let range = AddressRange::new(7, 1).unwrap();
    assert_eq!(other.step(at(0)), Step::Ask(Question::Register(Table::Holding, range)));
    assert!(other.heard(&holds(6), at(0)));
    assert_eq!(why(&other), (Recognition::Another, "holding 7 is \"6\", expected \"5\"".to_owned()));
}

#[test]
fn who_refuses_to_say_is_unknown_and_polled_not_another() {
    let mut mute = identity(&[(0, "ACME")], None);
    assert!(mute.heard(&Heard::Refused(1), at(0)));
    assert_eq!(why(&mute), (Recognition::Unknown, "it refuses function 43 with exception 1".to_owned()));
    assert_eq!((mute.step(at(0)), mute.step(at(99_999))), (Step::Pass, Step::Pass), "a refusal does not heal");
    let mut without = identity(&[], register("5"));
    assert!(without.heard(&Heard::Refused(2), at(0)));
    assert_eq!(why(&without), (Recognition::Unknown, "it refuses holding 7 with exception 2".to_owned()));
}

#[test]
fn who_refuses_to_say_may_still_hold_another_model() {
    let mut other = identity(&[(0, "ACME")], register("5"));
    assert!(!other.heard(&Heard::Refused(1), at(0)));
    assert!(other.heard(&holds(6), at(0)));
    assert!(other.is_another());
}

#[test]
fn who_is_deaf_to_the_question_but_answers_others_gets_a_second_thought() {
    let mut deaf = identity(&[(0, "ACME")], None);
    assert!(!deaf.heard(&Heard::Nothing, at(0)));
    assert_eq!(deaf.step(at(0)), Step::Ask(OBJECTS), "an answer may be lost");
    assert!(!deaf.heard(&Heard::Nothing, at(0)));
    assert_eq!(deaf.step(at(0)), Step::Ask(Question::Alive));
    assert!(deaf.heard(&holds(1), at(0)));
    assert_eq!(why(&deaf), (Recognition::Unknown, "it does not answer function 43, only others".to_owned()));
    assert_eq!((deaf.step(at(59)), deaf.step(at(60))), (Step::Pass, Step::Ask(OBJECTS)));
    assert!(deaf.heard(&says(&[(0, "B")], None), at(60)));
    assert!(deaf.is_another());
}

#[test]
fn who_is_always_deaf_is_not_asked_for_ever() {
    let mut deaf = identity(&[(0, "ACME")], None);
    let mut asked = 0;
    for s in (0..3600).step_by(10) {
        while let Step::Ask(question) = deaf.step(at(s)) {
            asked += 1;
            let heard = if question == Question::Alive { holds(1) } else { Heard::Nothing };
            deaf.heard(&heard, at(s));
        }
    }
    assert_eq!(asked, 3 * (1 + u32::from(SECOND_THOUGHTS)));
}

#[test]
fn a_silent_device_is_neither_another_nor_right() {
    let mut silent = identity(&[(0, "ACME")], None);
    for _ in 0..10 {
        assert!(!silent.heard(&Heard::Nothing, at(0)));
    }
    assert!(silent.is_open());
}

#[test]
fn another_device_that_falls_silent_is_looked_at_until_its_health_takes_over() {
    let mut other = identity(&[(0, "ACME")], None);
    other.heard(&says(&[(0, "B")], None), at(0));
    other.silent(at(5));
    assert_eq!((other.step(at(5)), other.is_another()), (Step::Ask(OBJECTS), true));
    other.doubt();
    assert!(other.is_open());
}

#[test]
fn silence_and_refusals_do_not_make_another_device_right() {
    let mut other = identity(&[(0, "ACME")], None);
    other.heard(&says(&[(0, "B")], None), at(0));
    assert!(!other.heard(&Heard::Refused(1), at(5)));
    assert_eq!((other.step(at(5)), other.step(at(10))), (Step::Stranger, Step::Ask(OBJECTS)));
}

#[test]
fn an_identification_in_parts_is_asked_for_to_the_end_and_no_further() {
    let mut long = identity(&[(5, "five")], None);
    assert_eq!(long.step(at(0)), Step::Ask(Question::Objects(Category::Regular, 0)));
    assert!(!long.heard(&says(&[(0, "a"), (1, "b")], Some(4)), at(0)));
    assert_eq!(long.step(at(0)), Step::Ask(Question::Objects(Category::Regular, 4)));
    assert!(long.heard(&says(&[(4, "n"), (5, "five")], Some(6)), at(0)), "what is wanted is there");
    let mut circle = identity(&[(5, "five")], None);
    circle.heard(&says(&[(0, "a")], Some(1)), at(0));
    assert!(circle.heard(&says(&[(1, "b")], Some(1)), at(0)), "it goes round and round");
    assert_eq!(why(&circle), (Recognition::Unknown, "it does not tell its model".to_owned()));
}

#[test]
fn where_nothing_is_expected_nothing_is_asked() {
    let mut any = Identity::new(None);
    any.doubt();
    assert_eq!((any.step(at(0)), any.told()), (Step::Pass, (Recognition::Unasked, None)));
}
