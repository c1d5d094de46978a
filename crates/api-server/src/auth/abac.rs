//! Attribute-based access control: the rules of a file, one JSON object a line
//! (<https://kubernetes.io/docs/reference/access-authn-authz/abac/>). For test rigs and old clusters.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;

use super::attributes::{Attributes, Decision};
use super::rbac::Rule;
use super::user::{UserInfo, names};

const API_VERSION: &str = "abac.authorization.kubernetes.io/v1beta1";

/// The file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PolicyFileError {
    /// It cannot be read.
    #[error("cannot read the policy file {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A line is not what it should be.
    #[error("error reading policy file {path}, line {line}: {reason}")]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong.
        reason: String,
    },
}

/// The rules of a file, read once at start. Cloning shares them.
#[derive(Clone, Debug, Default)]
pub struct PolicyFile(Arc<[Policy]>);

/// One rule; empty means "not said".
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
struct Policy {
    user: String,
    group: String,
    readonly: bool,
    api_group: String,
    resource: String,
    namespace: String,
    non_resource_path: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Versioned {
    #[serde(default)]
    spec: Policy,
}

impl Policy {
    fn read(line: &str) -> Result<Policy, String> {
        let value: serde_json::Value = serde_json::from_str(line).map_err(|error| error.to_string())?;
        let text = |member: &str| value[member].as_str().unwrap_or_default();
        match (text("apiVersion"), text("kind")) {
            ("", _) | (_, "") => serde_json::from_value(value).map(Policy::unversioned).map_err(|error| error.to_string()),
            (API_VERSION, "Policy") => {
                let read: Versioned = serde_json::from_value(value).map_err(|error| error.to_string())?;
                Ok(read.spec.of_the_authenticated(false))
            }
            (version, kind) => Err(format!("no kind {kind:?} is registered for version {version:?}")),
        }
    }

    /// Rules before versions: what is not said is anything.
    fn unversioned(mut self) -> Policy {
        let nobody = self.user.is_empty() && self.group.is_empty();
        if self.namespace.is_empty() && self.resource.is_empty() {
            self.non_resource_path = "*".to_owned();
        } else {
            self.non_resource_path = String::new();
        }
        self.api_group = "*".to_owned();
        for member in [&mut self.namespace, &mut self.resource] {
            if member.is_empty() {
                *member = "*".to_owned();
            }
        }
        self.of_the_authenticated(nobody)
    }

    /// Anybody is anybody who is authenticated.
    fn of_the_authenticated(mut self, nobody: bool) -> Policy {
        if nobody || self.user == "*" || self.group == "*" {
            (self.user, self.group) = (String::new(), names::AUTHENTICATED.to_owned());
        }
        self
    }

    fn is_about(&self, user: &UserInfo) -> bool {
        let names_somebody = !self.user.is_empty() || !self.group.is_empty();
        let user_matches = self.user.is_empty() || self.user == user.name;
        names_somebody && user_matches && (self.group.is_empty() || user.in_group(&self.group))
    }

    fn allows(&self, request: &Attributes<'_>) -> bool {
        let matches = |wanted: &str, found: &str| wanted == "*" || wanted == found;
        if !self.is_about(request.user) || (self.readonly && !matches!(request.verb, "get" | "list" | "watch")) {
            return false;
        }
        if request.resource_request {
            return matches(&self.namespace, request.namespace)
                && matches(&self.resource, request.resource)
                && matches(&self.api_group, request.group);
        }
        let below = |pattern: &str| request.path.starts_with(pattern.trim_end_matches('*'));
        self.non_resource_path == request.path || (self.non_resource_path.ends_with('*') && below(&self.non_resource_path))
    }
}

impl PolicyFile {
    /// Reads and checks a file.
    pub fn load(path: &Path) -> Result<Self, PolicyFileError> {
        let text = std::fs::read_to_string(path).map_err(|source| PolicyFileError::Read { path: path.to_owned(), source })?;
        Self::parse(&text).map_err(|(line, reason)| PolicyFileError::Line { path: path.to_owned(), line, reason })
    }

    fn parse(text: &str) -> Result<Self, (usize, String)> {
        let lines = text.lines().enumerate().map(|(at, line)| (at + 1, line.trim()));
        let rules = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
        rules.map(|(number, line)| Policy::read(line).map_err(|reason| (number, reason))).collect::<Result<_, _>>().map(Self)
    }

    pub(super) fn authorize(&self, request: &Attributes<'_>) -> Decision {
        match self.0.iter().any(|policy| policy.allows(request)) {
            true => Decision::Allow(String::new()),
            false => Decision::NoOpinion("No policy matched.".to_owned()),
        }
    }

    /// What a user may do in a namespace.
    pub(super) fn rules_for(&self, user: &UserInfo, namespace: &str) -> Vec<Rule> {
        let in_namespace = |policy: &&Policy| policy.namespace == "*" || policy.namespace == namespace;
        let mut rules = Vec::new();
        for policy in self.0.iter().filter(|policy| policy.is_about(user)).filter(in_namespace) {
            let verbs: &[&str] = if policy.readonly { &["get", "list", "watch"] } else { &["*"] };
            let rule = || Rule { verbs: verbs.iter().map(|verb| (*verb).to_owned()).collect(), ..Rule::default() };
            if !policy.resource.is_empty() {
                let (api_groups, resources) = (vec![policy.api_group.clone()], vec![policy.resource.clone()]);
                rules.push(Rule { api_groups, resources, ..rule() });
            }
            if !policy.non_resource_path.is_empty() {
                rules.push(Rule { non_resource_urls: vec![policy.non_resource_path.clone()], ..rule() });
            }
        }
        rules
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules() {
        let v1 = |spec: &str| format!(r#"{{"apiVersion": "{API_VERSION}", "kind": "Policy", "spec": {spec}}}"#);
        let (alice, bob) = (UserInfo::authenticated("alice", ["admins"]), UserInfo::authenticated("bob", [""; 0]));
        let list = |user| Attributes::resource(user, "list", "apps", "deployments").named("ns", "");
        let create = |user| Attributes::resource(user, "create", "apps", "deployments").named("ns", "");
        for (line, request, allowed) in [
            (v1(r#"{"user": "alice", "namespace": "*", "resource": "*", "apiGroup": "*"}"#), create(&alice), true),
            (v1(r#"{"user": "alice", "namespace": "*", "resource": "*", "apiGroup": "*"}"#), create(&bob), false),
            (v1(r#"{"user": "alice", "namespace": "*", "resource": "*"}"#), create(&alice), false),
            (
                v1(r#"{"group": "admins", "namespace": "ns", "resource": "deployments", "apiGroup": "apps"}"#),
                create(&alice),
                true,
            ),
            (
                v1(r#"{"group": "admins", "user": "bob", "namespace": "*", "resource": "*", "apiGroup": "*"}"#),
                create(&alice),
                false,
            ),
            (v1(r#"{"user": "*", "readonly": true, "namespace": "*", "resource": "*", "apiGroup": "*"}"#), create(&bob), false),
            (v1(r#"{"user": "*", "readonly": true, "namespace": "*", "resource": "*", "apiGroup": "*"}"#), list(&bob), true),
            (v1(r#"{"namespace": "*", "resource": "*", "apiGroup": "*"}"#), list(&bob), false),
            (v1(r#"{"user": "bob", "nonResourcePath": "/healthz*"}"#), Attributes::path(&bob, "get", "/healthz/ping"), true),
            (v1(r#"{"user": "bob", "nonResourcePath": "/healthz"}"#), Attributes::path(&bob, "get", "/healthz/ping"), false),
            (r#"{"readonly": true}"#.to_owned(), list(&bob), true),
            (r#"{"readonly": true}"#.to_owned(), create(&bob), false),
            (r#"{"user": "bob", "resource": "pods"}"#.to_owned(), list(&bob), false),
            (r#"{"user": "bob", "resource": "pods"}"#.to_owned(), Attributes::path(&bob, "get", "/api"), false),
            (r#"{"user": "bob"}"#.to_owned(), Attributes::path(&bob, "get", "/api"), true),
        ] {
            let policies = PolicyFile::parse(&format!("# a comment\n\n{line}\n")).expect("rules");
            assert_eq!(matches!(policies.authorize(&request), Decision::Allow(_)), allowed, "{line} {request:?}");
        }
        assert_eq!(PolicyFile::parse("\n{").expect_err("broken").0, 2);
        assert!(PolicyFile::parse(r#"{"apiVersion": "v9", "kind": "Policy"}"#).expect_err("unknown").1.contains("v9"));
    }

    #[test]
    fn what_a_user_may_do() {
        let policies = PolicyFile::parse(r#"{"user": "bob", "namespace": "a", "readonly": true}"#).expect("rules");
        let bob = UserInfo::authenticated("bob", [""; 0]);
        assert!(policies.rules_for(&bob, "b").is_empty());
        let rules = policies.rules_for(&bob, "a");
        assert_eq!((rules.len(), rules[0].resources.join(",")), (1, "*".to_owned()));
        assert_eq!(rules[0].verbs, ["get", "list", "watch"]);
    }
}
