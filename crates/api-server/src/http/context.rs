//! What travels with a request from the first filter to the last strategy.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;

use super::query::Query;
use super::request_info::RequestInfo;
use crate::auth::UserInfo;
use crate::gates::FeatureGates;

/// Warnings for the client, sent as `Warning` headers
/// (<https://kubernetes.io/blog/2020/09/03/warnings/>). Clones share one list; a text is kept once, and no more texts than could be sent.
#[derive(Clone, Debug, Default)]
pub struct Warnings(Arc<Mutex<Texts>>);

#[derive(Debug, Default)]
struct Texts {
    in_order: Vec<String>,
    seen: HashSet<String>,
}

/// Headers have room for 4096 characters twice: once whole, and once more after all have been cut short.
const TEXTS_MAX: usize = 2 * 4096;

impl Warnings {
    /// Adds a warning unless it is there already.
    pub fn add(&self, text: impl Into<String>) {
        let text = text.into();
        let mut texts = self.0.lock();
        if !text.is_empty() && texts.in_order.len() < TEXTS_MAX && texts.seen.insert(text.clone()) {
            texts.in_order.push(text);
        }
    }

    /// Takes all warnings out.
    pub fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock()).in_order
    }
}

/// A request's identity and circumstances. Cheap to clone.
#[derive(Clone, Debug)]
pub struct RequestContext {
    /// Who asks, after impersonation.
    pub user: Arc<UserInfo>,
    /// What for.
    pub info: Arc<RequestInfo>,
    /// The URL's query.
    pub query: Arc<Query>,
    /// Identifies the request in the audit log and in the `Audit-Id` header.
    pub audit_id: Arc<str>,
    /// The client's `User-Agent`.
    pub user_agent: Arc<str>,
    /// When the request must have been answered; `None` for long-running ones.
    pub deadline: Option<Instant>,
    /// Warnings to send with the answer.
    pub warnings: Warnings,
    /// Which features are on.
    pub gates: FeatureGates,
}

impl RequestContext {
    /// The context of work that the server does on its own account (bootstrap objects, subresources that write other objects).
    pub fn internal(user: UserInfo, info: RequestInfo) -> RequestContext {
        RequestContext {
            user: Arc::new(user),
            info: Arc::new(info),
            query: Arc::new(Query::default()),
            audit_id: uuid::Uuid::new_v4().to_string().into(),
            user_agent: "kube-apiserver".into(),
            deadline: None,
            warnings: Warnings::default(),
            gates: FeatureGates::default(),
        }
    }

    /// The name that managedFields records for the client when it gives none: the user agent up to the first `/`.
    pub fn field_manager(&self) -> &str {
        let agent = self.user_agent.split('/').next().unwrap_or_default();
        if agent.is_empty() { "unknown" } else { agent }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_are_kept_once_and_not_without_end() {
        let warnings = Warnings::default();
        for text in ["b", "a", "b", ""] {
            warnings.clone().add(text);
        }
        assert_eq!(warnings.take(), ["b", "a"]);
        assert!(warnings.take().is_empty());
        for number in 0..3 * TEXTS_MAX {
            warnings.add(number.to_string());
        }
        assert_eq!(warnings.take().len(), TEXTS_MAX);
    }
}
