//! The Kubernetes API server: HTTP, filters, registry, watch cache, admission, discovery.
//!
//! Only this crate opens the store. Everything is one engine driven by a table with a row for each resource (DESIGN 2); rules that a
//! schema cannot say live in a strategy module for that kind.

// `Status` is the answer to a failed request: it is made once and returned at once, boxing it would only add noise.
#![allow(clippy::result_large_err)]

mod admission;
mod auth;
mod endpoints;
mod filters;
mod http;
mod objects;
mod pki;
mod registry;
mod review;
mod server;

pub use self::http::{Body, BoxError, Query, RequestContext, RequestInfo, RequestInfoError, Verb, Warnings};
pub use admission::{AdmissionChain, AdmissionPlugin, Attributes as AdmissionAttributes, Operation};
pub use auth::{
    AcceptedToken, Attributes, Authenticators, Authorizers, CertificateAuthenticator, Decision, ImpersonationError, KeyError,
    NodeAuthorizer, PeerCertificates, RbacIndex, Reference, Rule, SignError, TokenError, TokenFile, TokenFileError, TokenIssuer,
    TokenSpec, Unauthenticated, UserInfo, impersonate, names, uncovered,
};
pub use objects::{ListScope, Objects, ReadError};
pub use pki::{KeyCert, Pki, PkiConfig, PkiError};
pub use registry::{BeginHook, DefaultStrategy, FieldAttrs, Finish, OperationContext, Strategy};
pub use server::{ApiServer, ApiServerBuilder, ServerConfig};
