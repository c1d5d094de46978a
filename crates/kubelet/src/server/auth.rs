//! Who calls the kubelet, and whether they may: client certificates, TokenReview, SubjectAccessReview
//! (<https://kubernetes.io/docs/reference/access-authn-authz/kubelet-authn-authz/>).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{Method, Request, Response, StatusCode, header};
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use kube::api::{Api, PostParams};
use parking_lot::Mutex;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use sha2::{Digest, Sha256};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{Body, text};
use crate::config::ServerTls;
use crate::context::Core;
use crate::error::Error;

/// How long a yes and a no are remembered (upstream: 5 minutes and 30 seconds; tokens: 2 minutes).
const ALLOWED_TTL: Duration = Duration::from_secs(300);
const DENIED_TTL: Duration = Duration::from_secs(30);
const TOKEN_TTL: Duration = Duration::from_secs(120);
/// Answers remembered at most; when there are more all are forgotten.
const CACHE_MAX: usize = 1000;

/// An authenticated caller.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct User {
    name: String,
    groups: Vec<String>,
}

/// The server's TLS configuration: client certificates are asked for and verified, but not required.
pub(super) fn server_config(tls: &ServerTls) -> Result<Arc<ServerConfig>, Error> {
    let bad = |what: &str, error: &dyn std::fmt::Display| Error::Tls(format!("{what}: {error}"));
    let certificates = |pem: &[u8]| CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
    let chain = certificates(&tls.certificate_pem).map_err(|e| bad("serving certificate", &e))?;
    let key = PrivateKeyDer::from_pem_slice(&tls.key_pem).map_err(|e| bad("serving key", &e))?;
    let mut roots = RootCertStore::empty();
    for authority in certificates(&tls.client_ca_pem).map_err(|e| bad("client authority", &e))? {
        roots.add(authority).map_err(|e| bad("client authority", &e))?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
        .allow_unauthenticated()
        .build()
        .map_err(|e| bad("client authority", &e))?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| bad("TLS versions", &e))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .map_err(|e| bad("serving certificate", &e))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// The common name is the user, organizations are the groups.
pub(super) fn user_of_certificate(chain: Option<&[CertificateDer<'_>]>) -> Option<User> {
    let (_, certificate) = X509Certificate::from_der(chain?.first()?).ok()?;
    let subject = certificate.subject();
    let name = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
    let groups = subject.iter_organization().filter_map(|o| o.as_str().ok()).map(str::to_owned).collect();
    Some(User { name, groups })
}

/// Who, verb, subresource.
type Question = (User, &'static str, &'static str);

/// Remembers what the API server said about tokens and users.
#[derive(Default)]
pub(super) struct Reviews {
    tokens: Mutex<HashMap<[u8; 32], (Instant, User)>>,
    decisions: Mutex<HashMap<Question, (Instant, bool)>>,
}

impl Reviews {
    /// Lets the request pass, or says why not.
    pub(super) async fn admit<B>(&self, core: &Core, user: Option<User>, request: &Request<B>) -> Result<(), Response<Body>> {
        let user = match user {
            Some(user) => user,
            None => self.user_of_token(core, request).await?,
        };
        let verb = verb(request.method());
        let subresource = subresource(request.uri().path());
        if self.allowed(core, &user, verb, subresource).await? {
            return Ok(());
        }
        let message = format!("Forbidden (user={}, verb={verb}, resource=nodes, subresource(s)=[{subresource}])\n", user.name);
        Err(text(StatusCode::FORBIDDEN, message))
    }

    async fn user_of_token<B>(&self, core: &Core, request: &Request<B>) -> Result<User, Response<Body>> {
        let unauthorized = || text(StatusCode::UNAUTHORIZED, "Unauthorized\n");
        let authorization =
            request.headers().get(header::AUTHORIZATION).and_then(|v| v.to_str().ok()).ok_or_else(unauthorized)?;
        let token = authorization
            .split_once(' ')
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
            .map(|(_, token)| token.trim())
            .ok_or_else(unauthorized)?;
        // Tokens are kept as hashes only.
        let key: [u8; 32] = Sha256::digest(token).into();
        let known = self.tokens.lock().get(&key).filter(|(at, _)| at.elapsed() < TOKEN_TTL).map(|(_, user)| user.clone());
        if let Some(user) = known {
            return Ok(user);
        }
        let review =
            TokenReview { spec: TokenReviewSpec { token: Some(token.to_owned()), audiences: None }, ..TokenReview::default() };
        let api: Api<TokenReview> = Api::all(core.client.clone());
        let answer = api.create(&PostParams::default(), &review).await.map_err(|error| {
            tracing::warn!(error = &error as &dyn std::error::Error, "a token could not be reviewed");
            text(StatusCode::INTERNAL_SERVER_ERROR, "Internal Error: the token could not be reviewed\n")
        })?;
        let status = answer.status.filter(|s| s.authenticated == Some(true)).ok_or_else(unauthorized)?;
        let info = status.user.unwrap_or_default();
        let user = User { name: info.username.unwrap_or_default(), groups: info.groups.unwrap_or_default() };
        let mut tokens = self.tokens.lock();
        if tokens.len() >= CACHE_MAX {
            tokens.clear();
        }
        tokens.insert(key, (Instant::now(), user.clone()));
        Ok(user)
    }

    async fn allowed(
        &self,
        core: &Core,
        user: &User,
        verb: &'static str,
        subresource: &'static str,
    ) -> Result<bool, Response<Body>> {
        let key = (user.clone(), verb, subresource);
        let known = self
            .decisions
            .lock()
            .get(&key)
            .filter(|(at, yes)| at.elapsed() < if *yes { ALLOWED_TTL } else { DENIED_TTL })
            .map(|(_, yes)| *yes);
        if let Some(decision) = known {
            return Ok(decision);
        }
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: Some(user.name.clone()),
                groups: Some(user.groups.clone()),
                resource_attributes: Some(ResourceAttributes {
                    verb: Some(verb.to_owned()),
                    version: Some("v1".to_owned()),
                    resource: Some("nodes".to_owned()),
                    subresource: Some(subresource.to_owned()),
                    name: Some(core.config.node_name.clone()),
                    ..ResourceAttributes::default()
                }),
                ..SubjectAccessReviewSpec::default()
            },
            ..SubjectAccessReview::default()
        };
        let api: Api<SubjectAccessReview> = Api::all(core.client.clone());
        let answer = api.create(&PostParams::default(), &review).await.map_err(|error| {
            tracing::warn!(error = &error as &dyn std::error::Error, "access could not be reviewed");
            text(
                StatusCode::INTERNAL_SERVER_ERROR,
                format!("Authorization error (user={}, verb={verb}, resource=nodes, subresource={subresource})\n", user.name),
            )
        })?;
        let decision = answer.status.is_some_and(|s| s.allowed);
        let mut decisions = self.decisions.lock();
        if decisions.len() >= CACHE_MAX {
            decisions.clear();
        }
        decisions.insert(key, (Instant::now(), decision));
        Ok(decision)
    }
}

fn verb(method: &Method) -> &'static str {
    match *method {
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "get",
    }
}

fn subresource(path: &str) -> &'static str {
    match path.split('/').find(|p| !p.is_empty()) {
        Some("stats") => "stats",
        Some("metrics") => "metrics",
        Some("logs") => "log",
        Some("checkpoint") => "checkpoint",
        _ => "proxy",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_map_to_subresources() {
        for (path, expected) in [
            ("/stats/summary", "stats"),
            ("/metrics/resource", "metrics"),
            ("/exec/a/b/c", "proxy"),
            ("/healthz", "proxy"),
            ("/", "proxy"),
        ] {
            assert_eq!(subresource(path), expected);
        }
    }
}
