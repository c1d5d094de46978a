//! A front proxy's word about who calls: believed on a connection whose client certificate the proxy's CA has signed, and whose name is
//! allowed.

use ::serving::{Authorities, CertificateError, RequestHeaders};
use http::HeaderMap;
use jiff::Timestamp;

use super::user::UserInfo;
use super::x509::{PeerCertificates, verify};

/// Whom to trust, and which headers to read.
#[derive(Clone, Debug)]
pub struct FrontProxyConfig {
    /// The CA of proxies' client certificates, in PEM.
    pub ca_pem: String,
    /// Their names and headers.
    pub headers: RequestHeaders,
}

impl FrontProxyConfig {
    /// The headers and the name that kubeadm and others use, with a CA.
    pub fn usual(ca_pem: String) -> Self {
        Self { ca_pem, headers: RequestHeaders::usual() }
    }
}

/// The authenticator.
#[derive(Debug)]
pub struct FrontProxy {
    trusted: Authorities,
    headers: RequestHeaders,
}

impl FrontProxy {
    /// Reads the CA.
    pub fn new(config: FrontProxyConfig) -> Result<Self, CertificateError> {
        Ok(Self { trusted: Authorities::new(&config.ca_pem)?, headers: config.headers })
    }

    /// Whose certificates proxies have.
    pub fn authorities(&self) -> &Authorities {
        &self.trusted
    }

    /// Their names and headers.
    pub fn headers(&self) -> &RequestHeaders {
        &self.headers
    }

    /// The user that a proxy names, whose headers are taken out; `None` if the client is no proxy or names nobody.
    pub(super) fn authenticate(&self, headers: &mut HeaderMap, peer: &PeerCertificates, now: Timestamp) -> Option<UserInfo> {
        // Most clients are no proxies: their certificates need not be looked at here.
        let claimed = self.headers.claimed(headers)?;
        let proxy = verify(&self.trusted.now(), peer, now).ok()?;
        if !self.headers.allows(&proxy.common_name) {
            return None;
        }
        self.headers.remove_from(headers);
        let user = UserInfo::authenticated(claimed.name, claimed.groups);
        Some(UserInfo { uid: claimed.uid, extra: claimed.extra, ..user })
    }
}
