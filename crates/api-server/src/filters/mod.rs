//! The filter chain, in upstream's order (`DefaultBuildHandlerChain`): what happens to every request before an endpoint sees it.

use std::sync::Arc;

use ::http::{Request, Response};

use crate::auth::UserInfo;
use crate::endpoints;
use crate::http::{Body, Query, RequestContext, RequestInfo, Warnings};
use crate::server::ApiServer;

/// Runs a request through the chain and then its endpoint.
pub(crate) async fn run(server: &Arc<ApiServer>, request: Request<Body>) -> Response<Body> {
    let query = Query::parse(request.uri().query().unwrap_or_default());
    let info = match RequestInfo::new(request.method(), request.uri().path(), &query) {
        Ok(info) => info,
        Err(error) => {
            let status = apimachinery::Status::internal_error(format_args!("failed to create RequestInfo: {error}"));
            return endpoints::status_response(&status);
        }
    };
    let user = request.extensions().get::<UserInfo>().cloned().unwrap_or_else(UserInfo::anonymous);
    let agent = request.headers().get(http::header::USER_AGENT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let context = RequestContext {
        user: Arc::new(user),
        info: Arc::new(info),
        query: Arc::new(query),
        audit_id: uuid::Uuid::new_v4().to_string().into(),
        user_agent: agent.into(),
        deadline: None,
        warnings: Warnings::default(),
    };
    endpoints::dispatch(server, context, request).await
}
