//! Read device identification (function 43, MEI type 14; V1.1b3, 6.21), pure: the one answer of this house that says only inside
//! itself how long it is. So a beginning is walked object by object, and tells how many bytes are needed at least. Long
//! identifications come in parts; which part an answer is shows its first object's id, so a late part never passes for another.

use serde_json::Value as Json;
use serde_json::json;

use crate::point::UnitId;

/// Function code of the encapsulated interface transport.
pub(crate) const FUNCTION: u8 = 43;
/// The MEI type of device identification.
pub(crate) const TYPE: u8 = 14;
/// Function, type, category, conformity, more follows, next object, number of objects.
const HEADER: usize = 7;
/// A PDU has at most 253 bytes (V1.1b3, 4.1). Without this bound a damaged count would be waited for for minutes.
const TOO_LONG: usize = 254;

/// Which objects are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Category {
    /// 0 to 2: vendor, product code, revision. Every device that knows the function has them.
    Basic,
    /// 0 to 127.
    Regular,
    /// All, the maker's own from 128 on included.
    Extended,
    /// A single one.
    One,
}

impl Category {
    /// As it goes on the wire.
    pub const fn code(self) -> u8 {
        match self {
            Self::Basic => 1,
            Self::Regular => 2,
            Self::Extended => 3,
            Self::One => 4,
        }
    }
}

/// A question for objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdentifyRequest {
    /// Whom to ask; not broadcast.
    pub unit: UnitId,
    /// Which objects.
    pub category: Category,
    /// The first of them, or the only one.
    pub object: u8,
}

/// What one answer holds of a device's identification.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Objects {
    /// How much the device can tell, and whether by single objects.
    pub conformity: u8,
    /// The object to go on with, where this is not all.
    pub next: Option<u8>,
    /// Id and value, as bytes: the standard says text, devices say many things.
    pub objects: Vec<(u8, Vec<u8>)>,
}

/// What the standard calls an object; its own from 128 on have no names.
pub const fn name(object: u8) -> Option<&'static str> {
    Some(match object {
        0 => "vendor",
        1 => "product_code",
        2 => "revision",
        3 => "url",
        4 => "product_name",
        5 => "model",
        6 => "application",
        _ => return None,
    })
}

/// A value as text, where it is one: printable, and without what some devices fill it up with.
pub fn text(value: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(value).ok()?.trim_end_matches(['\0', ' ']);
    (!text.chars().any(char::is_control)).then_some(text)
}

/// For programs: id, name where it has one, and the value as text or as bytes.
pub fn json(objects: &[(u8, Vec<u8>)]) -> Json {
    let one = |(id, value): &(u8, Vec<u8>)| {
        let mut object = json!({ "id": id });
        if let Some(name) = name(*id) {
            object["name"] = json!(name);
        }
        match text(value) {
            Some(text) => object["value"] = json!(text),
            None => object["bytes"] = json!(value.iter().map(|b| format!("{b:02X}")).collect::<String>()),
        }
        object
    };
    objects.iter().map(one).collect()
}

/// How long the PDU is that begins like this, as far as the beginning shows: exactly, once that many bytes are there; before,
/// at least. What comes behind it is not looked at. What is longer than any PDU is told as one byte too long.
pub(crate) fn length(begun: &[u8]) -> usize {
    let Some(count) = begun.get(HEADER - 1) else { return HEADER };
    let mut at = HEADER;
    for _ in 0..*count {
        match begun.get(at + 1) {
            Some(length) => at += 2 + usize::from(*length),
            None => return (at + 2).min(TOO_LONG),
        }
    }
    at.min(TOO_LONG)
}

/// True where a whole PDU of the right function and category answers the question for this object: it begins with it, and where a
/// single one was asked for, ends with it. A device may have the function and nothing to say.
pub(crate) fn answers(pdu: &[u8], object: u8) -> bool {
    let is_one = pdu.get(2) == Some(&Category::One.code());
    match (pdu.get(HEADER - 1), pdu.get(HEADER)) {
        (Some(0), None) => object == 0 && !is_one,
        (Some(count), Some(first)) => *first == object && (*count == 1 || !is_one),
        _ => false,
    }
}

/// The objects of a PDU that was taken for an answer.
pub(crate) fn parse(pdu: &[u8]) -> Option<Objects> {
    let [FUNCTION, TYPE, _, conformity, more, next, count, rest @ ..] = pdu else { return None };
    let mut objects = Vec::with_capacity(usize::from(*count));
    let mut rest = rest;
    for _ in 0..*count {
        let [id, length, tail @ ..] = rest else { return None };
        let (value, tail) = tail.split_at_checked(usize::from(*length))?;
        objects.push((*id, value.to_vec()));
        rest = tail;
    }
    let next = (*more != 0).then_some(*next);
    rest.is_empty().then_some(Objects { conformity: *conformity, next, objects })
}

/// The PDU of an answer; the opposite of [`parse`], for devices that are simulated.
pub(crate) fn render(category: u8, said: &Objects) -> Vec<u8> {
    let more = if said.next.is_some() { 0xFF } else { 0 };
    let mut pdu = vec![FUNCTION, TYPE, category, said.conformity, more, said.next.unwrap_or(0)];
    pdu.push(said.objects.len() as u8);
    for (id, value) in &said.objects {
        pdu.extend_from_slice(&[*id, value.len() as u8]);
        pdu.extend_from_slice(value);
    }
    pdu
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn said(values: &[&str]) -> Objects {
        let objects = (0..).zip(values).map(|(id, value)| (id, value.as_bytes().to_vec())).collect();
        Objects { conformity: 0x81, next: None, objects }
    }

    #[test]
    fn the_bytes_are_those_of_the_standards_example() {
        // V1.1b3, 6.21, "Device Identification in one transaction".
        let pdu =
            render(1, &Objects { conformity: 1, ..said(&["Company identification", "Product code XX", "V2.11"]) });
        assert_eq!(pdu[..9], [0x2B, 0x0E, 1, 1, 0, 0, 3, 0, 0x16]);
        assert_eq!((pdu[31], pdu[32], pdu.len()), (1, 0x0F, 55));
    }

    #[test]
    fn a_part_is_an_answer_only_to_the_question_for_its_first_object() {
        let pdu = render(1, &said(&["a", "b"]));
        assert!(answers(&pdu, 0) && !answers(&pdu, 1));
        let one = |objects: &[&str]| render(Category::One.code(), &said(objects));
        assert!(answers(&one(&["a"]), 0) && !answers(&one(&["a", "b"]), 0), "one was asked for");
        assert!(answers(&render(1, &said(&[])), 0), "nothing to say is an answer");
        assert!(!answers(&render(1, &said(&[])), 2) && !answers(&one(&[]), 0), "but not to this");
    }

    proptest! {
        #[test]
        fn what_is_rendered_is_parsed_and_its_length_known_from_its_end_only(
            values in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..38), 0..6),
            next in prop::option::of(any::<u8>()),
            behind in prop::collection::vec(any::<u8>(), 0..9),
        ) {
            let objects: Vec<(u8, Vec<u8>)> = (0..).zip(values).collect();
            let said = Objects { conformity: 3, next, objects };
            let pdu = render(2, &said);
            prop_assert_eq!(parse(&pdu), Some(said));
            for cut in 0..pdu.len() {
                prop_assert!(length(&pdu[..cut]) > cut && length(&pdu[..cut]) <= pdu.len());
                prop_assert_eq!(parse(&pdu[..cut]), None);
            }
            prop_assert_eq!(length(&[pdu.clone(), behind].concat()), pdu.len());
        }

        #[test]
        fn no_bytes_whatever_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), object in any::<u8>()) {
            let _ = (length(&bytes), answers(&bytes, object), parse(&bytes));
        }
    }
}
