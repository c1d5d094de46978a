//! The server without a socket: what components in the same process give to `kube::Client::new`.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use ::http::{Request, Response};
use bytes::Bytes;
use tower::Service;

use crate::auth::{PeerCertificates, UserInfo};
use crate::http::{Body, BoxError};
use crate::server::ApiServer;

/// A `tower::Service` with a preset identity: the same filter chain as over the network, without authentication.
#[derive(Clone)]
pub struct InProcessService {
    server: Arc<ApiServer>,
    user: Arc<UserInfo>,
}

impl InProcessService {
    pub(crate) fn new(server: Arc<ApiServer>, user: UserInfo) -> Self {
        Self { server, user: Arc::new(user) }
    }
}

impl<B> Service<Request<B>> for InProcessService
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let (server, user) = (self.server.clone(), self.user.clone());
        Box::pin(async move {
            let mut request = request.map(Body::new);
            request.extensions_mut().remove::<PeerCertificates>();
            request.extensions_mut().insert(user.as_ref().clone());
            Ok(server.handle(request).await)
        })
    }
}
