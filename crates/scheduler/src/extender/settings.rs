//! `extenders` of the configuration file.

use std::collections::BTreeSet;

use serde::Deserialize;

use crate::config::ConfigError;

/// An item of `extenders`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct ExtenderFile {
    pub(crate) url_prefix: String,
    pub(crate) filter_verb: String,
    pub(crate) preempt_verb: String,
    pub(crate) prioritize_verb: String,
    pub(crate) weight: i64,
    pub(crate) bind_verb: String,
    #[serde(rename = "enableHTTPS")]
    pub(crate) enable_https: bool,
    pub(crate) tls_config: Option<TlsFile>,
    pub(crate) http_timeout: Option<String>,
    pub(crate) node_cache_capable: bool,
    pub(crate) managed_resources: Vec<ManagedResource>,
    pub(crate) ignorable: bool,
}

/// `tlsConfig`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct TlsFile {
    pub(crate) insecure: bool,
    pub(crate) server_name: String,
    pub(crate) cert_file: String,
    pub(crate) key_file: String,
    pub(crate) ca_file: String,
    pub(crate) cert_data: String,
    pub(crate) key_data: String,
    pub(crate) ca_data: String,
}

/// An item of `managedResources`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct ManagedResource {
    pub(crate) name: String,
    pub(crate) ignored_by_scheduler: bool,
}

/// Checks all of them, as upstream does.
pub(crate) fn check(extenders: &[ExtenderFile]) -> Result<(), ConfigError> {
    let mut managed = BTreeSet::new();
    for (index, extender) in extenders.iter().enumerate() {
        let path = format!("extenders[{index}]");
        if !extender.prioritize_verb.is_empty() && extender.weight <= 0 {
            let reason = "must have a positive weight applied to it";
            return Err(ConfigError::invalid(format!("{path}.weight"), extender.weight, reason));
        }
        for (number, resource) in extender.managed_resources.iter().enumerate() {
            let path = format!("{path}.managedResources[{number}].name");
            if !is_extended_resource(&resource.name) {
                return Err(ConfigError::invalid(path, &resource.name, "is an invalid extended resource name"));
            }
            if !managed.insert(&resource.name) {
                return Err(ConfigError::invalid(path, &resource.name, "duplicate extender managed resource name"));
            }
        }
    }
    let binders = extenders.iter().filter(|extender| !extender.bind_verb.is_empty()).count();
    if binders > 1 {
        let value = format!("found {binders} extenders implementing bind");
        return Err(ConfigError::invalid("extenders", value, "only one extender can implement bind"));
    }
    Ok(())
}

/// A name with a domain that is not Kubernetes' own.
fn is_extended_resource(name: &str) -> bool {
    let part = |text: &str| {
        let ends = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric());
        ends(text.bytes().next())
            && ends(text.bytes().last())
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
    };
    name.split_once('/').is_some_and(|(domain, resource)| {
        part(domain)
            && part(resource)
            && resource.len() <= 63
            && !domain.ends_with("kubernetes.io")
            && !name.starts_with("requests.")
    })
}

/// The resources that only the extenders count.
pub(crate) fn ignored_resources(extenders: &[ExtenderFile]) -> BTreeSet<String> {
    let managed = extenders.iter().flat_map(|extender| &extender.managed_resources);
    managed.filter(|resource| resource.ignored_by_scheduler).map(|resource| resource.name.clone()).collect()
}
