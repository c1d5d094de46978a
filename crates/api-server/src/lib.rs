//! The Kubernetes API server: HTTP, filters, registry, watch cache, admission, discovery.

mod auth;
mod objects;
mod pki;

pub use auth::{
    AcceptedToken, Attributes, Authenticators, Authorizers, CertificateAuthenticator, Decision, ImpersonationError, KeyError,
    NodeAuthorizer, PeerCertificates, RbacIndex, Reference, Rule, SignError, TokenError, TokenFile, TokenFileError, TokenIssuer,
    TokenSpec, Unauthenticated, UserInfo, impersonate, names, uncovered,
};
pub use objects::{ListScope, Objects, ReadError};
pub use pki::{KeyCert, Pki, PkiConfig, PkiError};
