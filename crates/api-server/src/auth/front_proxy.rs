//! Identities that a trusted proxy passes on in headers (`--requestheader-*`): how aggregated API servers and authenticating proxies
//! say for whom they call (<https://kubernetes.io/docs/reference/access-authn-authz/authentication/#authenticating-proxy>).
//!
//! The headers count only on a connection whose client certificate the front proxy's CA has signed, and whose name is allowed.

use std::collections::BTreeMap;

use http::HeaderMap;
use jiff::Timestamp;

use super::user::UserInfo;
use super::x509::{PeerCertificates, TrustedNames};

/// Whom to trust, and which headers to read.
#[derive(Clone, Debug)]
pub struct FrontProxyConfig {
    /// The CA of proxies' client certificates, in PEM.
    pub ca_pem: String,
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

impl FrontProxyConfig {
    /// The headers and the name that kubeadm and others use, with a CA.
    pub fn usual(ca_pem: String) -> Self {
        let one = |text: &str| vec![text.to_owned()];
        Self {
            ca_pem,
            allowed_names: one("front-proxy-client"),
            username_headers: one("X-Remote-User"),
            uid_headers: one("X-Remote-Uid"),
            group_headers: one("X-Remote-Group"),
            extra_header_prefixes: one("X-Remote-Extra-"),
        }
    }
}

/// The authenticator.
#[derive(Debug)]
pub struct FrontProxy {
    trusted: TrustedNames,
    config: FrontProxyConfig,
}

impl FrontProxy {
    /// Reads the CA.
    pub fn new(config: FrontProxyConfig) -> Result<Self, rustls::Error> {
        Ok(Self { trusted: TrustedNames::new(&config.ca_pem)?, config })
    }

    /// The configuration.
    pub fn config(&self) -> &FrontProxyConfig {
        &self.config
    }

    /// The user that a proxy names, whose headers are taken out; `None` if the client is no proxy or names nobody.
    pub(super) fn authenticate(&self, headers: &mut HeaderMap, peer: &PeerCertificates, now: Timestamp) -> Option<UserInfo> {
        let first = |headers: &HeaderMap, names: &[String]| -> Option<String> {
            let mut values = names.iter().filter_map(|name| headers.get(name)?.to_str().ok());
            values.find(|value| !value.is_empty()).map(str::to_owned)
        };
        // Most clients are no proxies: their certificates need not be looked at here.
        let name = first(headers, &self.config.username_headers)?;
        let proxy = self.trusted.common_name(peer, now).ok()?;
        if !self.config.allowed_names.is_empty() && !self.config.allowed_names.contains(&proxy) {
            return None;
        }
        let uid = first(headers, &self.config.uid_headers).unwrap_or_default();
        let groups: Vec<String> = self.config.group_headers.iter().flat_map(|name| texts(headers, name)).collect();
        let extra = self.extra(headers);
        for header in [&self.config.username_headers, &self.config.uid_headers, &self.config.group_headers].into_iter().flatten()
        {
            headers.remove(header);
        }
        for (header, _) in &extra {
            headers.remove(header);
        }
        let mut user = UserInfo { uid, ..UserInfo::authenticated(name, groups) };
        user.extra = extra.into_iter().fold(BTreeMap::new(), |mut all: BTreeMap<String, Vec<String>>, (header, values)| {
            let key = self.config.extra_header_prefixes.iter().find_map(|p| strip_prefix(&header, p)).unwrap_or_default();
            all.entry(percent_decoded(key)).or_default().extend(values);
            all
        });
        Some(user)
    }

    fn extra(&self, headers: &HeaderMap) -> Vec<(String, Vec<String>)> {
        let prefixes = &self.config.extra_header_prefixes;
        let mine = headers.keys().filter(|name| prefixes.iter().any(|p| strip_prefix(name.as_str(), p).is_some()));
        mine.map(|name| (name.as_str().to_owned(), texts(headers, name.as_str()))).collect()
    }
}

fn texts(headers: &HeaderMap, name: &str) -> Vec<String> {
    headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).map(str::to_owned).collect()
}

/// Header names are lower case here, prefixes as somebody wrote them.
fn strip_prefix<'a>(header: &'a str, prefix: &str) -> Option<&'a str> {
    header.strip_prefix(prefix.to_ascii_lowercase().as_str()).filter(|_| !prefix.is_empty())
}

/// `%xx` escapes; what does not decode stays as it is, as upstream has it.
fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let escaped = (*first == b'%').then(|| tail.get(..2)).flatten();
        let digits = escaped.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok());
        match digits {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            None if *first == b'%' => return text.to_owned(),
            None => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8(bytes).unwrap_or_else(|_| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes() {
        for (given, expected) in
            [("scopes", "scopes"), ("acme.com%2fproject", "acme.com/project"), ("a%zz", "a%zz"), ("a%2", "a%2")]
        {
            assert_eq!(percent_decoded(given), expected);
        }
    }

    #[test]
    fn extra_headers_are_known_by_prefix_whatever_the_case() {
        assert_eq!(strip_prefix("x-remote-extra-scopes", "X-Remote-Extra-"), Some("scopes"));
        assert_eq!(strip_prefix("x-remote-user", "X-Remote-Extra-"), None);
        assert_eq!(strip_prefix("x-remote-user", ""), None);
    }
}
