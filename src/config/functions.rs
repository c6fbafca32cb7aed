//! Which Modbus functions a device knows, and which of them writes a point where the standard leaves a choice. What is not said is
//! what most devices know; `functions` in a profile is the list from the manual.

/// The functions a device knows, by their codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Functions {
    /// One bit a code.
    known: u128,
    /// Nothing was said.
    is_usual: bool,
}

/// What nearly every device knows of what its points need. 22 is tried, and done without where a device refuses it; 23 is rare.
const USUAL: [u8; 9] = [1, 2, 3, 4, 5, 6, 15, 16, 22];

impl Default for Functions {
    fn default() -> Self {
        Self { is_usual: true, ..Self::of(&USUAL) }
    }
}

impl Functions {
    /// These and no others; codes are 1 to 127.
    pub fn of(codes: &[u8]) -> Self {
        let known = codes.iter().fold(0, |known, code| known | 1_u128 << (code & 0x7F));
        Self { known, is_usual: false }
    }

    /// Whether the device has this one, as far as is known.
    pub const fn knows(self, code: u8) -> bool {
        self.known >> (code & 0x7F) & 1 == 1
    }

    /// Whether somebody has said which it has.
    pub const fn is_said(self) -> bool {
        !self.is_usual
    }
}

/// By which function a single coil or register is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Single {
    /// The one for one: 5, 6.
    #[default]
    One,
    /// The one for many, with one in it: 15, 16.
    Many,
}

/// How a part of a register is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Part {
    /// By mask write (22); where the device turns out not to know it, as below.
    #[default]
    Mask,
    /// The register is read and written whole, with nothing else on the line in between.
    Whole,
}

/// Whether another function may do as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Choice {
    /// Whatever the device knows and is of use: neighbours in one request, 23 where it is to be verified.
    #[default]
    Free,
    /// The point names its function, and no other writes it.
    Said,
}

/// How a point is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct How {
    /// A single coil or register.
    pub single: Single,
    /// A part of a register.
    pub part: Part,
    /// Whether that is a rule.
    pub choice: Choice,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_replaces_what_is_usual() {
        let usual = Functions::default();
        assert!(usual.knows(6) && usual.knows(22) && !usual.knows(23) && !usual.is_said());
        let said = Functions::of(&[3, 16, 23, 127]);
        assert!(said.knows(16) && said.knows(23) && said.knows(127) && !said.knows(6) && said.is_said());
    }
}
