//! `rusternetes hello`: a web server for examples and tests, the workload that needs no image from anywhere.

use std::convert::Infallible;
use std::net::{Ipv6Addr, SocketAddr};

use anyhow::Context;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

/// Flags of `rusternetes hello`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// TCP port to listen on, all addresses.
    #[arg(long, default_value_t = 8080)]
    port: u16,
    /// What to say.
    #[arg(long, default_value = "Hello from Rusternetes")]
    message: String,
}

/// Serves until SIGTERM or SIGINT.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    // One thread: a pod of this costs as little as it can.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start")?;
    runtime.block_on(serve(options))
}

async fn serve(options: &Options) -> anyhow::Result<()> {
    let listener = bind(options.port).await?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let (stream, peer) = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok(connection) => connection,
                Err(error) => {
                    eprintln!("cannot accept a connection: {error}");
                    continue;
                }
            },
            _ = connections.join_next(), if !connections.is_empty() => continue,
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
        };
        let message = options.message.clone();
        connections.spawn(async move {
            let service = hyper::service::service_fn(move |request| {
                let answer = answer(&message, peer, &request);
                async move { Ok::<_, Infallible>(answer) }
            });
            // A client that goes away is its own business.
            let _ = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

/// Dual stack where the kernel has IPv6, IPv4 otherwise.
async fn bind(port: u16) -> anyhow::Result<TcpListener> {
    match TcpListener::bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))).await {
        Ok(listener) => Ok(listener),
        Err(_) => TcpListener::bind(SocketAddr::from(([0, 0, 0, 0], port)))
            .await
            .with_context(|| format!("cannot listen on port {port}")),
    }
}

fn answer(message: &str, peer: SocketAddr, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let host = nix::unistd::gethostname().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    println!("{} {} from {}", request.method(), request.uri().path(), peer.ip().to_canonical());
    let body = format!("{message}\nhost: {host}\npath: {}\nclient: {}\n", request.uri().path(), peer.ip().to_canonical());
    Response::new(Full::new(Bytes::from(body)))
}
