//! The endpoints: what answers a request that passed the filters.
//!
//! [`dispatch`] finds the row of the table that a request is for and the verb's endpoint: `read`, `watch`, `change` work for every
//! resource; `scale`, `binding`, `eviction` are subresources that write another object than they speak; `discovery` answers for the table.

mod apply;
mod binding;
mod body;
mod change;
mod codecs;
mod component_status;
mod compress;
mod discovery;
mod eviction;
mod history;
mod list;
mod negotiate;
mod patch;
mod read;
mod respond;
mod routes;
mod scale;

mod watch;
mod websocket;

use std::sync::Arc;

use ::http::{Method, Request, Response, StatusCode};
use apimachinery::{Status, Value};

pub(crate) use compress::accepts_gzip;
pub(crate) use discovery::GIT_VERSION;
pub(crate) use negotiate::accepted_media_types;
pub(crate) use respond::{json_response, partial_metadata, status_response};
pub(crate) use routes::{check_accept, text_error};

use crate::admission::Operation;
use crate::http::{Body, RequestContext, Verb};
use crate::registry::{Endpoint, NAMESPACE_MISMATCH, Stored, Write, WriteOptions};
use crate::review;
use crate::server::ApiServer;

/// Finds the endpoint of a request and lets it answer.
pub(crate) async fn dispatch(server: &Arc<ApiServer>, context: RequestContext, mut request: Request<Body>) -> Response<Body> {
    if let Some(response) = crate::frontend::respond(server, &context, request.method(), request.headers()).await {
        return response;
    }
    let head = request.method() == Method::HEAD;
    let accepted = negotiate::negotiate(request.headers(), &context, negotiate::Answer::Error).ok();
    let compressed = compress::is_wanted(request.headers(), &context.info);
    let upgrade = websocket::Upgrade::of(&context, &mut request);
    let result = match context.info.is_resource {
        true => resource(server, &context, request).await,
        false if context.info.path.starts_with("/openapi/") => {
            let headers = request.headers().clone();
            discovery::openapi(server, &context, &headers).await
        }
        false => discovery::respond(server, &context, &request),
    };
    let mut response = result.unwrap_or_else(|status| respond::negotiated_status(&status, accepted));
    if let Some(upgrade) = upgrade {
        return upgrade.answer(server.backends(), response);
    }
    if compressed {
        response = compress::compress(response).await;
    }
    if head {
        *response.body_mut() = Body::empty();
    }
    response
}

async fn resource(server: &Arc<ApiServer>, context: &RequestContext, request: Request<Body>) -> Result<Response<Body>, Status> {
    let info = &context.info;
    let Some(endpoint) = server.engine().catalog.get(&info.api_group, &info.api_version, &info.resource) else {
        return match routes::Router::of(server, context) {
            routes::Router::Plain => Ok(routes::page_not_found()),
            routes::Router::Restful => Err(Status::path_not_found()),
        };
    };
    check_scope(endpoint, context)?;
    // What can be created alone has no paths for its objects.
    if endpoint.row.verbs == ["create"] && info.parts.len() > 1 {
        return Err(Status::path_not_found());
    }
    if !info.subresource.is_empty() {
        return subresource(server, endpoint, context, request).await;
    }
    if info.verb == Verb::Watch && !endpoint.row.verbs.contains(&"watch") && is_old_watch(context) {
        return Err(Status::path_not_found());
    }
    routes::check_method(request.method(), context)?;
    check_verb(&endpoint.row.verbs, info.verb)?;
    // Collections are posted to, objects are everything else.
    if (info.verb == Verb::Create) != info.name.is_empty()
        && !matches!(info.verb, Verb::List | Verb::Watch | Verb::DeleteCollection)
    {
        return Err(Status::method_not_allowed());
    }
    routes::check_headers(request.method(), request.headers(), context)?;
    if let Some(warning) = &endpoint.deprecation {
        context.warnings.add(warning.clone());
        server.metrics().deprecated(info, endpoint.removed_release);
    }
    let Some(stored) = &endpoint.stored else { return computed(server, endpoint, context, request).await };
    check_name(context)?;
    let target = target(server, endpoint, stored, context);
    match info.verb {
        Verb::Get => read::get(server.engine(), endpoint, stored, context, request.headers()).await,
        Verb::List => read::list(server.engine(), endpoint, stored, context, request.headers()).await,
        Verb::Watch => watch::watch(server, endpoint, stored, context, request.headers()).await,
        Verb::Create => change::create(&target, request).await,
        Verb::Update => change::update(&target, request).await,
        Verb::Patch => change::patch(&target, request).await,
        Verb::Delete => change::delete(&target, request).await,
        Verb::DeleteCollection => change::delete_collection(&target, request).await,
        _ => Err(Status::method_not_allowed()),
    }
}

/// Whether the path says that it is a watch.
fn is_old_watch(context: &RequestContext) -> bool {
    let path = context.info.path.trim_start_matches('/');
    path.split('/').nth(if context.info.api_prefix == "api" { 2 } else { 3 }) == Some("watch")
}

fn target<'a>(
    server: &'a Arc<ApiServer>,
    endpoint: &'a Endpoint,
    stored: &'a Arc<Stored>,
    context: &'a RequestContext,
) -> change::Target<'a> {
    let namespace = if stored.namespaced { context.info.namespace.as_str() } else { "" };
    let authorizers = &server.access().authorizers;
    let subresource = context.info.subresource.as_str();
    let write = Write { engine: server.engine(), authorizers, endpoint, stored, context, namespace, subresource };
    change::Target { write, body_bytes_max: server.config().body_bytes_max }
}

/// A name that could not be a part of a key.
fn check_name(context: &RequestContext) -> Result<(), Status> {
    let name = context.info.name.as_str();
    let why = apimachinery::validation::name_is_path_segment(name, false);
    match why.is_empty() || matches!(context.info.verb, Verb::List | Verb::Watch) {
        true => Ok(()),
        false => {
            let name = apimachinery::go_quote(name);
            Err(Status::bad_request(format!("Name parameter invalid: {name}: {}", why.join(";"))))
        }
    }
}

/// Namespaced objects are reached through their namespace, others are not.
fn check_scope(endpoint: &Endpoint, context: &RequestContext) -> Result<(), Status> {
    let info = &context.info;
    let (namespaced, given) = (endpoint.row.namespaced, !info.namespace.is_empty());
    let itself = info.api_group.is_empty() && info.resource == "namespaces";
    if namespaced && !given {
        // Only the whole cluster's list and watch have no namespace (the name is the field selector's).
        return match info.verb {
            Verb::List | Verb::Watch => Ok(()),
            _ if info.parts.len() == 1 => Err(Status::method_not_allowed()),
            _ => Err(Status::path_not_found()),
        };
    }
    match !namespaced && given && !itself {
        true => Err(Status::path_not_found()),
        false => Ok(()),
    }
}

fn check_verb(verbs: &[&str], verb: Verb) -> Result<(), Status> {
    match verbs.contains(&verb.as_str()) {
        true => Ok(()),
        false => Err(Status::method_not_allowed()),
    }
}

/// A resource whose objects are answers.
async fn computed(
    server: &Arc<ApiServer>,
    endpoint: &Endpoint,
    context: &RequestContext,
    request: Request<Body>,
) -> Result<Response<Body>, Status> {
    let gvr = &endpoint.row.gvr;
    if let Some(connector) = server.connectors().get(&gvr.group, &gvr.resource, "") {
        return connector.clone().connect(server, context, request).await;
    }
    if gvr.resource == "bindings" && gvr.group.is_empty() {
        return binding::create(server, context, request).await;
    }
    if gvr.resource == "componentstatuses" && gvr.group.is_empty() {
        return component_status::respond(server, endpoint, context, request.headers()).await;
    }
    match review::answers(gvr, "") {
        true => review(server, &endpoint.row.kind, context, request).await,
        false => Err(not_implemented(&gvr.resource)),
    }
}

/// Answers with what the review of the body is.
async fn review(
    server: &Arc<ApiServer>,
    kind: &apimachinery::GroupVersionKind,
    context: &RequestContext,
    request: Request<Body>,
) -> Result<Response<Body>, Status> {
    let accepted = negotiate::negotiate(request.headers(), context, negotiate::Answer::Fixed)?;
    let object = read_object(server, kind, context, request).await?;
    let manager = context.query.non_empty("fieldManager").unwrap_or(context.field_manager());
    let object = crate::registry::note_creation(kind, object, &context.info.subresource, manager);
    let answer = review::respond(server, context, &object).await.ok_or_else(Status::method_not_allowed)??;
    Ok(respond::value_response(StatusCode::CREATED, &answer, accepted))
}

/// The body as an object of a kind.
async fn read_object(
    server: &ApiServer,
    kind: &apimachinery::GroupVersionKind,
    context: &RequestContext,
    request: Request<Body>,
) -> Result<Value, Status> {
    let options = WriteOptions::parse(&context.query, "CreateOptions")?;
    let encoding = body::encoding(request.headers(), context)?;
    let bytes = body::read(request.into_body(), server.config().body_bytes_max).await?;
    let mut object = body::decode(&bytes, encoding, kind, options.field_validation, context)?;
    check_namespace(&mut object, context)?;
    Ok(object)
}

/// An object that is posted is of the request's namespace, or of none if the request is.
fn check_namespace(object: &mut Value, context: &RequestContext) -> Result<(), Status> {
    let (given, wanted) = (object.meta().namespace(), context.info.namespace.as_str());
    match given {
        given if !given.is_empty() && !wanted.is_empty() && given != wanted => Err(Status::bad_request(NAMESPACE_MISMATCH)),
        "" if wanted.is_empty() => Ok(()),
        _ => {
            match wanted {
                "" => drop(object.meta_mut().remove("namespace")),
                wanted => object.meta_mut().set_namespace(wanted),
            }
            Ok(())
        }
    }
}

async fn subresource(
    server: &Arc<ApiServer>,
    endpoint: &Arc<Endpoint>,
    context: &RequestContext,
    request: Request<Body>,
) -> Result<Response<Body>, Status> {
    let info = &context.info;
    let row = endpoint.row.subresource(&info.subresource).ok_or_else(Status::path_not_found)?;
    let gvr = &endpoint.row.gvr;
    // Only what is proxied has a path of its own.
    let deeper = info.parts.len() > 3 && info.subresource != "proxy";
    if deeper || (info.verb == Verb::Watch && is_old_watch(context)) {
        return Err(Status::path_not_found());
    }
    routes::check_method(request.method(), context)?;
    if info.subresource != "proxy" {
        check_verb(&row.verbs, info.verb)?;
    }
    if let Some(connector) = server.connectors().get(&gvr.group, &gvr.resource, &info.subresource).cloned() {
        return connect(server, endpoint, connector, context, request).await;
    }
    check_verb(&row.verbs, info.verb)?;
    routes::check_headers(request.method(), request.headers(), context)?;
    let Some(stored) = &endpoint.stored else { return Err(not_implemented(&info.subresource)) };
    match (gvr.group.as_str(), gvr.resource.as_str(), info.subresource.as_str()) {
        (_, _, "scale") => scale::respond(server, endpoint, stored, context, request).await,
        ("", "pods", "binding") => binding::create(server, context, request).await,
        ("", "pods", "eviction") => eviction::create(server, context, request).await,
        _ if review::answers(gvr, &info.subresource) => review(server, &row.kind, context, request).await,
        _ if stored.strategy_for(&info.subresource).is_some() => part_of_object(server, endpoint, stored, context, request).await,
        _ => Err(not_implemented(&info.subresource)),
    }
}

/// A subresource that is a part of its object, with rules of its own.
async fn part_of_object(
    server: &Arc<ApiServer>,
    endpoint: &Arc<Endpoint>,
    stored: &Arc<Stored>,
    context: &RequestContext,
    request: Request<Body>,
) -> Result<Response<Body>, Status> {
    let target = target(server, endpoint, stored, context);
    match context.info.verb {
        Verb::Get => read::get(server.engine(), endpoint, stored, context, request.headers()).await,
        Verb::Update => change::update(&target, request).await,
        Verb::Patch => change::patch(&target, request).await,
        _ => Err(Status::method_not_allowed()),
    }
}

/// Admission, then the connector.
async fn connect(
    server: &Arc<ApiServer>,
    endpoint: &Endpoint,
    connector: Arc<dyn crate::connect::Connector>,
    context: &RequestContext,
    request: Request<Body>,
) -> Result<Response<Body>, Status> {
    let Some(stored) = &endpoint.stored else { return connector.connect(server, context, request).await };
    let target = target(server, endpoint, stored, context);
    let mut attributes = target.write.attributes(Operation::Connect, &context.info.name, Value::Null, false);
    server.admission().admit(&mut attributes).await?;
    server.admission().validate(&attributes).await?;
    connector.connect(server, context, request).await
}

/// What is not there says so.
fn not_implemented(what: &str) -> Status {
    let mut status = Status::new(apimachinery::Reason::Unknown, format!("{what} is not implemented in this server"));
    status.code = StatusCode::NOT_IMPLEMENTED.as_u16();
    status
}
