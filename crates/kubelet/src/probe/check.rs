//! The four ways to look at a container: exec, httpGet, tcpSocket, grpc
//! (<https://kubernetes.io/docs/concepts/workloads/pods/probes/>).

use std::sync::Arc;
use std::time::Duration;

use cri::v1;
use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{Container, HTTPGetAction, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::context::Core;
use crate::probe::tls;

/// How much of an answer is read (upstream: 10 KiB).
const BODY_BYTES_MAX: usize = 10 << 10;
/// Redirects that are followed, on the same host only.
const REDIRECTS_MAX: usize = 10;

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    Success,
    /// Success with something to say.
    Warning(String),
    Failure(String),
    /// The check could not be made.
    Error(String),
}

impl Outcome {
    /// Nothing if the check could not be made.
    pub(crate) fn healthy(&self) -> Option<bool> {
        match self {
            Self::Success | Self::Warning(_) => Some(true),
            Self::Failure(_) => Some(false),
            Self::Error(_) => None,
        }
    }
}

/// Checks once.
pub(crate) async fn run(
    core: &Core,
    container: &Container,
    container_id: &str,
    probe: &Probe,
    pod_ip: &str,
    timeout: Duration,
) -> Outcome {
    if let Some(action) = &probe.exec {
        return exec(core, container_id, action.command.clone().unwrap_or_default(), timeout).await;
    }
    let host = |own: Option<&str>| own.filter(|h| !h.is_empty()).unwrap_or(pod_ip).to_owned();
    if let Some(action) = &probe.http_get {
        return match HttpCheck::new(container, action, &host(action.host.as_deref())) {
            Ok(check) => match check.run(timeout).await {
                Ok(None) => Outcome::Success,
                Ok(Some(warning)) => Outcome::Warning(warning),
                Err(message) => Outcome::Failure(message),
            },
            Err(message) => Outcome::Error(message),
        };
    }
    if let Some(action) = &probe.tcp_socket {
        let Some(port) = resolve_port(container, &action.port) else { return Outcome::Error(bad_port(&action.port)) };
        let address = join(&host(action.host.as_deref()), port);
        return match tokio::time::timeout(timeout, TcpStream::connect(&address)).await {
            Ok(Ok(_)) => Outcome::Success,
            Ok(Err(error)) => Outcome::Failure(dial_error(&address, &error)),
            Err(_) => Outcome::Failure(format!("dial tcp {address}: i/o timeout")),
        };
    }
    if let Some(action) = &probe.grpc {
        let address = join(pod_ip, u16::try_from(action.port).unwrap_or(0));
        return super::grpc::check(&address, action.service.as_deref().unwrap_or(""), timeout).await;
    }
    Outcome::Error("missing probe handler".to_owned())
}

async fn exec(core: &Core, container_id: &str, command: Vec<String>, timeout: Duration) -> Outcome {
    let text = command.join(" ");
    let request = v1::ExecSyncRequest {
        container_id: container_id.to_owned(),
        cmd: command,
        timeout: i64::try_from(timeout.as_secs()).unwrap_or(1),
    };
    // The runtime keeps the time; a little more is left for its answer.
    match tokio::time::timeout(timeout + Duration::from_secs(2), core.runtime.exec_sync(request)).await {
        Ok(Ok(response)) if response.exit_code == 0 => Outcome::Success,
        Ok(Ok(response)) => Outcome::Failure(String::from_utf8_lossy(&[response.stdout, response.stderr].concat()).into_owned()),
        Ok(Err(status)) if status.code() == cri::Code::DeadlineExceeded => Outcome::Failure(timed_out(&text, timeout)),
        Ok(Err(status)) => Outcome::Error(status.message().to_owned()),
        Err(_) => Outcome::Failure(timed_out(&text, timeout)),
    }
}

fn timed_out(command: &str, timeout: Duration) -> String {
    format!("command timed out: \"{command}\" timed out after {}s", timeout.as_secs())
}

fn bad_port(port: &IntOrString) -> String {
    match port {
        IntOrString::Int(port) => format!("invalid port number: {port}"),
        IntOrString::String(name) => format!("couldn't find port: {name}"),
    }
}

/// A port by number, or by the name it has in the container.
fn resolve_port(container: &Container, port: &IntOrString) -> Option<u16> {
    let number = match port {
        IntOrString::Int(number) => *number,
        IntOrString::String(name) => match container.ports.iter().flatten().find(|p| p.name.as_deref() == Some(name)) {
            Some(port) => port.container_port,
            None => name.parse().ok()?,
        },
    };
    u16::try_from(number).ok().filter(|p| *p > 0)
}

fn join(host: &str, port: u16) -> String {
    if host.contains(':') && !host.starts_with('[') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

fn dial_error(address: &str, error: &std::io::Error) -> String {
    let why = if error.kind() == std::io::ErrorKind::ConnectionRefused {
        "connect: connection refused".to_owned()
    } else {
        error.to_string()
    };
    format!("dial tcp {address}: {why}")
}

/// What Go's client says to a server without TLS.
const NO_TLS: &str = "http: server gave HTTP response to HTTPS client";

/// The beginning of a body; one that breaks off is as good.
async fn beginning(mut body: Incoming) -> String {
    let mut read = Vec::new();
    while read.len() < BODY_BYTES_MAX
        && let Some(Ok(frame)) = body.frame().await
    {
        let Ok(data) = frame.into_data() else { continue };
        read.extend_from_slice(&data[..data.len().min(BODY_BYTES_MAX - read.len())]);
    }
    String::from_utf8_lossy(&read).into_owned()
}

/// An HTTP GET as probes and hooks make it: certificates are not verified, redirects followed on the same host.
#[derive(Clone)]
pub(crate) struct HttpCheck {
    agent: &'static str,
    https: bool,
    host: String,
    port: u16,
    path: String,
    headers: Vec<(String, String)>,
}

/// Whether the first bytes of a server were no TLS record.
fn speaks_no_tls(error: &std::io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    matches!(inner, Some(rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType)))
}

/// What came of a request with its redirects.
enum End {
    /// The last status, and the beginning of its body.
    Status(u16, String),
    /// A redirect to another host: the beginning of its body.
    Elsewhere(String),
}

enum Answer {
    /// The status, and the beginning of the body.
    Done(u16, String),
    /// Where to, and the beginning of the body.
    Redirect(String, String),
}

impl HttpCheck {
    /// The request of an `httpGet` action to `host`.
    pub(crate) fn new(container: &Container, action: &HTTPGetAction, host: &str) -> Result<Self, String> {
        let port = resolve_port(container, &action.port).ok_or_else(|| bad_port(&action.port))?;
        let path = action.path.as_deref().filter(|p| !p.is_empty()).unwrap_or("/");
        Ok(Self {
            agent: "kube-probe/1.35",
            https: action.scheme.as_deref().is_some_and(|s| s.eq_ignore_ascii_case("https")),
            host: host.to_owned(),
            port,
            path: if path.starts_with('/') { path.to_owned() } else { format!("/{path}") },
            headers: action.http_headers.iter().flatten().map(|h| (h.name.clone(), h.value.clone())).collect(),
        })
    }

    fn url(&self, path: &str) -> String {
        format!("{}://{}{path}", if self.https { "https" } else { "http" }, join(&self.host, self.port))
    }

    /// Gets it; success is a status from 200 to 399. `Ok(Some(..))`: success with a warning (a redirect elsewhere).
    pub(crate) async fn run(&self, timeout: Duration) -> Result<Option<String>, String> {
        match self.within(timeout).await? {
            End::Status(200..300, _) => Ok(None),
            End::Status(300..400, body) | End::Elsewhere(body) => {
                Ok(Some(format!("Probe terminated redirects, Response body: {body}")))
            }
            End::Status(status, _) => Err(format!("HTTP probe failed with statuscode: {status}")),
        }
    }

    /// Gets it for a lifecycle hook, for which any answer will do; a server that turns out to have no TLS is asked again without, and then
    /// the host is returned.
    pub(crate) async fn notify(mut self, timeout: Duration) -> Result<Option<String>, String> {
        self.agent = "kube-lifecycle/1.35";
        match self.within(timeout).await {
            Ok(_) => Ok(None),
            Err(error) if error.ends_with(NO_TLS) => {
                self.https = false;
                self.headers.retain(|(name, _)| !name.eq_ignore_ascii_case("Authorization"));
                // Upstream reports what went wrong first.
                self.within(timeout).await.map_err(|_| error)?;
                Ok(Some(join(&self.host, self.port)))
            }
            Err(error) => Err(error),
        }
    }

    async fn within(&self, timeout: Duration) -> Result<End, String> {
        match tokio::time::timeout(timeout, self.follow()).await {
            Ok(result) => result,
            Err(_) => Err(format!(
                "Get \"{}\": context deadline exceeded (Client.Timeout exceeded while awaiting headers)",
                self.url(&self.path)
            )),
        }
    }

    async fn follow(&self) -> Result<End, String> {
        let mut path = self.path.clone();
        for _ in 0..=REDIRECTS_MAX {
            match self.get(&path).await.map_err(|e| format!("Get \"{}\": {e}", self.url(&path)))? {
                Answer::Done(status, body) => return Ok(End::Status(status, body)),
                Answer::Redirect(location, body) => match self.same_host(&location) {
                    Some(next) => path = next,
                    None => return Ok(End::Elsewhere(body)),
                },
            }
        }
        Err(format!("Get \"{}\": stopped after {REDIRECTS_MAX} redirects", self.url(&path)))
    }

    /// The path of a redirect that stays on this host.
    fn same_host(&self, location: &str) -> Option<String> {
        if location.starts_with('/') && !location.starts_with("//") {
            return Some(location.to_owned());
        }
        let uri: http::Uri = location.parse().ok()?;
        (uri.host() == Some(self.host.trim_matches(['[', ']'])))
            .then(|| uri.path_and_query().map_or_else(|| "/".to_owned(), ToString::to_string))
    }

    async fn get(&self, path: &str) -> Result<Answer, String> {
        let address = join(&self.host, self.port);
        let stream = TcpStream::connect(&address).await.map_err(|e| dial_error(&address, &e))?;
        if self.https {
            let name = rustls::pki_types::ServerName::try_from(self.host.clone()).map_err(|e| e.to_string())?;
            let connected = TlsConnector::from(Arc::clone(tls::unverified())).connect(name, stream).await;
            let stream = connected.map_err(|error| if speaks_no_tls(&error) { NO_TLS.to_owned() } else { error.to_string() })?;
            self.send(path, TokioIo::new(stream)).await
        } else {
            self.send(path, TokioIo::new(stream)).await
        }
    }

    async fn send<T>(&self, path: &str, io: T) -> Result<Answer, String>
    where
        T: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
    {
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake::<_, Empty<Bytes>>(io).await.map_err(|e| e.to_string())?;
        let mut request = http::Request::get(path);
        let named =
            |name: &str| self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.clone());
        request = request.header("Host", named("Host").unwrap_or_else(|| join(&self.host, self.port)));
        if named("User-Agent").is_none() {
            request = request.header("User-Agent", self.agent);
        }
        if named("Accept").is_none() {
            request = request.header("Accept", "*/*");
        }
        for (key, value) in self.headers.iter().filter(|(key, value)| !key.eq_ignore_ascii_case("Host") && !value.is_empty()) {
            request = request.header(key, value);
        }
        let request = request.header("Connection", "close").body(Empty::new()).map_err(|e| e.to_string())?;
        let exchange = async {
            let response = sender.send_request(request).await.map_err(|e| e.to_string())?;
            let status = response.status().as_u16();
            let location = response.headers().get("Location").and_then(|l| l.to_str().ok()).map(str::to_owned);
            // The body is read so that the server is not cut off; one that is too long is.
            let body = beginning(response.into_body()).await;
            Ok(match (status, location) {
                (301 | 302 | 303 | 307 | 308, Some(location)) => Answer::Redirect(location, body),
                _ => Answer::Done(status, body),
            })
        };
        tokio::pin!(exchange);
        tokio::pin!(connection);
        tokio::select! {
            answer = &mut exchange => answer,
            ended = &mut connection => match ended {
                // The server closed after its answer: what was sent is still to be read.
                Ok(()) => exchange.await,
                Err(error) => Err(error.to_string()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// Answers every connection with the status, and tells what was asked.
    fn server(status: u16) -> (u16, std::sync::mpsc::Receiver<String>) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (send, receive) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (Ok(mut stream), mut buffer) = (stream, [0; 1024]) else { return };
                let length = stream.read(&mut buffer).unwrap_or(0);
                let _ = write!(stream, "HTTP/1.1 {status} Status\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
                if send.send(String::from_utf8_lossy(&buffer[..length]).into_owned()).is_err() {
                    return;
                }
            }
        });
        (port, receive)
    }

    fn check(scheme: &str, port: u16) -> HttpCheck {
        let action = serde_json::from_value(serde_json::json!({"port": port, "scheme": scheme, "path": "/x",
            "httpHeaders": [{"name": "Authorization", "value": "secret"}]}));
        HttpCheck::new(&Container::default(), &action.unwrap(), "127.0.0.1").unwrap()
    }

    #[tokio::test]
    async fn any_answer_will_do_for_a_hook_but_not_for_a_probe() {
        let (port, asked) = server(500);
        assert_eq!(
            check("HTTP", port).run(Duration::from_secs(5)).await,
            Err("HTTP probe failed with statuscode: 500".to_owned())
        );
        assert!(asked.recv().unwrap().contains("user-agent: kube-probe/1.35"));
        assert_eq!(check("HTTP", port).notify(Duration::from_secs(5)).await, Ok(None));
        let request = asked.recv().unwrap();
        assert!(request.contains("user-agent: kube-lifecycle/1.35") && request.contains("secret"), "{request}");
    }

    #[tokio::test]
    async fn a_hook_whose_server_has_no_tls_is_sent_without() {
        let (port, asked) = server(200);
        let url = format!("Get \"https://127.0.0.1:{port}/x\": {NO_TLS}");
        assert_eq!(check("HTTPS", port).run(Duration::from_secs(5)).await, Err(url));
        asked.recv().unwrap();
        assert_eq!(check("HTTPS", port).notify(Duration::from_secs(5)).await, Ok(Some(format!("127.0.0.1:{port}"))));
        asked.recv().unwrap();
        let request = asked.recv().unwrap();
        assert!(request.starts_with("GET /x HTTP/1.1") && !request.contains("secret"), "{request}");
    }

    /// Gets `/` of a server that gives these answers, a connection each.
    async fn outcome(answers: Vec<String>) -> Result<Option<String>, String> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let serving = async {
            for answer in answers {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = [0; 1024];
                assert!(stream.read(&mut request).await.unwrap() > 0);
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
            std::future::pending().await
        };
        let check = check("HTTP", port);
        tokio::select! {
            result = check.run(Duration::from_secs(60)) => result,
            () = serving => unreachable!("it is pending"),
        }
    }

    #[tokio::test]
    async fn answers_that_lead_elsewhere() {
        let redirect = |to: &str, body: &str| {
            format!("HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: {}\r\n\r\n{body}", body.len())
        };
        let plain = |status: u16| format!("HTTP/1.1 {status} X\r\nContent-Length: 4\r\n\r\nbody");
        let warning = |body: &str| Ok(Some(format!("Probe terminated redirects, Response body: {body}")));
        assert_eq!(outcome(vec![plain(200)]).await, Ok(None));
        assert_eq!(outcome(vec![redirect("/next", ""), plain(201)]).await, Ok(None));
        assert_eq!(outcome(vec![redirect("http://192.0.2.1/", "<a>")]).await, warning("<a>"));
        assert_eq!(outcome(vec![plain(300)]).await, warning("body"));
        assert_eq!(outcome(vec![plain(500)]).await, Err("HTTP probe failed with statuscode: 500".to_owned()));
        // Nobody waits for the rest of a body that never ends.
        let endless = format!("HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n{}", "x".repeat(BODY_BYTES_MAX));
        assert_eq!(outcome(vec![endless]).await, Ok(None));
        let long = "x".repeat(2 * BODY_BYTES_MAX);
        assert_eq!(outcome(vec![redirect("//other/", &long)]).await, warning(&long[..BODY_BYTES_MAX]));
    }
}
