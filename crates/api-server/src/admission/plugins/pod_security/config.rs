//! PodSecurityConfiguration: what holds where namespaces say nothing, and who is exempt.

use apimachinery::field::{Error, ErrorList, Path};
use apimachinery::validation;
use serde::Deserialize;
use serde_json::Value as Json;

use super::levels::{Level, LevelVersion, Policy, Version};
use crate::admission::config::versioned;

const KIND: &str = "PodSecurityConfiguration";
const VERSIONS: [&str; 3] = [
    "pod-security.admission.config.k8s.io/v1",
    "pod-security.admission.config.k8s.io/v1beta1",
    "pod-security.admission.config.k8s.io/v1alpha1",
];

/// Checked.
#[derive(Clone, Debug)]
pub(in crate::admission) struct PodSecurityConfig {
    pub(super) defaults: Policy,
    exemptions: Exemptions,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Exemptions {
    usernames: Vec<String>,
    namespaces: Vec<String>,
    runtime_classes: Vec<String>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct File {
    defaults: Defaults,
    exemptions: Exemptions,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
struct Defaults {
    enforce: String,
    enforce_version: String,
    audit: String,
    audit_version: String,
    warn: String,
    warn_version: String,
}

impl Default for Defaults {
    fn default() -> Self {
        let (level, version) = ("privileged".to_owned(), "latest".to_owned());
        Self {
            enforce: level.clone(),
            enforce_version: version.clone(),
            audit: level.clone(),
            audit_version: version.clone(),
            warn: level,
            warn_version: version,
        }
    }
}

impl Default for PodSecurityConfig {
    fn default() -> Self {
        Self { defaults: Policy::PRIVILEGED, exemptions: Exemptions::default() }
    }
}

fn level_version(mode: &str, level: &str, version: &str, e: &mut ErrorList) -> LevelVersion {
    let path = Path::new("defaults");
    let read = Level::parse(level);
    if read.is_none() {
        e.push(Error::invalid(&path.child(mode), level, "must be one of privileged, baseline, restricted"));
    }
    let read_version = Version::parse(version);
    if read_version.is_none() {
        let member = format!("{mode}-version");
        e.push(Error::invalid(&path.child(&member), version, r#"must be "latest" or "v1.x""#));
    }
    LevelVersion { level: read.unwrap_or(Level::Restricted), version: read_version.unwrap_or(Version::Latest) }
}

fn check_names(member: &str, names: &[String], rule: impl Fn(&str) -> Vec<String>, e: &mut ErrorList) {
    let list = Path::new("exemptions").child(member);
    let mut seen: Vec<&str> = Vec::new();
    for (at, name) in names.iter().enumerate() {
        let (path, why) = (list.index(at), rule(name));
        if !why.is_empty() {
            e.push(Error::invalid(&path, name.as_str(), why.join(", ")));
        } else if seen.contains(&name.as_str()) {
            e.push(Error::duplicate(&path, name.as_str()));
        } else {
            seen.push(name);
        }
    }
}

impl PodSecurityConfig {
    pub(in crate::admission) fn read(config: &Json) -> Result<Self, String> {
        let file: File = versioned(config, &VERSIONS.map(|version| (version, KIND)))?;
        let (defaults, exemptions) = (file.defaults, file.exemptions);
        let mut errors = ErrorList::new();
        let enforce = level_version("enforce", &defaults.enforce, &defaults.enforce_version, &mut errors);
        let warn = level_version("warn", &defaults.warn, &defaults.warn_version, &mut errors);
        // Read for its mistakes alone, as there is no audit.
        level_version("audit", &defaults.audit, &defaults.audit_version, &mut errors);
        check_names("namespaces", &exemptions.namespaces, validation::is_dns1123_label, &mut errors);
        check_names("runtimeClasses", &exemptions.runtime_classes, validation::is_dns1123_subdomain, &mut errors);
        let named = |name: &str| if name.is_empty() { vec!["username must not be empty".to_owned()] } else { Vec::new() };
        check_names("usernames", &exemptions.usernames, named, &mut errors);
        match errors.is_empty() {
            true => Ok(Self { defaults: Policy { enforce, warn }, exemptions }),
            false => Err(errors.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")),
        }
    }

    pub(super) fn exempts_namespace(&self, name: &str) -> bool {
        !name.is_empty() && self.exemptions.namespaces.iter().any(|exempt| exempt == name)
    }

    pub(super) fn exempts_user(&self, name: &str) -> bool {
        !name.is_empty() && self.exemptions.usernames.iter().any(|exempt| exempt == name)
    }

    pub(super) fn exempts_runtime_class(&self, name: Option<&str>) -> bool {
        name.is_some_and(|name| !name.is_empty() && self.exemptions.runtime_classes.iter().any(|exempt| exempt == name))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn configurations() {
        let read = |mut config: Json| {
            config["apiVersion"] = json!(VERSIONS[0]);
            config["kind"] = json!(KIND);
            PodSecurityConfig::read(&config)
        };
        let config = read(json!({
            "defaults": {"enforce": "baseline", "enforce-version": "v1.20"},
            "exemptions": {"usernames": ["ada"], "namespaces": ["kube-system"], "runtimeClasses": ["vm"]},
        }));
        let config = config.expect("reads");
        assert_eq!(config.defaults.enforce.to_string(), "baseline:v1.20");
        assert_eq!(config.defaults.warn.to_string(), "privileged:latest");
        assert!(config.exempts_user("ada") && !config.exempts_user("") && config.exempts_namespace("kube-system"));
        assert!(config.exempts_runtime_class(Some("vm")) && !config.exempts_runtime_class(None));
        for (config, why) in [
            (json!({"defaults": {"enforce": "strict"}}), "defaults.enforce: Invalid value: \"strict\""),
            (json!({"defaults": {"warn-version": "1"}}), "defaults.warn-version"),
            (json!({"exemptions": {"namespaces": ["a", "a"]}}), "exemptions.namespaces[1]: Duplicate value: \"a\""),
            (json!({"exemptions": {"usernames": [""]}}), "username must not be empty"),
            (json!({"more": 1}), "unknown field"),
        ] {
            let error = read(config).map(drop).expect_err("refused");
            assert!(error.contains(why), "{error}");
        }
    }
}
