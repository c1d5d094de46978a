//! How every component talks to the API server.
//!
//! Owns: building a [`kube::Client`] (in process or from a kubeconfig), shared typed informers, the rate-limited
//! work queue, the worker loop of controllers, leader election, the events recorder, questions about callers (TokenReview,
//! SubjectAccessReview), what node selectors mean, and what load balancers go by.
//!
//! Invariants: one informer per type, scope and process ([`Informers`]); cached objects are immutable
//! (`Arc<K>`); a work queue never hands the same key to two workers at once; every task ends with its
//! `CancellationToken`.
//!
//! Deliberately absent: anything that knows a concrete controller, and any fake API server for tests.

mod connect;
mod controller;
mod credentials;
mod events;
mod events_correlator;
mod informer;
mod informers;
mod instances;
mod key;
mod kubeconfig;
mod leader;
pub mod load_balancing;
pub mod node_selector;
mod rate_limit;
mod raw;
mod review;
mod service_account;
mod store;
mod workqueue;
mod workqueue_metrics;

pub use connect::from_service;
pub use controller::{Controller, Outcome, ReconcileError, run_workers};
pub use events::{EventKind, EventRecorder, object_reference};
pub use informer::{Change, Informer, MetadataObject, ResyncError};
pub use informers::{Informers, Scope};
#[doc(hidden)]
pub use instances::shared as shared_instances;
pub use key::NamespacedName;
pub use kubeconfig::{Connection, KubeconfigError, from_kubeconfig};
pub use leader::{LeaderElection, LeaderElectionError, LeaderWatch, run_as_leader};
pub use rate_limit::{ExponentialBackoff, RateLimiter, TokenBucket};
pub use review::{Access, AccessReviews, ReviewError, TokenReviews};
pub use store::{IndexFn, Store};
pub use workqueue::WorkQueue;
