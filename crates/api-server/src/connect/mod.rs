//! Subresources that are not parts of their object: logs, exec, port-forward, proxies.
//!
//! A connector gets the request as it came, after authentication, authorization and the lookup in the table, and answers it; it may
//! upgrade the connection. It goes through admission (CONNECT) here, so that no connector can forget it.

mod backend;
mod kubelet;
mod kubelet_tls;
mod log_options;
mod proxy;
mod rewrite;
mod target;
mod verify;

use std::collections::HashMap;
use std::sync::Arc;

use ::http::{Request, Response};
use apimachinery::Status;
use async_trait::async_trait;

use crate::http::{Body, RequestContext};
use crate::server::ApiServer;

pub(crate) use backend::{Backends, trusting_tls};
pub use kubelet::KubeletAccess;
pub use kubelet_tls::{KubeletAccessError, KubeletIdentity};
pub(crate) use proxy::{Kind as ProxyKind, Proxy};

/// Answers a subresource.
#[async_trait]
pub trait Connector: Send + Sync + 'static {
    /// Answers one request; `context.info` says for which object.
    async fn connect(
        &self,
        server: &Arc<ApiServer>,
        context: &RequestContext,
        request: Request<Body>,
    ) -> Result<Response<Body>, Status>;
}

/// All connectors, by group, resource and subresource.
#[derive(Default)]
pub(crate) struct Connectors(HashMap<(String, String, String), Arc<dyn Connector>>);

impl Connectors {
    /// Adds one; the last one for a place counts.
    pub(crate) fn add(&mut self, group: &str, resource: &str, subresource: &str, connector: Arc<dyn Connector>) {
        self.0.insert((group.to_owned(), resource.to_owned(), subresource.to_owned()), connector);
    }

    /// The one for a place.
    pub(crate) fn get(&self, group: &str, resource: &str, subresource: &str) -> Option<&Arc<dyn Connector>> {
        self.0.get(&(group.to_owned(), resource.to_owned(), subresource.to_owned()))
    }
}
