//! The endpoints: what answers a request that passed the filters.

mod respond;

use std::sync::Arc;

use ::http::{Request, Response};
use apimachinery::Status;

pub use respond::status_response;

use crate::http::{Body, RequestContext};
use crate::server::ApiServer;

/// Finds the endpoint of a request and lets it answer.
pub(crate) async fn dispatch(_server: &Arc<ApiServer>, _context: RequestContext, _request: Request<Body>) -> Response<Body> {
    status_response(&Status::path_not_found())
}
