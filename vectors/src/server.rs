//! Our server with everything turned on, as upstream's was when it wrote the documents; in this process, without a socket.

use std::sync::Arc;

use anyhow::{Context, Result, bail};
use api_server::{ApiEnablement, ApiServer, Body, ServerConfig, UserInfo, names};
use http::Request;
use http::header::{ACCEPT, HeaderMap};
use http_body_util::BodyExt;
use storage::Memory;

/// The server, and what runs it.
pub(crate) struct Server {
    server: Arc<ApiServer>,
    runtime: tokio::runtime::Runtime,
}

impl Server {
    pub(crate) fn start() -> Result<Server> {
        let apis = ApiEnablement::parse(&["api/all=true".to_owned()]).map_err(anyhow::Error::msg)?;
        let config = ServerConfig { apis, ..ServerConfig::default() };
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().context("tokio")?;
        let guard = runtime.enter();
        let server = ApiServer::builder(config, Arc::new(Memory::new())).build();
        drop(guard);
        Ok(Server { server, runtime })
    }

    /// A document and its headers; an error unless the answer is 200.
    pub(crate) fn get(&self, path: &str, accept: &str) -> Result<(HeaderMap, Vec<u8>)> {
        self.runtime.block_on(async {
            let mut request = Request::get(path).header(ACCEPT, accept).body(Body::empty())?;
            request.extensions_mut().insert(UserInfo::new("vectors", &[names::MASTERS]));
            let response = self.server.handle(request).await;
            let (head, body) = response.into_parts();
            let bytes = body.collect().await.map_err(anyhow::Error::from_boxed)?.to_bytes();
            if head.status != http::StatusCode::OK {
                bail!("GET {path}: {} {}", head.status, String::from_utf8_lossy(&bytes));
            }
            Ok((head.headers, bytes.to_vec()))
        })
    }
}
