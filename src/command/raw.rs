//! Raw access to a line, for commissioning: a Modbus request as it stands in the manual, by `{gateway}/{line}/$modbus` or through the
//! control socket. Pure: JSON in, a request within the standard's limits or a refusal out, and what a reply is told as. It goes below
//! everything the configuration knows: no point, no limits of values, no other names than Modbus'.

use std::ops::RangeInclusive;

use serde_json::Value as Json;
use serde_json::json;

use crate::bus::BusError;
use crate::bus::Data;
use crate::bus::ReadRequest;
use crate::bus::WriteKind;
use crate::bus::WriteRequest;
use crate::bus::mei;
use crate::bus::mei::Category;
use crate::bus::mei::IdentifyRequest;
use crate::bus::trace;
use crate::config::plant::Line;
use crate::config::plant::Port;
use crate::point::AddressRange;
use crate::point::Table;
use crate::point::UnitId;

/// A request that may go on the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Raw {
    pub(super) unit: UnitId,
    pub(super) function: u8,
    pub(super) deed: Deed,
}

/// What kind it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Deed {
    Read(ReadRequest),
    Write(WriteRequest),
    Identify(IdentifyRequest),
}

/// Why it may not. Each says the value and the limit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unfit {
    /// There is something beside the keys of this function.
    #[error("unknown key `{key}`; function {function} has {known}")]
    Key { key: String, function: u8, known: String },
    /// Something the function needs is not there.
    #[error("`{key}` is missing; function {function} has {known}")]
    Missing { key: &'static str, function: u8, known: String },
    /// A whole number outside its limits, or none at all.
    #[error("`{key}` is {value}, it is a whole number from {from} to {to}")]
    Number { key: &'static str, value: String, from: i64, to: i64 },
    /// None of those that are sent.
    #[error("`function` is {0}; there are 1 to 6, 15, 16, 22, 23 and 43")]
    Function(String),
    /// Nobody could answer.
    #[error("`unit` is 0, which is everybody: only functions 5, 6, 15, 16 and 22 are sent to all, for nobody answers")]
    Everybody,
    /// Neither a list nor hexadecimal digits.
    #[error("{0}")]
    Values(String),
    /// Too many for one request.
    #[error("{given} {what} are too many for one request of function {function}: at most {most}")]
    Many { given: usize, what: &'static str, function: u8, most: usize },
    /// Beyond the last address.
    #[error("{count} from address {start} on end at {last}, the last address is 65535")]
    End { start: u16, count: usize, last: usize },
}

type Fields = serde_json::Map<String, Json>;

/// Keys that every request may have beside its function's own.
const COMMON: [&str; 4] = ["unit", "function", "id", "expires"];

/// The keys of a function, those in front are needed.
const fn keys_of(function: u8) -> Option<(&'static [&'static str], usize)> {
    Some(match function {
        1..=4 => (&["address", "count"], 2),
        5 | 6 | 15 | 16 => (&["address", "values", "data"], 1),
        22 => (&["address", "and", "or"], 3),
        23 => (&["address", "count", "write_address", "values", "data"], 3),
        mei::FUNCTION => (&["category", "object"], 0),
        _ => return None,
    })
}

/// One request, as it came.
struct Asked<'a> {
    fields: &'a Fields,
    function: u8,
}

/// Understands the fields of a request on this line.
pub(super) fn understand(fields: &Fields, line: &Line) -> Result<Raw, Unfit> {
    let said = fields.get("function");
    let function = said.and_then(Json::as_i64).and_then(|n| u8::try_from(n).ok()).filter(|n| keys_of(*n).is_some());
    let function = function.ok_or_else(|| Unfit::Function(said.map_or("missing".to_owned(), Json::to_string)))?;
    let asked = Asked { fields, function };
    asked.has_the_right_keys()?;
    let most = if matches!(line.port, Port::Tcp(_)) { 255 } else { 247 };
    let unit = asked.number("unit", 0..=most)?;
    let unit = UnitId::new(u8::try_from(unit).unwrap_or(u8::MAX)).unwrap_or(UnitId::BROADCAST);
    let is_for_all = matches!(function, 5 | 6 | 15 | 16 | 22);
    if unit == UnitId::BROADCAST && !is_for_all {
        return Err(Unfit::Everybody);
    }
    let deed = match function {
        1..=4 => Deed::Read(asked.read(unit)?),
        mei::FUNCTION => Deed::Identify(asked.identify(unit)?),
        _ => Deed::Write(WriteRequest { unit, kind: asked.write()? }),
    };
    Ok(Raw { unit, function, deed })
}

impl Asked<'_> {
    fn has_the_right_keys(&self) -> Result<(), Unfit> {
        let function = self.function;
        let (own, needed) = keys_of(function).unwrap_or_default();
        let known = || COMMON.iter().chain(own).copied().collect::<Vec<_>>().join(", ");
        let strange = |key: &&String| !COMMON.contains(&key.as_str()) && !own.contains(&key.as_str());
        if let Some(key) = self.fields.keys().find(strange) {
            return Err(Unfit::Key { key: key.clone(), function, known: known() });
        }
        let needed = ["unit"].iter().chain(&own[..needed]);
        match needed.copied().find(|key| !self.fields.contains_key(*key)) {
            Some(key) => Err(Unfit::Missing { key, function, known: known() }),
            None => Ok(()),
        }
    }

    fn number(&self, key: &'static str, limits: RangeInclusive<i64>) -> Result<i64, Unfit> {
        let said = self.fields.get(key).unwrap_or(&Json::Null);
        let (from, to) = (*limits.start(), *limits.end());
        let wrong = || Unfit::Number { key, value: said.to_string(), from, to };
        said.as_i64().filter(|n| limits.contains(n)).ok_or_else(wrong)
    }

    fn word(&self, key: &'static str) -> Result<u16, Unfit> {
        let number = self.number(key, 0..=0xFFFF)?;
        Ok(u16::try_from(number).unwrap_or(u16::MAX))
    }

    fn range(&self, table: Table) -> Result<AddressRange, Unfit> {
        let start = self.word("address")?;
        let count = self.number("count", 1..=i64::from(table.read_limit()))?;
        let count = u16::try_from(count).unwrap_or(u16::MAX);
        AddressRange::new(start, count).ok_or_else(|| beyond(start, usize::from(count)))
    }

    fn read(&self, unit: UnitId) -> Result<ReadRequest, Unfit> {
        let table = match self.function {
            1 => Table::Coil,
            2 => Table::Discrete,
            3 => Table::Holding,
            _ => Table::Input,
        };
        Ok(ReadRequest { unit, table, range: self.range(table)? })
    }

    fn write(&self) -> Result<WriteKind, Unfit> {
        let address = self.word("address")?;
        Ok(match self.function {
            5 => WriteKind::Coil { address, on: self.coils(address, 1)?[0] },
            15 => WriteKind::Coils { address, values: self.coils(address, 1968)? },
            6 => WriteKind::Register { address, value: self.words(address, 1)?[0] },
            16 => WriteKind::Registers { address, values: self.words(address, 123)? },
            22 => WriteKind::Mask { address, and: self.word("and")?, or: self.word("or")? },
            _ => {
                let to = self.word("write_address")?;
                let values = self.words(to, 121)?;
                WriteKind::ReadWrite { address: to, values, read: self.range(Table::Holding)? }
            }
        })
    }

    /// `values` as a list, or `data` as hexadecimal digits, one of them.
    fn values(&self) -> Result<Result<&Vec<Json>, &str>, Unfit> {
        match (self.fields.get("values"), self.fields.get("data")) {
            (Some(Json::Array(values)), None) => Ok(Ok(values)),
            (None, Some(Json::String(digits))) => Ok(Err(digits)),
            (Some(_), Some(_)) => Err(Unfit::Values("`values` and `data` exclude each other".to_owned())),
            (None, None) => Err(Unfit::Values(
                "what is to be written is missing: `values` is a list, `data` its bytes in hexadecimal".to_owned(),
            )),
            (Some(other), None) => Err(Unfit::Values(format!("`values` is {other}, it is a list"))),
            (None, Some(other)) => Err(Unfit::Values(format!("`data` is {other}, it is hexadecimal digits"))),
        }
    }

    fn words(&self, start: u16, most: usize) -> Result<Vec<u16>, Unfit> {
        let words = match self.values()? {
            Ok(list) => list.iter().map(word).collect::<Result<Vec<_>, _>>()?,
            Err(digits) => words_of(digits)?,
        };
        self.fits(start, words.len(), ("registers", most))?;
        Ok(words)
    }

    fn coils(&self, start: u16, most: usize) -> Result<Vec<bool>, Unfit> {
        let Ok(list) = self.values()? else {
            return Err(Unfit::Values("coils are written by `values`, a list of true and false".to_owned()));
        };
        let coils = list.iter().map(coil).collect::<Result<Vec<_>, _>>()?;
        self.fits(start, coils.len(), ("coils", most))?;
        Ok(coils)
    }

    fn fits(&self, start: u16, given: usize, (what, most): (&'static str, usize)) -> Result<(), Unfit> {
        match given {
            0 => Err(Unfit::Values(format!("there are no {what} to write"))),
            n if n > most => Err(Unfit::Many { given, what, function: self.function, most }),
            n if usize::from(start) + n > 0x1_0000 => Err(beyond(start, n)),
            _ => Ok(()),
        }
    }

    fn identify(&self, unit: UnitId) -> Result<IdentifyRequest, Unfit> {
        let object = match self.fields.get("object") {
            Some(_) => self.number("object", 0..=255)?,
            None => 0,
        };
        let category = match self.fields.get("category").map(Json::as_str) {
            None if self.fields.contains_key("object") => Category::One,
            None | Some(Some("basic")) => Category::Basic,
            Some(Some("regular")) => Category::Regular,
            Some(Some("extended")) => Category::Extended,
            Some(_) => {
                let said = self.fields.get("category").unwrap_or(&Json::Null);
                let known = "basic, regular or extended; without it `object` asks for a single one";
                return Err(Unfit::Values(format!("`category` is {said}, it is {known}")));
            }
        };
        Ok(IdentifyRequest { unit, category, object: u8::try_from(object).unwrap_or_default() })
    }
}

fn beyond(start: u16, count: usize) -> Unfit {
    Unfit::End { start, count, last: usize::from(start) + count - 1 }
}

/// Signed ones as two's complement, because manuals give both.
fn word(value: &Json) -> Result<u16, Unfit> {
    let number = value.as_i64().filter(|n| (-0x8000..=0xFFFF).contains(n));
    let number =
        number.ok_or_else(|| Unfit::Number { key: "values", value: value.to_string(), from: -0x8000, to: 0xFFFF })?;
    Ok((number & 0xFFFF) as u16)
}

fn coil(value: &Json) -> Result<bool, Unfit> {
    match value {
        Json::Bool(on) => Ok(*on),
        _ if value.as_i64() == Some(1) => Ok(true),
        _ if value.as_i64() == Some(0) => Ok(false),
        _ => Err(Unfit::Values(format!("a coil is true or false, or 1 or 0, not {value}"))),
    }
}

fn words_of(digits: &str) -> Result<Vec<u16>, Unfit> {
    let plain: Vec<u8> = digits.bytes().filter(|b| *b != b' ').collect();
    let wrong = || Unfit::Values(format!("`data` is `{digits}`, a register has four hexadecimal digits"));
    if !plain.len().is_multiple_of(4) {
        return Err(wrong());
    }
    let word = |four: &[u8]| std::str::from_utf8(four).ok().and_then(|t| u16::from_str_radix(t, 16).ok());
    plain.chunks(4).map(|four| word(four).ok_or_else(wrong)).collect()
}

impl Raw {
    /// What it does, in the device's own terms: for the log, and for whoever keeps account of what was written.
    pub(super) fn words(&self) -> String {
        let (unit, function) = (self.unit, self.function);
        let what = match &self.deed {
            Deed::Read(read) => format!("read {} {}", read.table, read.range),
            Deed::Identify(_) => "read identification".to_owned(),
            Deed::Write(write) => written(&write.kind),
        };
        format!("function {function} to unit {unit}: {what}")
    }

    /// True where it changes nothing.
    pub(super) const fn is_read(&self) -> bool {
        !matches!(self.deed, Deed::Write(_))
    }
}

fn written(kind: &WriteKind) -> String {
    match kind {
        WriteKind::Coil { address, on } => format!("coil {address} = {}", u8::from(*on)),
        WriteKind::Coils { address, values } => {
            format!("coil {address} = {}", joined(values.iter().map(|on| u8::from(*on))))
        }
        WriteKind::Register { address, value } => format!("holding {address} = {value}"),
        WriteKind::Registers { address, values } => format!("holding {address} = {}", joined(values)),
        WriteKind::Mask { address, and, or } | WriteKind::Bits { address, and, or, .. } => {
            format!("holding {address} = old & {and:#06x} | {or:#06x}")
        }
        WriteKind::ReadWrite { address, values, read } => {
            format!("holding {address} = {}, then read holding {read}", joined(values))
        }
    }
}

fn joined(numbers: impl IntoIterator<Item = impl ToString>) -> String {
    numbers.into_iter().map(|n| n.to_string()).collect::<Vec<_>>().join(" ")
}

/// What a reply is told as, and in a word.
pub(super) fn told(raw: &Raw, reply: &Result<Data, BusError>) -> (&'static str, Json) {
    let mut body = json!({ "unit": raw.unit.get(), "function": raw.function });
    let done = if raw.is_read() { "read" } else { "written" };
    let word = match reply {
        Ok(data) => {
            told_data(raw, data, &mut body);
            done
        }
        Err(error) => {
            if let BusError::Refused(code) = error {
                body["exception"] = json!(code);
            }
            body["reason"] = json!(reason(error));
            "failed"
        }
    };
    (word, body)
}

fn told_data(raw: &Raw, data: &Data, body: &mut Json) {
    match data {
        Data::Registers(words) => body["values"] = json!(words),
        Data::Bits(bits) => body["values"] = json!(bits),
        Data::Objects(said) => {
            body["conformity"] = json!(said.conformity);
            body["objects"] = mei::json(&said.objects);
        }
        Data::Written if raw.function == 23 => {
            body["reason"] = json!("written; what was read back could be an older answer and is not told: read it");
        }
        Data::Written => {}
    }
}

fn reason(error: &BusError) -> String {
    match error {
        BusError::NoReply => "timeout: nobody answered".to_owned(),
        BusError::Refused(code) => format!("exception {code}: {}", trace::exception(*code)),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests;
