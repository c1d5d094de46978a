//! The `Warning` response headers (RFC 7234 section 5.5, code 299), as kubectl prints them.

use ::http::header::{HeaderMap, HeaderValue, WARNING};

use crate::http::Warnings;

/// Upstream's limits, in characters: when all together are longer than that, each is cut.
const TOTAL_MAX: usize = 4 * 1024;
const ONE_MAX: usize = 256;

/// Writes all warnings collected so far, as upstream's recorder would have written them one by one: a text that no header can hold is left out,
/// and the first that is too much makes all those before it short.
pub(super) fn write(warnings: &Warnings, headers: &mut HeaderMap) {
    let texts = warnings.take();
    let (mut written, mut cutting) = (0, false);
    let mut lines: Vec<String> = Vec::new();
    for (at, text) in texts.iter().enumerate() {
        if cutting && written >= TOTAL_MAX {
            break;
        }
        let text = if cutting { cut(text) } else { text };
        let Some(line) = line(text) else { continue };
        let length = text.chars().count();
        if cutting || written + length <= TOTAL_MAX {
            written += length;
            lines.push(line);
            continue;
        }
        cutting = true;
        let short = texts[..=at].iter().map(|text| cut(text)).filter_map(|text| Some((text.chars().count(), self::line(text)?)));
        (written, lines) = short.fold((0, Vec::new()), |(length, mut lines), (more, line)| {
            lines.push(line);
            (length + more, lines)
        });
    }
    for line in lines {
        if let Ok(value) = HeaderValue::from_bytes(line.as_bytes()) {
            headers.append(WARNING, value);
        }
    }
}

fn cut(text: &str) -> &str {
    text.char_indices().nth(ONE_MAX).map_or(text, |(end, _)| &text[..end])
}

/// With a quoted-string; `None` where the text has a control character.
fn line(text: &str) -> Option<String> {
    if text.chars().any(char::is_control) {
        return None;
    }
    let mut out = String::with_capacity(text.len() + 10);
    out.push_str("299 - \"");
    for c in text.chars() {
        if matches!(c, '"' | '\\') {
            out.push('\\');
        }
        out.push(c);
    }
    out.push('"');
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers() {
        let warnings = Warnings::default();
        warnings.add("unknown field \"spec.x\"");
        warnings.add("what no header\ncan hold");
        warnings.add("second");
        let mut headers = HeaderMap::new();
        write(&warnings, &mut headers);
        let values: Vec<_> = headers.get_all(WARNING).iter().map(|v| v.to_str().expect("ASCII")).collect();
        assert_eq!(values, [r#"299 - "unknown field \"spec.x\"""#, r#"299 - "second""#]);
    }

    #[test]
    fn long_ones_are_cut() {
        let warnings = Warnings::default();
        for i in 0..40 {
            warnings.add(format!("{i:02}{}", "x".repeat(1000)));
        }
        let mut headers = HeaderMap::new();
        write(&warnings, &mut headers);
        let values: Vec<_> = headers.get_all(WARNING).iter().collect();
        assert_eq!(values.len(), TOTAL_MAX / ONE_MAX);
        assert!(values.iter().all(|v| v.len() < ONE_MAX + 16));
    }
}
