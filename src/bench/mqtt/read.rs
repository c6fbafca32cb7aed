//! Packets of a server out of bytes, as far as a bench needs them: which, with which identifier, and what a PUBLISH carries.
//! Strict about form: what no server may send is `None` for ever, and the bench fails.

/// One packet of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Said<'a> {
    /// Type and flags.
    pub first: u8,
    /// Packet identifier, 0 where there is none.
    pub id: u16,
    /// Of a PUBLISH: its topic.
    pub topic: &'a [u8],
    /// What follows the identifier; of a 3.1.1 PUBLISH that is the payload.
    pub rest: &'a [u8],
}

impl Said<'_> {
    /// Type of packet, 1 to 15.
    pub const fn kind(&self) -> u8 {
        self.first >> 4
    }

    /// QoS of a PUBLISH.
    pub const fn qos(&self) -> u8 {
        self.first >> 1 & 3
    }
}

/// What stands at the front.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Front<'a> {
    /// Not a whole packet yet.
    More,
    /// A packet, and how many bytes it takes.
    Packet(Said<'a>, usize),
    /// No packet of a server.
    Wrong,
}

/// Looks at the front of what was read.
pub fn front(bytes: &[u8]) -> Front<'_> {
    let Some((length, head)) = length(bytes) else { return if bytes.len() < 5 { Front::More } else { Front::Wrong } };
    let Some(body) = bytes.get(head..head + length) else { return Front::More };
    said(bytes[0], body).map_or(Front::Wrong, |said| Front::Packet(said, head + length))
}

/// Remaining length, and where it ends.
fn length(bytes: &[u8]) -> Option<(usize, usize)> {
    let mut length = 0;
    for (n, byte) in bytes.get(1..)?.iter().take(4).enumerate() {
        length |= usize::from(byte & 0x7F) << (7 * n);
        if byte & 0x80 == 0 {
            return Some((length, n + 2));
        }
    }
    None
}

fn said(first: u8, body: &[u8]) -> Option<Said<'_>> {
    let id = |at: usize| Some(u16::from_be_bytes([*body.get(at)?, *body.get(at + 1)?]));
    match (first >> 4, first & 0x0F) {
        (3, flags) => {
            let qos = flags >> 1 & 3;
            let end = 2 + usize::from(id(0)?);
            let topic = body.get(2..end)?;
            if qos == 3 || (qos == 0 && flags & 8 != 0) {
                return None;
            }
            let number = if qos == 0 { 0 } else { id(end).filter(|id| *id != 0)? };
            Some(Said { first, id: number, topic, rest: body.get(end + if qos == 0 { 0 } else { 2 }..)? })
        }
        (2, 0) => Some(Said { first, id: 0, topic: &[], rest: body.get(..2).and(Some(body))? }),
        (4 | 5 | 7 | 9 | 11, 0) | (6, 2) => {
            Some(Said { first, id: id(0).filter(|id| *id != 0)?, topic: &[], rest: &body[2..] })
        }
        (13, 0) => body.is_empty().then_some(Said { first, id: 0, topic: &[], rest: body }),
        (14, 0) => Some(Said { first, id: 0, topic: &[], rest: body }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_come_off_the_front_and_half_ones_wait() {
        let bytes = b"\x32\x06\0\x01t\0\x07x\x40\x02\0\x01";
        let publish = Said { first: 0x32, id: 7, topic: b"t", rest: b"x" };
        assert_eq!(front(bytes), Front::Packet(publish, 8));
        assert_eq!(front(&bytes[8..]), Front::Packet(Said { first: 0x40, id: 1, topic: &[], rest: &[] }, 4));
        for n in 0..8 {
            assert_eq!(front(&bytes[..n]), Front::More);
        }
    }

    #[test]
    fn what_no_server_may_send_is_wrong() {
        for bytes in [&b"\x32\x05\0\x01t\0\0"[..], b"\x36\x05\0\x01t\0\x01", b"\x10\0", b"\x30\xFF\xFF\xFF\xFF\x01"] {
            assert_eq!(front(bytes), Front::Wrong, "{bytes:02x?}");
        }
    }
}
