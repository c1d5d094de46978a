//! Tokens of projected volumes: requested for the pod (TokenRequest, KEP-1205), kept until 80% of their life or 24 hours have passed.

use std::collections::HashMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Pod, ServiceAccount, ServiceAccountTokenProjection};
use kube::api::{Api, PostParams};
use parking_lot::Mutex;

use crate::context::Core;
use crate::pod::access::PodAccess;

/// The longest that a token is used.
const AGE_MAX: Duration = Duration::from_secs(24 * 3600);

/// A token and when to ask for the next.
#[derive(Debug, Clone)]
pub(super) struct Token {
    pub(super) text: String,
    pub(super) refresh_at: Timestamp,
}

/// Tokens by pod, audience and lifetime.
#[derive(Default)]
pub(crate) struct TokenCache {
    tokens: Mutex<HashMap<(String, String, i64), Token>>,
}

impl TokenCache {
    /// Forgets the tokens of a pod that is gone.
    pub(crate) fn forget(&self, uid: &str) {
        self.tokens.lock().retain(|(owner, ..), _| owner != uid);
    }
}

/// The token for a projection; asks the API when there is none that is fresh.
pub(super) async fn token(core: &Core, pod: &Pod, source: &ServiceAccountTokenProjection) -> Result<Token, String> {
    let expiration = source.expiration_seconds.unwrap_or(3600);
    let audience = source.audience.clone().unwrap_or_default();
    let key = (pod.uid().to_owned(), audience.clone(), expiration);
    let cached = core.tokens.tokens.lock().get(&key).cloned();
    if let Some(token) = cached.filter(|t| t.refresh_at > Timestamp::now()) {
        return Ok(token);
    }
    let account = pod.pod_spec().service_account_name.as_deref().filter(|n| !n.is_empty()).unwrap_or("default");
    let request = TokenRequest {
        spec: TokenRequestSpec {
            audiences: if audience.is_empty() { Vec::new() } else { vec![audience] },
            expiration_seconds: Some(expiration),
            bound_object_ref: Some(BoundObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Pod".to_owned()),
                name: pod.metadata.name.clone(),
                uid: pod.metadata.uid.clone(),
            }),
        },
        ..TokenRequest::default()
    };
    let api: Api<ServiceAccount> = Api::namespaced(core.client.clone(), pod.namespace());
    let answer = api.create_token_request(account, &PostParams::default(), &request).await;
    let answer = answer.map_err(|error| format!("failed to fetch token: {error}"))?;
    let status = answer.status.ok_or("failed to fetch token: the answer has none")?;
    let now = Timestamp::now();
    let life = Duration::try_from(status.expiration_timestamp.0.duration_since(now)).unwrap_or(Duration::ZERO);
    let use_for = life.mul_f64(0.8).min(AGE_MAX).max(Duration::from_secs(10));
    let token = Token { text: status.token, refresh_at: now.checked_add(use_for).unwrap_or(now) };
    core.tokens.tokens.lock().insert(key, token.clone());
    Ok(token)
}
