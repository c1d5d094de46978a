//! PEM as Go's `encoding/pem` finds it (RFC 7468, and headers as in RFC 1421): what stands around blocks is passed over, and so is a block
//! that is broken. What one server passes over another must not read, or a certificate would be checked here that others do not see.

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{GeneralPurpose, GeneralPurposeConfig};

const BEGIN: &[u8] = b"-----BEGIN ";
const END: &[u8] = b"\n-----END ";
const DASHES: &[u8] = b"-----";
/// Go does not look at the bits that no byte is made of.
const BASE64: GeneralPurpose = GeneralPurpose::new(&STANDARD, GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true));

/// One block.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Block {
    /// What it says it holds: `CERTIFICATE`.
    pub(super) label: String,
    /// There are lines with colons before the contents.
    pub(super) has_headers: bool,
    /// What it holds.
    pub(super) contents: Vec<u8>,
}

/// The blocks of a text, in their order.
pub(super) fn blocks(text: &[u8]) -> impl Iterator<Item = Block> {
    let mut at = Some(0);
    std::iter::from_fn(move || {
        let (block, next) = next_block(text, at?)?;
        at = Some(next);
        Some(block)
    })
}

fn find(text: &[u8], wanted: &[u8]) -> Option<usize> {
    text.windows(wanted.len()).position(|window| window == wanted)
}

/// The line that begins at a place, without what ends it, and where the next begins.
fn line(text: &[u8], at: usize) -> (&[u8], usize) {
    let rest = &text[at..];
    let (line, next) = match rest.iter().position(|byte| *byte == b'\n') {
        Some(end) => (rest[..end].strip_suffix(b"\r").unwrap_or(&rest[..end]), at + end + 1),
        None => (rest, text.len()),
    };
    let end = line.iter().rposition(|byte| !matches!(byte, b' ' | b'\t')).map_or(0, |last| last + 1);
    (&line[..end], next)
}

/// The first whole block from a place on, and where what follows it begins.
fn next_block(text: &[u8], from: usize) -> Option<(Block, usize)> {
    let mut at = from;
    loop {
        let end = at + find(&text[at..], END)?;
        let trailer = end + END.len();
        // The last beginning before the end: earlier ones have none.
        let begin = text[at..end].windows(BEGIN.len()).rposition(|window| window == BEGIN).map(|begin| at + begin);
        let begin = begin.filter(|begin| *begin == at || text[*begin - 1] == b'\n');
        at = trailer;
        let Some(begin) = begin else { continue };
        let (label, mut body) = line(text, begin + BEGIN.len());
        let Some(label) = label.strip_suffix(DASHES) else { continue };
        let mut has_headers = false;
        loop {
            if body >= text.len() {
                return None;
            }
            let (header, next) = line(text, body);
            if !header.contains(&b':') {
                break;
            }
            (has_headers, body) = (true, next);
        }
        if trailer < body {
            return None;
        }
        if has_headers && end < body {
            continue;
        }
        let Some(rest) = text[trailer..].strip_prefix(label).and_then(|rest| rest.strip_prefix(DASHES)) else { continue };
        if !line(rest, 0).0.is_empty() {
            continue;
        }
        let base64: Vec<u8> =
            text.get(body..end).unwrap_or_default().iter().copied().filter(|byte| !b" \t\r\n".contains(byte)).collect();
        let Ok(contents) = BASE64.decode(base64) else { continue };
        let label = String::from_utf8_lossy(label).into_owned();
        return Some((Block { label, has_headers, contents }, line(text, trailer - 1).1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Vec<(String, bool, Vec<u8>)> {
        blocks(text.as_bytes()).map(|block| (block.label, block.has_headers, block.contents)).collect()
    }

    #[test]
    fn where_blocks_are() {
        let a = "-----BEGIN A-----\nAQID\n-----END A-----\n";
        let cases: [(String, &[(&str, bool)]); 18] = [
            (String::new(), &[]),
            (a.to_owned(), &[("A", false)]),
            (a.trim_end().to_owned(), &[("A", false)]),
            (a.replace('\n', "\r\n"), &[("A", false)]),
            (a.replace("AQID", "A Q\tI\nD"), &[("A", false)]),
            (format!("words\n{a}words: and more\n{a}"), &[("A", false), ("A", false)]),
            (format!("{a}{}", a.replace('A', "B").replace("BQID", "AQID")), &[("A", false), ("B", false)]),
            (a.replace("A-----\nAQID", "A-----\nKey: value\nOther: value\n\nAQID"), &[("A", true)]),
            (a.replace("A-----\nAQID", "A-----\nKey: value\nAQID"), &[("A", true)]),
            // What has no end of its own, no line of its own, another end or no base64 is no block.
            (format!("-----BEGIN B-----\nAQID\n{a}"), &[("A", false)]),
            (format!(" {a}"), &[]),
            (a.replace("END A", "END B"), &[]),
            (a.replace("END A-----", "END A-----x"), &[]),
            (a.replace("AQID", "AQI"), &[]),
            (a.replace("AQID", "AQ=="), &[("A", false)]),
            (a.replace("BEGIN A-----", "BEGIN A"), &[]),
            (format!("{}{a}", a.replace("END A", "END B")), &[("A", false)]),
            (a.replace("A-----\nAQID", "A-----\nKey: value"), &[]),
        ];
        for (text, expected) in cases {
            let labels: Vec<_> = found(&text).into_iter().map(|(label, has_headers, _)| (label, has_headers)).collect();
            let expected: Vec<_> = expected.iter().map(|(label, has_headers)| ((*label).to_owned(), *has_headers)).collect();
            assert_eq!(labels, expected, "{text:?}");
        }
        assert_eq!(found(a)[0].2, [1, 2, 3]);
        assert!(found("-----BEGIN A-----\n-----END A-----")[0].2.is_empty());
        assert_eq!(found(&a.replace("AQID", "AR=="))[0].2, [1], "bits that no byte is made of");
    }
}
