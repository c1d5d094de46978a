//! The small documents beside those of group versions: what there is at `/api`, `/apis`, `/apis/GROUP`, `/version` and where tokens'
//! issuers publish their keys.

use std::collections::BTreeSet;

use super::paths::{camel, lower_first, responses};
use super::{Options, Paths, served};
use crate::schema::type_named;
use crate::{Value, value};

/// A document with one operation.
struct Root<'a> {
    id: String,
    description: &'a str,
    tag: String,
    /// The type of the answer; a string without one.
    answer: Option<&'a str>,
    media_types: &'a [&'a str],
}

/// What discovery is written in. (CBOR would not be among them.)
const DISCOVERY: &[&str] = &["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];

/// The paths of these documents under `/openapi/v3/`.
pub(super) fn names(options: &Options<'_>) -> Vec<String> {
    let mut found: Vec<String> =
        ["api", "apis", "version", "openid/v1/jwks", ".well-known/openid-configuration"].map(str::to_owned).to_vec();
    for (group, _) in served(options).into_iter().filter(|(group, _)| !group.is_empty()) {
        let name = format!("apis/{group}");
        if !found.contains(&name) {
            found.push(name);
        }
    }
    found
}

/// The paths of one of these documents; adds the type that they refer to.
pub(super) fn paths(document: &str, options: &Options<'_>, used: &mut BTreeSet<String>) -> Option<Paths> {
    let root = root(document, options)?;
    let info = root.answer.and_then(type_named);
    used.extend(info.map(|info| info.name.to_owned()));
    let operation = value!({
        "description": (root.description), "operationId": (root.id), "tags": [(root.tag)],
        "responses": (responses(&[("200", info)], root.media_types)),
    });
    Some(Paths::from([(format!("/{document}/"), value!({ "get": operation }))]))
}

fn root<'a>(document: &str, options: &Options<'_>) -> Option<Root<'a>> {
    Some(match document {
        "api" => Root {
            id: "getCoreAPIVersions".into(),
            description: "get available API versions",
            tag: "core".into(),
            answer: Some("meta.v1.APIVersions"),
            media_types: DISCOVERY,
        },
        "apis" => Root {
            id: "getAPIVersions".into(),
            description: "get available API versions",
            tag: "apis".into(),
            answer: Some("meta.v1.APIGroupList"),
            media_types: DISCOVERY,
        },
        "version" => Root {
            id: "getCodeVersion".into(),
            description: "get the version information for this server",
            tag: "version".into(),
            answer: Some("version.Info"),
            media_types: &["application/json"],
        },
        "openid/v1/jwks" => Root {
            id: "getServiceAccountIssuerOpenIDKeyset".into(),
            description: "get service account issuer OpenID JSON Web Key Set (contains public token verification keys)",
            tag: "openid".into(),
            answer: None,
            media_types: &["application/jwk-set+json"],
        },
        ".well-known/openid-configuration" => Root {
            id: "getServiceAccountIssuerOpenIDConfiguration".into(),
            description: "get service account issuer OpenID configuration, also known as the 'OIDC discovery doc'",
            tag: "WellKnown".into(),
            answer: None,
            media_types: &["application/json"],
        },
        _ => {
            let group = document.strip_prefix("apis/")?;
            served(options).iter().find(|(served, _)| *served == group)?;
            let camel = camel(group);
            Root {
                id: format!("get{camel}APIGroup"),
                description: "get information of a group",
                tag: lower_first(&camel),
                answer: Some("meta.v1.APIGroup"),
                media_types: DISCOVERY,
            }
        }
    })
}

/// What an operation of these documents takes, which only version 2 says: nothing where no Kubernetes object is served.
pub(super) fn consumes(operation: &Value) -> bool {
    let id = operation["operationId"].as_str().unwrap_or_default();
    !id.starts_with("getServiceAccountIssuer")
}
