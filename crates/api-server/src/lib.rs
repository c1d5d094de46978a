//! The Kubernetes API server: HTTP, filters, registry, watch cache, admission, discovery.
//!
//! Only this crate opens the store. Everything is one engine driven by a table with a row for each resource (DESIGN 2); rules that a
//! schema cannot say live in a strategy module for that kind.

// `Status` is the answer to a failed request: it is made once and returned at once, boxing it would only add noise.
#![allow(clippy::result_large_err)]

mod access;
mod admission;
mod auth;
mod bootstrap;
mod cache;
mod connect;
mod endpoints;
mod filters;
mod frontend;
mod gates;
mod health;
mod http;
mod identity;
mod kinds;
mod loopback;
mod metrics;
mod objects;
mod openapi;
mod pki;
mod registry;
mod resource_metrics;
mod review;
mod server;
mod serving;
mod table;

pub use self::http::{Body, BoxError, Query, RequestContext, RequestInfo, RequestInfoError, Verb, Warnings};
pub use self::serving::{CertificateRotation, InProcessService, Listener, ServeError, ShutdownConfig};
pub use access::{Access, AccessConfig, AccessError, Credentials};
pub use admission::plugins::names as admission_plugin_names;
pub use admission::{
    AdmissionChain, AdmissionConfig, AdmissionConfigError, AdmissionPlugin, Attributes as AdmissionAttributes, Operation,
};
pub use auth::{
    AcceptedToken, Attributes, Authenticators, AuthorizationMode, Authorizers, CertificateAuthenticator, Decision, FrontProxy,
    FrontProxyConfig, ImpersonationError, KeyError, NodeAuthorizer, PeerCertificates, PolicyFile, PolicyFileError, RbacIndex,
    Reference, Rule, SignError, TokenConfig, TokenError, TokenFile, TokenFileError, TokenIssuer, TokenLifetime, TokenSpec,
    Unauthenticated, UserInfo, impersonate, names, uncovered,
};
pub use bootstrap::BootstrapConfig;
pub use connect::{Connector, KubeletAccess, KubeletAccessError, KubeletIdentity};
pub use filters::{InFlightLimits, InFlightMax};
pub use gates::{EmulatedVersion, Feature, FeatureGates};
pub use health::Lifecycle;
pub use loopback::{Loopback, LoopbackError};
pub use metrics::{AllowedLabels, Metrics};
pub use objects::{ListScope, Objects, ReadError};
pub use pki::{Pki, PkiConfig, PkiError};
pub use registry::{
    ApiEnablement, BeginHook, Companion, Companions, DefaultStrategy, FieldAttrs, Finish, OperationContext, Resource,
    StatusStrategy, Strategy, Subresource,
};
pub use server::{ApiServer, ApiServerBuilder, ServerConfig};
// Of the public interface here.
pub use ::serving::{Authorities, CertificateError, KeyCert, RequestHeaders, ServingCertificate, TlsOptions};
