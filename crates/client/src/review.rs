//! What a server asks the API server about its callers: whose a bearer token is (TokenReview) and whether somebody may (SubjectAccessReview).
//! Answers are remembered for as long as the server says
//! (<https://kubernetes.io/docs/reference/access-authn-authz/webhook/>).
//!
//! Invariants: tokens are kept as hashes only; what could not be asked is not remembered. A question is asked once: an API server that is
//! away makes it fail, not wait.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, UserInfo};
use k8s_openapi::api::authorization::v1::{SubjectAccessReview, SubjectAccessReviewSpec};
use kube::api::{Api, PostParams};
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use tokio::time::Instant;

/// Upstream's limit of a review.
const REVIEW_TIMEOUT: Duration = Duration::from_secs(10);
/// Answers remembered at most; when there are more all are forgotten.
const CACHE_MAX: usize = 1000;
/// Longer questions are not remembered (upstream's `maxControlledAttrCacheSize`).
const CACHED_BYTES_MAX: usize = 10_000;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ReviewError {
    /// The API server could not be asked, or refused to answer.
    #[error("the API server could not be asked")]
    Api(#[source] kube::Error),
    /// It did not answer in time.
    #[error("the API server did not answer in time")]
    Slow,
}

/// Answers, and when they were given.
struct Answers<Q, A>(Mutex<HashMap<Q, (Instant, A)>>);

impl<Q: Eq + Hash, A: Clone> Answers<Q, A> {
    fn new() -> Self {
        Self(Mutex::default())
    }

    /// What was answered within the time that the answer is good for.
    fn known(&self, question: &Q, ttl: impl Fn(&A) -> Duration) -> Option<A> {
        let answers = self.0.lock();
        let (at, answer) = answers.get(question)?;
        (at.elapsed() < ttl(answer)).then(|| answer.clone())
    }

    fn remember(&self, question: Q, answer: A) {
        let mut answers = self.0.lock();
        if answers.len() >= CACHE_MAX {
            answers.clear();
        }
        answers.insert(question, (Instant::now(), answer));
    }
}

/// Asks whose tokens are.
pub struct TokenReviews {
    ttl: Duration,
    answers: Answers<[u8; 32], Option<UserInfo>>,
}

impl TokenReviews {
    /// An answer is good for `ttl`.
    pub fn new(ttl: Duration) -> Self {
        Self { ttl, answers: Answers::new() }
    }

    /// Whose the token is; `None`: nobody's.
    pub async fn user(&self, client: &kube::Client, token: &str) -> Result<Option<UserInfo>, ReviewError> {
        let key: [u8; 32] = Sha256::digest(token).into();
        if let Some(known) = self.answers.known(&key, |_| self.ttl) {
            return Ok(known);
        }
        let spec = TokenReviewSpec { token: Some(token.to_owned()), audiences: None };
        let (api, parameters) = (Api::<TokenReview>::all(client.clone()), PostParams::default());
        let review = TokenReview { spec, ..TokenReview::default() };
        let answer = in_time(api.create(&parameters, &review)).await?;
        let user =
            answer.status.filter(|status| status.authenticated == Some(true)).map(|status| status.user.unwrap_or_default());
        self.answers.remember(key, user.clone());
        Ok(user)
    }
}

impl std::fmt::Debug for TokenReviews {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenReviews").field("ttl", &self.ttl).finish_non_exhaustive()
    }
}

/// Whether somebody may, and the authorizer's reason, which may be empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// Whether.
    pub allowed: bool,
    /// Why.
    pub reason: String,
}

/// Asks who may what.
pub struct AccessReviews {
    allowed_ttl: Duration,
    denied_ttl: Duration,
    answers: Answers<String, Access>,
}

impl AccessReviews {
    /// A yes is good for `allowed_ttl`, a no for `denied_ttl`.
    pub fn new(allowed_ttl: Duration, denied_ttl: Duration) -> Self {
        Self { allowed_ttl, denied_ttl, answers: Answers::new() }
    }

    /// Asks.
    pub async fn ask(&self, client: &kube::Client, spec: SubjectAccessReviewSpec) -> Result<Access, ReviewError> {
        // Maps are sorted, so that the same question is the same text.
        let question = serde_json::to_string(&spec).ok().filter(|text| text.len() < CACHED_BYTES_MAX);
        let ttl = |access: &Access| if access.allowed { self.allowed_ttl } else { self.denied_ttl };
        if let Some(known) = question.as_ref().and_then(|question| self.answers.known(question, ttl)) {
            return Ok(known);
        }
        let (api, parameters) = (Api::<SubjectAccessReview>::all(client.clone()), PostParams::default());
        let review = SubjectAccessReview { spec, ..SubjectAccessReview::default() };
        let status = in_time(api.create(&parameters, &review)).await?.status.unwrap_or_default();
        let allowed = status.allowed && status.denied != Some(true);
        let access = Access { allowed, reason: status.reason.unwrap_or_default() };
        if let Some(question) = question {
            self.answers.remember(question, access.clone());
        }
        Ok(access)
    }
}

impl std::fmt::Debug for AccessReviews {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AccessReviews").finish_non_exhaustive()
    }
}

async fn in_time<T>(request: impl Future<Output = kube::Result<T>>) -> Result<T, ReviewError> {
    let answer = tokio::time::timeout(REVIEW_TIMEOUT, request).await;
    answer.map_err(|_| ReviewError::Slow)?.map_err(ReviewError::Api)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use kube::client::Body;
    use serde_json::{Value, json};

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    /// An API server that knows the token `good` and allows what ada asks, and the number of its answers.
    fn server() -> (kube::Client, Arc<AtomicUsize>) {
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        let service = tower::service_fn(move |request: http::Request<Body>| {
            count.fetch_add(1, Ordering::Relaxed);
            async move {
                let body = request.into_body().collect_bytes().await.unwrap_or_default();
                let mut review: Value = serde_json::from_slice(&body).unwrap_or_default();
                review["status"] = match review["spec"]["token"].as_str() {
                    Some("good") => json!({"authenticated": true, "user": {"username": "ada", "groups": ["g"]}}),
                    Some(_) => json!({"authenticated": false, "user": {}}),
                    None if review["spec"]["user"] == "ada" => json!({"allowed": true}),
                    None => json!({"allowed": true, "denied": true, "reason": "no"}),
                };
                http::Response::builder().status(201).body(Body::from(review.to_string().into_bytes()))
            }
        });
        (kube::Client::new(service, "default"), asked)
    }

    #[tokio::test]
    async fn tokens_are_asked_about_once_in_a_while() {
        for (ttl, requests) in [(HOUR, [1, 1, 2, 2]), (Duration::ZERO, [1, 2, 3, 4])] {
            let (client, asked) = server();
            let reviews = TokenReviews::new(ttl);
            for ((token, user), requests) in
                [("good", Some("ada")), ("good", Some("ada")), ("bad", None), ("bad", None)].into_iter().zip(requests)
            {
                let found = reviews.user(&client, token).await.unwrap().and_then(|user| user.username);
                assert_eq!((found.as_deref(), asked.load(Ordering::Relaxed)), (user, requests), "{token} {ttl:?}");
            }
        }
    }

    #[tokio::test]
    async fn a_yes_and_a_no_are_good_for_times_of_their_own() {
        let (client, asked) = server();
        let of = |user: &str| SubjectAccessReviewSpec { user: Some(user.to_owned()), ..Default::default() };
        let no = Access { allowed: false, reason: "no".to_owned() };
        let reviews = AccessReviews::new(HOUR, Duration::ZERO);
        for (user, requests) in [("ada", 1), ("eve", 2), ("ada", 2), ("eve", 3), ("ada", 3)] {
            let access = reviews.ask(&client, of(user)).await.unwrap();
            assert_eq!(access.allowed, user == "ada");
            assert!(access.allowed || access == no, "what is denied is not allowed");
            assert_eq!(asked.load(Ordering::Relaxed), requests, "{user}");
        }
        let long = SubjectAccessReviewSpec { groups: Some(vec!["g".repeat(CACHED_BYTES_MAX)]), ..of("ada") };
        for requests in [4, 5] {
            assert!(reviews.ask(&client, long.clone()).await.unwrap().allowed);
            assert_eq!(asked.load(Ordering::Relaxed), requests, "too long to be remembered");
        }
    }
}
