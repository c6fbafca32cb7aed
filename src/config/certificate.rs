//! Until when a certificate is valid (RFC 5280, 4.1.2.5): the one thing that must be known of our own before a peer
//! says so. No more of X.509 is understood here; whether a certificate is good, rustls and the peer decide.

use std::fs;
use std::path::Path;

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// When the first certificate of a PEM file ends, in microseconds since 1970; `None` where that cannot be told.
pub fn end_of(path: &Path) -> Option<i64> {
    end(&CertificateDer::from_pem_slice(&fs::read(path).ok()?).ok()?)
}

/// As [`end_of`], of the certificate itself.
pub fn end(der: &[u8]) -> Option<i64> {
    let (certificate, _) = element(der, SEQUENCE)?;
    let (mut fields, _) = element(certificate, SEQUENCE)?;
    if fields.first() == Some(&VERSION) {
        fields = skipped(fields)?;
    }
    // Serial number, signature algorithm, issuer.
    for _ in 0..3 {
        fields = skipped(fields)?;
    }
    let (validity, _) = element(fields, SEQUENCE)?;
    time(skipped(validity)?)
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
        let name = wrapped(SEQUENCE, &[0; 300]);
        let validity = wrapped(SEQUENCE, &[wrapped(UTC_TIME, b"200101000000Z"), until].concat());
        let fields = [version, &wrapped(2, &[7]), &wrapped(SEQUENCE, b""), &name, &validity, &name].concat();
        wrapped(SEQUENCE, &wrapped(SEQUENCE, &fields))
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
            let mut der = certificate(&[], wrapped(UTC_TIME, b"261121010203Z"));
            let place = at % der.len();
            der[place] = byte;
            der.truncate(cut);
            let _ = end(&der);
        }
    }
}
