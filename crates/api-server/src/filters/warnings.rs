//! The `Warning` response headers (RFC 7234 section 5.5, code 299), as kubectl prints them.

use ::http::header::{HeaderMap, HeaderValue, WARNING};

use crate::http::Warnings;

/// Upstream's limits: a longer text is cut when all together are longer than that.
const TOTAL_BYTES_MAX: usize = 4 * 1024;
const ONE_BYTES_MAX: usize = 256;

/// Writes all warnings collected so far.
pub(super) fn write(warnings: &Warnings, headers: &mut HeaderMap) {
    let texts = warnings.take();
    let total: usize = texts.iter().map(String::len).sum();
    let mut written = 0;
    for text in &texts {
        let text = if total > TOTAL_BYTES_MAX { cut(text, ONE_BYTES_MAX) } else { text };
        if written + text.len() > TOTAL_BYTES_MAX {
            break;
        }
        written += text.len();
        if let Ok(value) = HeaderValue::from_str(&format!("299 - {}", quoted(text))) {
            headers.append(WARNING, value);
        }
    }
}

fn cut(text: &str, bytes_max: usize) -> &str {
    let mut end = text.len().min(bytes_max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// A quoted-string without control characters.
fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers() {
        let warnings = Warnings::default();
        warnings.add("unknown field \"spec.x\"\nand more");
        warnings.add("second");
        let mut headers = HeaderMap::new();
        write(&warnings, &mut headers);
        let values: Vec<_> = headers.get_all(WARNING).iter().map(|v| v.to_str().expect("ASCII")).collect();
        assert_eq!(values, [r#"299 - "unknown field \"spec.x\" and more""#, r#"299 - "second""#]);
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
        assert_eq!(values.len(), TOTAL_BYTES_MAX / ONE_BYTES_MAX);
        assert!(values.iter().all(|v| v.len() < ONE_BYTES_MAX + 16));
    }
}
