//! Clients that act as ServiceAccounts: controllers with an identity each (`--use-service-account-credentials`).
//!
//! The account is made when it is missing, its token asked for with the first request (TokenRequest, KEP-1205) and again before it
//! expires or when the server no longer takes it. Nothing is written to disk.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::header::{AUTHORIZATION, HeaderValue};
use http::{Request, Response, StatusCode};
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Api;
use kube::api::PostParams;
use tokio::sync::Mutex;
use tokio::time::Instant;
use tower::{BoxError, Service};

/// What is asked for; the server may give another lifetime.
const LIFETIME_SECONDS: i64 = 3600;
/// A token is replaced when this part of its life is over, as the kubelet does it.
const RENEW_AFTER_PERCENT: u32 = 80;

/// A transport without credentials of its own, and a ServiceAccount's token in each request.
pub(crate) struct AsServiceAccount<S> {
    transport: S,
    tokens: Arc<Tokens>,
}

impl<S: Clone> Clone for AsServiceAccount<S> {
    fn clone(&self) -> Self {
        Self { transport: self.transport.clone(), tokens: self.tokens.clone() }
    }
}

impl<S> AsServiceAccount<S> {
    /// `issuer` asks for tokens: it may create ServiceAccounts and their tokens in the namespace.
    pub(crate) fn new(transport: S, issuer: kube::Client, namespace: &str, name: &str) -> Self {
        let accounts = Api::namespaced(issuer, namespace);
        Self { transport, tokens: Arc::new(Tokens { accounts, name: name.to_owned(), current: Mutex::new(None) }) }
    }
}

type Answer<B> = Pin<Box<dyn Future<Output = Result<Response<B>, BoxError>> + Send>>;

impl<S, A, B> Service<Request<A>> for AsServiceAccount<S>
where
    S: Service<Request<A>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<BoxError>,
    A: Send + 'static,
    B: Send + 'static,
{
    type Response = Response<B>;
    type Error = BoxError;
    type Future = Answer<B>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.transport.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, mut request: Request<A>) -> Self::Future {
        // The instance that is ready, not its clone, gets the request.
        let next = self.transport.clone();
        let mut transport = std::mem::replace(&mut self.transport, next);
        let tokens = self.tokens.clone();
        Box::pin(async move {
            request.headers_mut().insert(AUTHORIZATION, tokens.get().await?);
            let response = transport.call(request).await.map_err(Into::into)?;
            if response.status() == StatusCode::UNAUTHORIZED {
                tokens.forget().await;
            }
            Ok(response)
        })
    }
}

struct Tokens {
    accounts: Api<ServiceAccount>,
    name: String,
    /// Held while a token is asked for, so that requests that start together ask once.
    current: Mutex<Option<(HeaderValue, Instant)>>,
}

impl Tokens {
    async fn get(&self) -> Result<HeaderValue, BoxError> {
        let mut current = self.current.lock().await;
        if let Some((header, _)) = current.as_ref().filter(|(_, renew_at)| Instant::now() < *renew_at) {
            return Ok(header.clone());
        }
        let asked_at = Instant::now();
        let (token, lifetime) = self.request().await?;
        let mut header = HeaderValue::from_str(&format!("Bearer {token}"))?;
        header.set_sensitive(true);
        *current = Some((header.clone(), asked_at + lifetime * RENEW_AFTER_PERCENT / 100));
        Ok(header)
    }

    async fn forget(&self) {
        *self.current.lock().await = None;
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
