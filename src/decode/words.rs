//! Registers as bytes and back: the four orders, and nothing about what the bits mean.
//! The trick: `cdab` is "words reversed", `badc` is "bytes of each word swapped", `dcba` is both; that rule holds for any length.

use crate::point::WordOrder;

const fn reversed(order: WordOrder) -> bool {
    matches!(order, WordOrder::Cdab | WordOrder::Dcba)
}

const fn swapped(order: WordOrder) -> bool {
    matches!(order, WordOrder::Badc | WordOrder::Dcba)
}

const fn turn(word: u16, order: WordOrder) -> u16 {
    if swapped(order) { word.swap_bytes() } else { word }
}

/// At most four registers as one unsigned number, as if they had come in `abcd` order.
pub(crate) fn assemble(words: &[u16], order: WordOrder) -> u64 {
    let join = |raw: u64, word: &u16| (raw << 16) | u64::from(turn(*word, order));
    if reversed(order) { words.iter().rev().fold(0, join) } else { words.iter().fold(0, join) }
}

/// The inverse of [`assemble`]: the low `16 · count` bits as registers.
#[expect(clippy::cast_possible_truncation, reason = "a register is the low 16 bits of what was shifted down to it")]
pub(crate) fn spread(raw: u64, count: u16, order: WordOrder) -> Vec<u16> {
    let count = u32::from(count);
    let word = |n: u32| turn((raw >> (16 * n)) as u16, order);
    if reversed(order) { (0..count).map(word).collect() } else { (0..count).rev().map(word).collect() }
}

/// The first `length` bytes of a text. Of the order only the byte swap applies: devices that send the low word of a
/// number first still write a text from front to back.
pub(crate) fn text_bytes(words: &[u16], length: u16, order: WordOrder) -> Vec<u8> {
    let mut bytes: Vec<u8> = words.iter().flat_map(|w| turn(*w, order).to_be_bytes()).collect();
    bytes.truncate(usize::from(length));
    bytes
}

/// The inverse of [`text_bytes`], padded with NUL.
pub(crate) fn text_words(bytes: &[u8], count: u16, order: WordOrder) -> Vec<u16> {
    let byte = |n: usize| bytes.get(n).copied().unwrap_or(0);
    (0..usize::from(count)).map(|n| turn(u16::from_be_bytes([byte(2 * n), byte(2 * n + 1)]), order)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The byte-order table of the manual is this test: `a` is the most significant byte.
    #[test]
    fn the_byte_order_table_is_what_the_code_does() {
        let table = [
            (WordOrder::Abcd, "ab cd", "ab cd ef gh"),
            (WordOrder::Cdab, "cd ab", "gh ef cd ab"),
            (WordOrder::Badc, "ba dc", "ba dc fe hg"),
            (WordOrder::Dcba, "dc ba", "hg fe dc ba"),
        ];
        let shown = |words: &[u16]| {
            let word = |w: &u16| String::from_utf8(w.to_be_bytes().to_vec()).unwrap();
            words.iter().map(word).collect::<Vec<_>>().join(" ")
        };
        let two = u64::from(u32::from_be_bytes(*b"abcd"));
        let four = u64::from_be_bytes(*b"abcdefgh");
        for (order, short, long) in table {
            assert_eq!(shown(&spread(two, 2, order)), short, "{order:?}");
            assert_eq!(shown(&spread(four, 4, order)), long, "{order:?}");
            assert_eq!(assemble(&spread(two, 2, order), order), two);
            assert_eq!(assemble(&spread(four, 4, order), order), four);
        }
    }

    #[test]
    fn a_text_keeps_its_front_in_front_in_every_order() {
        for order in [WordOrder::Abcd, WordOrder::Cdab, WordOrder::Badc, WordOrder::Dcba] {
            let words = text_words(b"SDM12", 3, order);
            assert_eq!(text_bytes(&words, 5, order), b"SDM12", "{order:?}");
        }
        assert_eq!(text_words(b"ab", 1, WordOrder::Badc), [u16::from_be_bytes(*b"ba")]);
    }
}
