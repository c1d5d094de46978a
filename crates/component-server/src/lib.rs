//! The secure port of a component that runs alone: health, metrics and the z-pages over HTTPS, as upstream's `apiserver` library gives
//! it to kube-controller-manager and kube-scheduler.
//!
//! Owns: the listener, who a caller is (client certificate, front proxy, TokenReview, else anonymous), whether they may
//! (SubjectAccessReview), the health checks and the pages.
//!
//! Invariants: every request is authenticated and authorized before its path is looked at; tokens are kept as hashes only.
//!
//! Deliberately absent: `/debug/pprof` and `/debug/flags` (a Go program's), and retries of reviews: an API server that is away makes a
//! request fail, not wait.

mod authentication;
mod authorization;
mod cluster;
mod health;
mod metrics;
mod pages;
mod server;
mod user;
mod zpages;

pub use authentication::{Authentication, AuthenticationConfig};
pub use authorization::{Authorization, AuthorizationConfig, PathError};
pub use cluster::LookupError;
pub use health::{Check, Checks};
pub use metrics::render as render_metrics;
pub use pages::Pages;
pub use server::{ListenError, Listener};
pub use zpages::ZPages;
