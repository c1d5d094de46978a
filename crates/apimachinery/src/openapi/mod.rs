//! OpenAPI documents, generated from the schema facts and the resource table when they are asked for: version 3, one document for
//! each group version and a few small ones, and version 2, one for everything. Written piece by piece into one buffer: no tree of a
//! whole document is ever held.
//!
//! Without prose: descriptions of types and fields come from the caller, because the facts have none; parameters are described in
//! words of our own.

mod gnostic;
mod gnostic_v3;
mod parameters;
mod paths;
mod roots;
mod schemas;
mod v2;

use std::collections::{BTreeMap, BTreeSet};

use crate::schema::{self, ResourceInfo, TypeInfo};
use crate::{Value, value};

pub use v2::{document_v2, document_v2_protobuf};

/// Gives the description of a type, or of one of its fields.
pub type Describe<'a> = &'a dyn Fn(&TypeInfo, Option<&str>) -> Option<String>;

/// What the documents show.
#[derive(Clone, Copy)]
pub struct Options<'a> {
    /// Descriptions of types and fields.
    pub describe: Describe<'a>,
    /// Which resources are served.
    pub serves: &'a dyn Fn(&ResourceInfo) -> bool,
    /// List the values of enumerations, as upstream's servers do (its published documents do not).
    pub enums: bool,
    /// The media types that the server writes objects in.
    pub media_types: &'a [&'a str],
    /// The media types that the server writes watches in.
    pub stream_media_types: &'a [&'a str],
    /// The media types of patches that the server takes.
    pub patch_types: &'a [&'a str],
    /// The server's version, for the document's title block.
    pub version: &'a str,
}

/// The paths of one document, with the names of the types that they refer to.
type Paths = BTreeMap<String, Value>;

/// A group version's document's path under `/openapi/v3/`: `api/v1`, `apis/apps/v1`.
pub fn document_path(group: &str, version: &str) -> String {
    if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") }
}

/// The index at `/openapi/v3`: where each document is. The address has a hash of what the documents are made from, so that clients may
/// keep them for ever.
pub fn index(options: &Options<'_>, hash: &str) -> Value {
    let mut paths = Value::object();
    for path in document_paths(options) {
        let url = format!("/openapi/v3/{path}?hash={hash}");
        paths.insert(path, value!({ "serverRelativeURL": url }));
    }
    value!({ "paths": paths })
}

/// Identifies the facts that the documents of the built-in groups are made from.
pub fn hash() -> String {
    schema::facts_hash()
}

/// The paths of all documents, without their common `/openapi/v3/`.
pub fn document_paths(options: &Options<'_>) -> Vec<String> {
    let mut found: Vec<String> = roots::names(options);
    found.extend(served(options).into_iter().map(|(group, version)| document_path(group, version)));
    found.sort();
    found
}

/// The group versions with a served resource, in order of discovery.
fn served(options: &Options<'_>) -> Vec<(&'static str, &'static str)> {
    let mut found = Vec::new();
    for resource in schema::resources().iter().filter(|resource| (options.serves)(resource)) {
        if !found.contains(&(resource.group, resource.version)) {
            found.push((resource.group, resource.version));
        }
    }
    found
}

/// The paths of a document, and the types that they use.
fn paths_of(document: &str, options: &Options<'_>) -> Option<(Paths, BTreeSet<String>)> {
    let mut used = BTreeSet::new();
    let group_version = match document.split('/').collect::<Vec<_>>()[..] {
        ["api", version] => Some(("", version)),
        ["apis", group, version] => Some((group, version)),
        _ => None,
    };
    let paths = match group_version {
        Some((group, version)) => {
            let resources = schema::resources().iter();
            let own = resources.filter(|r| r.group == group && r.version == version && (options.serves)(r));
            let resources: Vec<_> = own.collect();
            if resources.is_empty() {
                return None;
            }
            paths::of_group_version(group, version, &resources, options, &mut used)
        }
        None => roots::paths(document, options, &mut used)?,
    };
    Some((paths, used))
}

/// A document by its path under `/openapi/v3/`, as JSON; `None` when there is no such document.
pub fn document(path: &str, options: &Options<'_>) -> Option<Vec<u8>> {
    let (paths, used) = paths_of(path, options)?;
    let mut out = Vec::with_capacity(64 * 1024);
    out.extend_from_slice(b"{\"components\":{");
    let types = schemas::reachable(&used);
    if !types.is_empty() {
        let schemas = types.into_iter().map(|info| (schemas::openapi_name(info), schemas::of_type(info, options)));
        write_members("schemas", schemas, &mut out);
        out.push(b',');
    }
    out.extend_from_slice(b"\"securitySchemes\":");
    value!({"BearerToken": (bearer_token())}).write_to(&mut out);
    out.extend_from_slice(b"},\"info\":");
    info(options).write_to(&mut out);
    out.extend_from_slice(b",\"openapi\":\"3.0.0\",");
    write_members("paths", paths, &mut out);
    out.push(b'}');
    Some(out)
}

/// A document in the protobuf form of the gnostic project, as upstream makes it from JSON; `None` when there is no such document.
pub fn document_protobuf(path: &str, options: &Options<'_>) -> Option<Vec<u8>> {
    let (paths, used) = paths_of(path, options)?;
    let mut out = Vec::with_capacity(64 * 1024);
    gnostic_v3::begin(&info(options), &mut out);
    gnostic_v3::paths(&paths, &mut out);
    let types = schemas::reachable(&used).into_iter();
    let schemas = types.map(|info| (schemas::openapi_name(info), schemas::of_type(info, options)));
    gnostic_v3::components(schemas, "BearerToken", &bearer_token(), &mut out);
    Some(out)
}

fn info(options: &Options<'_>) -> Value {
    value!({"title": "Kubernetes", "version": (options.version)})
}

fn bearer_token() -> Value {
    value!({"description": "Bearer Token authentication", "type": "apiKey", "name": "authorization", "in": "header"})
}

/// `"name":{"key":value,...}`; only one value is held at a time.
fn write_members(name: &str, members: impl IntoIterator<Item = (String, Value)>, out: &mut Vec<u8>) {
    Value::from(name).write_to(out);
    out.extend_from_slice(b":{");
    for (i, (key, member)) in members.into_iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        Value::from(key).write_to(out);
        out.push(b':');
        member.write_to(out);
    }
    out.push(b'}');
}

#[cfg(test)]
mod tests;
