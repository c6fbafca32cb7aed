//! What a command asks for, whether that can be understood, and whether its time has passed. Pure: bytes in, a request or a refusal
//! out. Whether a value suits its point is judged in [`planned`](crate::command::planned).

use std::time::Duration;

use serde_json::Value as Json;

use crate::config::write::Unfit;
use crate::sample::Value;

/// A command as it came, understood but not yet judged.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// What to write, in engineering units or by name.
    pub value: Value,
    /// The asker's own mark, handed back.
    pub id: Option<String>,
    /// Wall time in microseconds since 1970 after which it must not be done.
    pub expires_us: Option<i64>,
}

/// Several writes to one device, all or none.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// Names of points and what to write, in the order to write in.
    pub writes: Vec<(String, Value)>,
    /// As in [`Request`].
    pub id: Option<String>,
    /// As in [`Request`].
    pub expires_us: Option<i64>,
}

/// What a device's polling shall do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// Leave it alone.
    Pause,
    /// Go on.
    Resume,
    /// Read all its points now.
    Read,
}

/// Why a command is not done. The text says the value and the limit; it goes to the asker.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Neither a bare value nor the object form.
    #[error("the payload is no value: {0}; send a bare value or {{\"value\": …}}")]
    Malformed(String),
    /// A retained command would be done again at every start.
    #[error("retained commands are refused: publish without the retain flag")]
    Retained,
    /// No such point.
    #[error("no point `{0}`")]
    UnknownPoint(String),
    /// No such device.
    #[error("no device `{0}`")]
    UnknownDevice(String),
    /// Nobody knows what its registers mean.
    #[error("another device answers there: {0}")]
    AnotherDevice(String),
    /// No such line.
    #[error("no line `{0}`")]
    UnknownLine(String),
    /// The line does not say that it may be reached so.
    #[error("raw access to line `{0}` is off: it has no `raw_access: true`")]
    RawOff(String),
    /// Nobody who may.
    #[error("raw access is for users and upstreams that a rule allows by name")]
    RawNobody,
    /// Not within what Modbus allows.
    #[error("{0}")]
    Raw(String),
    /// Nothing on the wire to ask for.
    #[error("`{0}` is computed: it is told whenever what it is made of is read")]
    Computed(String),
    /// The same point twice in one batch: which one counts would be a guess.
    #[error("`{0}` is in the batch twice")]
    Twice(String),
    /// The same id with other values: neither done nor answered with what was not asked.
    #[error("the id `{0}` was used for another command: give each an id of its own")]
    UsedId(String),
    /// Something newer was asked of the same point while this waited.
    #[error("replaced by a newer command before it was its turn")]
    Replaced,
    /// The point has no `write`.
    #[error("`{0}` is not writable: its point has no `write`")]
    ReadOnly(String),
    /// Its time has passed.
    #[error("expired {0} ms ago")]
    Expired(i64),
    /// It passed while the line was busy.
    #[error("expired while the line was busy: nothing was sent")]
    TooLate,
    /// Not a value for this point.
    #[error(transparent)]
    Unfit(#[from] Unfit),
}

/// Understands a payload: a bare JSON scalar, a bare text, or `{"value": …, "id": …, "expires": RFC 3339}`.
pub fn parse(payload: &[u8]) -> Result<Request, Refusal> {
    let text = std::str::from_utf8(payload).map_err(|_| Refusal::Malformed("it is not UTF-8".to_owned()))?.trim();
    if text.is_empty() {
        return Err(Refusal::Malformed("it is empty".to_owned()));
    }
    match serde_json::from_str::<Json>(text) {
        Ok(Json::Object(fields)) => object(&fields),
        Ok(Json::Array(_) | Json::Null) => Err(Refusal::Malformed(format!("`{text}`"))),
        Ok(Json::String(name)) => Ok(bare(Value::Text(name.into()))),
        Ok(Json::Bool(on)) => Ok(bare(Value::Bool(on))),
        Ok(Json::Number(_)) | Err(_) => Ok(bare(Value::plain(text))),
    }
}

fn bare(value: Value) -> Request {
    Request { value, id: None, expires_us: None }
}

fn object(fields: &Fields) -> Result<Request, Refusal> {
    only(fields, &["value", "id", "expires"])?;
    let value = value_of(fields)?;
    Ok(Request { value, id: id_of(fields)?, expires_us: expiry_of(fields)? })
}

pub(super) type Fields = serde_json::Map<String, Json>;

fn only(fields: &Fields, known: &[&str]) -> Result<(), Refusal> {
    match fields.keys().find(|key| !known.contains(&key.as_str())) {
        Some(key) => Err(Refusal::Malformed(format!("unknown key `{key}`, there are {}", known.join(", ")))),
        None => Ok(()),
    }
}

fn value_of(fields: &Fields) -> Result<Value, Refusal> {
    match fields.get("value") {
        Some(Json::String(name)) => Ok(Value::Text(name.as_str().into())),
        Some(Json::Bool(on)) => Ok(Value::Bool(*on)),
        Some(Json::Number(n)) => Ok(Value::plain(&n.to_string())),
        Some(other) => Err(Refusal::Malformed(format!("`value` is {other}"))),
        None => Err(Refusal::Malformed("`value` is missing".to_owned())),
    }
}

/// Longer ids are refused: they are remembered for as long as a sender may repeat itself.
const LONGEST_ID: usize = 128;

fn id_of(fields: &Fields) -> Result<Option<String>, Refusal> {
    let id = match fields.get("id") {
        None | Some(Json::Null) => return Ok(None),
        Some(Json::String(id)) => id.clone(),
        Some(other) => other.to_string(),
    };
    match id.len() {
        0..=LONGEST_ID => Ok(Some(id)),
        long => Err(Refusal::Malformed(format!("`id` is {long} bytes long, at most {LONGEST_ID} are taken"))),
    }
}

fn expiry_of(fields: &Fields) -> Result<Option<i64>, Refusal> {
    match fields.get("expires") {
        None | Some(Json::Null) => Ok(None),
        Some(Json::String(text)) => moment(text).map(Some),
        Some(other) => Err(bad_time(&other.to_string())),
    }
}

/// Understands `{"writes": [{"point": …, "value": …}, …], "id": …, "expires": …}`.
pub fn parse_batch(payload: &[u8]) -> Result<Batch, Refusal> {
    let wrong = |why: &str| {
        Refusal::Malformed(format!("{why}; a device takes {{\"writes\": [{{\"point\": …, \"value\": …}}]}}"))
    };
    let Ok(Json::Object(fields)) = serde_json::from_slice::<Json>(payload) else {
        return Err(wrong("it is no JSON object"));
    };
    only(&fields, &["writes", "id", "expires"])?;
    let Some(Json::Array(list)) = fields.get("writes") else { return Err(wrong("`writes` is no list")) };
    let mut writes: Vec<(String, Value)> = Vec::new();
    for entry in list {
        let Json::Object(entry) = entry else { return Err(wrong(&format!("{entry} is no write"))) };
        only(entry, &["point", "value"])?;
        let Some(Json::String(point)) = entry.get("point") else { return Err(wrong("a write without `point`")) };
        if writes.iter().any(|(name, _)| name == point) {
            return Err(Refusal::Twice(point.clone()));
        }
        writes.push((point.clone(), value_of(entry)?));
    }
    if writes.is_empty() {
        return Err(wrong("`writes` is empty"));
    }
    Ok(Batch { writes, id: id_of(&fields)?, expires_us: expiry_of(&fields)? })
}

/// An id and an `expires` as in [`Request`].
pub type Marks = (Option<String>, Option<i64>);

/// Understands `pause`, `resume` or `read`, bare or as `{"command": …, "id": …, "expires": …}`.
pub fn parse_action(payload: &[u8]) -> Result<(Action, Option<String>, Option<i64>), Refusal> {
    let text = std::str::from_utf8(payload).unwrap_or_default().trim();
    let (word, (id, expires_us)): (_, Marks) = match serde_json::from_str::<Json>(text) {
        Ok(Json::Object(fields)) => {
            only(&fields, &["command", "id", "expires"])?;
            let word = fields.get("command").and_then(Json::as_str).unwrap_or_default();
            (word.to_owned(), (id_of(&fields)?, expiry_of(&fields)?))
        }
        Ok(Json::String(word)) => (word, (None, None)),
        _ => (text.to_owned(), (None, None)),
    };
    let action = match word.as_str() {
        "pause" => Action::Pause,
        "resume" => Action::Resume,
        "read" => Action::Read,
        other => return Err(Refusal::Malformed(format!("no command `{other}`, there are pause, resume, read"))),
    };
    Ok((action, id, expires_us))
}

/// Understands what a read on demand may carry: nothing, or `{"id": …, "expires": …}`.
pub fn parse_get(payload: &[u8]) -> Result<Marks, Refusal> {
    if payload.trim_ascii().is_empty() {
        return Ok((None, None));
    }
    let Ok(Json::Object(fields)) = serde_json::from_slice::<Json>(payload) else {
        return Err(Refusal::Malformed("a read carries nothing, or {\"id\": …}".to_owned()));
    };
    only(&fields, &["id", "expires"])?;
    Ok((id_of(&fields)?, expiry_of(&fields)?))
}

/// Understands a raw request: `{"unit": …, "function": …, …, "id": …, "expires": …}`, the rest by function.
pub(super) fn parse_raw(payload: &[u8]) -> Result<(Fields, Option<String>, Option<i64>), Refusal> {
    let Ok(Json::Object(fields)) = serde_json::from_slice::<Json>(payload) else {
        return Err(Refusal::Malformed("a raw request is {\"unit\": …, \"function\": …, …}".to_owned()));
    };
    let (id, expires_us) = (id_of(&fields)?, expiry_of(&fields)?);
    Ok((fields, id, expires_us))
}

fn moment(text: &str) -> Result<i64, Refusal> {
    text.parse::<jiff::Timestamp>().map(jiff::Timestamp::as_microsecond).map_err(|_| bad_time(text))
}

fn bad_time(text: &str) -> Refusal {
    Refusal::Malformed(format!("`expires` is {text}, it wants a time such as 2026-11-21T01:02:03Z"))
}

/// How old a command is, and how old it may become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Age {
    /// As in [`Request`].
    pub expires_us: Option<i64>,
    /// The message's own time to live (MQTT 5, 3.3.2.3.3), as it was when the message came.
    pub lives: Option<Duration>,
    /// How long it has been here.
    pub waited: Duration,
}

/// Whether the time of a command has passed: by the wall clock, by its message's time to live, or by what the point allows.
///
/// # Errors
/// [`Refusal::Expired`] with by how much.
pub fn in_time(age: Age, allowed: Duration, now_us: i64) -> Result<(), Refusal> {
    let late_us = age.expires_us.map_or(i64::MIN, |at| now_us.saturating_sub(at));
    if late_us > 0 {
        return Err(Refusal::Expired(late_us / 1000));
    }
    let allowed = age.lives.map_or(allowed, |lives| lives.min(allowed));
    match age.waited.checked_sub(allowed) {
        Some(late) if !late.is_zero() => Err(Refusal::Expired(i64::try_from(late.as_millis()).unwrap_or(i64::MAX))),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_comes_bare_or_in_an_object() {
        for (payload, value) in [
            ("6.5", Value::Decimal("6.5".parse().unwrap())),
            (" 18446744073709551615 ", Value::Uint(u64::MAX)),
            ("cooling", Value::Text("cooling".into())),
            ("\"cooling\"", Value::Text("cooling".into())),
            ("true", Value::Bool(true)),
            ("{\"value\": -3}", Value::Int(-3)),
        ] {
            assert_eq!(parse(payload.as_bytes()).unwrap().value, value, "{payload}");
        }
        let full = parse(br#"{"value": 1, "id": "a7", "expires": "1970-01-01T00:00:01Z"}"#).unwrap();
        assert_eq!(full, Request { value: Value::Int(1), id: Some("a7".into()), expires_us: Some(1_000_000) });
    }

    #[test]
    fn a_payload_that_says_nothing_is_refused() {
        for payload in ["", "[1]", "null", "{}", "{\"value\": null}", "{\"value\": 1, \"valve\": 2}"] {
            assert!(matches!(parse(payload.as_bytes()), Err(Refusal::Malformed(_))), "{payload}");
        }
        assert!(matches!(parse(b"{\"value\":1,\"expires\":5}"), Err(Refusal::Malformed(_))));
        assert!(matches!(parse(&[0xFF]), Err(Refusal::Malformed(_))));
        let long = format!("{{\"value\": 1, \"id\": \"{}\"}}", "x".repeat(129));
        assert!(parse(long.as_bytes()).unwrap_err().to_string().contains("129 bytes long, at most 128"));
    }

    #[test]
    fn a_batch_names_its_points_each_once() {
        let batch = parse_batch(br#"{"writes": [{"point": "a", "value": 1}, {"point": "b", "value": "on"}], "id": 7}"#);
        let writes = vec![("a".to_owned(), Value::Int(1)), ("b".to_owned(), Value::Text("on".into()))];
        assert_eq!(batch.unwrap(), Batch { writes, id: Some("7".into()), expires_us: None });
        let twice = br#"{"writes": [{"point": "a", "value": 1}, {"point": "a", "value": 2}]}"#;
        assert_eq!(parse_batch(twice).unwrap_err().to_string(), "`a` is in the batch twice");
        for payload in ["", "5", "{}", r#"{"writes": []}"#, r#"{"writes": [5]}"#, r#"{"writes": [{"value": 1}]}"#] {
            assert!(matches!(parse_batch(payload.as_bytes()), Err(Refusal::Malformed(_))), "{payload}");
        }
    }

    #[test]
    fn a_device_is_told_in_a_word_or_in_an_object() {
        assert_eq!(parse_action(b"pause"), Ok((Action::Pause, None, None)));
        let late = br#"{"command": "read", "id": "x", "expires": "1970-01-01T00:00:01Z"}"#;
        assert_eq!(parse_action(late), Ok((Action::Read, Some("x".into()), Some(1_000_000))));
        assert_eq!((parse_get(b" "), parse_get(br#"{"id": 3}"#)), (Ok((None, None)), Ok((Some("3".into()), None))));
        assert!(parse_action(b"reboot").is_err() && parse_get(b"now").is_err());
    }

    fn fresh(waited_ms: u64) -> Age {
        Age { expires_us: None, lives: None, waited: Duration::from_millis(waited_ms) }
    }

    #[test]
    fn an_old_command_is_refused() {
        let expires = Duration::from_secs(10);
        let dated = Request { expires_us: Some(1_000_000), ..parse(b"5").unwrap() };
        let at = |now_us| in_time(Age { expires_us: dated.expires_us, ..fresh(0) }, expires, now_us);
        assert_eq!(at(999_000), Ok(()));
        assert_eq!(at(1_500_000), Err(Refusal::Expired(500)));
        assert_eq!(in_time(fresh(10_000), expires, 0), Ok(()));
        assert_eq!(in_time(fresh(10_250), expires, 0), Err(Refusal::Expired(250)));
        let short_lived = |waited| Age { lives: Some(Duration::from_secs(2)), ..fresh(waited) };
        assert_eq!(in_time(short_lived(2_000), expires, 0), Ok(()));
        assert_eq!(in_time(short_lived(2_250), expires, 0), Err(Refusal::Expired(250)));
        let patient = Age { lives: Some(Duration::from_secs(60)), ..fresh(10_250) };
        assert_eq!(in_time(patient, expires, 0), Err(Refusal::Expired(250)), "the point's own limit holds as well");
    }
}
