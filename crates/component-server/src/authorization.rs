//! Whether a caller may: `system:masters` may everything, some paths are open to all, the API server is asked about the rest
//! (SubjectAccessReview).

use std::collections::HashMap;
use std::time::Duration;

use k8s_openapi::api::authorization::v1::{NonResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use kube::api::{Api, PostParams};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::user::User;

/// Upstream's limit of a review.
const REVIEW_TIMEOUT: Duration = Duration::from_secs(10);
/// Answers remembered at most; when there are more all are forgotten.
const CACHE_MAX: usize = 1000;
/// Longer questions are not remembered (upstream's `maxControlledAttrCacheSize`).
const CACHED_BYTES_MAX: usize = 10_000;

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

/// Who, verb, path.
type Question = (User, String, String);

/// A remembered answer.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Answer {
    allowed: bool,
    reason: String,
}

/// Decides whether a caller may.
pub struct Authorization {
    config: AuthorizationConfig,
    answers: Mutex<HashMap<Question, (Instant, Answer)>>,
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

/// Why an access could not be reviewed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReviewError {
    #[error("the access could not be reviewed")]
    Api(#[source] kube::Error),
    #[error("the access was not reviewed in time")]
    Slow,
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
        Ok(Self { config, answers: Mutex::default() })
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
        let key = (user.clone(), verb.to_owned(), path.to_owned());
        let ttl = |answer: &Answer| if answer.allowed { self.config.allowed_ttl } else { self.config.denied_ttl };
        let known = self.answers.lock().get(&key).filter(|(at, answer)| at.elapsed() < ttl(answer)).map(|(_, a)| a.clone());
        let answer = match known {
            Some(answer) => answer,
            None => match ask(client, user, verb, path).await {
                Ok(answer) => self.remember(key, answer),
                Err(error) => return Verdict::Failed(error),
            },
        };
        if answer.allowed { Verdict::Allowed } else { Verdict::Forbidden(answer.reason) }
    }

    fn remember(&self, key: Question, answer: Answer) -> Answer {
        let mut answers = self.answers.lock();
        if answers.len() >= CACHE_MAX {
            answers.clear();
        }
        if key.2.len() < CACHED_BYTES_MAX {
            answers.insert(key, (Instant::now(), answer.clone()));
        }
        answer
    }
}

impl std::fmt::Debug for Authorization {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authorization").finish_non_exhaustive()
    }
}

async fn ask(client: &kube::Client, user: &User, verb: &str, path: &str) -> Result<Answer, ReviewError> {
    let some = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
    let review = SubjectAccessReview {
        spec: SubjectAccessReviewSpec {
            user: some(&user.name),
            uid: some(&user.uid),
            groups: Some(user.groups.clone()).filter(|groups| !groups.is_empty()),
            extra: Some(user.extra.clone()).filter(|extra| !extra.is_empty()),
            non_resource_attributes: Some(NonResourceAttributes { path: some(path), verb: some(verb) }),
            ..SubjectAccessReviewSpec::default()
        },
        ..SubjectAccessReview::default()
    };
    let (api, parameters): (Api<SubjectAccessReview>, _) = (Api::all(client.clone()), PostParams::default());
    let answer = tokio::time::timeout(REVIEW_TIMEOUT, api.create(&parameters, &review)).await;
    let status = answer.map_err(|_| ReviewError::Slow)?.map_err(ReviewError::Api)?.status.unwrap_or_default();
    let allowed = status.allowed && status.denied != Some(true);
    Ok(Answer { allowed, reason: status.reason.unwrap_or_default() })
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
