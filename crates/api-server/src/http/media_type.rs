//! `Content-Type` as Go's `mime.ParseMediaType` reads it (RFC 1521, RFC 2183).

use std::borrow::Cow;
use std::collections::HashMap;

/// The media type in lower case, without its parameters; `None` where the text is not well formed.
pub(crate) fn media_type(text: &str) -> Option<Cow<'_, str>> {
    // What nearly all clients say.
    if text == "application/json" {
        return Some(Cow::Borrowed(text));
    }
    let base = text.split(';').next().unwrap_or_default();
    let media_type = base.to_lowercase().trim().to_owned();
    let (main, rest) = token(&media_type);
    if main.is_empty() {
        return None;
    }
    if !rest.is_empty() {
        let (sub, rest) = token(rest.strip_prefix('/')?);
        if sub.is_empty() || !rest.is_empty() {
            return None;
        }
    }
    parameters_are_well_formed(&text[base.len()..]).then_some(Cow::Owned(media_type))
}

fn parameters_are_well_formed(mut text: &str) -> bool {
    let mut seen: HashMap<String, String> = HashMap::new();
    loop {
        text = text.trim_start();
        if text.is_empty() {
            return true;
        }
        let Some((key, value, rest)) = parameter(text) else { return text.trim() == ";" };
        // The same name twice is allowed where it says the same.
        if seen.insert(key, value.clone()).is_some_and(|before| before != value) {
            return false;
        }
        text = rest;
    }
}

fn parameter(text: &str) -> Option<(String, String, &str)> {
    let (key, rest) = token(text.strip_prefix(';')?.trim_start());
    let rest = rest.trim_start().strip_prefix('=').filter(|_| !key.is_empty())?.trim_start();
    let (value, left) = value(rest);
    if value.is_empty() && left == rest {
        return None;
    }
    Some((key.to_lowercase(), value, left))
}

/// A token, or a text in quotes; nothing where it does not end.
fn value(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let (value, rest) = token(text);
        return (value.to_owned(), rest);
    };
    let mut out = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return (out, &quoted[at + 1..]),
            '\\' if quoted[at + 1..].starts_with(is_special) => out.extend(characters.next().map(|(_, character)| character)),
            '\r' | '\n' => break,
            character => out.push(character),
        }
    }
    (String::new(), text)
}

fn token(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_graphic() || is_special(c)).unwrap_or(text.len());
    text.split_at(end)
}

fn is_special(character: char) -> bool {
    r#"()<>@,;:\"/[]?="#.contains(character)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_go_reads_it() {
        let cases = [
            ("application/json", Some("application/json")),
            ("APPLICATION/Json; charset=utf-8", Some("application/json")),
            ("application/json;", Some("application/json")),
            ("application/json; ;", None),
            ("application/json;charset", None),
            ("application/json;charset=", None),
            ("application/json;a=1;a=1", Some("application/json")),
            ("application/json;a=1;A=2", None),
            (r#"application/json;a="x;\"y""#, Some("application/json")),
            (r#"application/json;a="x"#, None),
            (" application/json ", Some("application/json")),
            ("application /json", None),
            ("application/", None),
            ("/json", None),
            ("a/b/c", None),
            ("nonsense", Some("nonsense")),
            ("*/*", Some("*/*")),
            (";", None),
            ("", None),
        ];
        for (text, expected) in cases {
            assert_eq!(media_type(text).as_deref(), expected, "{text}");
        }
    }
}
