//! The few pieces of DER that a certificate is made of (ITU-T X.690).

use jiff::Timestamp;
use jiff::tz::TimeZone;

pub(super) const INTEGER: u8 = 0x02;
pub(super) const BIT_STRING: u8 = 0x03;
pub(super) const OCTET_STRING: u8 = 0x04;
const OID: u8 = 0x06;
pub(super) const SEQUENCE: u8 = 0x30;

/// Tag, length, content.
pub(super) fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    match content.len() {
        short @ 0..=127 => out.push(short as u8),
        long => {
            let bytes = long.to_be_bytes();
            let bytes = &bytes[bytes.iter().take_while(|byte| **byte == 0).count()..];
            out.push(0x80 | bytes.len() as u8);
            out.extend_from_slice(bytes);
        }
    }
    out.extend_from_slice(content);
    out
}

pub(super) fn sequence(parts: &[Vec<u8>]) -> Vec<u8> {
    tlv(SEQUENCE, &parts.concat())
}

/// A positive number.
pub(super) fn integer(bytes: &[u8]) -> Vec<u8> {
    let bytes = &bytes[bytes.iter().take_while(|byte| **byte == 0).count()..];
    let sign = bytes.first().is_none_or(|first| first & 0x80 != 0);
    tlv(INTEGER, &[if sign { &[0][..] } else { &[] }, bytes].concat())
}

pub(super) fn oid(arcs: &[u64]) -> Vec<u8> {
    let mut content = Vec::new();
    let first = arcs.first().copied().unwrap_or(0) * 40 + arcs.get(1).copied().unwrap_or(0);
    for arc in std::iter::once(first).chain(arcs.iter().skip(2).copied()) {
        let digits = (1..10).find(|digits| arc >> (7 * digits) == 0).unwrap_or(10);
        for digit in (0..digits).rev() {
            let more = if digit > 0 { 0x80 } else { 0 };
            content.push(((arc >> (7 * digit)) & 0x7f) as u8 | more);
        }
    }
    tlv(OID, &content)
}

/// Bits by number; the first is the highest of the first byte.
pub(super) fn bits(set: &[u8]) -> Vec<u8> {
    let Some(last) = set.iter().max() else { return tlv(BIT_STRING, &[0]) };
    let mut bytes = vec![0u8; usize::from(last / 8) + 1];
    for bit in set {
        bytes[usize::from(bit / 8)] |= 0x80 >> (bit % 8);
    }
    tlv(BIT_STRING, &[&[7 - last % 8][..], &bytes].concat())
}

/// A whole number of bytes as bits.
pub(super) fn bit_string(bytes: &[u8]) -> Vec<u8> {
    tlv(BIT_STRING, &[&[0][..], bytes].concat())
}

/// As certificates hold it: two digits of the year up to 2049.
pub(super) fn time(at: Timestamp) -> Vec<u8> {
    let at = at.to_zoned(TimeZone::UTC);
    let (tag, format) = if at.year() < 2050 { (0x17, "%y%m%d%H%M%SZ") } else { (0x18, "%Y%m%d%H%M%SZ") };
    tlv(tag, at.strftime(format).to_string().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encodings() {
        assert_eq!(tlv(4, &[7; 3]), [4, 3, 7, 7, 7]);
        assert_eq!(&tlv(4, &[7; 300])[..4], [4, 0x82, 1, 44]);
        assert_eq!(&tlv(4, &[7; 200])[..3], [4, 0x81, 200]);
        assert_eq!(integer(&[0, 1]), [2, 1, 1]);
        assert_eq!(integer(&[0x80]), [2, 2, 0, 0x80]);
        assert_eq!(oid(&[1, 2, 840, 10045, 4, 3, 2]), [6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2]);
        assert_eq!(oid(&[2, 5, 29, 15]), [6, 3, 0x55, 0x1d, 0x0f]);
        assert_eq!(bits(&[0, 2]), [3, 2, 5, 0xa0]);
        assert_eq!(bits(&[8]), [3, 3, 7, 0, 0x80]);
        let at = |text: &str| time(text.parse().expect("a time"));
        assert_eq!(at("2026-01-02T03:04:05Z"), [&[0x17, 13][..], b"260102030405Z"].concat());
        assert_eq!(at("2050-01-02T03:04:05Z"), [&[0x18, 15][..], b"20500102030405Z"].concat());
    }
}
