//! Which of the built-in APIs are served (`--runtime-config`, `--emulated-version`).
//!
//! By default stable versions are served, beta and alpha ones are not (upstream's `DefaultAPIResourceConfigSource`). An API is turned on
//! or off by stage, by version or by resource; one that is not in the table of resources cannot be turned on.

mod introduced;

use std::collections::BTreeMap;

use super::resource::{self, Resource};
use crate::gates::EmulatedVersion;
use crate::resource_metrics;

/// What was asked for; by default every stable version is served.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ApiEnablement {
    /// `api/all`, `api/ga`, `api/beta`, `api/alpha`.
    stages: BTreeMap<String, bool>,
    /// `GROUP/VERSION` and `GROUP/VERSION/RESOURCE`; the core group is empty.
    apis: BTreeMap<String, bool>,
    /// Which APIs there are by their age.
    emulation: Emulation,
}

/// The APIs of which release there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Emulation {
    minor: u8,
    /// Newer versions of what is served are served too.
    forward: bool,
    /// What is asked for by name is served whatever its age.
    named: bool,
}

impl Default for Emulation {
    fn default() -> Self {
        Emulation { minor: EmulatedVersion::NEWEST_MINOR, forward: false, named: false }
    }
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

    /// The same with the APIs of an older release alone. `forward` serves newer versions of what it serves, too (upstream's flag is
    /// `--emulation-forward-compatible`), `named` what was asked for by name (`--runtime-config-emulation-forward-compatible`).
    pub fn emulating(mut self, version: EmulatedVersion, forward: bool, named: bool) -> Result<Self, String> {
        self.emulation = Emulation { minor: version.minor, forward, named };
        let rows = resource::builtin();
        let newer = |row: &&Resource| introduced_minor(row) > version.minor;
        for (api, _) in self.apis.iter().filter(|(_, on)| **on && !named) {
            let hint = "Consider setting --runtime-config-emulation-forward-compatible=true";
            let current = format!("after the current version 1.{}. {hint}", version.minor);
            if let Some(row) = rows.iter().filter(newer).find(|row| *api == resource_key(row)) {
                let since = introduced_minor(row);
                return Err(format!(
                    "cannot enable resource {api} in runtime-config because it is introduced at 1.{since} {current}"
                ));
            }
            let mut of_version = rows.iter().filter(|row| *api == version_key(row)).peekable();
            if of_version.peek().is_some() && of_version.all(|row| newer(&row)) {
                return Err(format!(
                    "cannot enable version {api} in runtime-config because all the resources have been introduced {current}"
                ));
            }
        }
        Ok(self)
    }

    /// Whether a resource is served: it must be as old as the version that is emulated, unless what came later was asked for.
    pub(crate) fn serves(&self, row: &Resource) -> bool {
        let is_old = |row: &Resource| introduced_minor(row) <= self.emulation.minor;
        if is_old(row) {
            return self.is_on(row) || (self.emulation.forward && self.has_older_version(row));
        }
        let named = [resource_key(row), version_key(row)].iter().any(|key| self.apis.get(key) == Some(&true));
        (self.emulation.named && named) || (self.emulation.forward && self.has_older_version(row))
    }

    /// Whether a version of the resource with less of a promise is served, one that is not alpha.
    fn has_older_version(&self, row: &Resource) -> bool {
        let no = [resource_key(row), version_key(row)].iter().any(|key| self.apis.get(key) == Some(&false));
        let lower = |other: &Resource| {
            other.group_resource() == row.group_resource()
                && !other.gvr.version.contains("alpha")
                && rank(&other.gvr.version) < rank(&row.gvr.version)
        };
        let rows = resource::builtin();
        !no && rows.iter().any(|other| lower(other) && introduced_minor(other) <= self.emulation.minor && self.is_on(other))
    }

    /// Whether a resource is turned on: the resource's own word first, then its version's, then its stage's.
    fn is_on(&self, row: &Resource) -> bool {
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

/// Stable versions come before beta ones, and newer ones before older ones.
fn rank(version: &str) -> (bool, u32, u32) {
    let number = |text: &str| text.parse().unwrap_or(0);
    let bare = version.trim_start_matches('v');
    match bare.split_once("beta") {
        Some((major, minor)) => (false, number(major), number(minor)),
        None => (true, number(bare), 0),
    }
}

fn introduced_minor(row: &Resource) -> u8 {
    introduced::minor(&row.gvr.group, &row.gvr.version, &row.gvr.resource)
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
    fn apis_by_their_age() {
        let served = |items: &[&str], minor: u8, forward: bool, named: bool| -> Result<Vec<String>, String> {
            let parsed = ApiEnablement::parse(&items.iter().map(|item| (*item).to_owned()).collect::<Vec<_>>())?;
            let parsed = parsed.emulating(EmulatedVersion::of(minor), forward, named)?;
            Ok(resource::builtin().iter().filter(|row| parsed.serves(row)).map(resource_key).collect())
        };
        let has = |served: &[String], key: &str| served.iter().any(|have| have == key);
        let (classes, cidrs) = ("storage.k8s.io/v1/volumeattributesclasses", "networking.k8s.io/v1/servicecidrs");
        for (minor, has_cidrs, has_classes) in [(32, false, false), (33, true, false), (34, true, true), (35, true, true)] {
            let all = served(&[], minor, false, false).unwrap();
            assert_eq!((has(&all, cidrs), has(&all, classes)), (has_cidrs, has_classes), "{minor}");
        }
        let beta = served(&["api/beta=true"], 32, false, false).unwrap();
        assert!(has(&beta, "networking.k8s.io/v1beta1/servicecidrs") && !has(&beta, cidrs));
        assert!(!has(&beta, "resource.k8s.io/v1beta2/resourceclaims"));
        let forward = served(&["api/beta=true"], 32, true, false).unwrap();
        assert!(has(&forward, cidrs) && has(&forward, "resource.k8s.io/v1beta2/resourceclaims"));
        assert!(!has(&served(&[], 32, true, false).unwrap(), cidrs), "nothing older of it is served");
        let refused = served(&["networking.k8s.io/v1/servicecidrs"], 32, false, false).unwrap_err();
        assert!(refused.contains("introduced at 1.33 after the current version 1.32"), "{refused}");
        let refused = served(&["resource.k8s.io/v1"], 33, false, false).unwrap_err();
        assert!(refused.contains("all the resources have been introduced after"), "{refused}");
        assert!(has(&served(&["networking.k8s.io/v1"], 32, false, true).unwrap(), cidrs));
        assert!(served(&["networking.k8s.io/v1"], 32, false, false).is_ok(), "most of it is older");
    }

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
