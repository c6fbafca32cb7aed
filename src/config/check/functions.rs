//! `functions` of a device or profile, and `function` of a write: by which function each point is read and written, and
//! whether the device has it.

use crate::config::check::Checker;
use crate::config::check::rules::Layers;
use crate::config::functions::Choice;
use crate::config::functions::Functions;
use crate::config::functions::How;
use crate::config::functions::Part;
use crate::config::functions::Single;
use crate::config::node::Node;
use crate::config::plant::Wire;
use crate::point::Table;

const HELP: &str = "`functions` is the whole list from the manual, e.g. [3, 4, 6, 16]";

/// What of a point is written, as far as functions go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    Coil,
    Part,
    Register,
    Registers(u16),
}

impl Shape {
    const fn of(wire: &Wire) -> Self {
        match (wire.table, wire.bits) {
            (Table::Coil | Table::Discrete, _) => Self::Coil,
            (_, Some(_)) => Self::Part,
            _ if wire.range.count() > 1 => Self::Registers(wire.range.count()),
            _ => Self::Register,
        }
    }

    /// The functions that write it, the usual one first.
    const fn choice(self) -> &'static [u8] {
        match self {
            Self::Coil => &[5, 15],
            Self::Part => &[22, 6, 16],
            Self::Register => &[6, 16],
            Self::Registers(_) => &[16],
        }
    }

    fn words(self) -> String {
        match self {
            Self::Coil => "a coil is written by function 5 or 15".to_owned(),
            Self::Part => {
                "a part of a register is written by function 22, or read and written whole by 6 or 16".to_owned()
            }
            Self::Register => "a single register is written by function 6 or 16".to_owned(),
            Self::Registers(n) => format!("{n} registers are written in one request, by function 16"),
        }
    }
}

impl Checker {
    /// The list of the device, or else of its profile.
    pub(super) fn functions(&mut self, layers: Layers<'_>) -> Functions {
        let Some(node) = layers.get("functions") else { return Functions::default() };
        let items = self.reader.items(node);
        if items.is_empty() {
            self.reader.error(node.at, "a device that knows no function cannot be asked anything", HELP);
        }
        let codes = items.iter().filter_map(|item| self.reader.int(item, 1, 127));
        Functions::of(&codes.filter_map(|code| u8::try_from(code).ok()).collect::<Vec<_>>())
    }

    /// Reports a point that lies where the device cannot be asked.
    pub(super) fn judge_read(&mut self, at: &Node, table: Table, functions: Functions) {
        let function = match table {
            Table::Coil => 1,
            Table::Discrete => 2,
            Table::Holding => 3,
            Table::Input => 4,
        };
        if !functions.knows(function) {
            let message = format!("{table} points are read by function {function}, which this device does not have");
            self.reader.error(at.at, message, HELP);
        }
    }

    /// How a point is written: as its `write` says, or by the first function that the device has.
    pub(super) fn how(&mut self, write: &Node, wire: &Wire, functions: Functions) -> How {
        let shape = Shape::of(wire);
        let said = write.get("function").and_then(|n| Some((n, self.reader.int(n, 1, 127)?)));
        let chosen = match said {
            Some((node, code)) => {
                let code = u8::try_from(code).unwrap_or_default();
                if !shape.choice().contains(&code) {
                    self.reader.error(node.at, format!("not by function {code}: {}", shape.words()), "");
                } else if !functions.knows(code) {
                    self.reader.error(node.at, format!("this device does not have function {code}"), HELP);
                }
                Some(code)
            }
            None => shape.choice().iter().copied().find(|code| functions.knows(*code)),
        };
        let Some(chosen) = chosen else {
            self.reader.error(write.at, format!("this device cannot be written so: {}", shape.words()), HELP);
            return How::default();
        };
        let by_many = matches!(chosen, 15 | 16) || chosen == 22 && !functions.knows(6) && functions.knows(16);
        How {
            single: if by_many { Single::Many } else { Single::One },
            part: if chosen == 22 || shape != Shape::Part { Part::Mask } else { Part::Whole },
            choice: if said.is_some() { Choice::Said } else { Choice::Free },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::load_text;

    const ONE: How = How { single: Single::One, part: Part::Mask, choice: Choice::Free };
    const MANY: How = How { single: Single::Many, ..ONE };

    fn loaded(device: &str, points: &str) -> Result<Vec<How>, String> {
        let text = format!(
            "gateway: g\nlines: {{l: {{tcp: \"h:502\"}}}}\ndevices:\n  - name: d\n    line: l\n    unit_id: 1\n    {device}\n    \
             points: {{{points}}}\n"
        );
        let loaded = load_text("t.yaml", &text, Path::new("")).map_err(|report| report.to_string())?;
        Ok(loaded.plant.points.iter().filter_map(|p| Some(p.write.as_ref()?.how)).collect())
    }

    const ALL: &str = "c: {coil: 1, write: true}, r: {holding: 1, write: true}, b: {holding: 2, bit: 3, write: true}, w: {holding: 3, \
                       type: u32, write: true}";

    #[test]
    fn the_usual_functions_write_where_nothing_is_said() {
        assert_eq!(loaded("tags: {}", ALL).unwrap(), [ONE, ONE, ONE, MANY]);
    }

    #[test]
    fn what_the_device_has_decides() {
        let whole = How { part: Part::Whole, ..MANY };
        assert_eq!(loaded("functions: [1, 3, 15, 0x10]", ALL).unwrap(), [MANY, MANY, whole, MANY]);
        assert_eq!(loaded("functions: [1, 3, 5, 15, 16, 22]", ALL).unwrap(), [ONE, MANY, MANY, MANY]);
    }

    #[test]
    fn a_point_may_want_another_function_than_its_device() {
        let points = "a: {holding: 1, write: {function: 16}}, b: {coil: 1, write: {function: 15, verify: false}}, c: {holding: 2, bit: \
                      1, write: {function: 6}}";
        let (one, many) = (How { choice: Choice::Said, ..ONE }, How { choice: Choice::Said, ..MANY });
        let whole = How { part: Part::Whole, ..one };
        assert_eq!(loaded("tags: {}", points).unwrap(), [many, many, whole]);
    }

    #[test]
    fn what_the_device_does_not_have_is_told() {
        for (functions, point, said) in [
            ("[3]", "p: {input: 1}", "input points are read by function 4, which this device does not have"),
            (
                "[3, 6]",
                "p: {holding: 1, type: u32, write: true}",
                "2 registers are written in one request, by function 16",
            ),
            ("[3, 4]", "p: {holding: 1, write: true}", "a single register is written by function 6 or 16"),
            ("[3, 16]", "p: {holding: 1, write: {function: 6}}", "this device does not have function 6"),
            ("[3, 16]", "p: {holding: 1, write: {function: 5}}", "not by function 5"),
            ("[]", "p: {holding: 1}", "knows no function"),
            ("[three]", "p: {holding: 1}", "`three` is not a whole number from 1 to 127"),
        ] {
            let report = loaded(&format!("functions: {functions}"), point).unwrap_err();
            assert!(report.contains(said), "{said} is not in\n{report}");
        }
    }
}
