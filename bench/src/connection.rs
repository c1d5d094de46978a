//! One HTTP/1.1 connection over TLS with one request at a time: the cheapest client there is, so that the server is what is measured.

use anyhow::Context;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use hyper::header::{ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_TYPE, HOST};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::target::Target;

/// An open connection.
pub(crate) struct Connection {
    sender: SendRequest<Full<Bytes>>,
    target: Target,
}

/// What is asked.
#[derive(Clone)]
pub(crate) struct Call {
    /// The HTTP method.
    pub(crate) method: Method,
    /// Path and query.
    pub(crate) path: String,
    /// `Content-Type` and body.
    pub(crate) body: Option<(&'static str, Bytes)>,
    /// `Accept`.
    pub(crate) accept: &'static str,
    /// Ask for a compressed answer.
    pub(crate) gzip: bool,
}

impl Connection {
    /// Connects, TLS handshake included.
    pub(crate) async fn open(target: &Target) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(&target.address).await.with_context(|| format!("cannot reach {}", target.address))?;
        stream.set_nodelay(true)?;
        let stream = TlsConnector::from(target.tls.clone()).connect(target.server_name.clone(), stream).await?;
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        // It ends when the sender is dropped; what fails is seen by the request.
        tokio::spawn(connection);
        Ok(Self { sender, target: target.clone() })
    }

    /// A request without headers but those that any has.
    pub(crate) fn request(&self, method: Method, path: &str) -> hyper::http::request::Builder {
        let request = Request::builder().method(method).uri(path).header(HOST, &self.target.address);
        match &self.target.authorization {
            Some(authorization) => request.header(AUTHORIZATION, authorization),
            None => request,
        }
    }

    /// Sends any request and returns the answer's head; the body is still to be read.
    pub(crate) async fn send(&mut self, request: Request<Full<Bytes>>) -> anyhow::Result<Response<Incoming>> {
        self.sender.ready().await?;
        Ok(self.sender.send_request(request).await?)
    }

    /// Sends a request and returns the answer's head; the body is still to be read.
    pub(crate) async fn start(&mut self, call: &Call) -> anyhow::Result<Response<Incoming>> {
        let mut request = self.request(call.method.clone(), &call.path).header(ACCEPT, call.accept);
        if call.gzip {
            request = request.header(ACCEPT_ENCODING, "gzip");
        }
        let body = match &call.body {
            Some((content_type, body)) => {
                request = request.header(CONTENT_TYPE, *content_type);
                body.clone()
            }
            None => Bytes::new(),
        };
        self.send(request.body(Full::new(body))?).await
    }

    /// Sends a request and reads the answer to its end without keeping it; returns the status and the length of the body.
    pub(crate) async fn run(&mut self, call: &Call) -> anyhow::Result<(StatusCode, u64)> {
        let mut response = self.start(call).await?;
        let mut length = 0;
        while let Some(frame) = response.body_mut().frame().await {
            length += frame?.data_ref().map_or(0, |data| data.len() as u64);
        }
        Ok((response.status(), length))
    }

    /// Sends a request and returns the answer's body, which must be a success.
    pub(crate) async fn fetch(&mut self, call: &Call) -> anyhow::Result<Bytes> {
        let response = self.start(call).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        anyhow::ensure!(
            status.is_success(),
            "{} {} answered {status}: {}",
            call.method,
            call.path,
            String::from_utf8_lossy(&body[..body.len().min(500)])
        );
        Ok(body)
    }
}
