//! Who calls: a front proxy's headers, a client certificate, a bearer token (TokenReview), else nobody in particular
//! (upstream's delegating authenticator, <https://kubernetes.io/docs/reference/access-authn-authz/webhook/>).

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use client::{ReviewError, TokenReviews};
use http::{HeaderMap, header};
use k8s_openapi::api::authentication::v1::UserInfo;
use parking_lot::Mutex;
use rustls_pki_types::{CertificateDer, UnixTime};
use serving::{Authorities, Claimed, RequestHeaders, Subject};
use tokio_util::sync::CancellationToken;

use crate::cluster::{self, LookupError, Trusted};
use crate::user::User;

/// How callers are known.
#[derive(Clone, Default)]
pub struct AuthenticationConfig {
    /// Reviews tokens (`--authentication-kubeconfig`); without it tokens count for nothing.
    pub client: Option<kube::Client>,
    /// How long an answer about a token is good for (`--authentication-token-webhook-cache-ttl`).
    pub token_ttl: Duration,
    /// Authorities of client certificates (`--client-ca-file`); the cluster's otherwise.
    pub clients: Option<Authorities>,
    /// The front proxy's authorities (`--requestheader-client-ca-file`) and its headers; the cluster's otherwise.
    pub proxy: Option<(Authorities, RequestHeaders)>,
    /// The cluster is not asked (`--authentication-skip-lookup`).
    pub skip_lookup: bool,
    /// A cluster that does not answer is no reason not to start (`--authentication-tolerate-lookup-failure`).
    pub tolerate_lookup_failure: bool,
}

/// A front proxy that is believed.
#[derive(Clone, Debug)]
pub(crate) struct Proxy {
    pub(crate) authorities: Authorities,
    pub(crate) headers: RequestHeaders,
}

/// Follows what the cluster publishes.
pub(crate) type Follower = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Finds out who calls.
pub struct Authentication {
    client: Option<kube::Client>,
    tokens: TokenReviews,
    clients: Option<Authorities>,
    proxy: Option<Proxy>,
    cluster: Arc<ArcSwap<Trusted>>,
    follow: Mutex<Option<Follower>>,
}

/// Why a caller is not known: the answer is 401.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unknown {
    #[error("the client certificate is not believed: {0}")]
    Certificate(String),
    #[error("invalid bearer token")]
    Token,
    #[error("the token could not be reviewed")]
    Review(#[source] ReviewError),
}

impl Authentication {
    /// Sets it up; what the cluster publishes is followed while [`crate::Listener::serve`] runs, until the token is cancelled.
    pub async fn new(config: AuthenticationConfig, token: CancellationToken) -> Result<Self, LookupError> {
        let clients = config.clients;
        let proxy = config.proxy.map(|(authorities, headers)| Proxy { authorities, headers });
        let cluster: Arc<ArcSwap<Trusted>> = Arc::default();
        let mut follow: Option<Follower> = None;
        if !config.skip_lookup && (clients.is_none() || proxy.is_none()) {
            match &config.client {
                None => tracing::warn!("no authentication kubeconfig: client certificates are not believed"),
                Some(client) => {
                    match cluster::look_up(client, &cluster).await {
                        Err(error) if config.tolerate_lookup_failure => tracing::warn!(
                            error = &error as &dyn std::error::Error,
                            "the cluster's authentication configuration is not known yet"
                        ),
                        looked_up => looked_up?,
                    }
                    follow = Some(Box::pin(cluster::follow(client.clone(), cluster.clone(), token)));
                }
            }
        }
        let (tokens, follow) = (TokenReviews::new(config.token_ttl), Mutex::new(follow));
        Ok(Self { client: config.client, tokens, clients, proxy, cluster, follow })
    }

    /// The task that follows what the cluster publishes, for whoever serves to run; there is one, once.
    pub(crate) fn take_follower(&mut self) -> Option<Follower> {
        self.follow.get_mut().take()
    }

    /// Who sent these headers over a connection with this client certificate.
    pub(crate) async fn user(&self, headers: &HeaderMap, chain: Option<&[CertificateDer<'static>]>) -> Result<User, Unknown> {
        let cluster = self.cluster.load();
        if let Some(chain) = chain {
            let proxy = self.proxy.as_ref().or(cluster.proxy.as_ref());
            if let Some(user) = proxy.and_then(|proxy| proxy.user(headers, chain)) {
                return Ok(user.known());
            }
        }
        // As upstream: a certificate that is not believed counts only where no other credential is good.
        let mut failed = None;
        if let (Some(chain), Some(authorities)) = (chain, self.clients.as_ref().or(cluster.clients.as_ref())) {
            match authorities.verify(chain, UnixTime::now()).and_then(Subject::named) {
                Ok(subject) => return Ok(user_of_certificate(subject).known()),
                Err(reason) => failed = Some(Unknown::Certificate(reason)),
            }
        }
        match (bearer(headers), &self.client) {
            (Some(token), Some(client)) => {
                let reviewed = self.tokens.user(client, token).await.map_err(Unknown::Review)?;
                reviewed.map(|info| user_of_token(info).known()).ok_or(Unknown::Token)
            }
            _ => failed.map_or_else(|| Ok(User::anonymous()), Err),
        }
    }
}

impl std::fmt::Debug for Authentication {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authentication").finish_non_exhaustive()
    }
}

fn user_of_certificate(subject: Subject) -> User {
    let extra = [subject.credential()].into();
    User { name: subject.common_name, groups: subject.organizations, extra, ..User::default() }
}

fn user_of_token(info: UserInfo) -> User {
    User {
        name: info.username.unwrap_or_default(),
        uid: info.uid.unwrap_or_default(),
        groups: info.groups.unwrap_or_default(),
        extra: info.extra.unwrap_or_default(),
    }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.trim().split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

impl Proxy {
    /// The user that a proxy names; `None` if the caller is no proxy or names nobody.
    fn user(&self, headers: &HeaderMap, chain: &[CertificateDer<'static>]) -> Option<User> {
        let claimed = self.headers.claimed(headers)?;
        let proxy = self.authorities.verify(chain, UnixTime::now()).ok()?;
        let Claimed { name, uid, groups, extra } = claimed;
        self.headers.allows(&proxy.common_name).then_some(User { name, uid, groups, extra })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (http::HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn tokens_are_found_in_the_header() {
        for (value, expected) in
            [("Bearer abc", Some("abc")), ("bearer  abc", Some("abc")), ("Basic abc", None), ("Bearer", None), ("Bearer ", None)]
        {
            assert_eq!(bearer(&headers(&[("authorization", value)])), expected, "{value:?}");
        }
    }

    /// A certificate of an authority, and that authority.
    fn signed(name: &str) -> (Authorities, Vec<CertificateDer<'static>>) {
        use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
        let key = KeyPair::generate().expect("a key");
        let mut ca = CertificateParams::default();
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root = ca.self_signed(&key).expect("signed");
        let mut leaf = CertificateParams::default();
        leaf.distinguished_name.push(DnType::CommonName, name);
        let leaf = leaf.signed_by(&KeyPair::generate().expect("a key"), &Issuer::from_params(&ca, &key)).expect("signed");
        (Authorities::new(&root.pem()).expect("a CA"), vec![leaf.der().clone()])
    }

    #[tokio::test]
    async fn callers_are_known_in_upstreams_order() {
        let (authorities, proxy) = signed("front-proxy-client");
        let (clients, ada) = signed("ada");
        let mut known = Authentication::new(AuthenticationConfig { skip_lookup: true, ..Default::default() }, Default::default())
            .await
            .expect("is set up");
        known.proxy = Some(Proxy { authorities, headers: RequestHeaders::usual() });
        known.clients = Some(clients);
        let claims = headers(&[("x-remote-user", "eve"), ("x-remote-group", "g"), ("x-remote-extra-a%2fb", "c")]);
        let eve = known.user(&claims, Some(&proxy)).await.expect("is known");
        assert_eq!(
            (eve.name.as_str(), eve.groups.as_slice()),
            ("eve", ["g".to_owned(), "system:authenticated".to_owned()].as_slice())
        );
        assert_eq!(eve.extra["a/b"], ["c"]);
        // The headers of somebody who is no proxy say nothing.
        assert_eq!(known.user(&claims, Some(&ada)).await.expect("is known").name, "ada");
        assert_eq!(known.user(&claims, None).await.expect("is nobody"), User::anonymous());
        assert!(matches!(known.user(&headers(&[]), Some(&proxy)).await, Err(Unknown::Certificate(_))));
    }

    #[tokio::test]
    async fn a_cluster_that_does_not_answer_at_first_is_followed_all_the_same() {
        use std::sync::atomic::{AtomicUsize, Ordering};
        let pem = serving::KeyCert::self_signed(&["ca".to_owned()]).expect("is made").cert_pem;
        let requests = AtomicUsize::new(0);
        let service = tower::service_fn(move |request: http::Request<kube::client::Body>| {
            let first = requests.fetch_add(1, Ordering::Relaxed) == 0;
            let is_watch = request.uri().query().is_some_and(|query| query.contains("watch=true"));
            let map = serde_json::json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"client-ca-file": pem},
                "metadata": {"name": "extension-apiserver-authentication", "namespace": "kube-system", "resourceVersion": "1"}});
            let list = serde_json::json!({"apiVersion": "v1", "kind": "ConfigMapList", "metadata": {"resourceVersion": "1"},
                "items": [map]});
            let (status, body) = match (first, is_watch) {
                (true, _) => (503, "{}".to_owned()),
                (false, true) => (410, "{}".to_owned()),
                (false, false) => (200, list.to_string()),
            };
            let response = http::Response::builder().status(status).body(kube::client::Body::from(body.into_bytes()));
            async move { response }
        });
        let config = AuthenticationConfig {
            client: Some(kube::Client::new(service, "default")),
            tolerate_lookup_failure: true,
            ..AuthenticationConfig::default()
        };
        let token = CancellationToken::new();
        let mut known = Authentication::new(config, token.clone()).await.expect("is tolerated");
        assert!(known.cluster.load().clients.is_none());
        let follower = tokio::spawn(known.take_follower().expect("is there"));
        let learnt = async {
            while known.cluster.load().clients.is_none() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), learnt).await.expect("the cluster's word is learnt");
        token.cancel();
        follower.await.expect("ends");
    }
}
