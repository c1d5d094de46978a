//! The endpoints: what answers a request that passed the filters.

mod respond;

use std::sync::Arc;

use ::http::{Request, Response};
use apimachinery::Status;

pub use respond::status_response;

use crate::http::{Body, RequestContext};
use crate::server::ApiServer;

/// Finds the endpoint of a request and lets it answer.
pub(crate) async fn dispatch(server: &Arc<ApiServer>, context: RequestContext, request: Request<Body>) -> Response<Body> {
    if let Some(response) = crate::frontend::respond(server, &context, request.method()).await {
        return response;
    }
    status_response(&Status::path_not_found())
}
