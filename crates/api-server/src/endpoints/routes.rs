//! Which requests have somebody to answer them, as upstream's two routers decide it: a plain one, which looks at whole paths and takes every
//! method, and go-restful below `/api` and the served groups of `/apis`, which then looks at method, `Content-Type` and `Accept`.

use ::http::header::{ACCEPT, CONTENT_TYPE, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use ::http::{HeaderMap, Method, Response, StatusCode};
use apimachinery::{Reason, Status, StatusDetails};

use super::negotiate::{streamed, supported};
use crate::gates::Feature;
use crate::http::{Body, RequestContext, Verb};
use crate::resource_metrics;
use crate::server::ApiServer;

/// Who answers below a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Router {
    /// go-restful: what it does not know is a `Status`.
    Restful,
    /// The plain one: what it does not know is a line of text.
    Plain,
}

impl Router {
    /// Of a request.
    pub(super) fn of(server: &ApiServer, context: &RequestContext) -> Router {
        let path = context.info.path.as_str();
        if path.starts_with("//") {
            return Router::Plain;
        }
        let mut parts = path.split('/').skip(1);
        match (parts.next(), parts.next()) {
            (Some("api"), _) => Router::Restful,
            (Some("apis"), Some(group)) if serves(server, group) => Router::Restful,
            (Some("version"), _) => Router::Restful,
            (Some("openid"), Some("v1")) if path.starts_with("/openid/v1/jwks") => Router::Restful,
            (Some(".well-known"), Some("openid-configuration")) => Router::Restful,
            _ => Router::Plain,
        }
    }
}

/// Whether some version of a group is served.
fn serves(server: &ApiServer, group: &str) -> bool {
    let own = || server.engine().catalog.endpoints().iter().any(|endpoint| endpoint.row.gvr.group == group);
    let metrics = || group == resource_metrics::GROUP && server.resource_metrics().is_some();
    !group.is_empty() && (own() || metrics())
}

/// The plain router's answer to what it does not know: Go's `http.NotFound`.
pub(super) fn page_not_found() -> Response<Body> {
    text_error(StatusCode::NOT_FOUND, "404 page not found\n")
}

/// Go's `http.Error`.
pub(crate) fn text_error(code: StatusCode, text: impl Into<bytes::Bytes>) -> Response<Body> {
    let mut response = Response::new(Body::full(text));
    *response.status_mut() = code;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// Methods that a route of a resource may have; a HEAD is no GET here.
pub(super) fn check_method(method: &Method, context: &RequestContext) -> Result<(), Status> {
    // There are routes for the old paths, but for none of these.
    if context.info.verb == Verb::Proxy {
        return Err(Status::path_not_found());
    }
    let usual = [&Method::GET, &Method::POST, &Method::PUT, &Method::PATCH, &Method::DELETE];
    let proxied = context.info.subresource == "proxy" && [&Method::HEAD, &Method::OPTIONS].contains(&method);
    let watched = context.info.verb != Verb::Watch || *method == Method::GET;
    match (usual.contains(&method) || proxied) && watched {
        true => Ok(()),
        false => Err(Status::method_not_allowed()),
    }
}

/// What go-restful says of the headers of a request whose route writes these media types.
pub(super) fn check_headers(method: &Method, headers: &HeaderMap, context: &RequestContext) -> Result<(), Status> {
    if *method == Method::PATCH && context.info.subresource != "proxy" {
        check_patch_type(headers, context)?;
    }
    match (context.info.subresource.as_str(), context.info.resource.as_str()) {
        // These write anything.
        ("proxy" | "exec" | "attach" | "portforward", _) => Ok(()),
        ("log", "pods") => check_accept(headers, ["text/plain"].into_iter().chain(supported(context).iter().copied())),
        _ => {
            let streams = match context.info.verb {
                Verb::List | Verb::Watch => streamed(context),
                _ => &[],
            };
            check_accept(headers, supported(context).iter().chain(streams).copied())
        }
    }
}

/// The first value of `Accept` names one of these, parameters and case and quality aside; a wildcard is only `*/*`.
pub(crate) fn check_accept<'a>(headers: &HeaderMap, written: impl Iterator<Item = &'a str> + Clone) -> Result<(), Status> {
    let accept = headers.get(ACCEPT).map(|value| value.to_str().unwrap_or("?")).unwrap_or_default();
    if accept.is_empty() {
        return Ok(());
    }
    // A comma at the end is followed by nothing that counts.
    let mut types = accept.strip_suffix(',').unwrap_or(accept).split(',');
    let names = types.any(|one| {
        let media_type = one.split(';').next().unwrap_or_default().trim_matches(' ');
        media_type == "*/*" || written.clone().any(|known| known == media_type)
    });
    if names { Ok(()) } else { Err(Status::not_acceptable(&written.collect::<Vec<_>>())) }
}

fn check_patch_type(headers: &HeaderMap, context: &RequestContext) -> Result<(), Status> {
    const TYPES: [&str; 4] = [
        "application/json-patch+json",
        "application/merge-patch+json",
        "application/strategic-merge-patch+json",
        "application/apply-patch+yaml",
    ];
    let sent = headers.get(CONTENT_TYPE).map(|value| value.to_str().unwrap_or("?")).unwrap_or_default();
    let known = sent.split(',').any(|one| {
        let media_type = one.split(';').next().unwrap_or_default().trim_matches(' ');
        TYPES.contains(&media_type)
            || (context.gates.has(Feature::CborServingAndStorage) && media_type == "application/apply-patch+cbor")
    });
    match known {
        true => Ok(()),
        false => {
            Err(Status::new(Reason::UnsupportedMediaType, "415: Unsupported Media Type").with_details(StatusDetails::default()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accept_as_go_restful_reads_it() {
        let check = |accept: &'static str| {
            let headers = HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static(accept))]);
            check_accept(&headers, ["application/json", "application/yaml"].into_iter()).is_ok()
        };
        for accept in ["", "*/*", "application/json", "text/html, application/yaml;q=0", "application/json;stream=x", "a,*/*,"] {
            assert!(check(accept), "{accept}");
        }
        for accept in ["application/*", "text/html", "APPLICATION/JSON", "application / json", ",", ";"] {
            assert!(!check(accept), "{accept}");
        }
    }
}
