//! Identities that a trusted proxy passes on in headers (`--requestheader-*`): how aggregated API servers and authenticating proxies say
//! for whom they call (<https://kubernetes.io/docs/reference/access-authn-authz/authentication/#authenticating-proxy>).
//!
//! The headers count only on a connection whose client certificate the front proxy's CA has signed, and whose name is allowed: the server
//! sees to that.

use std::collections::BTreeMap;

use http::HeaderMap;

/// Which proxies are believed, and which headers are read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestHeaders {
    /// Common names that proxies' certificates may have; empty for any.
    pub allowed_names: Vec<String>,
    /// Headers with the user's name; the first that is there counts.
    pub username_headers: Vec<String>,
    /// Headers with the user's uid.
    pub uid_headers: Vec<String>,
    /// Headers with groups.
    pub group_headers: Vec<String>,
    /// What headers with extra attributes start with.
    pub extra_header_prefixes: Vec<String>,
}

/// Whom a proxy names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claimed {
    /// Never empty.
    pub name: String,
    /// May be empty.
    pub uid: String,
    /// In the headers' order.
    pub groups: Vec<String>,
    /// Extra attributes.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl RequestHeaders {
    /// The headers and the name that kubeadm and others use.
    pub fn usual() -> Self {
        let one = |text: &str| vec![text.to_owned()];
        Self {
            allowed_names: one("front-proxy-client"),
            username_headers: one("X-Remote-User"),
            uid_headers: one("X-Remote-Uid"),
            group_headers: one("X-Remote-Group"),
            extra_header_prefixes: one("X-Remote-Extra-"),
        }
    }

    /// Whether a proxy's certificate may have this common name.
    pub fn allows(&self, proxy: &str) -> bool {
        self.allowed_names.is_empty() || self.allowed_names.iter().any(|name| name == proxy)
    }

    /// Whom the headers name, if anybody: whether to believe it is to be asked next.
    pub fn claimed(&self, headers: &HeaderMap) -> Option<Claimed> {
        let first = |names: &[String]| -> Option<String> {
            let mut values = names.iter().filter_map(|name| headers.get(name)?.to_str().ok());
            values.find(|value| !value.is_empty()).map(str::to_owned)
        };
        let name = first(&self.username_headers)?;
        let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for header in headers.keys().map(http::HeaderName::as_str) {
            if let Some(key) = self.extra_key(header) {
                extra.entry(percent_decoded(key)).or_default().extend(texts(headers, header));
            }
        }
        let groups = self.group_headers.iter().flat_map(|name| texts(headers, name)).collect();
        Some(Claimed { name, uid: first(&self.uid_headers).unwrap_or_default(), groups, extra })
    }

    /// Takes the headers out, so that nobody behind believes them again.
    pub fn remove_from(&self, headers: &mut HeaderMap) {
        for name in [&self.username_headers, &self.uid_headers, &self.group_headers].into_iter().flatten() {
            headers.remove(name);
        }
        let extra: Vec<http::HeaderName> =
            headers.keys().filter(|name| self.extra_key(name.as_str()).is_some()).cloned().collect();
        for name in extra {
            headers.remove(name);
        }
    }

    /// Header names are lower case here, prefixes as somebody wrote them.
    fn extra_key<'a>(&self, header: &'a str) -> Option<&'a str> {
        let prefixes = self.extra_header_prefixes.iter().filter(|prefix| !prefix.is_empty());
        prefixes.filter_map(|prefix| header.strip_prefix(prefix.to_ascii_lowercase().as_str())).next()
    }
}

fn texts(headers: &HeaderMap, name: &str) -> Vec<String> {
    headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).map(str::to_owned).collect()
}

/// Keys of extra attributes come percent-encoded, because names of headers cannot hold everything; a malformed one stays as it is, as
/// upstream has it.
pub fn percent_decoded(key: &str) -> String {
    let mut out = Vec::with_capacity(key.len());
    let mut bytes = key.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let digits = [bytes.next(), bytes.next()].map(|b| b.and_then(|b| char::from(b).to_digit(16)));
        let [Some(high), Some(low)] = digits else { return key.to_owned() };
        out.push(u8::try_from(high * 16 + low).unwrap_or(b'%'));
    }
    String::from_utf8(out).unwrap_or_else(|_| key.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes() {
        for (given, expected) in
            [("scopes", "scopes"), ("acme.com%2fproject", "acme.com/project"), ("a%zz", "a%zz"), ("a%2", "a%2"), ("a%+f", "a%+f")]
        {
            assert_eq!(percent_decoded(given), expected);
        }
    }

    #[test]
    fn headers_name_somebody_and_are_taken_out() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("x-remote-user", "eve"),
            ("x-remote-uid", "7"),
            ("x-remote-group", "a"),
            ("x-remote-group", "b"),
            ("x-remote-extra-acme.com%2fproject", "p"),
            ("x-remote-extra-scopes", "s"),
            ("accept", "*/*"),
        ] {
            headers.append(name, http::HeaderValue::from_static(value));
        }
        let usual = RequestHeaders::usual();
        let texts = |values: &[&str]| values.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let claimed = usual.claimed(&headers).expect("names somebody");
        assert_eq!((claimed.name.as_str(), claimed.uid.as_str()), ("eve", "7"));
        assert_eq!(claimed.groups, texts(&["a", "b"]));
        assert_eq!(claimed.extra, [("acme.com/project".to_owned(), texts(&["p"])), ("scopes".to_owned(), texts(&["s"]))].into());
        usual.remove_from(&mut headers);
        assert_eq!(headers.keys().map(http::HeaderName::as_str).collect::<Vec<_>>(), ["accept"]);
        assert_eq!(usual.claimed(&headers), None);
        assert!(RequestHeaders { extra_header_prefixes: texts(&[""]), ..usual }.extra_key("accept").is_none());
    }

    #[test]
    fn names_of_proxies() {
        let usual = RequestHeaders::usual();
        assert!(usual.allows("front-proxy-client") && !usual.allows("ada"));
        assert!(RequestHeaders::default().allows("ada"), "no names are any name");
    }
}
