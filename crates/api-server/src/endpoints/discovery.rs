//! Discovery: which groups, versions and resources there are, plain and aggregated
//! (<https://kubernetes.io/docs/concepts/overview/kubernetes-api/#discovery-api>).

use std::sync::{Arc, LazyLock};

use ::http::header::{CONTENT_TYPE, ETAG, HeaderValue, IF_NONE_MATCH, VARY};
use ::http::{Method, Request, Response, StatusCode};
use apimachinery::{Status, Value, schema, value};
use sha2::{Digest, Sha512};

use super::negotiate::{Accepted, Answer, Format, Shape, negotiate, negotiate_aggregated, supported};
use super::respond::{json_response, value_response};
use super::routes::{Router, check_accept, page_not_found};
use crate::gates::EmulatedVersion;
use crate::http::{Body, RequestContext};
use crate::registry::{Catalog, Resource};
use crate::resource_metrics;
use crate::server::ApiServer;

/// What the server says it is: the Kubernetes version that it implements.
pub(crate) const GIT_VERSION: &str = "v1.35.4+rusternetes";

/// Answers the paths that are about the API itself.
pub(crate) fn respond(
    server: &Arc<ApiServer>,
    context: &RequestContext,
    request: &Request<Body>,
) -> Result<Response<Body>, Status> {
    let catalog = &server.engine().catalog;
    let path = context.info.path.as_str();
    let parts: Vec<&str> = path.strip_suffix('/').unwrap_or(path).split('/').skip(1).collect();
    let router = Router::of(server, context);
    let written: &[&str] = match parts.as_slice() {
        [] | ["index.html"] => return Ok(index(server)),
        // The plain router's, which takes every method and every `Accept`.
        ["apis"] => &[],
        ["apis", _] if router == Router::Restful => &[],
        ["version"] => &["application/json"],
        ["openid", "v1", "jwks"] => &["application/jwk-set+json"],
        [".well-known", "openid-configuration"] => &["application/json"],
        ["api"] | ["api", "v1"] => supported(context),
        ["apis", group, version] if resource_list(catalog, group, version).is_some() => supported(context),
        _ if router == Router::Restful => return Err(Status::path_not_found()),
        _ => return Ok(page_not_found()),
    };
    if !written.is_empty() {
        if *request.method() != Method::GET {
            return Err(Status::method_not_allowed());
        }
        check_accept(request.headers(), written.iter().copied())?;
    }
    if let ([prefix @ ("api" | "apis")], Some(format)) = (parts.as_slice(), negotiate_aggregated(request.headers())) {
        return Ok(aggregated(server, prefix, format, request));
    }
    let document = match parts.as_slice() {
        ["version"] => return Ok(raw_json(&version(server.config().emulated))),
        ["api"] => value!({
            "kind": "APIVersions",
            "versions": ["v1"],
            "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": server_address(request)}],
        }),
        ["apis"] => {
            let groups: Vec<Value> = groups(server).filter_map(|info| group(catalog, info, false)).collect();
            value!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
        }
        ["api", "v1"] => resource_list(catalog, "", "v1").ok_or_else(Status::path_not_found)?,
        ["apis", name] => {
            let info = groups(server).find(|info| info.name == *name);
            info.and_then(|info| group(catalog, info, true)).ok_or_else(Status::path_not_found)?
        }
        ["apis", group, version] => resource_list(catalog, group, version).ok_or_else(Status::path_not_found)?,
        _ => return Err(Status::path_not_found()),
    };
    let accepted = negotiate(request.headers(), context, Answer::Fixed)?;
    Ok(value_response(StatusCode::OK, &document, accepted))
}

/// All paths there are.
fn index(server: &ApiServer) -> Response<Body> {
    raw_json(&value!({"paths": paths(server)}))
}

/// JSON for people, whatever the client accepts.
fn raw_json(value: &Value) -> Response<Body> {
    json_response(StatusCode::OK, serde_json::to_vec_pretty(value).unwrap_or_else(|_| value.to_vec()))
}

/// Answers the paths below `/openapi`. (Apart from [`respond`], which looks at the request: a body may not be looked at while something is
/// waited for.)
pub(crate) async fn openapi(
    server: &Arc<ApiServer>,
    context: &RequestContext,
    headers: &::http::HeaderMap,
) -> Result<Response<Body>, Status> {
    let document = context.info.path.strip_prefix("/openapi/").unwrap_or_default();
    Ok(server.openapi().respond(document, &context.query, headers).await?.unwrap_or_else(page_not_found))
}

fn server_address(request: &Request<Body>) -> String {
    let host = request.headers().get(::http::header::HOST).and_then(|value| value.to_str().ok());
    host.or_else(|| request.uri().authority().map(|authority| authority.as_str())).unwrap_or_default().to_owned()
}

/// `/version`.
pub(crate) fn version(emulated: EmulatedVersion) -> Value {
    value!({
        "major": "1", "minor": "35",
        "emulationMajor": "1", "emulationMinor": emulated.minor.to_string(),
        "minCompatibilityMajor": "1", "minCompatibilityMinor": emulated.min_compatibility_minor.to_string(),
        "gitVersion": GIT_VERSION, "gitCommit": "", "gitTreeState": "clean", "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "", "compiler": "rustc", "platform": format!("linux/{}", go_architecture()),
    })
}

/// The machine's architecture as Go and node objects name it.
fn go_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn paths(server: &ApiServer) -> Vec<Value> {
    let catalog = &server.engine().catalog;
    let mut paths: Vec<String> = vec!["/api".to_owned(), "/api/v1".to_owned(), "/apis".to_owned(), "/apis/".to_owned()];
    for info in groups(server) {
        let served = served_versions(catalog, info);
        if !served.is_empty() {
            paths.push(format!("/apis/{}", info.name));
        }
        paths.extend(served.iter().map(|version| format!("/apis/{}/{version}", info.name)));
    }
    for path in ["/metrics", "/metrics/slis", "/openapi/v2", "/openapi/v3", "/openapi/v3/", "/openid/v1/jwks", "/version"] {
        paths.push(path.to_owned());
    }
    paths.extend(crate::health::paths(server.config().gates));
    paths.push("/.well-known/openid-configuration".to_owned());
    paths.sort();
    paths.into_iter().map(Value::from).collect()
}

/// All groups but the core group; metrics.k8s.io where there are kubelets to ask.
fn groups(server: &ApiServer) -> impl Iterator<Item = &'static schema::GroupInfo> {
    static METRICS: LazyLock<schema::GroupInfo> =
        LazyLock::new(|| schema::GroupInfo { name: resource_metrics::GROUP, versions: vec![resource_metrics::VERSION] });
    let metrics = server.resource_metrics().map(|_| &*METRICS);
    schema::groups().iter().filter(|info| !info.name.is_empty()).chain(metrics)
}

fn resources<'a>(catalog: &'a Catalog, group: &'a str, version: &'a str) -> impl Iterator<Item = &'a Resource> {
    let rows = catalog.endpoints().iter().map(|endpoint| &endpoint.row);
    rows.filter(move |row| row.gvr.group == group && row.gvr.version == version)
}

/// The versions of a group that have a served resource, the preferred one first.
fn served_versions(catalog: &Catalog, info: &schema::GroupInfo) -> Vec<&'static str> {
    let served = |version: &&&str| resources(catalog, info.name, version).next().is_some();
    info.versions.iter().filter(served).copied().collect()
}

/// `None` when no version of the group is served.
fn group(catalog: &Catalog, info: &schema::GroupInfo, alone: bool) -> Option<Value> {
    let version = |version: &&str| value!({"groupVersion": format!("{}/{version}", info.name), "version": *version});
    let versions: Vec<Value> = served_versions(catalog, info).iter().map(version).collect();
    let mut group = value!({"name": info.name});
    group.insert("preferredVersion", versions.first()?.clone());
    group.insert("versions", versions);
    if alone {
        group.insert("kind", "APIGroup");
        group.insert("apiVersion", "v1");
    }
    Some(group)
}

fn strings<S: AsRef<str>>(items: &[S]) -> Vec<Value> {
    items.iter().map(|item| Value::from(item.as_ref())).collect()
}

fn resource_list(catalog: &Catalog, group: &str, version: &str) -> Option<Value> {
    let mut list: Vec<(String, Value)> = Vec::new();
    for row in resources(catalog, group, version) {
        list.push((row.gvr.resource.clone(), resource(row)));
        for sub in &row.subresources {
            let name = format!("{}/{}", row.gvr.resource, sub.name);
            let mut entry = value!({
                "name": name.as_str(), "singularName": "", "namespaced": row.namespaced, "kind": sub.kind.kind.as_str(),
                "verbs": strings(&sub.verbs),
            });
            if !sub.own_version {
                entry.insert("group", sub.kind.group.as_str());
                entry.insert("version", sub.kind.version.as_str());
            }
            list.push((name, entry));
        }
    }
    if list.is_empty() {
        return None;
    }
    list.sort_by(|a, b| a.0.cmp(&b.0));
    let group_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    let entries: Vec<Value> = list.into_iter().map(|(_, entry)| entry).collect();
    let mut document = value!({"kind": "APIResourceList", "groupVersion": group_version, "resources": entries});
    // Upstream's oldest document does not say of which version it is.
    if !group.is_empty() {
        document.insert("apiVersion", "v1");
    }
    Some(document)
}

fn resource(row: &Resource) -> Value {
    let mut entry = value!({
        "name": row.gvr.resource.as_str(), "singularName": row.singular.as_str(), "namespaced": row.namespaced,
        "kind": row.kind.kind.as_str(), "verbs": strings(&row.verbs),
    });
    if !row.short_names.is_empty() {
        entry.insert("shortNames", strings(&row.short_names));
    }
    if !row.categories.is_empty() {
        entry.insert("categories", strings(&row.categories));
    }
    if !row.storage_version_hash.is_empty() {
        entry.insert("storageVersionHash", row.storage_version_hash.as_str());
    }
    entry
}

fn aggregated(server: &ApiServer, prefix: &str, format: Format, request: &Request<Body>) -> Response<Body> {
    let catalog = &server.engine().catalog;
    let items: Vec<Value> = match prefix {
        "api" => aggregated_group(catalog, "", &["v1"]).into_iter().collect(),
        _ => groups(server).filter_map(|info| aggregated_group(catalog, info.name, &served_versions(catalog, info))).collect(),
    };
    let list = value!({
        "kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items,
    });
    // The same for all encodings, as upstream's: `Vary` keeps them apart.
    let etag = format!("\"{}\"", hex::encode_upper(Sha512::digest(list.to_vec())));
    let known = request.headers().get(IF_NONE_MATCH).is_some_and(|value| value.as_bytes() == etag.as_bytes());
    let mut response = match known {
        true => json_response(StatusCode::NOT_MODIFIED, Vec::new()),
        false => value_response(StatusCode::OK, &list, Accepted { format, shape: Shape::Object, pretty: false }),
    };
    let headers = response.headers_mut();
    let media_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let media_type = format!("{media_type};g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList");
    for (name, value) in [(ETAG, etag), (CONTENT_TYPE, media_type)] {
        if let Ok(value) = HeaderValue::from_str(&value) {
            headers.insert(name, value);
        }
    }
    headers.insert(VARY, HeaderValue::from_static("Accept"));
    headers.insert(::http::header::CACHE_CONTROL, HeaderValue::from_static("public"));
    response
}

/// `None` when no version of the group is served.
fn aggregated_group(catalog: &Catalog, name: &str, versions: &[&str]) -> Option<Value> {
    let version = |version: &&str| {
        let rows: Vec<Value> = resources(catalog, name, version).map(aggregated_resource).collect();
        value!({"version": *version, "resources": rows, "freshness": "Current"})
    };
    let metadata = if name.is_empty() { Value::object() } else { value!({"name": name}) };
    let served = !versions.is_empty();
    served.then(|| value!({"metadata": metadata, "versions": versions.iter().map(version).collect::<Vec<Value>>()}))
}

fn aggregated_resource(row: &Resource) -> Value {
    let mut entry = value!({
        "resource": row.gvr.resource.as_str(),
        "responseKind": {"group": "", "version": "", "kind": row.kind.kind.as_str()},
        "scope": if row.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": row.singular.as_str(),
        "verbs": strings(&row.verbs),
    });
    if !row.short_names.is_empty() {
        entry.insert("shortNames", strings(&row.short_names));
    }
    if !row.categories.is_empty() {
        entry.insert("categories", strings(&row.categories));
    }
    let subresource = |sub: &crate::registry::Subresource| {
        let (group, version) = if sub.own_version { ("", "") } else { (sub.kind.group.as_str(), sub.kind.version.as_str()) };
        value!({
            "subresource": sub.name.as_str(),
            "responseKind": {"group": group, "version": version, "kind": sub.kind.kind.as_str()},
            "verbs": strings(&sub.verbs),
        })
    };
    if !row.subresources.is_empty() {
        entry.insert("subresources", row.subresources.iter().map(subresource).collect::<Vec<Value>>());
    }
    entry
}
