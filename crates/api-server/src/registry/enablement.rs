//! Which of the built-in APIs are served (`--runtime-config`).
//!
//! By default stable versions are served, beta and alpha ones are not (upstream's `DefaultAPIResourceConfigSource`). An API is turned on
//! or off by stage, by version or by resource; one that is not in the table of resources cannot be turned on.

use std::collections::BTreeMap;

use super::resource::{self, Resource};
use crate::resource_metrics;

/// What was asked for; by default every stable version is served.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ApiEnablement {
    /// `api/all`, `api/ga`, `api/beta`, `api/alpha`.
    stages: BTreeMap<String, bool>,
    /// `GROUP/VERSION` and `GROUP/VERSION/RESOURCE`; the core group is empty.
    apis: BTreeMap<String, bool>,
}

impl ApiEnablement {
    /// Reads items of the form `apps/v1=false`, `v1=true`, `apps/v1/deployments=false`, `api/beta=true` (`=true` may be left out).
    pub fn parse(items: &[String]) -> Result<Self, String> {
        let (rows, mut parsed) = (resource::builtin(), Self::default());
        for item in items.iter().map(|item| item.trim()).filter(|item| !item.is_empty()) {
            let (key, value) = item.split_once('=').unwrap_or((item, "true"));
            let on = match value.trim() {
                "" | "true" => true,
                "false" => false,
                _ => return Err(format!("invalid value {key}={value}")),
            };
            match key.trim() {
                stage @ ("api/all" | "api/ga" | "api/beta" | "api/alpha") => drop(parsed.stages.insert(stage.to_owned(), on)),
                "api/legacy" => {}
                key => {
                    let api = if key == "v1" || key.starts_with("v1/") { format!("/{key}") } else { key.to_owned() };
                    if on && !rows.iter().any(|row| api == version_key(row) || api == resource_key(row)) {
                        return Err(format!("{key}: not implemented, or not an API of this version of Kubernetes"));
                    }
                    parsed.apis.insert(api, on);
                }
            }
        }
        Ok(parsed)
    }

    /// Whether a resource is served: the resource's own word first, then its version's, then its stage's.
    pub(crate) fn serves(&self, row: &Resource) -> bool {
        let own = self.apis.get(&resource_key(row)).or_else(|| self.apis.get(&version_key(row)));
        // Upstream has it from another server, which the stages say nothing about.
        if row.gvr.group == resource_metrics::GROUP {
            return own.copied().unwrap_or(true);
        }
        let (stage, default) = if row.gvr.version.contains("alpha") {
            ("api/alpha", false)
        } else if row.gvr.version.contains("beta") {
            ("api/beta", false)
        } else {
            ("api/ga", true)
        };
        let general = || self.stages.get(stage).or_else(|| self.stages.get("api/all"));
        own.or_else(general).copied().unwrap_or(default)
    }
}

fn version_key(row: &Resource) -> String {
    format!("{}/{}", row.gvr.group, row.gvr.version)
}

fn resource_key(row: &Resource) -> String {
    format!("{}/{}/{}", row.gvr.group, row.gvr.version, row.gvr.resource)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_particular_word_counts() {
        let served = |items: &[&str]| -> Result<Vec<String>, String> {
            let parsed = ApiEnablement::parse(&items.iter().map(|item| (*item).to_owned()).collect::<Vec<_>>())?;
            Ok(resource::builtin().iter().filter(|row| parsed.serves(row)).map(resource_key).collect())
        };
        let stable = served(&[]).unwrap();
        let metrics = |key: &str| key.starts_with("metrics.k8s.io/");
        assert!(stable.iter().all(|key| metrics(key) || !key.contains("beta") && !key.contains("alpha")), "{stable:?}");
        let all = served(&["api/all=true"]).unwrap();
        assert_eq!(all.len(), resource::builtin().len());
        let beta = served(&["api/beta=true"]).unwrap();
        assert!(stable.len() < beta.len() && beta.len() < all.len());
        assert_eq!(served(&["networking.k8s.io/v1beta1/ipaddresses"]).unwrap().len(), stable.len() + 1);
        let without = served(&["apps/v1/deployments=false", "batch/v1=false"]).unwrap();
        assert!(!without.iter().any(|key| key == "apps/v1/deployments" || key.starts_with("batch/v1/")));
        assert!(without.iter().any(|key| key == "apps/v1/replicasets"));
        let only = served(&["api/all=false", "v1=true"]).unwrap();
        assert!(!only.is_empty() && only.iter().all(|key| key.starts_with("/v1/") || metrics(key)), "{only:?}");
        assert!(served(&["example.com/v1=true"]).unwrap_err().contains("example.com/v1"));
        assert!(served(&["v1=perhaps"]).is_err());
    }
}
