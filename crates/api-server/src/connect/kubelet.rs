//! Subresources of pods that the kubelet answers: logs, exec, attach and port-forward.
//!
//! The server checks what the API promises (the pod runs somewhere, the container is one of its), then passes the request on to the
//! pod's kubelet over TLS and the answer back: logs as they come, upgraded connections as bytes in both directions. Whether these
//! bytes are WebSocket or SPDY is between the client and the container runtime.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ::http::{HeaderMap, Method, Request, Response, StatusCode, header};
use apimachinery::{GroupResource, Reason, Status, StatusDetails, go_quote};
use async_trait::async_trait;
use http_body_util::Empty;
use hyper::body::{Bytes, Incoming};
use k8s_openapi::api::core::v1::{Node, Pod};
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;

use super::Connector;
use super::backend::Backends;
use super::kubelet_tls::{KubeletAccessError, KubeletIdentity, KubeletTls};
use super::log_options;
use crate::auth::{Attributes, Decision};
use crate::gates::Feature;
use crate::http::{Body, Query, RequestContext};
use crate::objects;
use crate::server::ApiServer;

/// The port of a kubelet that does not say another.
const KUBELET_PORT: u16 = 10250;

/// The API server's identity at kubelets, and the upgraded connections that it carries. Cloning shares both.
#[derive(Clone)]
pub struct KubeletAccess {
    tls: Arc<KubeletTls>,
    pub(super) backends: Backends,
}

impl KubeletAccess {
    /// `ca_pem` vouches for kubelets' serving certificates, as Go verifies them; without it any is taken, as upstream has it without
    /// `--kubelet-certificate-authority`. Upgraded connections end with `stop`.
    pub fn new(identity: KubeletIdentity, ca_pem: Option<&str>, stop: CancellationToken) -> Result<Self, KubeletAccessError> {
        Ok(Self { tls: Arc::new(KubeletTls::new(identity, ca_pem)?), backends: Backends::new(stop) })
    }

    /// TLS for the next connection; the error is for people.
    pub(super) async fn tls(&self, trusting: bool) -> Result<TlsConnector, String> {
        self.tls.connector(trusting).await.map_err(|error| match std::error::Error::source(&error) {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        })
    }

    /// The connector of each subresource of pods that goes through the kubelet.
    pub(crate) fn connectors(&self) -> [(&'static str, Arc<dyn Connector>); 4] {
        let of = |action| -> Arc<dyn Connector> { Arc::new(PodConnector { action, access: self.clone() }) };
        [
            ("log", of(Action::Log)),
            ("exec", of(Action::Exec)),
            ("attach", of(Action::Attach)),
            ("portforward", of(Action::PortForward)),
        ]
    }

    /// What a node's kubelet answers to a GET, if it is a text of at most a few megabytes.
    pub(crate) async fn read(&self, node: &Node, path: &str) -> Result<String, Status> {
        use http_body_util::BodyExt;
        /// Some kilobytes for each container, and room.
        const BYTES_MAX: usize = 16 << 20;
        let answer = self.send(node, request(Method::GET, node, path, &HeaderMap::new())?).await?;
        if answer.status() != StatusCode::OK {
            return Err(refusal(answer).await);
        }
        let body = http_body_util::Limited::new(answer.into_body(), BYTES_MAX).collect().await;
        let bytes = body.map_err(Status::internal_error)?.to_bytes();
        String::from_utf8(bytes.to_vec()).map_err(Status::internal_error)
    }

    /// Sends a request to a node's kubelet on a connection of its own.
    async fn send(&self, node: &Node, request: Request<Empty<Bytes>>) -> Result<Response<Incoming>, Status> {
        let sent = self.dial(kubelet_of(node)?, false, request).await;
        sent.map_err(|error| Status::new(Reason::Unknown, format!("error dialing backend: {error}")))
    }

    /// Sends a request; `trusting` takes any certificate. The error is as Go's transport has it.
    async fn dial(
        &self,
        address: SocketAddr,
        trusting: bool,
        request: Request<Empty<Bytes>>,
    ) -> Result<Response<Incoming>, String> {
        let tls = self.tls(trusting).await?;
        self.backends.send(address, Some(&tls), request).await.map_err(|error| error.to_string())
    }
}

/// Where a node's kubelet listens.
pub(super) fn kubelet_of(node: &Node) -> Result<SocketAddr, Status> {
    let status = node.status.clone().unwrap_or_default();
    let addresses = status.addresses.unwrap_or_default();
    // Upstream's order of preference, names aside: a static program has no resolver of the host's.
    let preferred = ["InternalIP", "ExternalIP"];
    let address = preferred
        .iter()
        .find_map(|kind| addresses.iter().find(|address| address.type_ == *kind))
        .and_then(|address| address.address.parse::<IpAddr>().ok())
        .ok_or_else(|| Status::internal_error("no preferred addresses found; known addresses: []"))?;
    let port = status.daemon_endpoints.and_then(|endpoints| endpoints.kubelet_endpoint).map(|endpoint| endpoint.port);
    let port = port.and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0).unwrap_or(KUBELET_PORT);
    Ok(SocketAddr::new(address, port))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Action {
    Log,
    Exec,
    Attach,
    PortForward,
}

struct PodConnector {
    action: Action,
    access: KubeletAccess,
}

#[async_trait]
impl Connector for PodConnector {
    async fn connect(
        &self,
        server: &Arc<ApiServer>,
        context: &RequestContext,
        request: Request<Body>,
    ) -> Result<Response<Body>, Status> {
        let (namespace, name) = (context.info.namespace.as_str(), context.info.name.as_str());
        if self.action != Action::Log && context.gates.has(Feature::AuthorizePodWebsocketUpgradeCreatePermission) {
            may_create(server, context).await?;
        }
        if self.action == Action::Log {
            server.metrics().log_asked_for(context.query.flag("insecureSkipTLSVerifyBackend") == Some(true));
            log_options::check(&context.query, name)?;
        }
        let pod: Option<Pod> = objects::get(server.loopback(), namespace, name).await.map_err(Status::internal_error)?;
        let pod = pod.ok_or_else(|| Status::not_found(&GroupResource::new("", "pods"), name))?;
        let path = self.kubelet_path(context, &pod)?;
        let node_name = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default();
        if node_name.is_empty() {
            // Logs of a pod that waits for a node are empty; there is nobody to ask.
            return match self.action {
                Action::Log => {
                    let mut nothing = Response::new(Body::empty());
                    *nothing.status_mut() = StatusCode::NO_CONTENT;
                    Ok(nothing)
                }
                _ => Err(Status::bad_request(format!("pod {name} does not have a host assigned"))),
            };
        }
        let streams = ["stdin", "stdout", "stderr"];
        if matches!(self.action, Action::Exec | Action::Attach) && streams.iter().all(|key| context.query.flag(key) != Some(true))
        {
            return Err(Status::bad_request("you must specify at least 1 of stdin, stdout, stderr"));
        }
        let node: Option<Node> = objects::get(server.loopback(), "", node_name).await.map_err(Status::internal_error)?;
        let node = node.ok_or_else(|| Status::not_found(&GroupResource::new("", "nodes"), node_name))?;
        if self.action == Action::Log {
            return self.fetch(server, context, &node, &path).await;
        }
        self.upgrade(&node, &path, request).await
    }
}

/// The ports that a client of WebSocket channels names (PodPortForwardOptions), as kubelets read them; empty for other clients, which name
/// them in their streams.
fn ports(query: &Query) -> Result<String, Status> {
    let mut ports = Vec::new();
    for port in query.all("ports").flat_map(|ports| ports.split(',')) {
        let number: u16 = port.parse().map_err(|_| {
            Status::bad_request(format!(
                "cannot convert to []int32: strconv.ParseUint: parsing {}: invalid syntax",
                go_quote(port)
            ))
        })?;
        ports.push(number.to_string());
    }
    Ok(ports.join(","))
}

impl PodConnector {
    /// The path and query at the kubelet.
    fn kubelet_path(&self, context: &RequestContext, pod: &Pod) -> Result<String, Status> {
        let (namespace, name) = (&context.info.namespace, &context.info.name);
        let query = &context.query;
        if self.action == Action::PortForward {
            let ports = ports(query)?;
            let given = (!ports.is_empty()).then_some(("port", ports.as_str()));
            return Ok(format!("/portForward/{namespace}/{name}{}", encode_query(given.into_iter())));
        }
        let container = container_of(pod, query.get("container").unwrap_or_default())?;
        let (root, pairs): (&str, Vec<(&str, &str)>) = match self.action {
            Action::Log => {
                let passed =
                    ["follow", "previous", "timestamps", "tailLines", "limitBytes", "sinceSeconds", "sinceTime", "stream"];
                ("containerLogs", passed.iter().filter_map(|key| Some((*key, query.non_empty(key)?))).collect())
            }
            action => {
                let streams = [("stdin", "input"), ("stdout", "output"), ("stderr", "error"), ("tty", "tty")];
                let wanted = streams.iter().filter(|(key, _)| query.flag(key) == Some(true)).map(|(_, flag)| (*flag, "1"));
                let commands = query.all("command").map(|word| ("command", word));
                (if action == Action::Exec { "exec" } else { "attach" }, wanted.chain(commands).collect())
            }
        };
        Ok(format!("/{root}/{namespace}/{name}/{container}{}", encode_query(pairs.into_iter())))
    }

    /// Passes the kubelet's answer on as it comes; what it refuses becomes a Status.
    async fn fetch(
        &self,
        server: &ApiServer,
        context: &RequestContext,
        node: &Node,
        path: &str,
    ) -> Result<Response<Body>, Status> {
        let trusting = context.query.flag("insecureSkipTLSVerifyBackend") == Some(true);
        let address = kubelet_of(node)?;
        let answer = self.access.dial(address, trusting, request(Method::GET, node, path, &HeaderMap::new())?).await;
        let answer = answer.map_err(|error| {
            if error.contains("x509:") {
                server.metrics().log_backend_not_verified();
            }
            Status::new(Reason::Unknown, format!("Get \"https://{address}{path}\": {error}"))
        })?;
        if !matches!(answer.status().as_u16(), 200..=206) {
            return Err(log_refusal(answer, &context.info.name).await);
        }
        let mut response = Response::new(Body::new(answer.into_body()));
        response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("text/plain"));
        Ok(response)
    }

    /// Asks the kubelet for the upgrade that the client asks for, and joins the two connections.
    async fn upgrade(&self, node: &Node, path: &str, mut from_client: Request<Body>) -> Result<Response<Body>, Status> {
        if !from_client.headers().contains_key(header::UPGRADE) {
            return Err(Status::bad_request("Upgrade request required"));
        }
        let onward = request(from_client.method().clone(), node, path, from_client.headers())?;
        let mut answer = self.access.send(node, onward).await?;
        if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(refusal(answer).await);
        }
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        response.headers_mut().extend(answer.headers().clone());
        self.access.backends.join(hyper::upgrade::on(&mut from_client), hyper::upgrade::on(&mut answer));
        Ok(response)
    }
}

/// Who upgrades a connection does what creates: the method of a WebSocket's request, GET, must not be a way around that.
async fn may_create(server: &ApiServer, context: &RequestContext) -> Result<(), Status> {
    let asked = Attributes::of_request(&context.user, &context.info);
    if asked.verb == "create" {
        // It has been answered.
        return Ok(());
    }
    let question = Attributes { verb: "create", ..asked };
    match server.access().authorizers.authorize(&question).await.map_err(Status::internal_error)? {
        Decision::Allow(_) => Ok(()),
        Decision::Deny(reason) | Decision::NoOpinion(reason) => {
            Err(Status::forbidden(&GroupResource::new("", "pods"), &context.info.name, reason))
        }
    }
}

/// The container that is meant: the one named, or the only one.
fn container_of(pod: &Pod, wanted: &str) -> Result<String, Status> {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let spec = pod.spec.clone().unwrap_or_default();
    let main: Vec<String> = spec.containers.into_iter().map(|container| container.name).collect();
    let init: Vec<String> = spec.init_containers.into_iter().flatten().map(|container| container.name).collect();
    let ephemeral: Vec<String> = spec.ephemeral_containers.into_iter().flatten().map(|container| container.name).collect();
    if !wanted.is_empty() {
        let known = [&main, &init, &ephemeral].into_iter().flatten().any(|container| container == wanted);
        let unknown = || Status::bad_request(format!("container {wanted} is not valid for pod {name}"));
        return if known { Ok(wanted.to_owned()) } else { Err(unknown()) };
    }
    match main.as_slice() {
        [only] => Ok(only.clone()),
        [] => Err(Status::bad_request(format!("a container name must be specified for pod {name}"))),
        several => {
            let mut message =
                format!("a container name must be specified for pod {name}, choose one of: [{}]", several.join(" "));
            if !init.is_empty() {
                message.push_str(&format!(" or one of the init containers: [{}]", init.join(" ")));
            }
            Err(Status::bad_request(message))
        }
    }
}

/// A request without a body; of the client's headers only those of an upgrade go along.
fn request(method: Method, node: &Node, path: &str, from_client: &HeaderMap) -> Result<Request<Empty<Bytes>>, Status> {
    let mut builder = Request::builder().method(method).uri(path).header(header::HOST, kubelet_of(node)?.to_string());
    let passed =
        |name: &str| matches!(name, "connection" | "upgrade" | "x-stream-protocol-version") || name.starts_with("sec-websocket-");
    for (name, value) in from_client.iter().filter(|(name, _)| passed(name.as_str())) {
        builder = builder.header(name, value);
    }
    builder.body(Empty::new()).map_err(|error| Status::bad_request(error.to_string()))
}

/// The text of a kubelet's refusal; more than this is not read.
async fn text_of(answer: Response<Incoming>) -> String {
    use http_body_util::BodyExt;
    const BYTES_MAX: usize = 50_000;
    let body = http_body_util::Limited::new(answer.into_body(), BYTES_MAX).collect().await;
    body.map(|body| String::from_utf8_lossy(&body.to_bytes()).into_owned()).unwrap_or_default()
}

/// The kubelet's refusal as a Status: its code and its text.
async fn refusal(answer: Response<Incoming>) -> Status {
    let code = answer.status();
    let text = text_of(answer).await.trim().to_owned();
    let text = if text.is_empty() { format!("the kubelet answered {code}") } else { text };
    let mut status = match code {
        StatusCode::NOT_FOUND => {
            let mut status = Status::bad_request(text);
            status.reason = Reason::NotFound;
            status
        }
        StatusCode::BAD_REQUEST => Status::bad_request(text),
        _ => Status::internal_error(text),
    };
    status.code = code.as_u16();
    status
}

/// A refusal of logs (upstream's `GenericHttpResponseChecker` for `pods/log`).
async fn log_refusal(answer: Response<Incoming>, pod: &str) -> Status {
    let code = answer.status();
    let text = text_of(answer).await;
    match code {
        StatusCode::INTERNAL_SERVER_ERROR => Status::internal_error(text),
        StatusCode::BAD_REQUEST => Status::bad_request(text),
        _ => generic_refusal(code.as_u16(), &text, pod),
    }
}

/// What a code says where nothing else is known (upstream's `NewGenericServerResponse`, without a verb).
fn generic_refusal(code: u16, text: &str, pod: &str) -> Status {
    let (reason, message) = match code {
        401 => (Reason::Unauthorized, "the server has asked for the client to provide credentials".to_owned()),
        403 => (Reason::Forbidden, text.to_owned()),
        404 => (Reason::NotFound, "the server could not find the requested resource".to_owned()),
        405 => (Reason::MethodNotAllowed, "the server does not allow this method on the requested resource".to_owned()),
        409 => (Reason::Conflict, "the server reported a conflict".to_owned()),
        429 => {
            (Reason::TooManyRequests, "the server has received too many requests and has asked us to try again later".to_owned())
        }
        503 => (Reason::ServiceUnavailable, "the server is currently unable to handle the request".to_owned()),
        504 => (
            Reason::Timeout,
            "the server was unable to return a response in the time allotted, but may still be processing the request".to_owned(),
        ),
        500.. => {
            let text = go_quote(text);
            (Reason::InternalError, format!("an error on the server ({text}) has prevented the request from succeeding"))
        }
        _ => {
            let message = format!("the server responded with the status code {code} but did not return more information");
            (Reason::Unknown, message)
        }
    };
    let details = StatusDetails { kind: "pods/log".to_owned(), name: pod.to_owned(), ..StatusDetails::default() };
    let mut status = Status::new(reason, format!("{message} ( pods/log {pod})")).with_details(details);
    status.code = code;
    status
}

/// `?a=b&c=d`, percent-encoded; empty for no pairs.
fn encode_query<'a>(pairs: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let mut query = String::new();
    for (key, value) in pairs {
        query.push(if query.is_empty() { '?' } else { '&' });
        query.push_str(key);
        query.push('=');
        for byte in value.bytes() {
            if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
                query.push(char::from(byte));
            } else {
                query.push_str(&format!("%{byte:02X}"));
            }
        }
    }
    query
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(spec: serde_json::Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).unwrap()
    }

    #[test]
    fn ports_are_numbers() {
        let check = |query: &str, expected: Result<&str, &str>| {
            let found = ports(&Query::parse(query)).map_err(|status| status.message);
            assert_eq!(found, expected.map(str::to_owned).map_err(str::to_owned), "{query}");
        };
        check("", Ok(""));
        check("ports=80&ports=81,443", Ok("80,81,443"));
        let wrong = r#"cannot convert to []int32: strconv.ParseUint: parsing "x": invalid syntax"#;
        check("ports=80,x", Err(wrong));
    }

    #[test]
    fn the_container_is_named_or_the_only_one() {
        let check = |spec: serde_json::Value, wanted: &str, expected: Result<&str, &str>| {
            let found = container_of(&pod(spec), wanted).map_err(|status| status.message);
            assert_eq!(found.as_deref().map_err(String::as_str), expected);
        };
        let one = json!({"containers": [{"name": "a"}], "initContainers": [{"name": "i"}]});
        check(one.clone(), "", Ok("a"));
        check(one.clone(), "i", Ok("i"));
        check(one, "x", Err("container x is not valid for pod p"));
        let two = json!({"containers": [{"name": "a"}, {"name": "b"}]});
        check(two.clone(), "b", Ok("b"));
        check(two, "", Err("a container name must be specified for pod p, choose one of: [a b]"));
    }

    #[test]
    fn a_query_is_encoded() {
        assert_eq!(
            encode_query([("command", "sh"), ("command", "a b&c/ü")].into_iter()),
            "?command=sh&command=a%20b%26c%2F%C3%BC"
        );
        assert_eq!(encode_query(std::iter::empty()), "");
    }

    #[test]
    fn what_a_code_says() {
        let status = generic_refusal(401, "x", "p");
        assert_eq!((status.reason, status.code), (Reason::Unauthorized, 401));
        assert_eq!(status.message, "the server has asked for the client to provide credentials ( pods/log p)");
        assert_eq!(generic_refusal(403, "no", "p").message, "no ( pods/log p)");
        let broken = "an error on the server (\"a\\n\") has prevented the request from succeeding ( pods/log p)";
        assert_eq!((generic_refusal(502, "a\n", "p").message.as_str(), generic_refusal(502, "", "p").code), (broken, 502));
        assert_eq!(generic_refusal(302, "", "p").reason, Reason::Unknown);
    }

    #[test]
    fn a_kubelet_is_where_its_node_says() {
        let node = |addresses: serde_json::Value, port: u16| -> Node {
            let endpoints = json!({"kubeletEndpoint": {"Port": port}});
            serde_json::from_value(json!({"status": {"addresses": addresses, "daemonEndpoints": endpoints}})).unwrap()
        };
        let addresses = json!([{"type": "Hostname", "address": "n"}, {"type": "InternalIP", "address": "10.0.0.1"}]);
        assert_eq!(kubelet_of(&node(addresses.clone(), 9)).unwrap(), "10.0.0.1:9".parse().unwrap());
        assert_eq!(kubelet_of(&node(addresses, 0)).unwrap().port(), KUBELET_PORT);
        assert!(kubelet_of(&node(json!([]), 9)).is_err());
    }
}
