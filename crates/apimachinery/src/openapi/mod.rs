//! OpenAPI v3 documents, one for each group version, generated from the schema facts and the resource table when they are
//! asked for. Written piece by piece into one buffer: no tree of a whole document is ever held.
//!
//! Without prose: descriptions of types and fields come from the caller, because the facts have none.

mod parameters;
mod paths;
mod schemas;

use std::collections::BTreeSet;

use crate::schema::{self, TypeInfo};
use crate::{Value, value};

/// Gives the description of a type, or of one of its fields.
pub type Describe<'a> = &'a dyn Fn(&TypeInfo, Option<&str>) -> Option<String>;

/// What the documents show.
#[derive(Clone, Copy)]
pub struct Options<'a> {
    /// Descriptions of types and fields.
    pub describe: Describe<'a>,
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

/// The document's path under `/openapi/v3/`: `api/v1`, `apis/apps/v1`.
pub fn document_path(group: &str, version: &str) -> String {
    if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") }
}

/// The index at `/openapi/v3`: where each group version's document is. The address changes with the facts, so that clients
/// may cache documents for ever.
pub fn index() -> Value {
    let mut paths = Value::object();
    for group in schema::groups() {
        for version in &group.versions {
            let path = document_path(group.name, version);
            let url = format!("/openapi/v3/{path}?hash={}", hash());
            paths.insert(path, value!({ "serverRelativeURL": url }));
        }
    }
    value!({ "paths": paths })
}

/// Identifies what the documents of the built-in groups are made from.
pub fn hash() -> String {
    schema::facts_hash()
}

/// The document of a group version as JSON; `None` when there is no such group version.
pub fn document(group: &str, version: &str, options: &Options<'_>) -> Option<Vec<u8>> {
    let resources: Vec<_> = schema::resources().iter().filter(|r| r.group == group && r.version == version).collect();
    if resources.is_empty() {
        return None;
    }
    let mut used = BTreeSet::new();
    let paths = paths::of_group_version(group, version, &resources, options, &mut used);
    let mut out = Vec::with_capacity(64 * 1024);
    out.extend_from_slice(b"{\"components\":{\"schemas\":{");
    for (i, info) in schemas::reachable(&used).into_iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        Value::from(schemas::openapi_name(info)).write_to(&mut out);
        out.push(b':');
        schemas::of_type(info, options).write_to(&mut out);
    }
    out.extend_from_slice(b"},\"securitySchemes\":");
    let bearer = value!({"BearerToken": {"type": "apiKey", "name": "authorization", "in": "header"}});
    bearer.write_to(&mut out);
    out.extend_from_slice(b"},\"info\":");
    value!({"title": "Kubernetes", "version": (options.version)}).write_to(&mut out);
    out.extend_from_slice(b",\"openapi\":\"3.0.0\",\"paths\":{");
    for (i, (path, item)) in paths.iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        Value::from(path).write_to(&mut out);
        out.push(b':');
        item.write_to(&mut out);
    }
    out.extend_from_slice(b"}}");
    Some(out)
}

#[cfg(test)]
mod tests;
