//! Whether a caller may: `system:masters` may everything, some paths are open to all, the API server is asked about the rest
//! (SubjectAccessReview).

use std::time::Duration;

use client::{AccessReviews, ReviewError};
use k8s_openapi::api::authorization::v1::{NonResourceAttributes, SubjectAccessReviewSpec};

use crate::user::User;

/// Why `--authorization-always-allow-paths` cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("only trailing * allowed in {0:?}")]
pub struct PathError(String);

/// Who may what.
#[derive(Clone, Default)]
pub struct AuthorizationConfig {
    /// Is asked (`--authorization-kubeconfig`); without it all that is not open is forbidden.
    pub client: Option<kube::Client>,
    /// Paths that are open to all, with `*` at the end for all that begin so (`--authorization-always-allow-paths`).
    pub always_allow_paths: Vec<String>,
    /// How long a yes is good for.
    pub allowed_ttl: Duration,
    /// How long a no is good for.
    pub denied_ttl: Duration,
}

/// Decides whether a caller may.
pub struct Authorization {
    config: AuthorizationConfig,
    reviews: AccessReviews,
}

/// What became of a question.
#[derive(Debug)]
pub(crate) enum Verdict {
    Allowed,
    /// With the authorizer's reason, which may be empty.
    Forbidden(String),
    /// Nobody could be asked.
    Failed(ReviewError),
}

impl Authorization {
    /// Checks the open paths.
    pub fn new(mut config: AuthorizationConfig) -> Result<Self, PathError> {
        for path in &mut config.always_allow_paths {
            let plain = path.trim_start_matches('/');
            if plain.strip_suffix('*').unwrap_or(plain).contains('*') {
                return Err(PathError(plain.to_owned()));
            }
            *path = path.strip_prefix('/').unwrap_or(path).to_owned();
        }
        let reviews = AccessReviews::new(config.allowed_ttl, config.denied_ttl);
        Ok(Self { config, reviews })
    }

    fn is_open(&self, path: &str) -> bool {
        let path = path.strip_prefix('/').unwrap_or(path);
        self.config.always_allow_paths.iter().any(|open| match open.strip_suffix('*') {
            Some(prefix) => path.starts_with(prefix),
            None => path == open,
        })
    }

    pub(crate) async fn decide(&self, user: &User, verb: &str, path: &str) -> Verdict {
        if user.is_in("system:masters") || self.is_open(path) {
            return Verdict::Allowed;
        }
        let Some(client) = &self.config.client else { return Verdict::Forbidden(String::new()) };
        match self.reviews.ask(client, question(user, verb, path)).await {
            Ok(access) if access.allowed => Verdict::Allowed,
            Ok(access) => Verdict::Forbidden(access.reason),
            Err(error) => Verdict::Failed(error),
        }
    }
}

impl std::fmt::Debug for Authorization {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authorization").finish_non_exhaustive()
    }
}

fn question(user: &User, verb: &str, path: &str) -> SubjectAccessReviewSpec {
    let some = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
    SubjectAccessReviewSpec {
        user: some(&user.name),
        uid: some(&user.uid),
        groups: Some(user.groups.clone()).filter(|groups| !groups.is_empty()),
        extra: Some(user.extra.clone()).filter(|extra| !extra.is_empty()),
        non_resource_attributes: Some(NonResourceAttributes { path: some(path), verb: some(verb) }),
        ..SubjectAccessReviewSpec::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(paths: &[&str]) -> Result<Authorization, PathError> {
        let always_allow_paths = paths.iter().map(|path| (*path).to_owned()).collect();
        Authorization::new(AuthorizationConfig { always_allow_paths, ..AuthorizationConfig::default() })
    }

    #[tokio::test]
    async fn open_paths_and_masters() {
        let authorization = with(&["/healthz", "livez*", "/"]).expect("are paths");
        let masters = User { groups: vec!["system:masters".to_owned()], ..User::default() };
        for (user, path, allowed) in [
            (User::anonymous(), "/healthz", true),
            (User::anonymous(), "/healthz/ping", false),
            (User::anonymous(), "/livez/ping", true),
            (User::anonymous(), "/", true),
            (User::anonymous(), "/metrics", false),
            (masters, "/metrics", true),
        ] {
            let verdict = authorization.decide(&user, "get", path).await;
            assert_eq!(matches!(verdict, Verdict::Allowed), allowed, "{path}");
        }
        assert!(with(&["/a*b"]).is_err());
    }
}
