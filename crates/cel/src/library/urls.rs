//! URLs (upstream's `library/urls.go`), parsed by the rules of Go's `net/url` for requests.

use std::collections::BTreeMap;

use apimachinery::go_quote;

use super::string_map;
use crate::eval::{EvalError, Evaluated};
use crate::value::{Extension, Val};

pub(super) const TABLE: &str = "
url string_to_url (string) -> URL
getScheme url_get_scheme URL.() -> string
getHost url_get_host URL.() -> string
getHostname url_get_hostname URL.() -> string
getPort url_get_port URL.() -> string
getEscapedPath url_get_escaped_path URL.() -> string
getQuery url_get_query URL.() -> map(string, list(string))
isURL is_url_string (string) -> bool
";

/// A URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    scheme: String,
    user: String,
    host: String,
    path: String,
    query: String,
}

/// The bytes that escapes stand for.
fn decode(text: &str, plus: bool) -> Result<Vec<u8>, String> {
    let (bytes, mut out, mut at) = (text.as_bytes(), Vec::with_capacity(text.len()), 0);
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'%' => {
                let hex = bytes.get(at + 1..at + 3).filter(|hex| hex.iter().all(u8::is_ascii_hexdigit));
                let hex = hex.and_then(|hex| std::str::from_utf8(hex).ok()).and_then(|hex| u8::from_str_radix(hex, 16).ok());
                let bad = || {
                    let end = (at + 3).min(bytes.len());
                    format!("invalid URL escape {}", go_quote(&String::from_utf8_lossy(&bytes[at..end])))
                };
                out.push(hex.ok_or_else(bad)?);
                at += 3;
            }
            b'+' if plus => {
                out.push(b' ');
                at += 1;
            }
            other => {
                out.push(other);
                at += 1;
            }
        }
    }
    Ok(out)
}

fn stays_in_path(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-_.~$&+,/:;=@".contains(&byte)
}

/// The path as Go writes it: as it was, if every byte of it may be there, otherwise escaped anew.
fn escaped_path(raw: &str) -> Result<String, String> {
    let decoded = decode(raw, false)?;
    let valid = raw.bytes().all(|b| stays_in_path(b) || b"!'()*[]%".contains(&b));
    if valid {
        return Ok(raw.to_owned());
    }
    let mut out = String::with_capacity(raw.len());
    for byte in decoded {
        match stays_in_path(byte) {
            true => out.push(char::from(byte)),
            false => out.push_str(&format!("%{byte:02X}")),
        }
    }
    Ok(out)
}

impl Url {
    /// Parses what a request may be for; the error is Go's.
    pub(crate) fn parse_request(text: &str) -> Result<Url, String> {
        Self::parse(text).map_err(|error| format!("parse {}: {error}", go_quote(text)))
    }

    fn parse(text: &str) -> Result<Url, String> {
        // What follows a number sign is cut off by Go only where no request is meant; here it is a part of path or query.
        if text.bytes().any(|b| b < b' ' || b == 0x7f) {
            return Err("net/url: invalid control character in URL".to_owned());
        }
        if text.is_empty() {
            return Err("empty url".to_owned());
        }
        let (scheme, rest) = scheme(text)?;
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let mut url = Url { scheme, user: String::new(), host: String::new(), path: String::new(), query: query.to_owned() };
        if !rest.starts_with('/') {
            return match (url.scheme.is_empty(), text) {
                (false, _) | (_, "*") => Ok(url),
                _ => Err("invalid URI for request".to_owned()),
            };
        }
        let mut path = rest;
        if !url.scheme.is_empty()
            && let Some(rest) = rest.strip_prefix("//")
        {
            let end = rest.find('/').unwrap_or(rest.len());
            (url.user, url.host) = authority(&rest[..end])?;
            path = &rest[end..];
        }
        url.path = escaped_path(path)?;
        Ok(url)
    }

    fn hostname(&self) -> &str {
        match (self.host.strip_prefix('['), self.host.rsplit_once(':')) {
            (Some(inner), _) => inner.split(']').next().unwrap_or_default(),
            (None, Some((name, _))) => name,
            (None, None) => &self.host,
        }
    }

    fn port(&self) -> &str {
        let after = self.host.rsplit_once(']').map_or(self.host.as_str(), |(_, after)| after);
        after.rsplit_once(':').map_or("", |(_, port)| port)
    }

    fn values(&self) -> BTreeMap<String, Vec<Val>> {
        let mut values: BTreeMap<String, Vec<Val>> = BTreeMap::new();
        for pair in self.query.split('&').filter(|pair| !pair.is_empty() && !pair.contains(';')) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            if let (Ok(key), Ok(value)) = (decode(key, true), decode(value, true)) {
                let value = Val::from(&*String::from_utf8_lossy(&value));
                values.entry(String::from_utf8_lossy(&key).into_owned()).or_default().push(value);
            }
        }
        values
    }
}

fn scheme(text: &str) -> Result<(String, &str), String> {
    for (at, c) in text.char_indices() {
        match c {
            c if c.is_ascii_alphabetic() => {}
            '0'..='9' | '+' | '-' | '.' if at > 0 => {}
            ':' if at == 0 => return Err("missing protocol scheme".to_owned()),
            ':' => return Ok((text[..at].to_ascii_lowercase(), &text[at + 1..])),
            _ => break,
        }
    }
    Ok((String::new(), text))
}

fn authority(text: &str) -> Result<(String, String), String> {
    let (user, host) = text.rsplit_once('@').unwrap_or(("", text));
    if user.bytes().any(|b| !(b.is_ascii_alphanumeric() || b"-._:~!$&'()*+,;=%@".contains(&b))) {
        return Err("net/url: invalid userinfo".to_owned());
    }
    let user = decode(user, false)?;
    let after = match host.strip_prefix('[') {
        Some(inner) => inner.rsplit_once(']').ok_or("missing ']' in host")?.1,
        None => host.rfind(':').map_or("", |at| &host[at..]),
    };
    let port = after.strip_prefix(':').is_some_and(|port| port.bytes().all(|b| b.is_ascii_digit()));
    if !after.is_empty() && !port {
        return Err(format!("invalid port {} after host", go_quote(after)));
    }
    let allowed = |b: u8| !b.is_ascii() || b.is_ascii_alphanumeric() || b"-_.~!$&'()*+,;=:[]<>\"%".contains(&b);
    if let Some(bad) = host.chars().find(|c| c.is_ascii() && !allowed(*c as u8)) {
        return Err(format!("invalid character {} in host name", go_quote(&bad.to_string())));
    }
    let host = decode(host, false)?;
    Ok((String::from_utf8_lossy(&user).into_owned(), String::from_utf8_lossy(&host).into_owned()))
}

pub(super) fn invoke(function: &str, args: &[Val]) -> Evaluated {
    match (function, args) {
        ("isURL", [Val::String(text)]) => Ok(Val::Bool(Url::parse_request(text).is_ok())),
        ("url", [Val::String(text)]) => match Url::parse_request(text) {
            Ok(url) => Ok(Extension::Url(url.into()).into()),
            Err(error) => Err(EvalError::failed(format!("URL parse error during conversion from string: {error}"))),
        },
        (_, [Val::Extension(Extension::Url(url))]) => Ok(Val::from(match function {
            "getScheme" => url.scheme.as_str(),
            "getHost" => url.host.as_str(),
            "getHostname" => url.hostname(),
            "getPort" => url.port(),
            "getEscapedPath" => url.path.as_str(),
            "getQuery" => return Ok(string_map(url.values().into_iter().map(|(key, values)| (key, values.into())))),
            _ => return Err(EvalError::no_overload()),
        })),
        _ => Err(EvalError::no_overload()),
    }
}
