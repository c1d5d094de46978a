//! The kubelet's configuration file: the fields of KubeletConfiguration that this kubelet acts on
//! (<https://kubernetes.io/docs/reference/config-api/kubelet-config.v1beta1/>). A field that it does not act on is an error, not ignored.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use k8s_openapi::api::core::v1::Taint;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use serde::Deserialize;

use crate::config::Config;
use crate::quantity;

/// Why a configuration file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigFileError {
    /// Not YAML or JSON, or a field that is unknown or not implemented.
    #[error("not a KubeletConfiguration that this kubelet can follow")]
    Parse(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Another kind of object.
    #[error("{api_version} {kind} is not kubelet.config.k8s.io/v1beta1 KubeletConfiguration")]
    Kind {
        /// What the file says.
        api_version: String,
        /// What the file says.
        kind: String,
    },
    /// A value that means nothing for its field.
    #[error("{field}: invalid value {value:?}")]
    Value {
        /// The field's name.
        field: &'static str,
        /// What the file says.
        value: String,
    },
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct File {
    api_version: String,
    kind: String,
    address: Option<IpAddr>,
    port: Option<u16>,
    max_pods: Option<u32>,
    static_pod_path: Option<PathBuf>,
    cluster_domain: Option<String>,
    #[serde(rename = "clusterDNS")]
    cluster_dns: Option<Vec<IpAddr>>,
    resolv_conf: Option<PathBuf>,
    node_status_update_frequency: Option<String>,
    node_status_report_frequency: Option<String>,
    node_lease_duration_seconds: Option<u64>,
    container_log_max_size: Option<String>,
    container_log_max_files: Option<u32>,
    #[serde(rename = "imageGCHighThresholdPercent")]
    image_gc_high_threshold_percent: Option<u8>,
    #[serde(rename = "imageGCLowThresholdPercent")]
    image_gc_low_threshold_percent: Option<u8>,
    #[serde(rename = "imageMinimumGCAge")]
    image_minimum_gc_age: Option<String>,
    eviction_hard: BTreeMap<String, String>,
    allowed_unsafe_sysctls: Option<Vec<String>>,
    #[serde(rename = "providerID")]
    provider_id: Option<String>,
    register_with_taints: Option<Vec<Taint>>,
    #[serde(rename = "cgroupsPerQOS")]
    cgroups_per_qos: Option<bool>,
}

impl Config {
    /// Takes over what a KubeletConfiguration file (YAML or JSON) says; everything else stays.
    pub fn apply_file(&mut self, text: &str) -> Result<(), ConfigFileError> {
        // By way of JSON, which the executable has the code for anyway.
        let parsed = apimachinery::yaml::parse_one(text.as_bytes());
        let document = parsed.map_err(|error| ConfigFileError::Parse(error.to_string().into()))?;
        // Upstream decodes leniently what it cannot decode strictly, and says so.
        for duplicate in &document.duplicates {
            tracing::warn!(duplicate, "the kubelet's configuration says something twice, the last one counts");
        }
        let json = document.value.to_json();
        let file: File = serde_json::from_str(&json).map_err(|error| ConfigFileError::Parse(error.to_string().into()))?;
        if file.kind != "KubeletConfiguration" || file.api_version != "kubelet.config.k8s.io/v1beta1" {
            return Err(ConfigFileError::Kind { api_version: file.api_version, kind: file.kind });
        }
        self.eviction(&file.eviction_hard)?;
        let duration = |field, value: Option<String>, target: &mut Duration| -> Result<(), ConfigFileError> {
            if let Some(value) = value {
                *target = go_duration(&value).ok_or(ConfigFileError::Value { field, value })?;
            }
            Ok(())
        };
        duration("nodeStatusUpdateFrequency", file.node_status_update_frequency, &mut self.status_update_interval)?;
        duration("nodeStatusReportFrequency", file.node_status_report_frequency, &mut self.status_report_interval)?;
        duration("imageMinimumGCAge", file.image_minimum_gc_age, &mut self.image_gc_age_min)?;
        if let Some(value) = file.container_log_max_size {
            self.container_log_bytes_max = bytes("containerLogMaxSize", &value)?;
        }
        set(&mut self.bind_address, file.address);
        set(&mut self.port, file.port);
        set(&mut self.pods_max, file.max_pods);
        set(&mut self.cluster_domain, file.cluster_domain);
        set(&mut self.cluster_dns, file.cluster_dns);
        set(&mut self.resolv_conf, file.resolv_conf);
        set(&mut self.lease_duration, file.node_lease_duration_seconds.map(Duration::from_secs));
        set(&mut self.container_log_files_max, file.container_log_max_files);
        set(&mut self.image_gc_high_percent, file.image_gc_high_threshold_percent);
        set(&mut self.image_gc_low_percent, file.image_gc_low_threshold_percent);
        set(&mut self.allowed_unsafe_sysctls, file.allowed_unsafe_sysctls);
        set(&mut self.register_taints, file.register_with_taints);
        set(&mut self.cgroups_per_qos, file.cgroups_per_qos);
        set(&mut self.static_pod_dir, file.static_pod_path.map(Some));
        set(&mut self.provider_id, file.provider_id.map(Some));
        Ok(())
    }

    fn eviction(&mut self, signals: &BTreeMap<String, String>) -> Result<(), ConfigFileError> {
        let percent = |field, value: &str| {
            let number = value.strip_suffix('%').and_then(|n| n.parse::<u8>().ok()).filter(|n| *n <= 100);
            number.ok_or_else(|| ConfigFileError::Value { field, value: value.to_owned() })
        };
        for (signal, value) in signals {
            match signal.as_str() {
                "memory.available" => self.eviction_memory_available_bytes = bytes("evictionHard[memory.available]", value)?,
                "nodefs.available" => {
                    self.eviction_nodefs_available_percent = percent("evictionHard[nodefs.available]", value)?;
                }
                "nodefs.inodesFree" => {
                    self.eviction_nodefs_inodes_free_percent = percent("evictionHard[nodefs.inodesFree]", value)?;
                }
                other => return Err(ConfigFileError::Value { field: "evictionHard", value: other.to_owned() }),
            }
        }
        Ok(())
    }
}

fn set<T>(target: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *target = value;
    }
}

fn bytes(field: &'static str, value: &str) -> Result<u64, ConfigFileError> {
    let invalid = || ConfigFileError::Value { field, value: value.to_owned() };
    apimachinery::Quantity::parse(value).map_err(|_| invalid())?;
    u64::try_from(quantity::whole(&Quantity(value.to_owned()))).map_err(|_| invalid())
}

/// Go's notation, as in `1h30m` or `500ms`.
fn go_duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let letters = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let unit = match &rest[..letters] {
            "ms" => 0.001,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        total += Duration::try_from_secs_f64(number * unit).ok()?;
        rest = &rest[letters..];
    }
    (!text.is_empty()).then_some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n";

    #[test]
    fn fields_are_taken_over() {
        let mut config = Config::new("n", Vec::new(), "/tmp");
        let text = format!(
            "{HEAD}maxPods: 20\nstaticPodPath: /etc/pods\nnodeStatusUpdateFrequency: 1m30s\nevictionHard:\n  memory.available: 200Mi\n  nodefs.available: 7%\nclusterDNS: [10.0.0.10]\ncontainerLogMaxSize: 1Ki\n"
        );
        config.apply_file(&text).unwrap();
        assert_eq!((config.pods_max, config.static_pod_dir.as_deref()), (20, Some(std::path::Path::new("/etc/pods"))));
        assert_eq!(config.status_update_interval, Duration::from_secs(90));
        assert_eq!((config.eviction_memory_available_bytes, config.eviction_nodefs_available_percent), (200 << 20, 7));
        assert_eq!((config.cluster_dns.len(), config.container_log_bytes_max), (1, 1024));
        assert_eq!(config.image_gc_high_percent, 85, "what is not named stays");
    }

    #[test]
    fn what_cannot_be_followed_is_refused() {
        for text in [
            format!("{HEAD}cpuManagerPolicy: static\n"),
            format!("{HEAD}evictionHard: {{imagefs.available: 5%}}\n"),
            format!("{HEAD}imageMinimumGCAge: soon\n"),
            "kind: Pod\napiVersion: v1\n".to_owned(),
        ] {
            assert!(Config::new("n", Vec::new(), "/tmp").apply_file(&text).is_err(), "{text}");
        }
    }
}
