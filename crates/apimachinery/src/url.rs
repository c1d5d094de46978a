//! URLs as Go's `net/url` reads and writes them, and its words for those that are none: validation and expressions show both.
//!
//! Two readers, as there: [`Url::parse`] takes references too, [`Url::parse_request`] only what a request may be for, in which a number sign
//! is a part of the path or the query. Colons in the names of hosts are taken, as in programs that were written for Go 1.25 (upstream's
//! `go.mod` asks for that). Deliberately absent: all that changes a URL, and the places that Go names in IP addresses that are none.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use crate::go_quote;

/// So many parameters a query may have; of a longer one Go reads none.
const PARAMETERS_MAX: usize = 10_000;

/// A text is not a URL. Says so in Go's words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("parse {}: {why}", go_quote(.text))]
pub struct UrlError {
    text: String,
    why: String,
}

/// A URL, or a reference to one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Url {
    /// In lower case; empty in a reference.
    pub scheme: String,
    /// Who asks: what stands before the at sign.
    pub user: Option<User>,
    /// The host, with the port if there is one.
    pub host: String,
    /// The path as Go writes it.
    pub path: String,
    /// The query as it is written, without its question mark.
    pub query: String,
    /// The fragment, decoded.
    pub fragment: String,
    /// What follows the scheme of a URL without a path (`mailto:a@b`).
    opaque: String,
    escaped_fragment: String,
    /// There is a question mark, and nothing after it.
    has_empty_query: bool,
    /// There is a scheme, and no place for a host (`file:/a`).
    omits_host: bool,
}

/// A user's name and password, decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    name: Vec<u8>,
    password: Option<Vec<u8>>,
}

/// What stands where decides which bytes are written as they are.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Path,
    Host,
    /// The zone of an IPv6 address.
    Zone,
    User,
    Query,
    Fragment,
}

impl Url {
    /// Reads a URL or a reference to one.
    pub fn parse(text: &str) -> Result<Url, UrlError> {
        let error = |text: &str, why| UrlError { text: text.to_owned(), why };
        let (main, fragment) = text.split_once('#').unwrap_or((text, ""));
        let mut url = read(main, false).map_err(|why| error(main, why))?;
        let decoded = unescape(fragment, Part::Fragment).map_err(|why| error(text, why))?;
        url.escaped_fragment = escaped(fragment, &decoded, Part::Fragment);
        url.fragment = lossy(&decoded);
        Ok(url)
    }

    /// Reads what a request may be for: a URL, or a path with its slash.
    pub fn parse_request(text: &str) -> Result<Url, UrlError> {
        read(text, true).map_err(|why| UrlError { text: text.to_owned(), why })
    }

    /// The host without the port, and without the brackets of an IPv6 address.
    pub fn hostname(&self) -> &str {
        let (host, _) = self.host_and_port();
        host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
    }

    /// The port; empty if there is none.
    pub fn port(&self) -> &str {
        self.host_and_port().1
    }

    fn host_and_port(&self) -> (&str, &str) {
        let split = self.host.rfind(':').filter(|at| check_port(&self.host[*at..]).is_ok());
        split.map_or((&self.host, ""), |at| (&self.host[..at], &self.host[at + 1..]))
    }

    /// The query's values by key, decoded, in their order; pairs that are not encoded as they should be are left out.
    pub fn values(&self) -> BTreeMap<String, Vec<String>> {
        let mut values: BTreeMap<String, Vec<String>> = BTreeMap::new();
        if self.query.split('&').count() > PARAMETERS_MAX {
            return values;
        }
        for pair in self.query.split('&').filter(|pair| !pair.is_empty() && !pair.contains(';')) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            if let (Ok(key), Ok(value)) = (unescape(key, Part::Query), unescape(value, Part::Query)) {
                values.entry(lossy(&key)).or_default().push(lossy(&value));
            }
        }
        values
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (has_scheme, has_host) = (!self.scheme.is_empty(), !self.host.is_empty());
        if has_scheme {
            write!(f, "{}:", self.scheme)?;
        }
        if !self.opaque.is_empty() {
            f.write_str(&self.opaque)?;
        } else {
            let named = has_host || self.user.is_some();
            if named || (has_scheme && !self.omits_host && !self.path.is_empty()) {
                f.write_str("//")?;
            }
            if let Some(user) = &self.user {
                write!(f, "{user}@")?;
            }
            f.write_str(&escape(self.host.as_bytes(), Part::Host))?;
            if has_host && !self.path.is_empty() && !self.path.starts_with('/') {
                f.write_str("/")?;
            }
            let first = self.path.split('/').next().unwrap_or_default();
            if !has_scheme && !named && first.contains(':') {
                f.write_str("./")?;
            }
            f.write_str(&self.path)?;
        }
        if self.has_empty_query || !self.query.is_empty() {
            write!(f, "?{}", self.query)?;
        }
        match self.escaped_fragment.as_str() {
            "" => Ok(()),
            fragment => write!(f, "#{fragment}"),
        }
    }
}

impl fmt::Display for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&escape(&self.name, Part::User))?;
        match &self.password {
            Some(password) => write!(f, ":{}", escape(password, Part::User)),
            None => Ok(()),
        }
    }
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn read(text: &str, by_request: bool) -> Result<Url, String> {
    if text.bytes().any(|byte| byte < b' ' || byte == 0x7F) {
        return Err("net/url: invalid control character in URL".to_owned());
    }
    if text.is_empty() && by_request {
        return Err("empty url".to_owned());
    }
    if text == "*" {
        return Ok(Url { path: text.to_owned(), ..Url::default() });
    }
    let (scheme, rest) = scheme(text)?;
    let has_scheme = !scheme.is_empty();
    let (rest, query) = rest.split_once('?').map_or((rest, None), |(rest, query)| (rest, Some(query)));
    let mut url = Url {
        scheme: scheme.to_ascii_lowercase(),
        query: query.unwrap_or_default().to_owned(),
        has_empty_query: query == Some(""),
        ..Url::default()
    };
    if !rest.starts_with('/') {
        if has_scheme {
            rest.clone_into(&mut url.opaque);
            return Ok(url);
        }
        if by_request {
            return Err("invalid URI for request".to_owned());
        }
        if rest.split('/').next().is_some_and(|segment| segment.contains(':')) {
            return Err("first path segment in URL cannot contain colon".to_owned());
        }
    }
    let may_have_host = has_scheme || (!by_request && !rest.starts_with("///"));
    let path = match rest.strip_prefix("//").filter(|_| may_have_host) {
        Some(authority) => {
            let (authority, path) = authority.split_at(authority.find('/').unwrap_or(authority.len()));
            (url.user, url.host) = user_and_host(authority)?;
            path
        }
        None => {
            url.omits_host = has_scheme;
            rest
        }
    };
    url.path = escaped(path, &unescape(path, Part::Path)?, Part::Path);
    Ok(url)
}

fn scheme(text: &str) -> Result<(&str, &str), String> {
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' => {}
            b'0'..=b'9' | b'+' | b'-' | b'.' if at > 0 => {}
            b':' if at == 0 => return Err("missing protocol scheme".to_owned()),
            b':' => return Ok((&text[..at], &text[at + 1..])),
            _ => break,
        }
    }
    Ok(("", text))
}

fn user_and_host(authority: &str) -> Result<(Option<User>, String), String> {
    let (user, host) = authority.rsplit_once('@').map_or((None, authority), |(user, host)| (Some(user), host));
    let host = read_host(host)?;
    let Some(user) = user else { return Ok((None, host)) };
    if !user.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._:~!$&'()*+,;=%@".contains(&byte)) {
        return Err("net/url: invalid userinfo".to_owned());
    }
    let (name, password) = user.split_once(':').map_or((user, None), |(name, password)| (name, Some(password)));
    let password = password.map(|password| unescape(password, Part::User));
    Ok((Some(User { name: unescape(name, Part::User)?, password: password.transpose()? }), host))
}

/// Nothing, or a colon with digits or none.
fn check_port(text: &str) -> Result<(), String> {
    let digits = if text.is_empty() { Some("") } else { text.strip_prefix(':') };
    match digits.is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_digit())) {
        true => Ok(()),
        false => Err(format!("invalid port {} after host", go_quote(text))),
    }
}

fn read_host(host: &str) -> Result<String, String> {
    match host.rfind('[') {
        Some(0) => {
            let close = host.rfind(']').ok_or("missing ']' in host")?;
            let port = &host[close + 1..];
            check_port(port)?;
            Ok(format!("[{}]{port}", read_address(&host[1..close])?))
        }
        Some(_) => Err("invalid IP-literal".to_owned()),
        None => {
            check_port(host.rfind(':').map_or("", |at| &host[at..]))?;
            Ok(lossy(&unescape(host, Part::Host)?))
        }
    }
}

/// What stands in brackets: an IPv6 address, which may have a zone (RFC 6874).
fn read_address(text: &str) -> Result<String, String> {
    let name = match text.find("%25") {
        Some(zone) => {
            let (address, zone) = (unescape(&text[..zone], Part::Host)?, unescape(&text[zone..], Part::Zone)?);
            lossy(&[address, zone].concat())
        }
        None => lossy(&unescape(text, Part::Host)?),
    };
    let wrong = |why: &str| Err(format!("invalid host: ParseAddr({}): {why}", go_quote(&name)));
    let (address, zone) = name.split_once('%').map_or((name.as_str(), None), |(address, zone)| (address, Some(zone)));
    match (address.parse::<IpAddr>(), zone) {
        (Ok(IpAddr::V6(_)), Some("")) => wrong("zone must be a non-empty string"),
        (Ok(IpAddr::V6(_)), _) => Ok(name),
        (Ok(IpAddr::V4(_)), None) => Err("invalid IP-literal".to_owned()),
        _ => wrong("unable to parse IP"),
    }
}

/// Whether a byte is written as it is (Go's `shouldEscape`, which follows RFC 3986 as far as its users let it).
fn is_plain(byte: u8, part: Part) -> bool {
    if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
        return true;
    }
    match part {
        Part::Path => b"$&+,/:;=@".contains(&byte),
        Part::Host | Part::Zone => b"!$&'()*+,;=:[]<>\"".contains(&byte),
        Part::User => b"$&+,;=".contains(&byte),
        Part::Query => false,
        Part::Fragment => b"$&+,/:;=?@!()*".contains(&byte),
    }
}

/// The bytes that a text stands for.
fn unescape(text: &str, part: Part) -> Result<Vec<u8>, String> {
    let of_host = matches!(part, Part::Host | Part::Zone);
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        if byte == b'%' {
            let shown = || go_quote(&String::from_utf8_lossy(&bytes[at..bytes.len().min(at + 3)]));
            let digits = text.get(at + 1..at + 3).filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()));
            let value = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
            let allowed = |value: &u8| match part {
                // Only what could not be written otherwise.
                Part::Host => *value >= 0x80 || *value == b'%',
                // Windows has spaces there.
                Part::Zone => matches!(*value, b'%' | b' ') || is_plain(*value, part),
                _ => true,
            };
            out.push(value.filter(allowed).ok_or_else(|| format!("invalid URL escape {}", shown()))?);
            at += 3;
            continue;
        }
        if of_host && byte < 0x80 && !is_plain(byte, part) {
            return Err(format!("invalid character {} in host name", go_quote(&char::from(byte).to_string())));
        }
        out.push(if byte == b'+' && part == Part::Query { b' ' } else { byte });
        at += 1;
    }
    Ok(out)
}

fn escape(bytes: &[u8], part: Part) -> String {
    let mut out = String::with_capacity(bytes.len());
    for byte in bytes {
        match is_plain(*byte, part) {
            true => out.push(char::from(*byte)),
            false => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// A path or fragment as Go writes it: as it was, if every byte of it may be there, otherwise escaped anew.
fn escaped(raw: &str, decoded: &[u8], part: Part) -> String {
    let may_be = |byte: u8| is_plain(byte, part) || b"!$&'()*+,;=:@[]%".contains(&byte);
    match raw.bytes().all(may_be) {
        true => raw.to_owned(),
        false => escape(decoded, part),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(url: &Url) -> [String; 6] {
        let user = url.user.as_ref().map(ToString::to_string).unwrap_or_default();
        [&url.scheme, &user, &url.host, &url.path, &url.query, &url.fragment].map(Clone::clone)
    }

    #[test]
    fn urls_and_references() {
        for (text, expected) in [
            ("HTTPS://u:p@[fe80::1%25en0]:80/a%20b?c=d#e%66", ["https", "u:p", "[fe80::1%en0]:80", "/a%20b", "c=d", "ef"]),
            ("fd00::/64", ["fd00", "", "", "", "", ""]),
            ("mailto:a@b?c", ["mailto", "", "", "", "c", ""]),
            ("https:///a", ["https", "", "", "/a", "", ""]),
            ("///a", ["", "", "", "///a", "", ""]),
            ("//a:1", ["", "", "a:1", "", "", ""]),
            ("*", ["", "", "", "*", "", ""]),
            ("with space", ["", "", "", "with%20space", "", ""]),
            ("10.0.0.1", ["", "", "", "10.0.0.1", "", ""]),
            ("", ["", "", "", "", "", ""]),
            ("http://a:1:2/", ["http", "", "a:1:2", "/", "", ""]),
            ("http://u%3A:%40@a", ["http", "u%3A:%40", "a", "", "", ""]),
            ("http://[fe80::1%25a%20b]", ["http", "", "[fe80::1%a b]", "", "", ""]),
            ("http://%E4%B8%96", ["http", "", "\u{4e16}", "", "", ""]),
            ("/a b%2Fc", ["", "", "", "/a%20b/c", "", ""]),
            ("/a%2Fc*'[", ["", "", "", "/a%2Fc*'[", "", ""]),
        ] {
            assert_eq!(parts(&Url::parse(text).expect(text)), expected.map(str::to_owned), "{text}");
        }
    }

    #[test]
    fn what_requests_are_for() {
        for (text, expected) in [
            ("https://a/b#c", ["https", "", "a", "/b%23c", "", ""]),
            ("https://a/b?c#d", ["https", "", "a", "/b", "c#d", ""]),
            ("//a/b", ["", "", "", "//a/b", "", ""]),
            ("a:b", ["a", "", "", "", "", ""]),
            ("*", ["", "", "", "*", "", ""]),
        ] {
            assert_eq!(parts(&Url::parse_request(text).expect(text)), expected.map(str::to_owned), "{text}");
        }
        for (text, why) in [("", "empty url"), ("a", "invalid URI for request"), ("?a", "invalid URI for request")] {
            let error = Url::parse_request(text).expect_err(text);
            assert_eq!(error.to_string(), format!("parse {}: {why}", go_quote(text)));
            assert!(Url::parse(text).is_ok(), "{text}");
        }
    }

    #[test]
    fn what_is_none() {
        for (text, why) in [
            ("http://[::1", "missing ']' in host"),
            ("::1", "missing protocol scheme"),
            ("http://a/\nb", "net/url: invalid control character in URL"),
            ("http://a b", r#"invalid character " " in host name"#),
            ("http://a:b", r#"invalid port ":b" after host"#),
            ("http://[::1]b", r#"invalid port "b" after host"#),
            ("http://a/%zz", r#"invalid URL escape "%zz""#),
            ("http://a/%z", r#"invalid URL escape "%z""#),
            ("http://%41", r#"invalid URL escape "%41""#),
            ("http://a[::1]", "invalid IP-literal"),
            ("http://[1.2.3.4]", "invalid IP-literal"),
            ("http://[a]", r#"invalid host: ParseAddr("a"): unable to parse IP"#),
            ("http://[::1%25]", r#"invalid host: ParseAddr("::1%"): zone must be a non-empty string"#),
            ("http://[::1%25%0A]", r#"invalid URL escape "%0A""#),
            ("http://[::1%25%80]", r#"invalid URL escape "%80""#),
            ("http://a b@c", "net/url: invalid userinfo"),
            ("http://%a:b@c", r#"invalid URL escape "%a""#),
        ] {
            for parse in [Url::parse, Url::parse_request] {
                let error = parse(text).expect_err(text);
                assert_eq!(error.to_string(), format!("parse {}: {why}", go_quote(text)));
            }
        }
        let colon = "first path segment in URL cannot contain colon";
        let time = "2020-01-02T03:04:05Z";
        assert_eq!(Url::parse(time).expect_err(time).to_string(), format!("parse {}: {colon}", go_quote(time)));
        assert_eq!(Url::parse("/#%z").expect_err("no fragment").to_string(), r#"parse "/#%z": invalid URL escape "%z""#);
    }

    #[test]
    fn hosts_and_queries() {
        for (text, hostname, port) in [
            ("http://[::1]:80", "::1", "80"),
            ("http://[::1]", "::1", ""),
            ("http://a:", "a", ""),
            ("http://a", "a", ""),
            ("http://a:1:2", "a:1", "2"),
        ] {
            let url = Url::parse(text).expect(text);
            assert_eq!((url.hostname(), url.port()), (hostname, port), "{text}");
        }
        let values = Url::parse("/?a=1&b=x+y%2B&a=2&&c&d;=1&e=%z").expect("a path").values();
        let expected = [("a", vec!["1", "2"]), ("b", vec!["x y+"]), ("c", vec![""])];
        let owned =
            |(key, values): (&str, Vec<&str>)| (key.to_owned(), values.into_iter().map(str::to_owned).collect::<Vec<String>>());
        assert_eq!(values, BTreeMap::from(expected.map(owned)));
        let many = |count: usize| Url::parse(&format!("/?{}", vec!["a=1"; count].join("&"))).expect("a path").values();
        assert_eq!((many(PARAMETERS_MAX).len(), many(PARAMETERS_MAX + 1).len()), (1, 0));
    }

    #[test]
    fn as_text() {
        for (text, expected) in [
            ("HTTP://A/b", "http://A/b"),
            ("http://a?", "http://a?"),
            ("http://a/?b#c d", "http://a/?b#c%20d"),
            ("http://u%41:@a", "http://uA:@a"),
            ("file:/a", "file:/a"),
            ("file:///a", "file:///a"),
            ("http://", "http:"),
            ("a:b?c", "a:b?c"),
            ("//a/b c", "//a/b%20c"),
            ("./a:b", "./a:b"),
            ("*", "*"),
        ] {
            assert_eq!(Url::parse(text).expect(text).to_string(), expected, "{text}");
        }
    }
}
