//! Who calls the kubelet, and whether they may: client certificates, TokenReview, SubjectAccessReview
//! (<https://kubernetes.io/docs/reference/access-authn-authz/kubelet-authn-authz/>).

use std::sync::Arc;
use std::time::Duration;

use client::{AccessReviews, TokenReviews};
use http::{Method, Request, Response, StatusCode, header};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReviewSpec};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use serving::Names;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{Body, text};
use crate::config::ServerTls;
use crate::context::Core;
use crate::error::Error;

/// How long a yes and a no are remembered (upstream: 5 minutes and 30 seconds; tokens: 2 minutes).
const ALLOWED_TTL: Duration = Duration::from_secs(300);
const DENIED_TTL: Duration = Duration::from_secs(30);
const TOKEN_TTL: Duration = Duration::from_secs(120);

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
    let names = Names::of(certificate.subject());
    (!names.common_name.is_empty()).then_some(User { name: names.common_name, groups: names.organizations })
}

/// Remembers what the API server said about tokens and users.
pub(super) struct Reviews {
    tokens: TokenReviews,
    access: AccessReviews,
}

impl Default for Reviews {
    fn default() -> Self {
        Self { tokens: TokenReviews::new(TOKEN_TTL), access: AccessReviews::new(ALLOWED_TTL, DENIED_TTL) }
    }
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
        let reviewed = self.tokens.user(&core.client, token).await.map_err(|error| {
            tracing::warn!(error = &error as &dyn std::error::Error, "a token could not be reviewed");
            text(StatusCode::INTERNAL_SERVER_ERROR, "Internal Error: the token could not be reviewed\n")
        })?;
        let info = reviewed.ok_or_else(unauthorized)?;
        Ok(User { name: info.username.unwrap_or_default(), groups: info.groups.unwrap_or_default() })
    }

    async fn allowed(&self, core: &Core, user: &User, verb: &str, subresource: &str) -> Result<bool, Response<Body>> {
        let spec = SubjectAccessReviewSpec {
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
        };
        let access = self.access.ask(&core.client, spec).await.map_err(|error| {
            tracing::warn!(error = &error as &dyn std::error::Error, "access could not be reviewed");
            text(
                StatusCode::INTERNAL_SERVER_ERROR,
                format!("Authorization error (user={}, verb={verb}, resource=nodes, subresource={subresource})\n", user.name),
            )
        })?;
        Ok(access.allowed)
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
