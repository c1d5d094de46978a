//! Where a request points in the API, from its method and URL alone.
//!
//! The rules are upstream's `RequestInfoFactory` (`k8s.io/apiserver/pkg/endpoints/request`): authorization, admission, audit and flow
//! control all decide by what stands here, so that it must never depend on the body.

use super::query::{Query, decode};

/// A verb of the Kubernetes API, or the lower-case HTTP method of a request outside of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Verb {
    Get,
    List,
    Watch,
    Create,
    Update,
    Patch,
    Delete,
    DeleteCollection,
    /// The old `/api/v1/proxy/...` paths.
    Proxy,
    Head,
    Options,
    Post,
    Put,
    /// A method that has no verb.
    Other,
}

impl Verb {
    /// The verb as RBAC rules spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Verb::Get => "get",
            Verb::List => "list",
            Verb::Watch => "watch",
            Verb::Create => "create",
            Verb::Update => "update",
            Verb::Patch => "patch",
            Verb::Delete => "delete",
            Verb::DeleteCollection => "deletecollection",
            Verb::Proxy => "proxy",
            Verb::Head => "head",
            Verb::Options => "options",
            Verb::Post => "post",
            Verb::Put => "put",
            Verb::Other => "",
        }
    }

    fn of_resource(method: &::http::Method) -> Verb {
        match method.as_str() {
            "POST" => Verb::Create,
            "GET" | "HEAD" => Verb::Get,
            "PUT" => Verb::Update,
            "PATCH" => Verb::Patch,
            "DELETE" => Verb::Delete,
            _ => Verb::Other,
        }
    }

    fn of_path(method: &::http::Method) -> Verb {
        match method.as_str() {
            "GET" => Verb::Get,
            "POST" => Verb::Post,
            "PUT" => Verb::Put,
            "PATCH" => Verb::Patch,
            "DELETE" => Verb::Delete,
            "HEAD" => Verb::Head,
            "OPTIONS" => Verb::Options,
            _ => Verb::Other,
        }
    }
}

impl std::fmt::Display for Verb {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The URL has a form that no path of the API has.
#[derive(Debug, thiserror::Error)]
#[error("unable to determine kind and namespace from url, {0}")]
pub struct RequestInfoError(String);

/// What a request asks for. Strings are empty where upstream's are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestInfo {
    /// Whether this is about a resource; if not, only `path` and `verb` mean something.
    pub is_resource: bool,
    /// The path, decoded.
    pub path: String,
    /// The verb.
    pub verb: Verb,
    /// `api` or `apis`.
    pub api_prefix: String,
    /// The group; empty for the core group.
    pub api_group: String,
    /// The version.
    pub api_version: String,
    /// The namespace; of a request for one namespace also that one.
    pub namespace: String,
    /// The plural name of the resource.
    pub resource: String,
    /// The subresource.
    pub subresource: String,
    /// The object; of list and watch the one that the field selector names.
    pub name: String,
    /// The path from the resource on; beyond `resource/name/subresource` it belongs to the connect verbs.
    pub parts: Vec<String>,
    /// The field selector as the client wrote it, for list, watch and deletecollection.
    pub field_selector: String,
    /// The label selector as the client wrote it, for list, watch and deletecollection.
    pub label_selector: String,
}

impl RequestInfo {
    /// Reads method and URL. `query` is the URL's own query.
    pub fn new(method: &::http::Method, path: &str, query: &Query) -> Result<RequestInfo, RequestInfoError> {
        let path = decode(path, false);
        let mut info = RequestInfo {
            is_resource: false,
            verb: Verb::of_path(method),
            api_prefix: String::new(),
            api_group: String::new(),
            api_version: String::new(),
            namespace: String::new(),
            resource: String::new(),
            subresource: String::new(),
            name: String::new(),
            parts: Vec::new(),
            field_selector: String::new(),
            label_selector: String::new(),
            path: path.clone(),
        };
        let trimmed = path.trim_matches('/');
        let mut parts: Vec<String> = trimmed.split('/').map(str::to_owned).collect();
        if parts.len() < 3 || !matches!(parts[0].as_str(), "api" | "apis") {
            return Ok(info);
        }
        if parts[0] == "apis" && parts.len() < 4 {
            info.api_prefix = parts.swap_remove(0);
            return Ok(info);
        }
        let mut parts = parts.drain(..);
        let mut next = || parts.next().unwrap_or_default();
        info.api_prefix = next();
        if info.api_prefix == "apis" {
            info.api_group = next();
        }
        info.api_version = next();
        info.is_resource = true;
        let rest: Vec<String> = parts.collect();
        info.read_resource(method, rest, query, &path)?;
        Ok(info)
    }

    fn read_resource(
        &mut self,
        method: &::http::Method,
        mut rest: Vec<String>,
        query: &Query,
        path: &str,
    ) -> Result<(), RequestInfoError> {
        let by_path = match rest[0].as_str() {
            "proxy" => Some(Verb::Proxy),
            "watch" => Some(Verb::Watch),
            _ => None,
        };
        self.verb = match by_path {
            Some(_) if rest.len() < 2 => return Err(RequestInfoError(path.to_owned())),
            Some(verb) => {
                rest.remove(0);
                verb
            }
            None => Verb::of_resource(method),
        };
        if rest[0] == "namespaces" && rest.len() > 1 {
            self.namespace = rest[1].clone();
            // `status` and `finalize` belong to the namespace itself.
            if rest.len() > 2 && !matches!(rest[2].as_str(), "status" | "finalize") {
                rest.drain(..2);
            }
        }
        if rest.len() >= 3 && self.verb != Verb::Proxy {
            self.subresource = rest[2].clone();
        }
        self.name = rest.get(1).cloned().unwrap_or_default();
        self.resource = rest[0].clone();
        self.parts = rest;
        self.refine_verb(query, by_path.is_some());
        Ok(())
    }

    /// A get without a name is a list or a watch, a delete without one deletes a collection.
    fn refine_verb(&mut self, query: &Query, by_path: bool) {
        if self.name.is_empty() && self.verb == Verb::Get {
            self.verb = if query.flag("watch").unwrap_or(false) { Verb::Watch } else { Verb::List };
            self.name = exact_name(query.get("fieldSelector").unwrap_or_default());
        }
        if self.name.is_empty() && self.verb == Verb::Delete {
            self.verb = Verb::DeleteCollection;
        }
        if !by_path && matches!(self.verb, Verb::List | Verb::Watch | Verb::DeleteCollection) {
            self.field_selector = query.get("fieldSelector").unwrap_or_default().to_owned();
            self.label_selector = query.get("labelSelector").unwrap_or_default().to_owned();
        }
    }

    /// `group/version`, or just the version in the core group.
    pub fn group_version(&self) -> String {
        match self.api_group.as_str() {
            "" => self.api_version.clone(),
            group => format!("{group}/{}", self.api_version),
        }
    }
}

/// The name that a field selector requires of `metadata.name`, if it requires just one.
fn exact_name(selector: &str) -> String {
    selector
        .split(',')
        .find_map(|term| term.strip_prefix("metadata.name=").map(|value| value.strip_prefix('=').unwrap_or(value)))
        .filter(|name| !name.contains(['/', '%', '\\', ' ']) && *name != "." && *name != "..")
        .unwrap_or_default()
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(method: &str, url: &str) -> RequestInfo {
        let (path, query) = url.split_once('?').unwrap_or((url, ""));
        let method = ::http::Method::from_bytes(method.as_bytes()).expect("a method");
        RequestInfo::new(&method, path, &Query::parse(query)).expect("a valid path")
    }

    /// verb, group, version, namespace, resource, subresource, name
    fn check(method: &str, url: &str, expected: [&str; 7]) {
        let info = info(method, url);
        assert!(info.is_resource, "{url}");
        let got = [
            info.verb.as_str(),
            &info.api_group,
            &info.api_version,
            &info.namespace,
            &info.resource,
            &info.subresource,
            &info.name,
        ];
        assert_eq!(got, expected, "{method} {url}");
    }

    #[test]
    fn resource_paths() {
        check("GET", "/api/v1/namespaces", ["list", "", "v1", "", "namespaces", "", ""]);
        check("GET", "/api/v1/namespaces/other", ["get", "", "v1", "other", "namespaces", "", "other"]);
        check("PUT", "/api/v1/namespaces/other/finalize", ["update", "", "v1", "other", "namespaces", "finalize", "other"]);
        check("GET", "/api/v1/namespaces/other/pods", ["list", "", "v1", "other", "pods", "", ""]);
        check("GET", "/api/v1/namespaces/other/pods/foo", ["get", "", "v1", "other", "pods", "", "foo"]);
        check("HEAD", "/api/v1/namespaces/other/pods/foo", ["get", "", "v1", "other", "pods", "", "foo"]);
        check("GET", "/api/v1/pods?watch=1", ["watch", "", "v1", "", "pods", "", ""]);
        check("GET", "/api/v1/pods?watch=0", ["list", "", "v1", "", "pods", "", ""]);
        check("GET", "/api/v1/watch/namespaces/other/pods", ["watch", "", "v1", "other", "pods", "", ""]);
        check("DELETE", "/api/v1/namespaces/other/pods", ["deletecollection", "", "v1", "other", "pods", "", ""]);
        check(
            "PATCH",
            "/apis/apps/v1/namespaces/a/deployments/b/scale",
            ["patch", "apps", "v1", "a", "deployments", "scale", "b"],
        );
        check("POST", "/api/v1/namespaces/a/pods/b/exec", ["create", "", "v1", "a", "pods", "exec", "b"]);
        check("GET", "/api/v1/nodes/n/proxy/stats/summary", ["get", "", "v1", "", "nodes", "proxy", "n"]);
        check("GET", "/api/v1/pods?fieldSelector=metadata.name%3Dx", ["list", "", "v1", "", "pods", "", "x"]);
    }

    #[test]
    fn other_paths() {
        for path in ["/", "/api", "/apis", "/api/v1", "/apis/apps", "/apis/apps/v1", "/healthz", "/openapi/v3/apis/apps/v1"] {
            assert!(!info("GET", path).is_resource, "{path}");
        }
        assert_eq!(info("POST", "/healthz").verb, Verb::Post);
    }
}
