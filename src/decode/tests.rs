//! Tables of what devices send, and the property that writing what was read changes nothing.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::point::{AddressRange, PointId, Table, WordOrder};

fn wire(data_type: DataType) -> Wire {
    Wire {
        table: Table::Holding,
        range: AddressRange::new(0, data_type.registers()).unwrap(),
        data_type,
        order: WordOrder::Abcd,
        bits: None,
        scale: Scale::default(),
        scale_from: None,
        names: BTreeMap::new(),
        invalid: Vec::new(),
    }
}

fn scale(factor: &str, offset: &str, decimals: Option<u32>) -> Scale {
    Scale { factor: factor.parse().unwrap(), offset: offset.parse().unwrap(), decimals }
}

fn read(wire: &Wire, words: &[u16]) -> Result<Value, Reason> {
    decode(wire, Words::Registers(words), None)
}

fn shown(wire: &Wire, words: &[u16]) -> String {
    read(wire, words).map_or_else(|r| format!("<{r}>"), |v| v.to_string())
}

#[test]
fn every_type_reads_as_the_manual_says() {
    let table: &[(DataType, &[u16], &str)] = &[
        (DataType::Bool, &[0], "false"),
        (DataType::Bool, &[0x100], "true"),
        (DataType::I16, &[0xFFFF], "-1"),
        (DataType::U16, &[0xFFFF], "65535"),
        (DataType::I32, &[0xFFFF, 0xFFFE], "-2"),
        (DataType::U32, &[0xFFFF, 0xFFFE], "4294967294"),
        (DataType::I64, &[0x8000, 0, 0, 1], "-9223372036854775807"),
        (DataType::U64, &[0xFFFF, 0xFFFF, 0xFFFF, 0xFFFF], "18446744073709551615"),
        (DataType::F32, &[0x4366, 0x199A], "230.1"),
        (DataType::F32, &[0x7FC0, 0], "<not a number>"),
        (DataType::F32, &[0xFF80, 0], "<not a number>"),
        (DataType::F64, &[0x3FB9, 0x9999, 0x9999, 0x999A], "0.1"),
        (DataType::Bcd16, &[0x1234], "1234"),
        (DataType::Bcd16, &[0x12A4], "<not bcd>"),
        (DataType::Bcd32, &[0x0012, 0x3456], "123456"),
        (DataType::String(5), &[0x5344, 0x4D00, 0x2020], "SDM"),
        (DataType::String(4), &[0x32B0, 0x4320], "2°C"),
        (DataType::String(4), &[0, 0], ""),
        (DataType::U32, &[1], "<crc>"),
    ];
    for (data_type, words, want) in table {
        assert_eq!(shown(&wire(*data_type), words), *want, "{data_type} {words:04x?}");
    }
}

#[test]
fn scaling_by_a_tenth_prints_no_tail_of_digits() {
    for (data_type, words, scale, want) in [
        (DataType::I16, vec![232], scale("0.1", "0", None), "23.2"),
        (DataType::I16, vec![230], scale("0.1", "0", None), "23"),
        (DataType::I16, vec![0xFF38], scale("0.1", "-40", None), "-60"),
        (DataType::U16, vec![12345], scale("0.001", "0", Some(1)), "12.3"),
        (DataType::U16, vec![25], scale("0.1", "0", Some(0)), "3"),
        (DataType::F32, vec![0x4366, 0x199A], scale("0.001", "0", None), "0.2301"),
        (DataType::U64, vec![0xFFFF; 4], scale("0.1", "0", None), "1844674407370955161.5"),
    ] {
        let wire = Wire { scale, ..wire(data_type) };
        assert_eq!(shown(&wire, &words), want);
    }
}

#[test]
fn a_float_beyond_decimals_stays_a_float() {
    let huge = 3e38f32.to_bits();
    #[expect(clippy::cast_possible_truncation, reason = "two halves of a word")]
    let words = [(huge >> 16) as u16, huge as u16];
    assert_eq!(read(&wire(DataType::F32), &words), Ok(Value::Float(3e38)));
    let scaled = Wire { scale: scale("0.1", "0", None), ..wire(DataType::F32) };
    assert!(matches!(read(&scaled, &words), Ok(Value::Float(x)) if (x / 3e37 - 1.0).abs() < 1e-12));
}

#[test]
fn a_pattern_for_not_available_is_compared_on_the_raw_words() {
    let sentinel = Wire { invalid: vec![0x8000], scale: scale("0.1", "3276.8", None), ..wire(DataType::I16) };
    assert_eq!(read(&sentinel, &[0x8000]), Err(Reason::NotAvailable));
    let zero = Wire { invalid: vec![0xFFFF], scale: scale("1", "1", None), ..wire(DataType::I16) };
    assert_eq!(shown(&zero, &[0]), "1");
    let turned = Wire { invalid: vec![0x8000_0001], order: WordOrder::Dcba, ..wire(DataType::U32) };
    assert_eq!(read(&turned, &[0x0100, 0x0080]), Err(Reason::NotAvailable));
    let nan = Wire { invalid: vec![0x7FC0_0000], ..wire(DataType::F32) };
    assert_eq!(read(&nan, &[0x7FC0, 0]), Err(Reason::NotAvailable));
}

#[test]
fn names_work_both_ways() {
    let mode = Wire { names: BTreeMap::from([(0, "stopped".into()), (-1, "fault".into())]), ..wire(DataType::I16) };
    assert_eq!(shown(&mode, &[0]), "stopped");
    assert_eq!(shown(&mode, &[0xFFFF]), "fault");
    assert_eq!(shown(&mode, &[7]), "7");
    assert_eq!(encode(&mode, &Value::Text("fault".into())), Ok(vec![0xFFFF]));
    let unknown = encode(&mode, &Value::Text("cooling".into())).unwrap_err();
    assert_eq!(unknown.to_string(), "`cooling` is none of fault, stopped");
    let coil = Wire { table: Table::Coil, names: BTreeMap::from([(1, "on".into())]), ..wire(DataType::Bool) };
    assert_eq!(decode(&coil, Words::Bits(&[true]), None), Ok(Value::Text("on".into())));
    assert_eq!(encode(&coil, &Value::Text("on".into())), Ok(vec![1]));
}

#[test]
fn a_part_of_a_register_is_read_and_placed() {
    let nibble = Wire { bits: Some(BitSpan { low: 4, high: 7 }), ..wire(DataType::U16) };
    assert_eq!(shown(&nibble, &[0x12A4]), "10");
    assert_eq!(encode(&nibble, &Value::Int(10)), Ok(vec![0x00A0]));
    let full = encode(&nibble, &Value::Int(16)).unwrap_err();
    assert_eq!(full.to_string(), "16 does not fit u16: it holds 0 to 15");
    let bit = Wire { bits: Some(BitSpan { low: 3, high: 3 }), ..wire(DataType::Bool) };
    assert_eq!(shown(&bit, &[8]), "true");
    assert_eq!(encode(&bit, &Value::Bool(true)), Ok(vec![8]));
}

#[test]
fn a_scale_factor_point_is_needed_where_one_is_named() {
    let power = Wire { scale_from: Some(PointId(9)), ..wire(DataType::I16) };
    assert_eq!(decode(&power, Words::Registers(&[2345]), None), Err(Reason::Source));
    let value = decode(&power, Words::Registers(&[2345]), Some(-2)).unwrap();
    assert_eq!(value.to_string(), "23.45");
    assert_eq!(encode_scaled(&power, &value, Some(-2)), Ok(vec![2345]));
    assert!(matches!(encode(&power, &value), Err(EncodeError::NoScale { .. })));
    assert_eq!(exponent_of(&Value::Int(-2)), Some(-2));
    assert_eq!(exponent_of(&Value::Bool(true)), None);
}

#[test]
fn what_does_not_fit_is_refused_with_value_and_limit() {
    let tenth = Wire { scale: scale("0.1", "0", None), ..wire(DataType::I16) };
    let error = encode(&tenth, &Value::Int(4000)).unwrap_err();
    assert_eq!(error.to_string(), "4000 does not fit i16: it holds -32768 to 32767");
    assert!(encode(&wire(DataType::Bcd16), &Value::Int(10_000)).is_err());
    assert!(encode(&wire(DataType::Bool), &Value::Int(2)).is_err());
    assert!(encode(&wire(DataType::String(3)), &Value::Text("four".into())).is_err());
    assert!(encode(&wire(DataType::U16), &Value::Text("4".into())).is_err());
    let reserved = Wire { invalid: vec![0x8000], ..wire(DataType::I16) };
    assert!(matches!(encode(&reserved, &Value::Int(-32768)), Err(EncodeError::Reserved { .. })));
}

#[test]
fn a_value_outside_its_range_is_judged_bad() {
    let range = Some((Decimal::from(-40), Decimal::from(125)));
    assert_eq!(judge(range.as_ref(), &Value::Int(125)), Ok(()));
    assert_eq!(judge(range.as_ref(), &Value::Uint(126)), Err(Reason::OutOfRange));
    assert_eq!(judge(range.as_ref(), &Value::Float(1e30)), Err(Reason::OutOfRange));
    assert_eq!(judge(range.as_ref(), &Value::Text("x".into())), Ok(()));
    assert_eq!(judge(None, &Value::Int(1)), Ok(()));
}

fn any_order() -> impl Strategy<Value = WordOrder> {
    prop::sample::select(vec![WordOrder::Abcd, WordOrder::Cdab, WordOrder::Badc, WordOrder::Dcba])
}

fn any_type() -> impl Strategy<Value = DataType> {
    use DataType::{Bcd16, Bcd32, Bool, F32, F64, I16, I32, I64, String, U16, U32, U64};
    let types = vec![Bool, I16, U16, I32, U32, I64, U64, F32, F64, Bcd16, Bcd32, String(7)];
    prop::sample::select(types)
}

fn any_scale() -> impl Strategy<Value = Scale> {
    let factors = vec![scale("1", "0", None), scale("0.1", "0", None), scale("0.01", "-273.15", None)];
    prop::sample::select(factors)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn writing_what_was_read_reads_the_same(
        data_type in any_type(), order in any_order(), scale in any_scale(), words in prop::array::uniform4(any::<u16>()),
    ) {
        let wire = Wire { order, scale, ..wire(data_type) };
        let words = &words[..usize::from(data_type.registers())];
        if let Ok(value) = read(&wire, words) {
            let text = matches!(data_type, DataType::String(_));
            match encode(&wire, &value) {
                // A float near the edge of what decimals hold loses its tail to the offset, hence nearly.
                Ok(back) if matches!(data_type, DataType::F32 | DataType::F64) && wire.scale != Scale::default() => {
                    let (was, is) = (value.as_f64().unwrap(), read(&wire, &back).unwrap().as_f64().unwrap());
                    prop_assert!((was - is).abs() <= was.abs() * 1e-6, "{} {}", was, is);
                }
                Ok(back) => prop_assert_eq!(read(&wire, &back), Ok(value)),
                // Latin-1 text grows when it is written as UTF-8; it is refused, not cut.
                Err(error) => prop_assert!(text, "{} {}", error, value),
            }
        }
    }

    #[test]
    fn whole_numbers_keep_every_digit(raw in any::<u64>(), order in any_order()) {
        let unsigned = Wire { order, ..wire(DataType::U64) };
        let signed = Wire { order, ..wire(DataType::I64) };
        let words = words::spread(raw, 4, order);
        prop_assert_eq!(read(&unsigned, &words), Ok(Value::Uint(raw)));
        prop_assert_eq!(read(&signed, &words), Ok(Value::Int(raw.cast_signed())));
        prop_assert_eq!(encode(&unsigned, &Value::Uint(raw)), Ok(words));
    }
}
