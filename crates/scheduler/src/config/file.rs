//! KubeSchedulerConfiguration as it is written
//! (<https://kubernetes.io/docs/reference/config-api/kube-scheduler-config.v1/>). A field that does not exist is an error, as upstream's
//! strict decoding has it.

use serde::Deserialize;
use serde_json::Value;

use crate::extender::ExtenderFile;

/// `kubescheduler.config.k8s.io/v1 KubeSchedulerConfiguration`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct File {
    pub(super) api_version: String,
    pub(super) kind: String,
    pub(super) parallelism: Option<i32>,
    pub(super) leader_election: Option<LeaderElection>,
    pub(super) client_connection: Option<ClientConnection>,
    #[serde(rename = "enableProfiling")]
    pub(super) _enable_profiling: Option<bool>,
    #[serde(rename = "enableContentionProfiling")]
    pub(super) _enable_contention_profiling: Option<bool>,
    pub(super) percentage_of_nodes_to_score: Option<i32>,
    pub(super) pod_initial_backoff_seconds: Option<i64>,
    pub(super) pod_max_backoff_seconds: Option<i64>,
    #[serde(default)]
    pub(super) profiles: Vec<ProfileFile>,
    #[serde(default)]
    pub(super) extenders: Vec<ExtenderFile>,
    pub(super) delay_cache_until_active: Option<bool>,
}

/// `leaderElection`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct LeaderElection {
    pub(super) leader_elect: Option<bool>,
    pub(super) lease_duration: Option<String>,
    pub(super) renew_deadline: Option<String>,
    pub(super) retry_period: Option<String>,
    pub(super) resource_lock: Option<String>,
    pub(super) resource_name: Option<String>,
    pub(super) resource_namespace: Option<String>,
}

/// `clientConnection`; only the kubeconfig matters here.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct ClientConnection {
    pub(super) kubeconfig: Option<String>,
    #[serde(rename = "acceptContentTypes")]
    pub(super) _accept_content_types: Option<String>,
    #[serde(rename = "contentType")]
    pub(super) _content_type: Option<String>,
    #[serde(rename = "qps")]
    pub(super) _qps: Option<f64>,
    #[serde(rename = "burst")]
    pub(super) _burst: Option<i32>,
}

/// An item of `profiles`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct ProfileFile {
    pub(super) scheduler_name: Option<String>,
    pub(super) percentage_of_nodes_to_score: Option<i32>,
    #[serde(default)]
    pub(super) plugins: Plugins,
    #[serde(default)]
    pub(super) plugin_config: Vec<PluginConfig>,
}

/// `plugins`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct Plugins {
    pub(super) pre_enqueue: PluginSet,
    pub(super) queue_sort: PluginSet,
    pub(super) pre_filter: PluginSet,
    pub(super) filter: PluginSet,
    pub(super) post_filter: PluginSet,
    pub(super) pre_score: PluginSet,
    pub(super) score: PluginSet,
    pub(super) reserve: PluginSet,
    pub(super) permit: PluginSet,
    pub(super) pre_bind: PluginSet,
    pub(super) bind: PluginSet,
    pub(super) post_bind: PluginSet,
    pub(super) multi_point: PluginSet,
}

/// The plugins of one extension point.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct PluginSet {
    pub(super) enabled: Vec<PluginName>,
    pub(super) disabled: Vec<PluginName>,
}

/// A plugin, with its weight where it scores.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct PluginName {
    pub(super) name: String,
    pub(super) weight: Option<i64>,
}

/// The arguments of a plugin.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PluginConfig {
    pub(super) name: String,
    #[serde(default)]
    pub(super) args: Value,
}

impl PluginSet {
    /// Whether a plugin of the defaults is switched off here.
    pub(super) fn disables(&self, name: &str) -> bool {
        self.disabled.iter().any(|disabled| disabled.name == "*" || disabled.name == name)
    }

    /// The plugin as it is enabled here, if it is.
    pub(super) fn enables(&self, name: &str) -> Option<&PluginName> {
        self.enabled.iter().find(|enabled| enabled.name == name)
    }
}
