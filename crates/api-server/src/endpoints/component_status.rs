//! ComponentStatuses: how the control plane's parts are, asked at the moment of the request (deprecated since v1.19; upstream's
//! `registry/core/componentstatus`).

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ::http::{HeaderMap, Request, Response, StatusCode};
use apimachinery::selector::{FieldSelector, LabelSelector};
use apimachinery::{Status, Value, value};
use http_body_util::{BodyExt, Limited};

use super::negotiate::{Answer, Shape, negotiate};
use super::respond::{object_response, value_response};
use crate::connect::trusting_tls;
use crate::http::{Body, RequestContext, Verb};
use crate::registry::Endpoint;
use crate::server::ApiServer;
use crate::table;

/// How long one part may take to answer.
const TIMEOUT: Duration = Duration::from_secs(20);
/// The store's name; upstream numbers the members of etcd.
const STORE: &str = "etcd-0";
/// More of an answer than this is not looked at (upstream's `maxRespBodyLength`).
const ANSWER_BYTES_MAX: usize = 10 * 1024;

/// Answers a list or a get.
pub(super) async fn respond(
    server: &Arc<ApiServer>,
    endpoint: &Endpoint,
    context: &RequestContext,
    headers: &HeaderMap,
) -> Result<Response<Body>, Status> {
    if context.info.verb == Verb::Get {
        let accepted = negotiate(headers, context, Answer::Object)?;
        let name = context.info.name.as_str();
        let status = one(server, name).await.ok_or_else(|| Status::not_found(&endpoint.row.group_resource(), name))?;
        return Ok(object_response(StatusCode::OK, status, endpoint, accepted));
    }
    let accepted = negotiate(headers, context, Answer::List)?;
    let bad = |error: &dyn std::fmt::Display| Status::bad_request(error.to_string());
    let labels = LabelSelector::parse(context.query.get("labelSelector").unwrap_or_default()).map_err(|error| bad(&error))?;
    let fields = FieldSelector::parse(context.query.get("fieldSelector").unwrap_or_default()).map_err(|error| bad(&error))?;
    let mut items = Vec::new();
    for name in names(server) {
        let field = |field: &str| if field == "metadata.name" { name } else { "" };
        if labels.matches_with(|_| None) && fields.matches_with(field) {
            items.extend(one(server, name).await);
        }
    }
    let metadata = Value::object();
    let list = match accepted.shape {
        Shape::Table(version) => {
            let include = table::Include::parse(context.query.get("includeObject"))?;
            table::table(&endpoint.row, version, metadata, &items, include, true)
        }
        Shape::Metadata(_) | Shape::Misfit => return Err(Status::only_accepted(super::negotiate::supported(context))),
        Shape::Object => {
            items.iter_mut().for_each(|item| {
                item.remove("kind");
                item.remove("apiVersion");
            });
            value!({"kind": "ComponentStatusList", "apiVersion": "v1", "metadata": metadata, "items": items})
        }
    };
    Ok(value_response(StatusCode::OK, &list, accepted))
}

fn names(server: &ApiServer) -> impl Iterator<Item = &str> {
    server.config().components.iter().map(|(name, _)| name.as_str()).chain([STORE])
}

async fn one(server: &Arc<ApiServer>, name: &str) -> Option<Value> {
    let (healthy, message, error) = match server.config().components.iter().find(|(have, _)| have == name) {
        Some((_, address)) => match tokio::time::timeout(TIMEOUT, probe(server, *address)).await {
            Ok((healthy, message)) => (healthy, message, String::new()),
            Err(_) => (false, "context deadline exceeded".to_owned(), String::new()),
        },
        None if name == STORE => match server.store().current_revision().await {
            Ok(_) => (true, "ok".to_owned(), String::new()),
            Err(error) => (false, String::new(), error.to_string()),
        },
        None => return None,
    };
    let mut condition = value!({"type": "Healthy", "status": if healthy { "True" } else { "False" }});
    for (member, text) in [("message", message), ("error", error)] {
        if !text.is_empty() {
            condition.insert(member, text);
        }
    }
    Some(value!({"kind": "ComponentStatus", "apiVersion": "v1", "metadata": {"name": name}, "conditions": [condition]}))
}

/// Asks a part of the control plane on this machine for its `/healthz`, whatever its certificate.
async fn probe(server: &Arc<ApiServer>, address: SocketAddr) -> (bool, String) {
    let url = format!("https://{address}/healthz");
    let request = Request::get("/healthz").header("host", address.to_string()).body(Body::empty());
    let request = match request {
        Ok(request) => request,
        Err(error) => return (false, error.to_string()),
    };
    let answer = match server.backends().send(address, Some(&trusting_tls()), request).await {
        Ok(answer) => answer,
        Err(error) => return (false, format!("Get \"{url}\": {error}")),
    };
    let code = answer.status();
    let text = match Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await {
        Ok(body) => String::from_utf8_lossy(&body.to_bytes()).into_owned(),
        Err(error) => return (false, error.to_string()),
    };
    match code.is_success() {
        true => (true, text),
        false => (false, format!("HTTP probe failed with statuscode: {}", code.as_u16())),
    }
}
