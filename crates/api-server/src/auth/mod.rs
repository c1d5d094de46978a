//! Authentication and authorization: who makes a request, and whether they may.
//!
//! Pure decisions over [`crate::objects::Objects`] and the RBAC index; the filters (`crate::filters`) put them into the chain.

mod attributes;
mod authenticate;
mod authorize;
mod impersonation;
mod node;
mod rbac;
mod token_file;
mod tokens;
mod user;
mod x509;

pub use attributes::{Attributes, Decision};
pub use authenticate::{Authenticators, Unauthenticated};
pub use authorize::Authorizers;
pub use impersonation::{ImpersonationError, impersonate};
pub use node::NodeAuthorizer;
pub use rbac::{RbacIndex, Rule, uncovered};
pub use token_file::{TokenFile, TokenFileError};
pub use tokens::{AcceptedToken, KeyError, Reference, SignError, TokenError, TokenIssuer, TokenSpec};
pub use user::{UserInfo, names};
pub use x509::{CertificateAuthenticator, PeerCertificates};
