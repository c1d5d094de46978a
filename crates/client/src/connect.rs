//! Clients over a service in the same process. Knows nothing of sockets.

use kube::client::Body;
use tower::{BoxError, Service};

/// Makes a client on top of a tower service, usually the API server's own router in this process: no socket, no TLS.
///
/// The service decides who the caller is; `default_namespace` is what [`kube::Api::default_namespaced`] uses.
/// Must be called inside a Tokio runtime: the client starts one small buffering task that ends when the last
/// clone is dropped.
pub fn from_service<S, B>(service: S, default_namespace: &str) -> kube::Client
where
    S: Service<http::Request<Body>, Response = http::Response<B>> + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: hyper::body::Body<Data = bytes::Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    kube::Client::new(service, default_namespace)
}
