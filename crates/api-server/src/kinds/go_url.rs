//! URLs as Go's `net/url` reads them, and its words for those that are none.
//!
//! Only what validation asks for: scheme, user, host, query and fragment. Colons in the names of hosts are taken, as in programs that were
//! written for Go 1.25.

use std::net::IpAddr;

use apimachinery::go_quote;

/// The parts of a URL.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Url {
    /// In lower case.
    pub(super) scheme: String,
    pub(super) host: String,
    pub(super) user: Option<String>,
    pub(super) query: String,
    pub(super) fragment: String,
}

/// What stands where decides which characters may be written as they are.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Host,
    Zone,
    Other,
}

/// Reads a URL; the error is the text of Go's.
pub(super) fn parse(text: &str) -> Result<Url, String> {
    let error = |text: &str, why: String| format!("parse {}: {why}", go_quote(text));
    let (main, fragment) = text.split_once('#').unwrap_or((text, ""));
    let mut url = without_fragment(main).map_err(|why| error(main, why))?;
    url.fragment = unescape(fragment, Part::Other).map_err(|why| error(text, why))?;
    Ok(url)
}

fn without_fragment(text: &str) -> Result<Url, String> {
    if text.bytes().any(|byte| byte < b' ' || byte == 0x7F) {
        return Err("net/url: invalid control character in URL".to_owned());
    }
    let (scheme, rest) = scheme(text)?;
    let mut url = Url { scheme: scheme.to_ascii_lowercase(), ..Url::default() };
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    query.clone_into(&mut url.query);
    if !rest.starts_with('/') {
        if !scheme.is_empty() {
            return Ok(url);
        }
        if rest.split('/').next().is_some_and(|segment| segment.contains(':')) {
            return Err("first path segment in URL cannot contain colon".to_owned());
        }
    }
    let authority = rest.strip_prefix("//").filter(|_| !scheme.is_empty() || !rest.starts_with("///"));
    let path = match authority {
        None => rest,
        Some(authority) => {
            let (authority, path) = authority.split_at(authority.find('/').unwrap_or(authority.len()));
            (url.user, url.host) = user_and_host(authority)?;
            path
        }
    };
    unescape(path, Part::Other)?;
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

fn user_and_host(authority: &str) -> Result<(Option<String>, String), String> {
    let (user, host) = authority.rsplit_once('@').map_or((None, authority), |(user, host)| (Some(user), host));
    let host = read_host(host)?;
    let Some(user) = user else { return Ok((None, host)) };
    if !user.chars().all(|c| c.is_ascii_alphanumeric() || "-._:~!$&'()*+,;=%@".contains(c)) {
        return Err("net/url: invalid userinfo".to_owned());
    }
    Ok((Some(unescape(user, Part::Other)?), host))
}

fn read_host(host: &str) -> Result<String, String> {
    let port = |text: &str| match text.strip_prefix(':') {
        None if text.is_empty() => Ok(()),
        Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => Ok(()),
        _ => Err(format!("invalid port {} after host", go_quote(text))),
    };
    match host.rfind('[') {
        Some(0) => {
            let close = host.rfind(']').ok_or("missing ']' in host")?;
            port(&host[close + 1..])?;
            let name = &host[1..close];
            let name = match name.find("%25") {
                Some(zone) => unescape(&name[..zone], Part::Host)? + &unescape(&name[zone..], Part::Zone)?,
                None => unescape(name, Part::Host)?,
            };
            let address = name.split('%').next().unwrap_or_default().parse::<IpAddr>();
            match address {
                Ok(IpAddr::V6(_)) => Ok(format!("[{name}]{}", &host[close + 1..])),
                Ok(IpAddr::V4(_)) => Err("invalid IP-literal".to_owned()),
                Err(_) => Err(format!("invalid host: ParseAddr({}): unable to parse IP", go_quote(&name))),
            }
        }
        Some(_) => Err("invalid IP-literal".to_owned()),
        None => {
            port(host.rfind(':').map_or("", |at| &host[at..]))?;
            unescape(host, Part::Host)
        }
    }
}

/// Whether a byte of a host's name is written as it is.
fn plain_in_host(byte: u8) -> bool {
    byte >= 0x80 || byte.is_ascii_alphanumeric() || b"-_.~!$&'()*+,;=:[]<>\"".contains(&byte)
}

fn unescape(text: &str, part: Part) -> Result<String, String> {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        if byte == b'%' {
            let shown = || go_quote(&String::from_utf8_lossy(&bytes[at..bytes.len().min(at + 3)]));
            let digits = text.get(at + 1..at + 3).filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()));
            let value = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
            let allowed = |value: u8| match part {
                Part::Host => value >= 0x80 || value == b'%',
                Part::Zone => value == b'%' || value == b' ' || plain_in_host(value),
                Part::Other => true,
            };
            let value = value.filter(|value| allowed(*value)).ok_or_else(|| format!("invalid URL escape {}", shown()))?;
            out.push(value);
            at += 3;
            continue;
        }
        if part != Part::Other && !plain_in_host(byte) {
            return Err(format!("invalid character {} in host name", go_quote(&char::from(byte).to_string())));
        }
        out.push(byte);
        at += 1;
    }
    Ok(String::from_utf8_lossy(&out).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts() {
        let url = parse("HTTPS://u:p@[fe80::1%25en0]:80/a%20b?c=d#e%66").expect("a URL");
        let expected = Url {
            scheme: "https".into(),
            host: "[fe80::1%en0]:80".into(),
            user: Some("u:p".into()),
            query: "c=d".into(),
            fragment: "ef".into(),
        };
        assert_eq!(url, expected);
        for (text, scheme, host) in [
            ("fd00::/64", "fd00", ""),
            ("https:///a", "https", ""),
            ("///a", "", ""),
            ("//a:1", "", "a:1"),
            ("*", "", ""),
            ("with space", "", ""),
            ("10.0.0.1", "", ""),
        ] {
            let url = parse(text).expect(text);
            assert_eq!((url.scheme.as_str(), url.host.as_str()), (scheme, host), "{text}");
        }
    }

    #[test]
    fn what_is_none() {
        for (text, why) in [
            ("http://[::1", "missing ']' in host"),
            ("::1", "missing protocol scheme"),
            ("a\nb", "net/url: invalid control character in URL"),
            ("2020-01-02T03:04:05Z", "first path segment in URL cannot contain colon"),
            ("http://a b", r#"invalid character " " in host name"#),
            ("http://a:b", r#"invalid port ":b" after host"#),
            ("http://a/%zz", r#"invalid URL escape "%zz""#),
            ("http://%41", r#"invalid URL escape "%41""#),
            ("http://a[::1]", "invalid IP-literal"),
            ("http://[1.2.3.4]", "invalid IP-literal"),
            ("http://a b@c", "net/url: invalid userinfo"),
        ] {
            assert_eq!(parse(text), Err(format!("parse {}: {why}", go_quote(text))));
        }
    }
}
