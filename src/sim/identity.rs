//! What a simulated device says of itself (function 43, MEI type 14; V1.1b3, 6.21): in parts where it has more to say than fits.

use crate::bus::mei;
use crate::bus::mei::Category;
use crate::bus::mei::Objects;

/// Most bytes of a PDU.
const ROOM: usize = 253;
/// Function to number of objects, before the first of them.
const HEADER: usize = 7;

/// The answer's PDU, or an exception's code. Where there are no objects, the device does not know the function.
pub(super) fn answer(objects: &[(u8, Vec<u8>)], pdu: &[u8]) -> Result<Vec<u8>, u8> {
    let [mei::FUNCTION, mei::TYPE, code, object] = *pdu else { return Err(1) };
    if objects.is_empty() {
        return Err(1);
    }
    let last = match code {
        1 => 2,
        2 => 0x7F,
        3 | 4 => 0xFF,
        _ => return Err(3),
    };
    let knows = objects.iter().any(|(id, _)| *id == object);
    let is_one = code == Category::One.code();
    if is_one && !knows {
        return Err(2);
    }
    // A stream that is to begin with an unknown object begins anew.
    let first = if knows { object } else { 0 };
    let all = objects.iter().filter(|(id, _)| *id >= first && *id <= if is_one { first } else { last });
    let (mut said, mut next, mut used) = (Vec::new(), None, HEADER);
    for (id, value) in all {
        used += 2 + value.len();
        if used > ROOM {
            next = Some(*id);
            break;
        }
        said.push((*id, value.clone()));
    }
    Ok(mei::render(code, &Objects { conformity: 0x83, next, objects: said }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(code: u8, object: u8) -> Result<Objects, u8> {
        let objects: Vec<(u8, Vec<u8>)> = vec![
            (0, b"vendor".to_vec()),
            (1, b"code".to_vec()),
            (2, b"1".to_vec()),
            (4, vec![b'n'; 200]),
            (0x80, vec![b'x'; 100]),
        ];
        answer(&objects, &[43, 14, code, object]).map(|pdu| mei::parse(&pdu).unwrap())
    }

    #[test]
    fn a_category_is_told_in_parts_that_name_the_next() {
        let ids = |said: &Objects| said.objects.iter().map(|(id, _)| *id).collect::<Vec<_>>();
        let basic = asked(1, 0).unwrap();
        assert_eq!((ids(&basic), basic.next), (vec![0, 1, 2], None));
        let first = asked(3, 0).unwrap();
        assert_eq!((ids(&first), first.next), (vec![0, 1, 2, 4], Some(0x80)));
        let rest = asked(3, 0x80).unwrap();
        assert_eq!((ids(&rest), rest.next), (vec![0x80], None));
        assert_eq!(ids(&asked(4, 2).unwrap()), [2]);
    }

    #[test]
    fn what_it_does_not_have_is_refused() {
        assert_eq!((asked(4, 9), asked(5, 0)), (Err(2), Err(3)));
        assert_eq!(answer(&[], &[43, 14, 1, 0]), Err(1));
    }
}
