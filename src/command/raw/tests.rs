//! Requests as people write them, and what becomes of them.

use std::time::Duration;

use super::*;
use crate::bus::mei::Objects;
use crate::point::LineId;

fn line(port: Port) -> Line {
    let timeout = Duration::from_millis(100);
    Line {
        id: LineId(0),
        name: "hall".into(),
        port,
        timeout,
        min_timeout: timeout,
        retries: 0,
        gap: None,
        raw_access: true,
    }
}

fn on(port: Port, text: &str) -> Result<Raw, Unfit> {
    let Ok(Json::Object(fields)) = serde_json::from_str(text) else { panic!("{text}") };
    understand(&fields, &line(port))
}

fn asked(text: &str) -> Result<Raw, Unfit> {
    on(Port::RtuOverTcp("h:1".into()), text)
}

fn range(start: u16, count: u16) -> AddressRange {
    AddressRange::new(start, count).unwrap()
}

#[test]
fn each_function_is_asked_for_by_its_number() {
    let unit = UnitId::new(5).unwrap();
    let write = |kind| Deed::Write(WriteRequest { unit, kind });
    let read = |table, range| Deed::Read(ReadRequest { unit, table, range });
    let identify = |category, object| Deed::Identify(IdentifyRequest { unit, category, object });
    for (rest, deed) in [
        (r#""function": 1, "address": 7, "count": 2000"#, read(Table::Coil, range(7, 2000))),
        (r#""function": 4, "address": 65535, "count": 1"#, read(Table::Input, range(65535, 1))),
        (r#""function": 5, "address": 3, "values": [true]"#, write(WriteKind::Coil { address: 3, on: true })),
        (r#""function": 6, "address": 3, "values": [-1]"#, write(WriteKind::Register { address: 3, value: 0xFFFF })),
        (
            r#""function": 15, "address": 3, "values": [1, 0]"#,
            write(WriteKind::Coils { address: 3, values: vec![true, false] }),
        ),
        (
            r#""function": 16, "address": 3, "data": "00FF 0102""#,
            write(WriteKind::Registers { address: 3, values: vec![0xFF, 0x102] }),
        ),
        (
            r#""function": 22, "address": 3, "and": 65520, "or": 5"#,
            write(WriteKind::Mask { address: 3, and: 0xFFF0, or: 5 }),
        ),
        (
            r#""function": 23, "address": 1, "count": 2, "write_address": 9, "values": [4]"#,
            write(WriteKind::ReadWrite { address: 9, values: vec![4], read: range(1, 2) }),
        ),
        (r#""function": 43"#, identify(Category::Basic, 0)),
        (r#""function": 43, "object": 130"#, identify(Category::One, 130)),
        (r#""function": 43, "category": "extended", "object": 128"#, identify(Category::Extended, 128)),
    ] {
        let raw = asked(&format!("{{\"unit\": 5, \"id\": 1, {rest}}}")).unwrap();
        assert_eq!((raw.unit, raw.deed), (unit, deed), "{rest}");
    }
}

#[test]
fn every_limit_is_named() {
    let many = |n: usize| vec!["1"; n].join(",");
    for (text, said) in [
        (r#"{"unit": 1}"#.to_owned(), "`function` is missing; there are 1 to 6"),
        (r#"{"unit": 1, "function": 8}"#.to_owned(), "`function` is 8; there are 1 to 6"),
        (r#"{"function": 3, "address": 0, "count": 1}"#.to_owned(), "`unit` is missing"),
        (
            r#"{"unit": 248, "function": 3, "address": 0, "count": 1}"#.to_owned(),
            "`unit` is 248, it is a whole number from 0 to 247",
        ),
        (r#"{"unit": 0, "function": 3, "address": 0, "count": 1}"#.to_owned(), "`unit` is 0, which is everybody"),
        (r#"{"unit": 0, "function": 43}"#.to_owned(), "`unit` is 0, which is everybody"),
        (
            r#"{"unit": 1, "function": 3, "address": 0}"#.to_owned(),
            "`count` is missing; function 3 has unit, function, id, expires",
        ),
        (
            r#"{"unit": 1, "function": 3, "address": 0, "count": 126}"#.to_owned(),
            "`count` is 126, it is a whole number from 1 to 125",
        ),
        (r#"{"unit": 1, "function": 2, "address": 0, "count": 2001}"#.to_owned(), "from 1 to 2000"),
        (
            r#"{"unit": 1, "function": 3, "address": 65536, "count": 1}"#.to_owned(),
            "`address` is 65536, it is a whole number from 0 to 65535",
        ),
        (
            r#"{"unit": 1, "function": 3, "address": 65535, "count": 2}"#.to_owned(),
            "2 from address 65535 on end at 65536",
        ),
        (
            r#"{"unit": 1, "function": 3, "address": 0, "count": 1, "values": [1]}"#.to_owned(),
            "unknown key `values`; function 3 has",
        ),
        (
            r#"{"unit": 1, "function": 6, "address": 0, "values": [1, 2]}"#.to_owned(),
            "2 registers are too many for one request of function 6: at most 1",
        ),
        (r#"{"unit": 1, "function": 6, "address": 0}"#.to_owned(), "what is to be written is missing"),
        (
            r#"{"unit": 1, "function": 6, "address": 0, "values": [65536]}"#.to_owned(),
            "`values` is 65536, it is a whole number from -32768 to 65535",
        ),
        (r#"{"unit": 1, "function": 6, "address": 0, "values": 7}"#.to_owned(), "`values` is 7, it is a list"),
        (r#"{"unit": 1, "function": 5, "address": 0, "values": [2]}"#.to_owned(), "a coil is true or false"),
        (r#"{"unit": 1, "function": 5, "address": 0, "data": "01"}"#.to_owned(), "coils are written by `values`"),
        (r#"{"unit": 1, "function": 16, "address": 0, "data": "001"}"#.to_owned(), "four hexadecimal digits"),
        (r#"{"unit": 1, "function": 16, "address": 0, "data": "001g"}"#.to_owned(), "four hexadecimal digits"),
        (r#"{"unit": 1, "function": 16, "address": 0, "values": []}"#.to_owned(), "no registers to write"),
        (
            r#"{"unit": 1, "function": 16, "address": 0, "values": [1], "data": "0001"}"#.to_owned(),
            "exclude each other",
        ),
        (format!(r#"{{"unit": 1, "function": 16, "address": 0, "values": [{}]}}"#, many(124)), "at most 123"),
        (format!(r#"{{"unit": 1, "function": 15, "address": 0, "values": [{}]}}"#, many(1969)), "at most 1968"),
        (
            format!(
                r#"{{"unit": 1, "function": 23, "address": 0, "count": 1, "write_address": 0, "values": [{}]}}"#,
                many(122)
            ),
            "at most 121",
        ),
        (r#"{"unit": 1, "function": 16, "address": 65535, "values": [1, 2]}"#.to_owned(), "the last address is 65535"),
        (r#"{"unit": 1, "function": 22, "address": 0, "and": 1}"#.to_owned(), "`or` is missing"),
        (
            r#"{"unit": 1, "function": 43, "category": "all"}"#.to_owned(),
            "`category` is \"all\", it is basic, regular or extended",
        ),
        (r#"{"unit": 1, "function": 43, "object": 256}"#.to_owned(), "from 0 to 255"),
    ] {
        let unfit = asked(&text).unwrap_err().to_string();
        assert!(unfit.contains(said), "{text}: {unfit}");
    }
}

#[test]
fn units_beyond_247_are_behind_tcp_only_and_all_are_told_only_by_writes() {
    let text = r#"{"unit": 255, "function": 3, "address": 0, "count": 1}"#;
    assert!(asked(text).is_err() && on(Port::Tcp("h:502".into()), text).is_ok());
    assert_eq!(asked(r#"{"unit": 0, "function": 6, "address": 0, "values": [1]}"#).unwrap().unit, UnitId::BROADCAST);
}

#[test]
fn what_is_done_is_said_in_the_devices_own_terms() {
    let words = |text: &str| asked(text).unwrap().words();
    assert_eq!(
        words(r#"{"unit": 5, "function": 16, "address": 3, "values": [1, 2]}"#),
        "function 16 to unit 5: holding 3 = 1 2"
    );
    assert_eq!(
        words(r#"{"unit": 5, "function": 3, "address": 3, "count": 2}"#),
        "function 3 to unit 5: read holding 3–4"
    );
}

#[test]
fn a_reply_is_told_with_what_it_carried() {
    let read = asked(r#"{"unit": 5, "function": 3, "address": 3, "count": 2}"#).unwrap();
    let (word, body) = told(&read, &Ok(Data::Registers(vec![7, 8])));
    assert_eq!((word, body), ("read", json!({"unit": 5, "function": 3, "values": [7, 8]})));
    let (word, body) = told(&read, &Err(BusError::Refused(2)));
    let want = json!({"unit": 5, "function": 3, "exception": 2, "reason": "exception 2: illegal data address"});
    assert_eq!((word, body), ("failed", want));
    let who = asked(r#"{"unit": 5, "function": 43}"#).unwrap();
    let said = Objects { conformity: 1, next: None, objects: vec![(0, b"ACME".to_vec())] };
    let (_, body) = told(&who, &Ok(Data::Objects(said)));
    assert_eq!(body["objects"], json!([{"id": 0, "name": "vendor", "value": "ACME"}]));
    let both = asked(r#"{"unit": 5, "function": 23, "address": 1, "count": 1, "write_address": 1, "values": [4]}"#);
    let (word, body) = told(&both.unwrap(), &Ok(Data::Written));
    assert!(word == "written" && body["reason"].as_str().unwrap().contains("older answer"), "{body}");
}
