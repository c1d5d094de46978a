//! exec, attach, port-forward: the runtime's streaming server speaks the protocols (WebSocket, SPDY/3.1); the kubelet only joins the
//! client's connection to it, byte by byte. `/run` is the simple form without streams.

use std::sync::Arc;

use cri::v1;
use http::{HeaderMap, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::{Body, full, parameters, text};
use crate::context::Core;
use crate::pod::access::PodAccess;
use crate::runtime::snapshot::{self, State};

fn flag(query: &[(String, String)], name: &str) -> bool {
    query.iter().any(|(key, value)| key == name && matches!(value.as_str(), "1" | "true"))
}

fn bad_gateway(what: &str, status: &cri::Status) -> Response<Body> {
    let code = if status.code() == cri::Code::NotFound { StatusCode::NOT_FOUND } else { StatusCode::INTERNAL_SERVER_ERROR };
    text(code, format!("{what}: {}", status.message()))
}

/// The id of the running container.
async fn running(core: &Core, namespace: &str, pod: &str, container: &str) -> Result<String, Response<Body>> {
    let Some(entry) = core.pods.by_name(namespace, pod) else { return Err(text(StatusCode::NOT_FOUND, "pod does not exist")) };
    if entry.pod().find_container(container).is_none() {
        return Err(text(StatusCode::NOT_FOUND, format!("container not found (\"{container}\")")));
    }
    let snapshot =
        snapshot::take(&*core.runtime, &entry.uid).await.map_err(|s| bad_gateway("the runtime does not answer", &s))?;
    match snapshot.latest(container) {
        Some(record) if record.state == State::Running => Ok(record.id.clone()),
        Some(record) => {
            Err(text(StatusCode::BAD_REQUEST, format!("cannot exec in a container that is not running: \"{}\"", record.id)))
        }
        None => Err(text(StatusCode::NOT_FOUND, format!("container not found (\"{container}\")"))),
    }
}

/// `/exec`
pub(super) async fn exec(
    core: Arc<Core>,
    namespace: &str,
    pod: &str,
    container: &str,
    request: Request<Incoming>,
) -> Response<Body> {
    let id = match running(&core, namespace, pod, container).await {
        Ok(id) => id,
        Err(response) => return response,
    };
    let query = parameters(request.uri().query());
    let cmd: Vec<String> = query.iter().filter(|(key, _)| key == "command").map(|(_, value)| value.clone()).collect();
    let tty = flag(&query, "tty");
    let exec = v1::ExecRequest {
        container_id: id,
        cmd,
        tty,
        stdin: flag(&query, "input"),
        stdout: flag(&query, "output"),
        stderr: flag(&query, "error") && !tty,
    };
    match core.runtime.exec(exec).await {
        Ok(answer) => join(core, &answer.url, request).await,
        Err(status) => bad_gateway("unable to exec", &status),
    }
}

/// `/attach`
pub(super) async fn attach(
    core: Arc<Core>,
    namespace: &str,
    pod: &str,
    container: &str,
    request: Request<Incoming>,
) -> Response<Body> {
    let id = match running(&core, namespace, pod, container).await {
        Ok(id) => id,
        Err(response) => return response,
    };
    let query = parameters(request.uri().query());
    // Whether there is a terminal is the container's to say.
    let tty = core
        .pods
        .by_name(namespace, pod)
        .and_then(|e| e.pod().find_container(container))
        .is_some_and(|(_, c)| c.tty == Some(true));
    let attach = v1::AttachRequest {
        container_id: id,
        stdin: flag(&query, "input"),
        tty,
        stdout: flag(&query, "output"),
        stderr: flag(&query, "error") && !tty,
    };
    match core.runtime.attach(attach).await {
        Ok(answer) => join(core, &answer.url, request).await,
        Err(status) => bad_gateway("unable to attach", &status),
    }
}

/// `/portForward`
pub(super) async fn port_forward(core: Arc<Core>, namespace: &str, pod: &str, request: Request<Incoming>) -> Response<Body> {
    let Some(entry) = core.pods.by_name(namespace, pod) else { return text(StatusCode::NOT_FOUND, "pod does not exist") };
    let snapshot = match snapshot::take(&*core.runtime, &entry.uid).await {
        Ok(snapshot) => snapshot,
        Err(status) => return bad_gateway("the runtime does not answer", &status),
    };
    let Some(sandbox) = snapshot.ready_sandbox() else {
        return text(StatusCode::NOT_FOUND, format!("pod not found (\"{namespace}/{pod}\")"));
    };
    let query = parameters(request.uri().query());
    let port = match ports(request.headers(), &query) {
        Ok(ports) => ports,
        Err(why) => return text(StatusCode::BAD_REQUEST, why),
    };
    match core.runtime.port_forward(v1::PortForwardRequest { pod_sandbox_id: sandbox.id.clone(), port }).await {
        Ok(answer) => join(core, &answer.url, request).await,
        Err(status) => bad_gateway("unable to forward a port", &status),
    }
}

/// The ports that a client of WebSocket channels wants (upstream's `NewV4Options`). Other clients name each in its streams.
fn ports(headers: &http::HeaderMap, query: &[(String, String)]) -> Result<Vec<i32>, String> {
    let holds = |name: &str, wanted: &str| {
        let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
        values.flat_map(|value| value.split(',')).any(|value| value.trim().eq_ignore_ascii_case(wanted))
    };
    if !holds("upgrade", "websocket") || holds("sec-websocket-protocol", "SPDY/3.1+portforward.k8s.io") {
        return Ok(Vec::new());
    }
    let mut ports = Vec::new();
    for (_, value) in query.iter().filter(|(key, _)| key == "port") {
        if value.is_empty() {
            return Err("query parameter \"port\" cannot be empty".to_owned());
        }
        for port in value.split(',') {
            match port.parse::<u16>() {
                Ok(0) => return Err(format!("port {value:?} must be > 0")),
                Ok(port) => ports.push(i32::from(port)),
                Err(error) => return Err(format!("unable to parse {value:?} as a port: {error}")),
            }
        }
    }
    if ports.is_empty() { Err("query parameter \"port\" is required".to_owned()) } else { Ok(ports) }
}

/// `/run`: the command's output as the answer.
pub(super) async fn run(core: &Core, namespace: &str, pod: &str, container: &str, request: &Request<Incoming>) -> Response<Body> {
    let id = match running(core, namespace, pod, container).await {
        Ok(id) => id,
        Err(response) => return response,
    };
    let cmd =
        parameters(request.uri().query()).into_iter().find(|(key, _)| key == "cmd").map(|(_, value)| value).unwrap_or_default();
    let cmd = cmd.split(' ').map(str::to_owned).collect();
    match core.runtime.exec_sync(v1::ExecSyncRequest { container_id: id, cmd, timeout: 0 }).await {
        Ok(output) => {
            let status = if output.exit_code == 0 { StatusCode::OK } else { StatusCode::INTERNAL_SERVER_ERROR };
            let mut response = Response::new(full([output.stdout, output.stderr].concat()));
            *response.status_mut() = status;
            response
        }
        Err(status) => bad_gateway("unable to run", &status),
    }
}

/// Sends the client's request on to the streaming server and, when it switches protocols, joins the two connections.
async fn join(core: Arc<Core>, url: &str, request: Request<Incoming>) -> Response<Body> {
    match forward(core, url, request).await {
        Ok(response) => response,
        Err(error) => {
            tracing::debug!(error, "the runtime's streaming server did not answer");
            text(StatusCode::BAD_GATEWAY, format!("the runtime's streaming server did not answer: {error}"))
        }
    }
}

async fn forward(core: Arc<Core>, url: &str, mut request: Request<Incoming>) -> Result<Response<Body>, String> {
    let uri: http::Uri = url.parse().map_err(|e| format!("{url}: {e}"))?;
    let authority = uri.authority().ok_or("the streaming URL names no server")?.clone();
    let port = authority.port_u16().unwrap_or(80);
    let stream = TcpStream::connect((authority.host().trim_matches(['[', ']']), port)).await.map_err(|e| e.to_string())?;
    let _best_effort = stream.set_nodelay(true);
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake::<_, Empty<Bytes>>(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
    let token = core.token.clone();
    core.tasks.spawn(async move {
        tokio::select! {
            () = token.cancelled() => {}
            _ended = connection.with_upgrades() => {}
        }
    });
    let mut onward = Request::builder().method(request.method()).uri(uri.path_and_query().map_or("/", |p| p.as_str()));
    if let Some(headers) = onward.headers_mut() {
        copy_headers(request.headers(), headers);
        headers.insert(header::HOST, authority.as_str().parse().map_err(|_| "bad host".to_owned())?);
    }
    let onward = onward.body(Empty::new()).map_err(|e| e.to_string())?;
    let mut answer = sender.send_request(onward).await.map_err(|e| e.to_string())?;
    let mut response = Response::builder().status(answer.status());
    if let Some(headers) = response.headers_mut() {
        copy_headers(answer.headers(), headers);
    }
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        let body = answer.into_body().map_err(std::io::Error::other).boxed();
        return response.body(body).map_err(|e| e.to_string());
    }
    let token = core.token.clone();
    let joined = async move {
        let (client, server) =
            futures::future::try_join(hyper::upgrade::on(&mut request), hyper::upgrade::on(&mut answer)).await?;
        let (mut client, mut server) = (TokioIo::new(client), TokioIo::new(server));
        let _closed = tokio::io::copy_bidirectional(&mut client, &mut server).await;
        Ok::<_, hyper::Error>(())
    };
    core.tasks.spawn(async move {
        tokio::select! {
            () = token.cancelled() => {}
            ended = joined => if let Err(error) = ended {
                tracing::debug!(%error, "an upgraded connection failed");
            }
        }
    });
    response.body(full(Bytes::new())).map_err(|e| e.to_string())
}

/// All but what belongs to one connection or to the caller's identity; `Connection: Upgrade` goes through.
fn copy_headers(from: &HeaderMap, to: &mut HeaderMap) {
    for (name, value) in from {
        if !matches!(name, &header::HOST | &header::AUTHORIZATION | &header::CONTENT_LENGTH | &header::TRANSFER_ENCODING) {
            to.append(name, value.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_of_channels() {
        let headers = |list: &[(&'static str, &'static str)]| -> http::HeaderMap {
            list.iter()
                .map(|(name, value)| (http::HeaderName::from_static(name), http::HeaderValue::from_static(value)))
                .collect()
        };
        let (websocket, protocol) = (("upgrade", "WebSocket"), "sec-websocket-protocol");
        let check = |list: &[(&'static str, &'static str)], query: &str, expected: Result<Vec<i32>, &str>| {
            let found = ports(&headers(list), &parameters(Some(query)));
            match (&found, expected) {
                (Err(found), Err(expected)) => assert!(found.starts_with(expected), "{query}: {found}"),
                (found, expected) => assert_eq!(*found, expected.map_err(str::to_owned), "{query}"),
            }
        };
        let channels = [websocket, (protocol, "v4.channel.k8s.io")];
        check(&channels, "port=80,81&port=443", Ok(vec![80, 81, 443]));
        check(&channels, "", Err("query parameter \"port\" is required"));
        check(&channels, "port=", Err("query parameter \"port\" cannot be empty"));
        check(&channels, "port=0", Err("port \"0\" must be > 0"));
        check(&channels, "port=x", Err("unable to parse \"x\" as a port"));
        check(&[websocket], "port=80", Ok(vec![80]));
        check(&[websocket, (protocol, "SPDY/3.1+portforward.k8s.io")], "", Ok(vec![]));
        check(&[("upgrade", "SPDY/3.1")], "", Ok(vec![]));
    }
}
