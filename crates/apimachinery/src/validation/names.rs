//! Syntax of names. Each check returns the messages of what is wrong; none means valid.

use crate::field;

/// Checks an object's name for its kind; the flag says that the name is a prefix (`generateName`).
pub type NameFn = fn(&str, bool) -> Vec<String>;

const LABEL_1123: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";
const LABEL_1123_UNDERSCORE: &str = "_?[a-z0-9]([-_a-z0-9]*[a-z0-9])?";
const LABEL_1035: &str = "[a-z]([-a-z0-9]*[a-z0-9])?";
const QUALIFIED: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";
const QUALIFIED_MESSAGE: &str =
    "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character";

/// The message for a text that is too long.
pub fn max_len_error(length_max: usize) -> String {
    format!("must be no more than {length_max} bytes")
}

/// The message for a number out of range.
pub fn inclusive_range_error(low: i64, high: i64) -> String {
    format!("must be between {low} and {high}, inclusive")
}

fn max_characters_error(length_max: usize) -> String {
    format!("must be no more than {length_max} characters")
}

fn regex_error(message: &str, regex: &str, examples: &[&str]) -> String {
    if examples.is_empty() {
        return format!("{message} (regex used for validation is '{regex}')");
    }
    let examples: Vec<String> = examples.iter().map(|e| format!("'{e}', ")).collect();
    format!("{message} (e.g. {}regex used for validation is '{regex}')", examples.join(" or "))
}

fn lower_alphanumeric(b: u8) -> bool {
    b.is_ascii_lowercase() || b.is_ascii_digit()
}

/// `first`, then any of `inner`, ending in `last`; one character must satisfy `first` only.
fn shaped(s: &str, first: impl Fn(u8) -> bool, inner: impl Fn(u8) -> bool, last: impl Fn(u8) -> bool) -> bool {
    match s.as_bytes() {
        [] => false,
        [only] => first(*only),
        [head, middle @ .., tail] => first(*head) && middle.iter().all(|b| inner(*b)) && last(*tail),
    }
}

fn matches_label_1123(s: &str) -> bool {
    shaped(s, lower_alphanumeric, |b| lower_alphanumeric(b) || b == b'-', lower_alphanumeric)
}

fn matches_subdomain_1123(s: &str) -> bool {
    s.split('.').all(matches_label_1123)
}

fn matches_label_with_underscore(s: &str) -> bool {
    shaped(
        s.strip_prefix('_').unwrap_or(s),
        lower_alphanumeric,
        |b| lower_alphanumeric(b) || b == b'-' || b == b'_',
        lower_alphanumeric,
    )
}

fn matches_qualified(s: &str) -> bool {
    let alphanumeric = |b: u8| b.is_ascii_alphanumeric();
    shaped(s, alphanumeric, |b| alphanumeric(b) || matches!(b, b'-' | b'_' | b'.'), alphanumeric)
}

/// A DNS label as RFC 1123 has it.
pub fn is_dns1123_label(s: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if s.len() > 63 {
        errors.push(max_characters_error(63));
    }
    if !matches_label_1123(s) {
        errors.push(if matches_subdomain_1123(s) {
            "must not contain dots".into()
        } else {
            regex_error(
                "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character",
                LABEL_1123,
                &["my-name", "123-abc"],
            )
        });
    }
    errors
}

fn subdomain_regex(label: &str) -> String {
    format!("{label}(\\.{label})*")
}

/// A DNS subdomain as RFC 1123 has it.
pub fn is_dns1123_subdomain(s: &str) -> Vec<String> {
    subdomain(s, max_characters_error(253))
}

fn subdomain(s: &str, too_long: String) -> Vec<String> {
    let mut errors = Vec::new();
    if s.len() > 253 {
        errors.push(too_long);
    }
    if !matches_subdomain_1123(s) {
        errors.push(regex_error(
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character",
            &subdomain_regex(LABEL_1123),
            &["example.com"],
        ));
    }
    errors
}

/// A DNS subdomain in which underscores are allowed.
pub fn is_dns1123_subdomain_with_underscore(s: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if s.len() > 253 {
        errors.push(max_characters_error(253));
    }
    if !s.split('.').all(matches_label_with_underscore) {
        errors.push(regex_error(
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '_', '-' or '.', and must start and end with an alphanumeric character",
            &subdomain_regex(LABEL_1123_UNDERSCORE),
            &["example.com"],
        ));
    }
    errors
}

/// A DNS subdomain whose first label is `*`.
pub fn is_wildcard_dns1123_subdomain(s: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if s.len() > 253 {
        errors.push(max_characters_error(253));
    }
    if !s.strip_prefix("*.").is_some_and(matches_subdomain_1123) {
        errors.push(regex_error(
            "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character",
            &format!("\\*\\.{}", subdomain_regex(LABEL_1123)),
            &["*.example.com"],
        ));
    }
    errors
}

/// A DNS label as RFC 1035 has it.
pub fn is_dns1035_label(s: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if s.len() > 63 {
        errors.push(max_characters_error(63));
    }
    if !shaped(s, |b| b.is_ascii_lowercase(), |b| lower_alphanumeric(b) || b == b'-', lower_alphanumeric) {
        errors.push(regex_error(
            "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character",
            LABEL_1035,
            &["my-name", "abc-123"],
        ));
    }
    errors
}

/// A label key: an optional DNS subdomain and a slash, then a name.
pub fn is_qualified_name(s: &str) -> Vec<String> {
    let syntax = || regex_error(QUALIFIED_MESSAGE, QUALIFIED, &["MyName", "my.name", "123-abc"]);
    let mut errors = Vec::new();
    let parts: Vec<&str> = s.split('/').collect();
    let name = match parts[..] {
        [name] => name,
        ["", name] => {
            errors.push("prefix part must be non-empty".into());
            name
        }
        [prefix, name] => {
            errors.extend(subdomain(prefix, max_len_error(253)).into_iter().map(|e| format!("prefix part {e}")));
            name
        }
        _ => {
            let hint = " with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')";
            return vec![format!("a valid label key {}{hint}", syntax())];
        }
    };
    if name.is_empty() {
        errors.push("name part must be non-empty".into());
    } else if name.len() > 63 {
        errors.push(format!("name part {}", max_len_error(63)));
    }
    if !matches_qualified(name) {
        errors.push(format!("name part {}", syntax()));
    }
    errors
}

/// A label value.
pub fn is_label_value(s: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if s.len() > 63 {
        errors.push(max_len_error(63));
    }
    if !s.is_empty() && !matches_qualified(s) {
        errors.push(regex_error(
            "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character",
            &format!("({QUALIFIED})?"),
            &["MyValue", "my_value", "12345"],
        ));
    }
    errors
}

/// A name with at least three labels.
pub fn is_fully_qualified_name(path: &field::Path, s: &str) -> field::ErrorList {
    if s.is_empty() {
        return vec![field::Error::required(path, "")];
    }
    let errors = is_dns1123_subdomain(s);
    if !errors.is_empty() {
        return vec![field::Error::invalid(path, s, errors.join(","))];
    }
    if s.split('.').count() < 3 {
        return vec![field::Error::invalid(path, s, "should be a domain with at least three segments separated by dots")];
    }
    Vec::new()
}

/// A name with at least two labels; a dot at the end is allowed.
pub fn is_fully_qualified_domain_name(path: &field::Path, s: &str) -> field::ErrorList {
    if s.is_empty() {
        return vec![field::Error::required(path, "")];
    }
    let s = s.strip_suffix('.').unwrap_or(s);
    let errors = is_dns1123_subdomain(s);
    if !errors.is_empty() {
        return vec![field::Error::invalid(path, s, errors.join(","))];
    }
    if s.split('.').count() < 2 {
        return vec![field::Error::invalid(path, s, "should be a domain with at least two segments separated by dots")];
    }
    let bad = s.split('.').map(|label| (label, is_dns1123_label(label))).find(|(_, errors)| !errors.is_empty());
    bad.map(|(label, errors)| field::Error::invalid(path, label, errors.join(","))).into_iter().collect()
}

/// A subdomain, a slash, and an HTTP path.
pub fn is_domain_prefixed_path(path: &field::Path, s: &str) -> field::ErrorList {
    if s.is_empty() {
        return vec![field::Error::required(path, "")];
    }
    let (host, rest) = s.split_once('/').unwrap_or((s, ""));
    if host.is_empty() || rest.is_empty() {
        return vec![field::Error::invalid(path, s, "must be a domain-prefixed path (such as \"acme.io/foo\")")];
    }
    let mut errors: field::ErrorList =
        is_dns1123_subdomain(host).into_iter().map(|e| field::Error::invalid(path, host, e)).collect();
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"/-._~%!$&'()*+,;=:".contains(&b);
    if !rest.bytes().all(allowed) {
        errors.push(field::Error::invalid(path, rest, regex_error("Invalid path", r"[A-Za-z0-9/\-._~%!$&'()*+,;=:]+", &[])));
    }
    errors
}

/// An identifier in C.
pub fn is_c_identifier(s: &str) -> Vec<String> {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    if shaped(s, |b| word(b) && !b.is_ascii_digit(), word, word) {
        return Vec::new();
    }
    vec![regex_error(
        "a valid C identifier must start with alphabetic character or '_', followed by a string of alphanumeric characters or '_'",
        "[A-Za-z_][A-Za-z0-9_]*",
        &["my_name", "MY_NAME", "MyName"],
    )]
}

/// A port's number.
pub fn is_port_number(port: i64) -> Vec<String> {
    if (1..=65535).contains(&port) { Vec::new() } else { vec![inclusive_range_error(1, 65535)] }
}

/// A port's name (RFC 6335, lower case).
pub fn is_port_name(s: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if s.len() > 15 {
        errors.push(max_characters_error(15));
    }
    if s.is_empty() || !s.bytes().all(|b| lower_alphanumeric(b) || b == b'-') {
        errors.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".into());
    }
    if !s.bytes().any(|b| b.is_ascii_lowercase()) {
        errors.push("must contain at least one letter (a-z)".into());
    }
    if s.contains("--") {
        errors.push("must not contain consecutive hyphens".into());
    }
    if s.starts_with('-') || s.ends_with('-') {
        errors.push("must not begin or end with a hyphen".into());
    }
    errors
}

/// Digits and a percent sign.
pub fn is_percent(s: &str) -> Vec<String> {
    let digits = s.strip_suffix('%').unwrap_or_default();
    if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) {
        return Vec::new();
    }
    vec![regex_error("a valid percent string must be a numeric string followed by an ending '%'", "[0-9]+%", &["1%", "93%"])]
}

/// An HTTP header's name.
pub fn http_header_name(s: &str) -> Vec<String> {
    if !s.is_empty() && s.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
        return Vec::new();
    }
    vec![regex_error("a valid HTTP header must consist of alphanumeric characters or '-'", "[-A-Za-z0-9]+", &["X-Header-Name"])]
}

fn change_dir_errors(s: &str) -> Option<String> {
    match s {
        "." => Some("must not be '.'".into()),
        ".." => Some("must not be '..'".into()),
        _ if s.starts_with("..") => Some("must not start with '..'".into()),
        _ => None,
    }
}

fn file_name_byte(b: u8) -> bool {
    b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_')
}

/// An environment variable's name.
pub fn is_env_var_name(s: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if !shaped(s, |b| file_name_byte(b) && !b.is_ascii_digit(), file_name_byte, file_name_byte) {
        errors.push(regex_error(
            "a valid environment variable name must consist of alphabetic characters, digits, '_', '-', or '.', and must not start with a digit",
            "[-._a-zA-Z][-._a-zA-Z0-9]*",
            &["my.env-name", "MY_ENV.NAME", "MyEnvName1"],
        ));
    }
    errors.extend(change_dir_errors(s));
    errors
}

/// An environment variable's name, any printable ASCII without `=` (KEP-4369).
pub fn is_relaxed_env_var_name(s: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if s.is_empty() {
        errors.push("environment variable name must be non-empty".into());
    }
    if !s.bytes().all(|b| (0x20..0x7F).contains(&b) && b != b'=') {
        errors.push("a valid environment variable name must consist only of printable ASCII characters other than '='".into());
    }
    errors
}

/// A key of a ConfigMap or Secret.
pub fn is_config_map_key(s: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if s.len() > 253 {
        errors.push(max_characters_error(253));
    }
    if s.is_empty() || !s.bytes().all(file_name_byte) {
        errors.push(regex_error(
            "a valid config key must consist of alphanumeric characters, '-', '_' or '.'",
            "[-._a-zA-Z0-9]+",
            &["key.name", "KEY_NAME", "key-name"],
        ));
    }
    errors.extend(change_dir_errors(s));
    errors
}

/// A name that can be a segment of a URL path.
pub fn is_path_segment_name(s: &str) -> Vec<String> {
    if s == "." || s == ".." {
        return vec![format!("may not be '{s}'")];
    }
    is_path_segment_prefix(s)
}

/// The start of a name that can be a segment of a URL path.
pub fn is_path_segment_prefix(s: &str) -> Vec<String> {
    ["/", "%"].iter().filter(|bad| s.contains(**bad)).map(|bad| format!("may not contain '{bad}'")).collect()
}

/// A prefix may end in a dash, because something will follow. Upstream cuts the character before the dash as well.
fn mask_trailing_dash(s: &str, prefix: bool) -> String {
    if prefix && s.len() > 1 && s.ends_with('-') {
        let keep = s.char_indices().rev().nth(1).map_or(0, |(i, _)| i);
        return format!("{}a", &s[..keep]);
    }
    s.to_owned()
}

/// A [`NameFn`]: a DNS subdomain.
pub fn name_is_dns_subdomain(name: &str, prefix: bool) -> Vec<String> {
    is_dns1123_subdomain(&mask_trailing_dash(name, prefix))
}

/// A [`NameFn`]: an IP address in its canonical form (RFC 5952).
pub fn name_is_ip(name: &str, _prefix: bool) -> Vec<String> {
    match name.parse::<std::net::IpAddr>() {
        Err(_) => vec!["must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)".to_owned()],
        Ok(std::net::IpAddr::V6(ip)) if ip.to_ipv4_mapped().is_some() => {
            vec!["must not be an IPv4-mapped IPv6 address".to_owned()]
        }
        Ok(ip) if ip.to_string() != name => vec![format!("must be in canonical form (\"{ip}\")")],
        Ok(_) => Vec::new(),
    }
}

/// A [`NameFn`]: a DNS label (RFC 1123).
pub fn name_is_dns_label(name: &str, prefix: bool) -> Vec<String> {
    is_dns1123_label(&mask_trailing_dash(name, prefix))
}

/// A [`NameFn`]: a DNS label (RFC 1035).
pub fn name_is_dns1035_label(name: &str, prefix: bool) -> Vec<String> {
    is_dns1035_label(&mask_trailing_dash(name, prefix))
}

/// A [`NameFn`]: a URL path segment.
pub fn name_is_path_segment(name: &str, prefix: bool) -> Vec<String> {
    if prefix { is_path_segment_prefix(name) } else { is_path_segment_name(name) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_and_rejects() {
        type Check = fn(&str) -> Vec<String>;
        let long63 = "a".repeat(63);
        let long64 = "a".repeat(64);
        let cases: [(Check, &[&str], &[&str]); 9] = [
            (is_dns1123_label, &["a", "a-1", "1a", &long63], &["", "-a", "a-", "A", "a.b", "a_b", &long64, "é"]),
            (is_dns1123_subdomain, &["a", "a.b-c.1"], &["", ".", "a.", "a..b", "A.b", "a.-b"]),
            (is_dns1035_label, &["a", "a-1"], &["", "1a", "a-", "A"]),
            (is_qualified_name, &["a", "a.b_c-D", "example.com/Name"], &["", "/a", "a/", "a/b/c", "-a", "A.com/x", &long64]),
            (is_label_value, &["", "a", "A_b.c-1"], &["-", "a-", "a b", &long64]),
            (is_port_name, &["http", "a-1"], &["", "1", "a--b", "-a", "HTTP", "abcdefghijklmnop"]),
            (is_config_map_key, &["a", ".a", "A_b-c.d"], &["", ".", "..", "..a", "a/b"]),
            (is_percent, &["1%", "100%"], &["", "%", "1", "-1%"]),
            (is_path_segment_name, &["a", "...", "a:b"], &[".", "..", "a/b", "a%"]),
        ];
        for (check, good, bad) in cases {
            for s in good {
                assert_eq!(check(s), Vec::<String>::new(), "{s:?} is rejected");
            }
            for s in bad {
                assert!(!check(s).is_empty(), "{s:?} is accepted");
            }
        }
    }

    #[test]
    fn messages_are_upstreams() {
        assert_eq!(
            is_dns1123_subdomain("A"),
            [
                "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
            ]
        );
        assert_eq!(
            is_dns1035_label("1"),
            [
                "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')"
            ]
        );
        assert_eq!(is_dns1123_label("a.b"), ["must not contain dots"]);
        assert_eq!(is_port_number(0), ["must be between 1 and 65535, inclusive"]);
        assert_eq!(is_label_value(&"a".repeat(64)), ["must be no more than 63 bytes"]);
    }

    #[test]
    fn prefixes_may_end_in_a_dash() {
        assert!(name_is_dns_label("web-", true).is_empty());
        assert!(!name_is_dns_label("web-", false).is_empty());
        assert_eq!(mask_trailing_dash("xé-", true), "xa");
    }
}
