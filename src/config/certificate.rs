//! The two things of a certificate that rustls does not tell: until when it is valid (RFC 5280, 4.1.2.5), to be known of our
//! own before a peer says so, and the common name of its subject (4.1.2.6), by which a client may be known. No more of X.509
//! is understood here; whether a certificate is good, rustls and the peer decide.

use std::fs;
use std::path::Path;

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const OBJECT_IDENTIFIER: u8 = 0x06;
const UTF8_STRING: u8 = 0x0c;
const PRINTABLE_STRING: u8 = 0x13;
const IA5_STRING: u8 = 0x16;
const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// 2.5.4.3, `id-at-commonName`.
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
/// `ub-common-name`, in characters.
const LONGEST_NAME: usize = 64;

/// When the first certificate of a PEM file ends, in microseconds since 1970; `None` where that cannot be told.
pub fn end_of(path: &Path) -> Option<i64> {
    end(&CertificateDer::from_pem_slice(&fs::read(path).ok()?).ok()?)
}

/// As [`end_of`], of the certificate itself.
pub fn end(der: &[u8]) -> Option<i64> {
    let (validity, _) = element(from_validity(der)?, SEQUENCE)?;
    time(skipped(validity)?)
}

/// The common name of the subject. `None` where there is none, where there are two (which one is meant would be a guess),
/// and where it is no text that can be a user's name: empty, too long, not UTF-8, with control characters.
pub fn common_name(der: &[u8]) -> Option<String> {
    let (mut subject, _) = element(skipped(from_validity(der)?)?, SEQUENCE)?;
    let mut found = None;
    while !subject.is_empty() {
        let (mut set, rest) = element(subject, SET)?;
        subject = rest;
        while !set.is_empty() {
            let (attribute, rest) = element(set, SEQUENCE)?;
            set = rest;
            let (kind, value) = element(attribute, OBJECT_IDENTIFIER)?;
            if kind == COMMON_NAME && found.replace(name(value)?).is_some() {
                return None;
            }
        }
    }
    found
}

fn name(value: &[u8]) -> Option<String> {
    let tag = *value.first()?;
    let (bytes, rest) = element(value, tag)?;
    let text = std::str::from_utf8(bytes).ok()?;
    let known = matches!(tag, UTF8_STRING | PRINTABLE_STRING | IA5_STRING);
    let fits = (1..=LONGEST_NAME).contains(&text.chars().count()) && text.trim() == text;
    (known && fits && rest.is_empty() && !text.chars().any(char::is_control)).then(|| text.to_owned())
}

/// The fields of a certificate from `validity` on.
fn from_validity(der: &[u8]) -> Option<&[u8]> {
    let (certificate, _) = element(der, SEQUENCE)?;
    let (mut fields, _) = element(certificate, SEQUENCE)?;
    if fields.first() == Some(&VERSION) {
        fields = skipped(fields)?;
    }
    // Serial number, signature algorithm, issuer.
    for _ in 0..3 {
        fields = skipped(fields)?;
    }
    Some(fields)
}

/// The contents of an element with this tag, and what follows it.
fn element(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    if *der.first()? != tag {
        return None;
    }
    let (length, rest) = length(&der[1..])?;
    rest.split_at_checked(length)
}

fn skipped(der: &[u8]) -> Option<&[u8]> {
    element(der, *der.first()?).map(|(_, rest)| rest)
}

/// One byte below 128, or the number of bytes that follow and hold it; four are more than any file has.
fn length(der: &[u8]) -> Option<(usize, &[u8])> {
    let (first, rest) = der.split_first()?;
    let count = usize::from(first & 0x7f);
    if first & 0x80 == 0 {
        return Some((count, rest));
    }
    let (bytes, rest) = rest.split_at_checked(count).filter(|_| (1..=4).contains(&count))?;
    Some((bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest))
}

/// `YYMMDDHHMMSSZ` until 2049, `YYYYMMDDHHMMSSZ` from then on.
fn time(der: &[u8]) -> Option<i64> {
    let tag = *der.first()?;
    let text = std::str::from_utf8(element(der, tag)?.0).ok()?;
    let text = match tag {
        UTC_TIME => format!("{}{text}", if text < "50" { "20" } else { "19" }),
        GENERALIZED_TIME => text.to_owned(),
        _ => return None,
    };
    let at = DateTime::strptime("%Y%m%d%H%M%SZ", text).ok()?;
    Some(at.to_zoned(TimeZone::UTC).ok()?.timestamp().as_microsecond())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn wrapped(tag: u8, contents: &[u8]) -> Vec<u8> {
        let length = u16::try_from(contents.len()).unwrap().to_be_bytes();
        [&[tag, 0x82], &length[..], contents].concat()
    }

    fn certificate(version: &[u8], until: Vec<u8>) -> Vec<u8> {
        made(version, until, &wrapped(SEQUENCE, &[0; 300]))
    }

    fn made(version: &[u8], until: Vec<u8>, subject: &[u8]) -> Vec<u8> {
        let issuer = wrapped(SEQUENCE, &[0; 300]);
        let validity = wrapped(SEQUENCE, &[wrapped(UTC_TIME, b"200101000000Z"), until].concat());
        let fields = [version, &wrapped(2, &[7]), &wrapped(SEQUENCE, b""), &issuer, &validity, subject].concat();
        wrapped(SEQUENCE, &wrapped(SEQUENCE, &fields))
    }

    fn subject(attributes: &[(&[u8], u8, &[u8])]) -> Vec<u8> {
        let attribute = |(kind, tag, text): &(&[u8], u8, &[u8])| {
            let pair = [wrapped(OBJECT_IDENTIFIER, kind), wrapped(*tag, text)].concat();
            wrapped(SET, &wrapped(SEQUENCE, &pair))
        };
        wrapped(SEQUENCE, &attributes.iter().flat_map(attribute).collect::<Vec<_>>())
    }

    fn name_of(attributes: &[(&[u8], u8, &[u8])]) -> Option<String> {
        common_name(&made(&[], wrapped(UTC_TIME, b"261121010203Z"), &subject(attributes)))
    }

    #[test]
    fn the_common_name_is_found_among_the_other_attributes() {
        let organization: (&[u8], u8, &[u8]) = (&[0x55, 0x04, 0x0a], UTF8_STRING, b"Works");
        for tag in [UTF8_STRING, PRINTABLE_STRING, IA5_STRING] {
            assert_eq!(name_of(&[organization, (COMMON_NAME, tag, b"pump-7")]).as_deref(), Some("pump-7"));
        }
        assert_eq!(name_of(&[(COMMON_NAME, UTF8_STRING, "Wärter".as_bytes())]).as_deref(), Some("Wärter"));
        assert_eq!(name_of(&[organization]), None);
        assert_eq!(name_of(&[]), None);
    }

    #[test]
    fn a_common_name_that_is_no_good_text_is_none() {
        let long = [b'x'; LONGEST_NAME + 1];
        for bad in [&b""[..], b"admin\0.example", b"a\nb", b" admin", b"\xff\xfe", &long] {
            assert_eq!(name_of(&[(COMMON_NAME, UTF8_STRING, bad)]), None, "{bad:?}");
        }
        // BMPString: two bytes a character.
        assert_eq!(name_of(&[(COMMON_NAME, 0x1e, b"\0a\0b")]), None);
        let twice: (&[u8], u8, &[u8]) = (COMMON_NAME, UTF8_STRING, b"admin");
        assert_eq!(name_of(&[twice, (COMMON_NAME, UTF8_STRING, b"guest")]), None);
    }

    #[test]
    fn the_end_is_found_in_both_ways_to_write_it() {
        let version = wrapped(VERSION, &[2, 1, 2]);
        for (version, tag, text, want) in [
            (&version[..], UTC_TIME, "261121010203Z", "2026-11-21T01:02:03.000Z"),
            (&[][..], UTC_TIME, "491231235959Z", "2049-12-31T23:59:59.000Z"),
            (&version[..], UTC_TIME, "991231235959Z", "1999-12-31T23:59:59.000Z"),
            (&version[..], GENERALIZED_TIME, "20521121010203Z", "2052-11-21T01:02:03.000Z"),
        ] {
            let end = end(&certificate(version, wrapped(tag, text.as_bytes()))).unwrap();
            assert_eq!(crate::time::rfc3339_millis(end), want);
        }
        assert_eq!(end(&certificate(&version, wrapped(UTC_TIME, b"soon"))), None);
    }

    proptest! {
        #[test]
        fn no_bytes_are_too_strange(cut in 0usize..400, at in 0usize..400, byte in any::<u8>()) {
            let subject = subject(&[(COMMON_NAME, UTF8_STRING, b"pump-7")]);
            let mut der = made(&[], wrapped(UTC_TIME, b"261121010203Z"), &subject);
            let place = at % der.len();
            der[place] = byte;
            der.truncate(cut);
            let _ = end(&der);
            let _ = common_name(&der);
        }
    }
}
