//! The configuration of admission plugins (`--admission-control-config-file`): an AdmissionConfiguration, whose entries hold the configuration of a
//! plugin or name the file that does (<https://kubernetes.io/docs/reference/config-api/apiserver-config.v1/>).
//!
//! Each plugin that runs reads its own part. Entries of others, and of those that take none, mean nothing, as upstream's: not even the files that
//! they name are looked at. Those of plugins that run upstream and are not here are refused.

use std::path::{Path, PathBuf};

use apimachinery::yaml;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value as Json;

use super::plugins::{NodeSelectors, PodSecurityConfig, QuotaConfig, TolerationConfig};

const KIND: &str = "AdmissionConfiguration";
const VERSIONS: [&str; 2] = ["apiserver.config.k8s.io/v1", "apiserver.k8s.io/v1alpha1"];
/// Plugins that upstream runs by default, that take a configuration and are not here.
const ABSENT: [&str; 2] = ["MutatingAdmissionWebhook", "ValidatingAdmissionWebhook"];
/// Plugins that take one. (Those of upstream that are off and not here cannot be turned on.)
const CONFIGURED: [&str; 4] = ["PodSecurity", "ResourceQuota", "PodTolerationRestriction", POD_NODE_SELECTOR];
const POD_NODE_SELECTOR: &str = "PodNodeSelector";
/// What the formats of before versions begin with. Upstream reads both where the plugin runs; of the other nothing is here.
const UNVERSIONED: [&str; 2] = ["podNodeSelectorPluginConfig", "imagePolicy"];

/// What the plugins were told; by default what upstream has them do without a file.
#[derive(Clone, Debug, Default)]
pub struct AdmissionConfig {
    pub(super) pod_security: PodSecurityConfig,
    pub(super) quota: QuotaConfig,
    pub(super) tolerations: TolerationConfig,
    pub(super) node_selectors: NodeSelectors,
}

/// The file, or one that it names, cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AdmissionConfigError {
    /// It cannot be read.
    #[error("unable to read admission control configuration from {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It is not an AdmissionConfiguration.
    #[error("{path}: {reason}")]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// What it says about a plugin is wrong.
    #[error("{path}: plugin {plugin}: {reason}")]
    Plugin {
        /// The file.
        path: PathBuf,
        /// The plugin's name.
        plugin: String,
        /// What is wrong.
        reason: String,
    },
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    #[serde(default)]
    plugins: Option<Vec<Entry>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    #[serde(default)]
    name: String,
    #[serde(default)]
    path: String,
    #[serde(default)]
    configuration: Option<Json>,
}

fn read(path: &Path) -> Result<Vec<u8>, AdmissionConfigError> {
    std::fs::read(path).map_err(|source| AdmissionConfigError::Read { path: path.to_owned(), source })
}

fn json(text: &[u8]) -> Result<Json, String> {
    let text = yaml::strict_json(text).map_err(|error| error.to_string())?;
    serde_json::from_str(&text).map_err(|error| error.to_string())
}

/// A configuration of one of these versions and kinds, with no members but its own.
pub(super) fn versioned<T: DeserializeOwned>(config: &Json, kinds: &[(&str, &str)]) -> Result<T, String> {
    let text = |member: &str| config[member].as_str().unwrap_or_default();
    let (version, kind) = (text("apiVersion"), text("kind"));
    if !kinds.contains(&(version, kind)) {
        return Err(format!("no kind {kind:?} is registered for version {version:?}"));
    }
    let mut members = config.clone();
    if let Some(members) = members.as_object_mut() {
        members.retain(|key, _| !matches!(key.as_str(), "apiVersion" | "kind"));
    }
    serde_json::from_value(members).map_err(|error| error.to_string())
}

impl AdmissionConfig {
    /// Reads the file and those that it names, but for plugins that are `off`.
    pub fn load(path: &Path, off: &[String]) -> Result<Self, AdmissionConfigError> {
        let wrong = |reason: String| AdmissionConfigError::File { path: path.to_owned(), reason };
        let whole = json(&read(path)?).map_err(wrong)?;
        let mut config = Self::default();
        let is_on =
            |plugin: &str| (CONFIGURED.contains(&plugin) || ABSENT.contains(&plugin)) && off.iter().all(|off| off != plugin);
        let has_kind = whole.get("apiVersion").is_some() && whole.get("kind").is_some();
        if !has_kind && UNVERSIONED.iter().any(|member| whole.get(member).is_some()) {
            if is_on(POD_NODE_SELECTOR) {
                config.set(path, POD_NODE_SELECTOR, &whole)?;
            }
            return Ok(config);
        }
        let file: File = versioned(&whole, &VERSIONS.map(|version| (version, KIND))).map_err(wrong)?;
        let mut seen: Vec<String> = Vec::new();
        for entry in file.plugins.into_iter().flatten() {
            // Of several for one plugin the first counts.
            if seen.contains(&entry.name) || !is_on(&entry.name) {
                continue;
            }
            match (&entry.configuration, entry.path.as_str()) {
                (Some(part), _) => config.set(path, &entry.name, part)?,
                (None, "") => {}
                (None, named) => {
                    let named = path.parent().unwrap_or(Path::new("")).join(named);
                    let part = json(&read(&named)?);
                    let part = part.map_err(|reason| AdmissionConfigError::File { path: named.clone(), reason })?;
                    config.set(&named, &entry.name, &part)?;
                }
            }
            seen.push(entry.name);
        }
        Ok(config)
    }

    fn set(&mut self, path: &Path, plugin: &str, part: &Json) -> Result<(), AdmissionConfigError> {
        let result = match plugin {
            "PodSecurity" => PodSecurityConfig::read(part).map(|read| self.pod_security = read),
            "ResourceQuota" => QuotaConfig::read(part).map(|read| self.quota = read),
            "PodTolerationRestriction" => TolerationConfig::read(part).map(|read| self.tolerations = read),
            POD_NODE_SELECTOR => NodeSelectors::read(part).map(|read| self.node_selectors = read),
            absent if ABSENT.contains(&absent) => Err("not implemented".to_owned()),
            _ => Ok(()),
        };
        result.map_err(|reason| AdmissionConfigError::Plugin { path: path.to_owned(), plugin: plugin.to_owned(), reason })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<AdmissionConfig, String> {
        load_without(text, &[])
    }

    fn load_without(text: &str, off: &[&str]) -> Result<AdmissionConfig, String> {
        let dir = tempfile::tempdir().expect("a directory");
        let selectors = "podNodeSelectorPluginConfig: {clusterDefaultNodeSelector: a=b}\n";
        std::fs::write(dir.path().join("selectors.yaml"), selectors).expect("written");
        let path = dir.path().join("config.yaml");
        std::fs::write(&path, text).expect("written");
        let off: Vec<String> = off.iter().map(|name| (*name).to_owned()).collect();
        AdmissionConfig::load(&path, &off).map_err(|error| error.to_string())
    }

    const HEAD: &str = "apiVersion: apiserver.config.k8s.io/v1\nkind: AdmissionConfiguration\n";

    #[test]
    fn files() {
        let config =
            load(&format!("{HEAD}plugins:\n- name: PodNodeSelector\n  path: selectors.yaml\n- name: Priority\n")).expect("reads");
        assert_eq!(config.node_selectors.default_selector(), "a=b");
        assert!(load("podNodeSelectorPluginConfig: {clusterDefaultNodeSelector: a=b}").is_ok());
        assert!(load(HEAD).is_ok());
        let quota = "- name: ResourceQuota\n  configuration: {apiVersion: apiserver.config.k8s.io/v1, kind: ResourceQuotaConfiguration}\n";
        assert!(load(&format!("{HEAD}plugins:\n{quota}")).is_ok());
        for (text, why) in [
            ("kind: Pod\napiVersion: v1\n".to_owned(), "no kind \"Pod\" is registered for version \"v1\""),
            (format!("{HEAD}more: 1\n"), "unknown field `more`"),
            (format!("{HEAD}plugins: [{{name: PodNodeSelector, path: gone.yaml}}]\n"), "unable to read"),
            (
                format!("{HEAD}plugins: [{{name: MutatingAdmissionWebhook, configuration: {{}}}}]\n"),
                "MutatingAdmissionWebhook: not implemented",
            ),
            (
                format!("{HEAD}plugins: [{{name: PodSecurity, configuration: {{kind: X}}}}]\n"),
                "plugin PodSecurity: no kind \"X\"",
            ),
        ] {
            let error = load(&text).map(drop).expect_err("refused");
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn what_does_not_run_is_not_asked() {
        let entry = |name: &str, rest: &str| format!("{HEAD}plugins: [{{name: {name}, {rest}}}]\n");
        for (name, rest) in [
            ("PodSecurity", "configuration: {kind: X}"),
            ("PodNodeSelector", "path: gone.yaml"),
            ("ValidatingAdmissionWebhook", "configuration: {}"),
        ] {
            assert!(load(&entry(name, rest)).is_err(), "{name}");
            assert!(load_without(&entry(name, rest), &[name]).is_ok(), "{name}");
        }
        for name in ["ImagePolicyWebhook", "EventRateLimit", "Priority", "Imaginary"] {
            assert!(load(&entry(name, "path: gone.yaml")).is_ok(), "{name}");
        }
        let selectors = "podNodeSelectorPluginConfig: {clusterDefaultNodeSelector: a=b}";
        let config = load_without(selectors, &["PodNodeSelector"]).expect("reads");
        assert_eq!(config.node_selectors.default_selector(), "");
        assert!(load("imagePolicy: {}").is_ok());
        let unreadable = load_without(&format!("{HEAD}more: 1\n"), &["PodSecurity"]).map(drop).expect_err("refused");
        assert!(unreadable.contains("unknown field `more`"), "the file itself is read all the same: {unreadable}");
    }
}
