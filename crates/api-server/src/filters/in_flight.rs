//! The limit on requests at work at the same time, apart for those that write and those that read
//! (upstream's `--max-requests-inflight`, `--max-mutating-requests-inflight`).
//!
//! Priority and fairness will take this place.

use std::sync::Arc;

use apimachinery::{Reason, Status, StatusDetails};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::deadline::is_long_running;
use crate::auth::names;
use crate::http::{RequestContext, Verb};
use crate::metrics::{GaugeGuard, Metrics};

/// How many requests may be at work; 0 is no limit.
#[derive(Clone, Copy, Debug)]
pub struct InFlightMax {
    /// Reading ones.
    pub read_only: usize,
    /// Writing ones.
    pub mutating: usize,
}

impl Default for InFlightMax {
    /// Upstream's defaults.
    fn default() -> Self {
        Self { read_only: 400, mutating: 200 }
    }
}

/// Counts requests at work.
#[derive(Debug)]
pub struct InFlightLimits {
    read_only: Option<Arc<Semaphore>>,
    mutating: Option<Arc<Semaphore>>,
}

/// A place among the requests at work; given back when dropped.
pub(crate) struct Place {
    _permit: Option<OwnedSemaphorePermit>,
    _gauge: Option<GaugeGuard>,
}

impl InFlightLimits {
    /// With these limits.
    pub fn new(max: InFlightMax) -> Self {
        let semaphore = |max: usize| (max > 0).then(|| Arc::new(Semaphore::new(max)));
        Self { read_only: semaphore(max.read_only), mutating: semaphore(max.mutating) }
    }

    /// A place, or `None` when all are taken. Long-running requests are not counted; `system:masters` always get an answer.
    pub(crate) fn enter(&self, context: &RequestContext, metrics: &Arc<Metrics>) -> Option<Place> {
        if is_long_running(&context.info) {
            return Some(Place { _permit: None, _gauge: None });
        }
        let mutating = !matches!(context.info.verb, Verb::Get | Verb::List | Verb::Watch | Verb::Head | Verb::Options);
        let semaphore = if mutating { &self.mutating } else { &self.read_only };
        let permit = match semaphore {
            None => None,
            Some(semaphore) => match Arc::clone(semaphore).try_acquire_owned() {
                Ok(permit) => Some(permit),
                Err(_) if context.user.in_group(names::MASTERS) => None,
                Err(_) => return None,
            },
        };
        Some(Place { _permit: permit, _gauge: Some(metrics.in_flight(mutating)) })
    }
}

/// Upstream's answer when there is no place.
pub(super) fn too_many_requests() -> Status {
    let details = StatusDetails { retry_after_seconds: 1, ..StatusDetails::default() };
    Status::new(Reason::TooManyRequests, "Too many requests, please try again later.").with_details(details)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::UserInfo;
    use crate::http::{Query, RequestInfo};

    fn context(user: UserInfo, method: &str, path: &str) -> RequestContext {
        let method = ::http::Method::from_bytes(method.as_bytes()).expect("a method");
        RequestContext::internal(user, RequestInfo::new(&method, path, &Query::default()).expect("a path"))
    }

    #[test]
    fn places() {
        let limits = InFlightLimits::new(InFlightMax { read_only: 1, mutating: 1 });
        let metrics = Arc::new(Metrics::default());
        let bob = UserInfo::component("bob");
        let (list, create) = ("/api/v1/pods", "/api/v1/namespaces/a/pods");
        let first = limits.enter(&context(bob.clone(), "GET", list), &metrics);
        assert!(first.is_some());
        assert!(limits.enter(&context(bob.clone(), "GET", list), &metrics).is_none(), "full");
        assert!(limits.enter(&context(bob.clone(), "POST", create), &metrics).is_some(), "writes count apart");
        assert!(limits.enter(&context(UserInfo::api_server(), "GET", list), &metrics).is_some(), "masters always");
        assert!(limits.enter(&context(bob.clone(), "GET", "/api/v1/watch/pods"), &metrics).is_some(), "watches are not counted");
        drop(first);
        assert!(limits.enter(&context(bob, "GET", list), &metrics).is_some(), "given back");
    }
}
