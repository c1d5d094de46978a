//! Names: what an identifier may be, which words are none, and how expressions write the names of fields that are no identifiers
//! (upstream's `pkg/cel/escaping.go`).

/// The words of the language, and those that are kept for it: no identifiers.
pub(crate) const RESERVED: [&str; 21] = [
    "as",
    "break",
    "const",
    "continue",
    "else",
    "false",
    "for",
    "function",
    "if",
    "import",
    "in",
    "let",
    "loop",
    "namespace",
    "null",
    "package",
    "return",
    "true",
    "var",
    "void",
    "while",
];

/// Parts of names, and what expressions write for them; what stands for two underscores comes first.
const ESCAPES: [(&str, &str); 4] = [("__", "__underscores__"), (".", "__dot__"), ("-", "__dash__"), ("/", "__slash__")];

/// Whether a text is a name that a variable may have.
pub fn is_identifier(text: &str) -> bool {
    let word = |c: char| c == '_' || c.is_ascii_alphanumeric();
    text.starts_with(|c: char| word(c) && !c.is_ascii_digit()) && text.chars().all(word) && !RESERVED.contains(&text)
}

/// The name of a field as expressions write it (`__dot__`, `__dash__`, `__slash__`, `__underscores__`, `__KEYWORD__`), if they can.
pub fn escape(name: &str) -> Option<String> {
    if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    if RESERVED.contains(&name) {
        return Some(format!("__{name}__"));
    }
    if !name.chars().all(|c| c.is_ascii_alphanumeric() || "_./-".contains(c)) {
        return None;
    }
    Some(ESCAPES.iter().fold(name.to_owned(), |name, (part, symbol)| name.replace(part, symbol)))
}

/// The field that an escaped name stands for; `None` where nothing is escaped, or not so that it stands for something.
pub(crate) fn unescape(name: &str) -> Option<String> {
    if !name.contains("__") {
        return None;
    }
    let keyword = name.strip_prefix("__").and_then(|rest| rest.strip_suffix("__"));
    if let Some(keyword) = keyword.filter(|word| RESERVED.contains(word)) {
        return Some(keyword.to_owned());
    }
    let mut out = String::with_capacity(name.len());
    let mut rest = name;
    while let Some(start) = rest.find("__") {
        // The last two of a row of underscores belong to what is escaped.
        let at = start + rest[start..].bytes().take_while(|byte| *byte == b'_').count() - 2;
        let (part, symbol) = ESCAPES.iter().find(|(_, symbol)| rest[at..].starts_with(symbol))?;
        out.push_str(&rest[..at]);
        out.push_str(part);
        rest = &rest[at + symbol.len()..];
    }
    out.push_str(rest);
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields() {
        for (name, expected) in [
            ("replicas", Some("replicas")),
            ("namespace", Some("__namespace__")),
            ("a-b.c/d", Some("a__dash__b__dot__c__slash__d")),
            ("a__b", Some("a__underscores__b")),
            ("a_.b", Some("a___dot__b")),
            ("$ref", None),
            ("1a", None),
            ("", None),
        ] {
            let escaped = escape(name);
            assert_eq!(escaped.as_deref(), expected, "{name}");
            let back = escaped.filter(|escaped| escaped != name).map(|escaped| unescape(&escaped));
            assert!(back.is_none_or(|back| back.as_deref() == Some(name)), "{name}");
        }
        for none in ["replicas", "__of__", "a__b", "__"] {
            assert_eq!(unescape(none), None, "{none}");
        }
    }

    #[test]
    fn identifiers() {
        for (text, expected) in [
            ("a", true),
            ("_a1", true),
            ("while", false),
            ("in", false),
            ("1a", false),
            ("a-b", false),
            ("", false),
            ("ä", false),
        ] {
            assert_eq!(is_identifier(text), expected, "{text}");
        }
    }
}
