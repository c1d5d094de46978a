//! Authentication and authorization: who makes a request, and whether they may.
//!
//! Pure decisions over [`crate::objects::Objects`] and the RBAC index; the filters (`crate::filters`) put them into the chain.

mod abac;
mod attributes;
mod authenticate;
mod authorize;
mod bootstrap_token;
mod front_proxy;
mod impersonation;
mod legacy_tokens;
mod node;
mod rbac;
mod token_file;
mod token_keys;
mod tokens;
mod user;
mod x509;

pub use abac::{PolicyFile, PolicyFileError};
pub use attributes::{Attributes, Decision};
pub use authenticate::{Authenticators, Unauthenticated};
pub use authorize::{AuthorizationMode, Authorizers};
pub use front_proxy::{FrontProxy, FrontProxyConfig};
pub use impersonation::{ImpersonationError, impersonate};
pub use node::NodeAuthorizer;
pub use rbac::{RbacIndex, Rule, uncovered};
pub use token_file::{TokenFile, TokenFileError};
pub use token_keys::KeyError;
pub use tokens::{AcceptedToken, Reference, SignError, TokenConfig, TokenError, TokenIssuer, TokenLifetime, TokenSpec};
pub use user::{UserInfo, names};
pub use x509::{CertificateAuthenticator, PeerCertificates};
