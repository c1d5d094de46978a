//! What literals mean.

use super::lexer::Tok;
use crate::ast::Literal;

/// The value of a literal's text; the error is cel-go's.
pub(super) fn value(kind: Tok, text: &str, negative: bool) -> Result<Literal, &'static str> {
    match kind {
        Tok::True => Ok(Literal::Bool(true)),
        Tok::False => Ok(Literal::Bool(false)),
        Tok::Null => Ok(Literal::Null),
        Tok::Int => {
            let magnitude = magnitude(text).ok_or("invalid int literal")?;
            let signed = if negative { -i128::from(magnitude) } else { i128::from(magnitude) };
            i64::try_from(signed).map(Literal::Int).map_err(|_| "invalid int literal")
        }
        Tok::Uint => magnitude(&text[..text.len() - 1]).map(Literal::Uint).ok_or("invalid uint literal"),
        Tok::Float => {
            let float: f64 = text.parse().map_err(|_| "invalid double literal")?;
            match float.is_finite() {
                true => Ok(Literal::Double(if negative { -float } else { float })),
                false => Err("invalid double literal"),
            }
        }
        Tok::String => {
            let bytes = unescape(text, false)?;
            String::from_utf8(bytes).map(|text| Literal::String(text.into())).map_err(|_| "invalid unicode code point")
        }
        Tok::Bytes => unescape(&text[1..], true).map(|bytes| Literal::Bytes(bytes.into())),
        _ => Err("unexpected literal"),
    }
}

fn magnitude(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}

/// The content of a string with its quotes and prefix.
fn unescape(text: &str, bytes: bool) -> Result<Vec<u8>, &'static str> {
    let text = text.replace("\r\n", "\n").replace('\r', "\n");
    let raw = text.starts_with(['r', 'R']);
    let quoted = if raw { &text[1..] } else { &text };
    let width = if quoted.len() >= 6 && (quoted.starts_with("\"\"\"") || quoted.starts_with("'''")) { 3 } else { 1 };
    let inner = quoted.get(width..quoted.len() - width).ok_or("unable to unescape string")?;
    if raw || !inner.contains('\\') {
        return Ok(inner.as_bytes().to_vec());
    }
    let (mut out, mut chars) = (Vec::with_capacity(inner.len()), inner.chars());
    while let Some(c) = chars.next() {
        match c {
            '\\' => escape(&mut chars, bytes, &mut out)?,
            c => push(&mut out, c),
        }
    }
    Ok(out)
}

fn push(out: &mut Vec<u8>, c: char) {
    out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
}

fn escape(chars: &mut std::str::Chars, bytes: bool, out: &mut Vec<u8>) -> Result<(), &'static str> {
    let bad = "unable to unescape string";
    let kind = chars.next().ok_or("unable to unescape string, found '\\' as last character")?;
    let simple = match kind {
        'a' => Some(7),
        'b' => Some(8),
        'f' => Some(12),
        'n' => Some(b'\n'),
        'r' => Some(b'\r'),
        't' => Some(b'\t'),
        'v' => Some(11),
        '\\' | '\'' | '"' | '`' | '?' => Some(kind as u8),
        _ => None,
    };
    if let Some(byte) = simple {
        out.push(byte);
        return Ok(());
    }
    let (digits, radix, start) = match kind {
        'x' | 'X' => (2, 16, 0),
        'u' if !bytes => (4, 16, 0),
        'U' if !bytes => (8, 16, 0),
        '0'..='3' => (2, 8, kind as u32 - '0' as u32),
        _ => return Err(bad),
    };
    let mut value = start;
    for _ in 0..digits {
        let digit = chars.next().and_then(|c| c.to_digit(radix)).ok_or(bad)?;
        value = value.wrapping_mul(radix).wrapping_add(digit);
    }
    match bytes {
        // Two hexadecimal or three octal digits from 0 to 377: one byte.
        true => out.push(value as u8),
        false => push(out, char::from_u32(value).ok_or("invalid unicode code point")?),
    }
    Ok(())
}
