//! `pods/proxy`, `services/proxy` and `nodes/proxy`: any HTTP request through the API server, upgrades too.
//!
//! The rules are those of upstream's `UpgradeAwareHandler` and of Go's reverse proxy: headers of the connection stay behind, absolute
//! links on the way back are led through the proxy again, cross-origin headers of the backend are not the API server's word.

use std::sync::Arc;

use ::http::header::{self, HeaderName, HeaderValue};
use ::http::{HeaderMap, Method, Request, Response, StatusCode};
use apimachinery::Status;
use async_trait::async_trait;
use tokio_rustls::TlsConnector;

use super::Connector;
use super::backend::{Backends, trusting_tls};
use super::kubelet::KubeletAccess;
use super::rewrite::Rewriter;
use super::target::{self, Target, Transport};
use crate::http::{Body, RequestContext};
use crate::server::ApiServer;

/// Headers of one connection (RFC 9110 section 7.6.1, and those that Go's proxy adds).
const HOP_BY_HOP: [&str; 9] = [
    "connection",
    "proxy-connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];
/// What a backend may not say in the API server's name.
const CROSS_ORIGIN: [&str; 4] = [
    "access-control-allow-credentials",
    "access-control-allow-headers",
    "access-control-allow-methods",
    "access-control-allow-origin",
];

/// What is proxied to.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    Pod,
    Service,
    Node,
}

/// The connector of a proxy subresource.
pub(crate) struct Proxy {
    kind: Kind,
    backends: Backends,
    trusting: TlsConnector,
    /// Only nodes need it.
    kubelets: Option<KubeletAccess>,
}

impl Proxy {
    /// Of pods or Services.
    pub(crate) fn new(kind: Kind, backends: Backends) -> Self {
        Self { kind, backends, trusting: trusting_tls(), kubelets: None }
    }

    /// Of nodes.
    pub(crate) fn of_nodes(kubelets: KubeletAccess) -> Self {
        Self { kubelets: Some(kubelets.clone()), ..Self::new(Kind::Node, kubelets.backends) }
    }

    async fn target(&self, server: &ApiServer, context: &RequestContext) -> Result<Target, Status> {
        let (objects, info) = (server.loopback(), &context.info);
        match self.kind {
            Kind::Pod => target::pod(objects, &info.namespace, &info.name).await,
            Kind::Service => target::service(objects, &info.namespace, &info.name).await,
            Kind::Node => target::node(objects, &info.name).await,
        }
    }

    async fn tls(&self, transport: Transport) -> Result<Option<TlsConnector>, Status> {
        match (transport, &self.kubelets) {
            (Transport::Http, _) => Ok(None),
            (Transport::Kubelet, Some(kubelets)) => kubelets.tls(false).await.map(Some).map_err(unreachable),
            (Transport::Https | Transport::Kubelet, _) => Ok(Some(self.trusting.clone())),
        }
    }
}

fn unreachable(error: impl std::fmt::Display) -> Status {
    Status::service_unavailable(format!("error trying to reach service: {error}"))
}

#[async_trait]
impl Connector for Proxy {
    async fn connect(
        &self,
        server: &Arc<ApiServer>,
        context: &RequestContext,
        request: Request<Body>,
    ) -> Result<Response<Body>, Status> {
        let target = self.target(server, context).await?;
        let path = backend_path(&context.info.parts, &context.info.path);
        let upgrade = upgrade_of(request.headers());
        if path.is_empty() && upgrade.is_none() && matches!(*request.method(), Method::GET | Method::HEAD) {
            return Ok(redirect_to_directory(&request));
        }
        let rewriter = Rewriter::new(&target, &request, &path);
        let (onward, client) = onward(request, &path, upgrade, &rewriter)?;
        let tls = self.tls(target.transport).await?;
        let mut answer = self.backends.send(target.address, tls.as_ref(), onward).await.map_err(unreachable)?;
        if let Some(client) = client {
            return self.upgraded(client, &mut answer).map_or_else(|| Ok(answer.map(Body::new)), Ok);
        }
        remove_all(answer.headers_mut(), &HOP_BY_HOP);
        remove_all(answer.headers_mut(), &CROSS_ORIGIN);
        rewriter.rewrite(answer.map(Body::new)).await
    }
}

impl Proxy {
    /// Joins the two connections if the backend agreed to the upgrade.
    fn upgraded(
        &self,
        client: hyper::upgrade::OnUpgrade,
        answer: &mut Response<hyper::body::Incoming>,
    ) -> Option<Response<Body>> {
        if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
            return None;
        }
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        response.headers_mut().extend(answer.headers().clone());
        self.backends.join(client, hyper::upgrade::on(answer));
        Some(response)
    }
}

/// The protocol that a client wants to change to.
fn upgrade_of(headers: &HeaderMap) -> Option<HeaderValue> {
    let wants = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .any(|value| value.to_ascii_lowercase().contains("upgrade"));
    headers.get(header::UPGRADE).filter(|_| wants).cloned()
}

/// Browsers take relative links from a path that ends in a slash.
fn redirect_to_directory(request: &Request<Body>) -> Response<Body> {
    let uri = request.uri();
    let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
    if let Ok(location) = HeaderValue::from_str(&format!("{}/{query}", uri.path())) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
}

/// The path at the backend: what follows the subresource, without empty parts, `.` and `..`; empty when nothing follows it.
fn backend_path(parts: &[String], whole: &str) -> String {
    let rest = parts.get(3..).unwrap_or_default();
    if rest.is_empty() && !whole.ends_with('/') {
        return String::new();
    }
    let mut kept: Vec<&str> = Vec::new();
    for part in rest {
        match part.as_str() {
            "" | "." => {}
            ".." => {
                kept.pop();
            }
            part => kept.push(part),
        }
    }
    let mut path = String::new();
    for part in &kept {
        path.push('/');
        encode_into(&mut path, part);
    }
    if whole.ends_with('/') || kept.is_empty() {
        path.push('/');
    }
    path
}

/// Percent-encodes a part of a path as Go's `URL.EscapedPath` does.
fn encode_into(path: &mut String, part: &str) {
    for byte in part.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~$&+,/:;=@!'()*".contains(&byte) {
            path.push(char::from(byte));
        } else {
            path.push_str(&format!("%{byte:02X}"));
        }
    }
}

/// The request as the backend gets it, and the client's side of an upgrade.
fn onward(
    mut request: Request<Body>,
    path: &str,
    upgrade: Option<HeaderValue>,
    rewriter: &Rewriter,
) -> Result<(Request<Body>, Option<hyper::upgrade::OnUpgrade>), Status> {
    let client = upgrade.is_some().then(|| hyper::upgrade::on(&mut request));
    let query = request.uri().query().map(|query| format!("?{query}")).unwrap_or_default();
    let path = if path.is_empty() { "/" } else { path };
    let uri = format!("{path}{query}").parse().map_err(|error| Status::bad_request(format!("invalid path {path}: {error}")))?;
    let host = request.headers().get(header::HOST).cloned();
    let host = host.or_else(|| request.uri().authority().and_then(|host| HeaderValue::from_str(host.as_str()).ok()));
    let (mut head, body) = request.into_parts();
    head.uri = uri;
    // What the client spoke to us is of no concern to the backend.
    head.version = ::http::Version::HTTP_11;
    head.extensions = ::http::Extensions::new();
    remove_named_by_connection(&mut head.headers);
    remove_all(&mut head.headers, &HOP_BY_HOP);
    if let Some(host) = host {
        head.headers.insert(header::HOST, host);
    }
    if let Some(protocol) = upgrade {
        head.headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        head.headers.insert(header::UPGRADE, protocol);
    }
    if let Ok(forwarded) = HeaderValue::from_str(&rewriter.forwarded_uri(path)) {
        head.headers.insert(HeaderName::from_static("x-forwarded-uri"), forwarded);
    }
    Ok((Request::from_parts(head, body), client))
}

fn remove_all(headers: &mut HeaderMap, names: &[&'static str]) {
    for name in names {
        headers.remove(*name);
    }
}

/// `Connection` may name further headers of this connection.
fn remove_named_by_connection(headers: &mut HeaderMap) {
    let named: Vec<String> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|name| name.trim().to_ascii_lowercase())
        .collect();
    for name in named {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_cleaned_and_encoded() {
        let check = |rest: &[&str], whole: &str, expected: &str| {
            let parts: Vec<String> = ["pods", "p", "proxy"].iter().chain(rest).map(|part| (*part).to_owned()).collect();
            assert_eq!(backend_path(&parts, whole), expected, "{rest:?}");
        };
        check(&[], "/pods/p/proxy", "");
        check(&[], "/pods/p/proxy/", "/");
        check(&["a", "b"], "/pods/p/proxy/a/b", "/a/b");
        check(&["a"], "/pods/p/proxy/a/", "/a/");
        check(&["", "a", ".", "x", "..", "b"], "/pods/p/proxy//a/./x/../b", "/a/b");
        check(&["..", "..", "etc"], "/pods/p/proxy/../../etc", "/etc");
        check(&["a b", "ü?"], "/pods/p/proxy/a b/ü?", "/a%20b/%C3%BC%3F");
    }

    #[test]
    fn what_is_asked_of_the_backend() {
        let request = Request::builder()
            .method(Method::POST)
            .uri("https://server:6443/api/v1/namespaces/n/pods/p/proxy/x?a=b")
            .header("connection", "keep-alive, x-mine")
            .header("x-mine", "1")
            .header("te", "trailers")
            .header("x-other", "2")
            .body(Body::empty())
            .expect("a request");
        let target = Target { address: "10.0.0.1:80".parse().expect("an address"), transport: Transport::Http };
        let rewriter = Rewriter::new(&target, &request, "/x");
        let (onward, client) = onward(request, "/x", None, &rewriter).expect("is valid");
        assert!(client.is_none());
        assert_eq!(onward.uri(), "/x?a=b");
        let mut headers: Vec<String> =
            onward.headers().iter().map(|(name, value)| format!("{name}: {}", value.to_str().expect("text"))).collect();
        headers.sort();
        assert_eq!(headers, ["host: server:6443", "x-forwarded-uri: /api/v1/namespaces/n/pods/p/proxy/x", "x-other: 2"]);
    }
}
