//! The filter chain: what happens to every request before an endpoint sees it, in upstream's order (`DefaultBuildHandlerChain`).
//!
//! Outermost first: audit id, panic recovery, request info, metrics, cache control, deadline, warnings, authentication, audit,
//! impersonation, in-flight limit, authorization. [`run`] is that list; each filter is a module beside this one. Absent, with their
//! place marked in the list: audit, priority and fairness (the in-flight limit stands in its place), CORS, tracing.

mod deadline;
mod in_flight;
mod warnings;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Instant;

use ::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use ::http::{Request, Response, StatusCode};
use apimachinery::{GroupResource, Reason, Status};
use futures::FutureExt;

pub use in_flight::{InFlightLimits, InFlightMax};

use crate::auth::{Attributes, Decision, ImpersonationError, PeerCertificates, UserInfo, impersonate};
use crate::endpoints;
use crate::http::{Body, Query, RequestContext, RequestInfo, Warnings};
use crate::metrics::RequestLabels;
use crate::server::ApiServer;

const AUDIT_ID: HeaderName = HeaderName::from_static("audit-id");

/// Answers a request: through the chain, then its endpoint. A request whose extensions hold a [`UserInfo`] was authenticated by
/// whoever called in process; a listener never puts one there.
pub(crate) async fn run(server: &Arc<ApiServer>, mut request: Request<Body>) -> Response<Body> {
    let audit_id = audit_id(request.headers());
    let started = Instant::now();
    if has_broken_escape(request.uri().path()) {
        // Go's server does not come to asking anybody.
        let mut response = endpoints::text_error(StatusCode::BAD_REQUEST, "400 Bad Request");
        response.headers_mut().remove(header::X_CONTENT_TYPE_OPTIONS);
        return response;
    }
    let query = Query::parse(request.uri().query().unwrap_or_default());
    let info = match RequestInfo::new(request.method(), request.uri().path(), &query) {
        Ok(info) => Arc::new(info),
        Err(error) => {
            let asked = request.uri().path_and_query().map(|asked| asked.as_str()).unwrap_or_default();
            let asked = apimachinery::go_quote(asked);
            let text = format!("Internal Server Error: {asked}: failed to create RequestInfo: {error}\n");
            return endpoints::text_error(StatusCode::INTERNAL_SERVER_ERROR, text);
        }
    };
    let long_running = deadline::is_long_running(&info);
    let apply =
        request.headers().get(header::CONTENT_TYPE).is_some_and(|v| v.as_bytes().starts_with(b"application/apply-patch+"));
    let labels = RequestLabels::new(&info, &query, request.method(), apply, server.serves(&info));
    let agent = request.headers().get(header::USER_AGENT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let context = RequestContext {
        user: Arc::new(UserInfo::anonymous()),
        info: info.clone(),
        query: Arc::new(query),
        audit_id: audit_id.as_str().into(),
        user_agent: agent.into(),
        deadline: None,
        warnings: Warnings::default(),
        gates: server.config().gates,
    };
    let warnings = context.warnings.clone();
    let running = long_running.then(|| server.metrics().long_running(&labels));
    let guarded = AssertUnwindSafe(within_deadline(server, context, &mut request, long_running)).catch_unwind();
    let mut response = guarded.await.unwrap_or_else(|_| {
        // The panic hook has logged where; the client learns no more than that.
        tracing::error!(path = info.path, verb = info.verb.as_str(), "a request panicked");
        endpoints::status_response(&Status::new(
            Reason::InternalError,
            "This request caused apiserver to panic. Look in the logs for details.",
        ))
    });
    if let Some(running) = running {
        response = response.map(|body| deadline::until_drained(body, server.draining().clone(), running));
    }
    server.metrics().answered(&labels, response.status(), started.elapsed(), long_running);
    let headers = response.headers_mut();
    warnings::write(&warnings, headers);
    if let Ok(value) = HeaderValue::from_str(&audit_id) {
        headers.insert(AUDIT_ID, value);
    }
    if let Some(directives) = &server.config().strict_transport_security {
        headers.entry(header::STRICT_TRANSPORT_SECURITY).or_insert_with(|| directives.clone());
    }
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-cache, private"));
    response
}

/// Whether a percent sign is not followed by two hexadecimal digits.
fn has_broken_escape(path: &str) -> bool {
    let bytes = path.as_bytes();
    let is_hex = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_hexdigit);
    bytes.iter().enumerate().any(|(at, byte)| *byte == b'%' && !(is_hex(at + 1) && is_hex(at + 2)))
}

/// The client's id for the request if it has a sane one, or a new one.
fn audit_id(headers: &HeaderMap) -> String {
    let sane = |id: &&str| !id.is_empty() && id.len() <= 64;
    let given = headers.get(AUDIT_ID).and_then(|value| value.to_str().ok()).filter(sane);
    given.map_or_else(|| uuid::Uuid::new_v4().to_string(), str::to_owned)
}

async fn within_deadline(
    server: &Arc<ApiServer>,
    mut context: RequestContext,
    request: &mut Request<Body>,
    long_running: bool,
) -> Response<Body> {
    if long_running {
        return identified(server, context, request).await;
    }
    let limit = match deadline::limit(&context.query, server.config().request_timeout) {
        Ok(limit) => limit,
        Err(status) => return endpoints::status_response(&status),
    };
    context.deadline = Some(Instant::now() + limit);
    match tokio::time::timeout(limit, identified(server, context, request)).await {
        Ok(response) => response,
        Err(_) => endpoints::status_response(&deadline::timed_out()),
    }
}

/// Authentication, audit, impersonation, in-flight limit.
async fn identified(server: &Arc<ApiServer>, mut context: RequestContext, request: &mut Request<Body>) -> Response<Body> {
    let real = match request.extensions_mut().remove::<UserInfo>() {
        Some(preset) => preset,
        None => {
            let peer = request.extensions_mut().remove::<PeerCertificates>();
            match server.access().authenticate(request.headers_mut(), peer.as_ref()).await {
                Ok(user) => user,
                Err(error) => {
                    tracing::debug!(error = %error, path = context.info.path, "a request is not authenticated");
                    return endpoints::status_response(&Status::unauthorized("Unauthorized"));
                }
            }
        }
    };
    // Audit goes here: it must see the real user, and everything below.
    let user = match impersonate(request.headers_mut(), &real, &server.access().authorizers).await {
        Ok(impersonated) => impersonated.unwrap_or(real),
        Err(error) => {
            let mut response = endpoints::status_response(&impersonation_status(error));
            response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
            return response;
        }
    };
    context.user = Arc::new(user);
    let Some(permit) = server.in_flight().enter(&context, server.metrics()) else {
        return endpoints::status_response(&in_flight::too_many_requests());
    };
    let response = authorized(server, context, request).await;
    drop(permit);
    response
}

fn impersonation_status(error: ImpersonationError) -> Status {
    match error {
        ImpersonationError::WithoutUser(_) => Status::bad_request(error.to_string()),
        ImpersonationError::Forbidden { group, resource, name, message } => {
            Status::forbidden(&GroupResource { group: group.to_owned(), resource: resource.to_owned() }, &name, message)
        }
        ImpersonationError::Lookup(_) => Status::internal_error(error),
    }
}

async fn authorized(server: &Arc<ApiServer>, context: RequestContext, request: &mut Request<Body>) -> Response<Body> {
    let attributes = Attributes::of_request(&context.user, &context.info);
    let refusal = match server.access().authorizers.authorize(&attributes).await {
        Ok(Decision::Allow(_)) => None,
        Ok(Decision::Deny(reason) | Decision::NoOpinion(reason)) => Some(attributes.forbidden(&reason)),
        Err(error) => Some(Status::internal_error(error)),
    };
    if let Some(status) = refusal {
        let mut response = endpoints::status_response(&status);
        response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        return response;
    }
    endpoints::dispatch(server, context, std::mem::take(request)).await
}
