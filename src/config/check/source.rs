//! Where a point's value comes from: its address, how its registers are decoded, or the expression it is computed by. The
//! keys are those of a point; what becomes of the value is not known here.

use std::collections::BTreeMap;
use std::sync::Arc;

use rust_decimal::Decimal;

use crate::config::check::Checker;
use crate::config::check::point::Context;
use crate::config::check::rules::Layers;
use crate::config::node::At;
use crate::config::node::Kind;
use crate::config::node::Node;
use crate::config::plant::Compute;
use crate::config::plant::Source;
use crate::config::plant::Wire;
use crate::formula::Expression;
use crate::point::AddressRange;
use crate::point::BitSpan;
use crate::point::DataType;
use crate::point::PointId;
use crate::point::Scale;
use crate::point::Table;
use crate::point::WordOrder;

/// Exactly one of these says where a value comes from.
const PLACES: &[&str] = &["coil", "discrete", "input", "holding", "modicon", "compute"];
const TYPES: &[(&str, DataType)] = &[
    ("bool", DataType::Bool),
    ("i16", DataType::I16),
    ("u16", DataType::U16),
    ("i32", DataType::I32),
    ("u32", DataType::U32),
    ("i64", DataType::I64),
    ("u64", DataType::U64),
    ("f32", DataType::F32),
    ("f64", DataType::F64),
    ("bcd16", DataType::Bcd16),
    ("bcd32", DataType::Bcd32),
];
const ORDERS: &[(&str, WordOrder)] =
    &[("abcd", WordOrder::Abcd), ("cdab", WordOrder::Cdab), ("badc", WordOrder::Badc), ("dcba", WordOrder::Dcba)];

impl Checker {
    pub(super) fn source(
        &mut self,
        layers: Layers<'_>,
        (name, at): (&str, At),
        context: &Context<'_>,
        ids: &dyn Fn(&str) -> Option<u32>,
    ) -> Option<Source> {
        let Some(layer) = layers.with(PLACES) else {
            let help = "one of coil, discrete, input, holding, modicon or compute";
            self.reader.error(at, format!("point `{name}` has no address"), help);
            return None;
        };
        let places: Vec<_> = PLACES.iter().filter_map(|p| layer.get(p).map(|n| (*p, n))).collect();
        if let [(first, _), (second, again), ..] = places[..] {
            self.reader.error(
                again.at,
                format!("point `{name}` has both `{first}` and `{second}`"),
                "one of them says where it lies",
            );
            return None;
        }
        let (place, node) = places[0];
        if place == "compute" {
            return self.compute(node, name, ids);
        }
        let (table, start) = self.address_of(place, node)?;
        let data_type = self.data_type(layers, table)?;
        let Some(range) = AddressRange::new(start, data_type.registers()) else {
            let last = u32::from(start) + u32::from(data_type.registers()) - 1;
            let message = format!("{data_type} at {start} ends at {last}, the last address is 65535");
            self.reader.error(node.at, message, "addresses are zero-based; manuals often count from one");
            return None;
        };
        self.judge_read(node, table, context.device.functions);
        let most = if table.is_bits() { context.device.max_bits } else { context.device.max_registers };
        if range.count() > most {
            let message =
                format!("{data_type} needs {} registers in one request, this device answers {most}", range.count());
            self.reader.error(node.at, message, "raise `limits`, or read it in parts");
        }
        let bits = self.bits(layers, table, data_type);
        let scale = self.scale(layers, data_type);
        let wire = Wire {
            table,
            range,
            data_type,
            order: layers.get("order").and_then(|n| self.reader.word(n, ORDERS)).unwrap_or_default(),
            bits,
            scale,
            scale_from: layers.get("scale_from").and_then(|n| self.scale_from(n, name, ids)),
            names: layers.get("values").map(|n| self.values(n)).unwrap_or_default(),
            invalid: layers.get("invalid").map(|n| self.invalid(n, data_type)).unwrap_or_default(),
        };
        Some(Source::Wire(self.shared.wire(wire)))
    }

    fn address_of(&mut self, place: &str, node: &Node) -> Option<(Table, u16)> {
        let table = match place {
            "coil" => Table::Coil,
            "discrete" => Table::Discrete,
            "input" => Table::Input,
            "holding" => Table::Holding,
            _ => return self.modicon(node),
        };
        let start = self.reader.int(node, 0, 65_535)?;
        Some((table, u16::try_from(start).ok()?))
    }

    /// 40001 or 400001: the first digit names the table, the rest is the address counted from one.
    fn modicon(&mut self, node: &Node) -> Option<(Table, u16)> {
        let text = self.reader.text(node)?;
        let digits = matches!(text.len(), 5 | 6) && text.bytes().all(|b| b.is_ascii_digit());
        let table = match text.as_bytes().first() {
            Some(b'0') => Some(Table::Coil),
            Some(b'1') => Some(Table::Discrete),
            Some(b'3') => Some(Table::Input),
            Some(b'4') => Some(Table::Holding),
            _ => None,
        };
        let number = text.get(1..).and_then(|n| n.parse::<u32>().ok()).filter(|n| (1..=65_536).contains(n));
        match (digits, table, number) {
            (true, Some(table), Some(number)) => Some((table, u16::try_from(number - 1).ok()?)),
            _ => {
                let help = "five or six digits: 0xxxx coil, 1xxxx discrete, 3xxxx input, 4xxxx holding, counted from 1";
                self.reader.error(node.at, format!("`{text}` is no modicon address"), help);
                None
            }
        }
    }

    fn data_type(&mut self, layers: Layers<'_>, table: Table) -> Option<DataType> {
        let bit = layers.get("bit").is_some();
        let usual = if table.is_bits() || bit { DataType::Bool } else { DataType::U16 };
        // A profile's default type is meant for whole registers; coils and single bits are flags all the same.
        let part = table.is_bits() || bit || layers.get("bits").is_some();
        let layers = if part { Layers(&layers.0[..2]) } else { layers };
        let Some(node) = layers.get("type") else { return Some(usual) };
        let text = self.reader.text(node)?;
        let data_type = match text.strip_prefix("string(").and_then(|t| t.strip_suffix(')')) {
            Some(bytes) => match bytes.trim().parse::<u16>() {
                Ok(bytes @ 1..=250) => DataType::String(bytes),
                _ => {
                    self.reader.error(
                        node.at,
                        format!("`{text}`: a string has 1 to 250 bytes"),
                        "two bytes a register",
                    );
                    return None;
                }
            },
            None => self.word_or_string(node)?,
        };
        if table.is_bits() && data_type != DataType::Bool {
            self.reader.error(node.at, format!("a {table} is one bit, not {data_type}"), "take `type` out");
        }
        Some(data_type)
    }

    /// Like any word, but the list of known ones must not leave out the one that takes a number.
    fn word_or_string(&mut self, node: &Node) -> Option<DataType> {
        let with_string: Vec<_> = TYPES.iter().copied().chain([("string(N)", DataType::String(0))]).collect();
        self.reader.word(node, &with_string).filter(|t| *t != DataType::String(0))
    }

    fn bits(&mut self, layers: Layers<'_>, table: Table, data_type: DataType) -> Option<BitSpan> {
        let layer = layers.with(&["bit", "bits"])?;
        if let (Some(_), Some(both)) = (layer.get("bit"), layer.get("bits")) {
            self.reader.error(both.at, "`bit` and `bits` exclude each other", "");
        }
        let node = layer.get("bit").or_else(|| layer.get("bits"))?;
        let text = self.reader.text(node)?;
        let (low, high) = text.split_once('-').unwrap_or((&text, &text));
        let span =
            low.trim().parse().ok().zip(high.trim().parse().ok()).filter(|(low, high)| low <= high && *high < 16);
        let Some((low, high)) = span else {
            self.reader.error(node.at, format!("`{text}` is no part of a register"), "bit: 0 to 15, or bits: 4-7");
            return None;
        };
        if table.is_bits() || data_type.registers() != 1 {
            self.reader.error(node.at, "only a value of one register has bits", "leave `type` out, or say u16");
        }
        Some(BitSpan { low, high })
    }

    fn scale(&mut self, layers: Layers<'_>, data_type: DataType) -> Scale {
        let factor = layers.get("scale").and_then(|n| {
            let factor = self.reader.decimal(n)?;
            if factor.is_zero() {
                self.reader.error(
                    n.at,
                    "a scale of 0 makes every value 0",
                    "the factor from raw to engineering unit, e.g. 0.1",
                );
            }
            Some(factor)
        });
        let offset = layers.get("offset").and_then(|n| self.reader.decimal(n));
        let decimals =
            layers.get("decimals").and_then(|n| self.reader.int(n, 0, 12)).and_then(|n| u32::try_from(n).ok());
        let written = layers.get("scale").or_else(|| layers.get("offset")).or_else(|| layers.get("decimals"));
        if let (false, Some(node)) = (data_type.is_number(), written) {
            self.reader.error(node.at, format!("a {data_type} has no scale"), "");
        }
        Scale { factor: factor.unwrap_or(Decimal::ONE), offset: offset.unwrap_or_default(), decimals }
    }

    fn scale_from(&mut self, node: &Node, name: &str, ids: &dyn Fn(&str) -> Option<u32>) -> Option<PointId> {
        let text = self.reader.text(node)?;
        match ids(&text) {
            Some(id) if text != name => Some(PointId(id)),
            _ => {
                self.reader.error(
                    node.at,
                    format!("`scale_from`: this device has no other point `{text}`"),
                    "name the point that holds the scale factor",
                );
                None
            }
        }
    }

    fn values(&mut self, node: &Node) -> BTreeMap<i64, Arc<str>> {
        let mut names: BTreeMap<i64, Arc<str>> = BTreeMap::new();
        if !matches!(node.kind, Kind::Map(_)) {
            self.reader.error(node.at, "`values` is a map: `raw number: name`", "e.g. {0: stopped, 1: cooling}");
        }
        for (key, at, value) in node.entries() {
            let raw = match key.strip_prefix("0x") {
                Some(hex) => i64::from_str_radix(hex, 16).ok(),
                None => key.parse().ok(),
            };
            let (Some(raw), Some(name)) = (raw, self.reader.text(value)) else {
                self.reader.error(*at, format!("`{key}` is no raw number"), "e.g. {0: stopped, 1: cooling}");
                continue;
            };
            if names.values().any(|n| **n == *name) {
                self.reader.error(
                    value.at,
                    format!("two raw numbers have the name `{name}`"),
                    "writing could not tell them apart",
                );
            }
            names.insert(raw, name.into());
        }
        names
    }

    /// Raw patterns over all bits of the value; negative ones as two's complement.
    fn invalid(&mut self, node: &Node, data_type: DataType) -> Vec<u64> {
        let bits = u32::from(data_type.registers().min(4)) * 16;
        let mask = u64::MAX >> (64 - bits);
        let one = std::slice::from_ref(node);
        let items = if matches!(node.kind, Kind::List(_)) { self.reader.items(node) } else { one };
        let mut patterns = Vec::new();
        for item in items {
            let Some(text) = self.reader.text(item) else { continue };
            let raw = match text.strip_prefix("0x") {
                Some(hex) => u64::from_str_radix(hex, 16).ok(),
                None => text.parse::<u64>().ok().or_else(|| text.parse::<i64>().ok().map(|n| n.cast_unsigned() & mask)),
            };
            match raw {
                Some(raw) if raw <= mask => patterns.push(raw),
                _ => {
                    let message = format!("`{text}` is no raw pattern of a {data_type}: it has {bits} bits");
                    self.reader.error(item.at, message, "raw words before scaling, e.g. 0x8000");
                }
            }
        }
        patterns
    }

    fn compute(&mut self, node: &Node, name: &str, ids: &dyn Fn(&str) -> Option<u32>) -> Option<Source> {
        let text = self.reader.text(node)?;
        let parsed = match Expression::parse(&text) {
            Ok(parsed) => parsed,
            Err(e) => {
                self.reader.error(node.at, format!("`{text}` is no expression: {e}"), "e.g. voltage * current");
                return None;
            }
        };
        let mut inputs = Vec::new();
        for variable in parsed.names() {
            match ids(variable) {
                Some(id) if variable != name => inputs.push((Arc::from(variable.as_str()), PointId(id))),
                _ => {
                    let message = format!("`{variable}` is no other point of this device");
                    self.reader.error(node.at, message, "an expression names points by their names");
                }
            }
        }
        Some(Source::Compute(Arc::new(Compute { expression: text.into(), inputs })))
    }
}
