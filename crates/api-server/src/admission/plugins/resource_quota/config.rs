//! ResourceQuotaConfiguration: what nobody may use without a quota that covers it.

use apimachinery::quota::{Amounts, Evaluator, Requirement};
use apimachinery::{GroupResource, Value};
use serde::Deserialize;
use serde_json::Value as Json;

use crate::admission::config::versioned;

const KINDS: [(&str, &str); 4] = [
    ("apiserver.config.k8s.io/v1", "ResourceQuotaConfiguration"),
    ("resourcequota.admission.k8s.io/v1", "Configuration"),
    ("resourcequota.admission.k8s.io/v1beta1", "Configuration"),
    ("resourcequota.admission.k8s.io/v1alpha1", "Configuration"),
];

/// Checked.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(in crate::admission) struct QuotaConfig {
    limited_resources: Vec<Limited>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Limited {
    #[serde(rename = "apiGroup")]
    api_group: String,
    resource: String,
    match_contains: Vec<String>,
    match_scopes: Vec<Scope>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Scope {
    scope_name: String,
    operator: String,
    values: Vec<String>,
}

impl QuotaConfig {
    pub(in crate::admission) fn read(config: &Json) -> Result<Self, String> {
        let read: Self = versioned(config, &KINDS)?;
        match read.limited_resources.iter().position(|limited| limited.resource.is_empty()) {
            Some(at) => Err(format!("limitedResources[{at}].resource: Required value")),
            None => Ok(read),
        }
    }

    /// What is limited of a resource.
    pub(super) fn of(&self, resource: &GroupResource) -> Limits {
        let is_of = |limited: &&Limited| limited.api_group == resource.group && limited.resource == resource.resource;
        let limited: Vec<&Limited> = self.limited_resources.iter().filter(is_of).collect();
        let requirement = |scope: &Scope| Requirement {
            scope: scope.scope_name.clone(),
            operator: scope.operator.clone(),
            values: scope.values.clone(),
        };
        Limits {
            contained: limited.iter().flat_map(|limited| limited.match_contains.iter().cloned()).collect(),
            // Upstream asks for these whatever the resource; they fit objects of one kind alone.
            scopes: self.limited_resources.iter().flat_map(|limited| limited.match_scopes.iter().map(requirement)).collect(),
        }
    }
}

/// What is limited of one resource.
#[derive(Clone, Debug, Default)]
pub(super) struct Limits {
    /// Parts of names of what is counted.
    contained: Vec<String>,
    scopes: Vec<Requirement>,
}

impl Limits {
    pub(super) fn is_empty(&self) -> bool {
        self.contained.is_empty() && self.scopes.is_empty()
    }

    /// What an object uses and a quota must cover.
    pub(super) fn names<'a>(&self, usage: &'a Amounts) -> Vec<&'a str> {
        let used = usage.iter().filter(|(_, amount)| amount.signum() > 0).map(|(name, _)| name.as_str());
        used.filter(|name| self.contained.iter().any(|part| name.contains(part.as_str()))).collect()
    }

    /// The scopes that an object is in and a quota must have.
    pub(super) fn scopes(&self, evaluator: &Evaluator, object: &Value) -> Vec<&Requirement> {
        self.scopes.iter().filter(|scope| evaluator.fulfils(scope, object)).collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn configurations() {
        let (version, kind) = KINDS[0];
        let read = |limited: Json| QuotaConfig::read(&json!({"apiVersion": version, "kind": kind, "limitedResources": limited}));
        let config =
            read(json!([{"resource": "pods", "matchContains": ["cpu"]}, {"apiGroup": "a", "resource": "pods"}])).expect("reads");
        assert!(!config.of(&GroupResource::new("", "pods")).is_empty());
        assert!(config.of(&GroupResource::new("", "services")).is_empty());
        let error = read(json!([{"matchContains": ["cpu"]}])).map(drop).expect_err("no resource");
        assert_eq!(error, "limitedResources[0].resource: Required value");
        assert!(read(json!([{"more": 1}])).is_err());
    }
}
