//! Clients that act as ServiceAccounts: controllers with an identity each (`--use-service-account-credentials`).
//!
//! The account is made when it is missing, its token asked for with the first request (TokenRequest, KEP-1205) and again before it
//! expires or when the server no longer takes it. Nothing is written to disk.

use std::time::Duration;

use async_trait::async_trait;
use http::header::{AUTHORIZATION, HeaderValue};
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Api;
use kube::api::PostParams;
use tokio::sync::Mutex;
use tokio::time::Instant;
use tower::BoxError;

use crate::credentials::{Credentials, Headers, bearer};

/// What is asked for; the server may give another lifetime.
const LIFETIME_SECONDS: i64 = 3600;
/// A token is replaced when this part of its life is over, as the kubelet does it.
const RENEW_AFTER_PERCENT: u32 = 80;

/// The tokens of one ServiceAccount.
pub(crate) struct ServiceAccountTokens {
    accounts: Api<ServiceAccount>,
    name: String,
    /// Held while a token is asked for, so that requests that start together ask once.
    current: Mutex<Option<(HeaderValue, Instant)>>,
}

#[async_trait]
impl Credentials for ServiceAccountTokens {
    async fn headers(&self) -> Result<Headers, BoxError> {
        Ok(vec![(AUTHORIZATION, self.get().await?)])
    }

    async fn refused(&self) {
        *self.current.lock().await = None;
    }
}

impl ServiceAccountTokens {
    /// `issuer` asks for tokens: it may create ServiceAccounts and their tokens in the namespace.
    pub(crate) fn new(issuer: kube::Client, namespace: &str, name: &str) -> Self {
        Self { accounts: Api::namespaced(issuer, namespace), name: name.to_owned(), current: Mutex::new(None) }
    }

    async fn get(&self) -> Result<HeaderValue, BoxError> {
        let mut current = self.current.lock().await;
        if let Some((header, _)) = current.as_ref().filter(|(_, renew_at)| Instant::now() < *renew_at) {
            return Ok(header.clone());
        }
        let asked_at = Instant::now();
        let (token, lifetime) = self.request().await?;
        let header = bearer(&token)?;
        *current = Some((header.clone(), asked_at + lifetime * RENEW_AFTER_PERCENT / 100));
        Ok(header)
    }

    async fn request(&self) -> kube::Result<(String, Duration)> {
        let wanted = TokenRequest {
            spec: TokenRequestSpec { expiration_seconds: Some(LIFETIME_SECONDS), ..TokenRequestSpec::default() },
            ..TokenRequest::default()
        };
        let parameters = PostParams::default();
        let answer = match self.accounts.create_token_request(&self.name, &parameters, &wanted).await {
            Err(kube::Error::Api(status)) if status.code == 404 => {
                self.create_account().await?;
                self.accounts.create_token_request(&self.name, &parameters, &wanted).await?
            }
            answer => answer?,
        };
        let token = answer.status.map(|status| status.token).unwrap_or_default();
        // By the server's word on the lifetime and our own clock: the two machines' clocks are not compared.
        let seconds = answer.spec.expiration_seconds.unwrap_or(LIFETIME_SECONDS);
        Ok((token, Duration::from_secs(seconds.try_into().unwrap_or_default())))
    }

    async fn create_account(&self) -> kube::Result<()> {
        let metadata = ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() };
        let account = ServiceAccount { metadata, ..ServiceAccount::default() };
        match self.accounts.create(&PostParams::default(), &account).await {
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
            answer => answer.map(|_| ()),
        }
    }
}
