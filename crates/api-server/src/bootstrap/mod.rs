//! The objects that a cluster starts with, brought about at every start: system namespaces, priority classes, RBAC's policy, the
//! `kubernetes` Service with its endpoints, the ServiceCIDR, and the config map that tells extension servers whom to trust.
//!
//! Everything goes through the server's own API ([`Loopback`]). What somebody changed is left alone, except where upstream
//! reconciles it too (RBAC's missing rules, the endpoints of `kubernetes`).

mod cluster_authentication;
pub(crate) mod rbac_policy;
mod service;

use std::net::IpAddr;

pub(crate) use cluster_authentication::{ClusterAuthentication, PublishError};
use futures::{StreamExt, TryStreamExt};
use rbac_policy::PolicyObject;
use serde_json::{Value as Json, json};

use crate::access::Access;
use crate::gates::{Feature, FeatureGates};
use crate::health::{Lifecycle, Step};
use crate::loopback::{Loopback, LoopbackError, collection};

/// What the bootstrap objects say about this server.
#[derive(Clone, Debug)]
pub struct BootstrapConfig {
    /// The address under which pods reach this server.
    pub advertise_address: IpAddr,
    /// Its port.
    pub advertise_port: u16,
    /// The ranges of ClusterIPs, for example `10.43.0.0/16`: one, or one of each family, of which the first is the default.
    pub service_cidrs: Vec<String>,
    /// The `kubernetes` Service's ClusterIP: the first of the range.
    pub service_ip: IpAddr,
    /// Whether this server keeps the endpoints of `kubernetes`. Upstream's flag is `--endpoint-reconciler-type`.
    pub publish_endpoints: bool,
}

/// The namespaces that the system itself uses.
const NAMESPACES: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];

/// Creates and reconciles everything. Idempotent; safe to run on several servers at once.
pub(crate) async fn run(
    loopback: &Loopback,
    config: &BootstrapConfig,
    access: &Access,
    gates: FeatureGates,
    lifecycle: &Lifecycle,
) -> Result<(), LoopbackError> {
    for name in NAMESPACES {
        ensure(
            loopback,
            "",
            "namespaces",
            "",
            name,
            &json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}),
        )
        .await?;
    }
    lifecycle.done(Step::Namespaces);
    priority_classes(loopback).await?;
    lifecycle.done(Step::PriorityClasses);
    rbac(loopback, gates).await?;
    lifecycle.done(Step::BootstrapRoles);
    if gates.has(Feature::MultiCidrServiceAllocator) {
        service::cidr(loopback, config).await?;
    }
    lifecycle.done(Step::ServiceCidr);
    service::run(loopback, config).await?;
    lifecycle.done(Step::KubernetesService);
    match ClusterAuthentication::new(loopback, access, gates).publish().await {
        Err(PublishError::Write(error)) => return Err(error),
        // No reason not to serve.
        Err(error @ PublishError::Content(_)) => tracing::warn!(%error, "extension servers are not told whom to trust"),
        Ok(()) => {}
    }
    lifecycle.done(Step::ClusterAuthentication);
    legacy_token_tracking(loopback).await?;
    lifecycle.done(Step::LegacyTokens);
    Ok(())
}

/// The config map that says since when uses of ServiceAccount tokens in Secrets are noted.
async fn legacy_token_tracking(loopback: &Loopback) -> Result<(), LoopbackError> {
    const NAME: &str = "kube-apiserver-legacy-service-account-token-tracking";
    let today = jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC).date().to_string();
    let data = json!({"since": today});
    let metadata = json!({"name": NAME, "namespace": "kube-system"});
    let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data});
    let Some(mut stored) = ensure(loopback, "", "configmaps", "kube-system", NAME, &object).await? else { return Ok(()) };
    let since = stored["data"]["since"].as_str().unwrap_or_default();
    if jiff::civil::Date::strptime("%Y-%m-%d", since).is_ok() {
        return Ok(());
    }
    stored["data"]["since"] = json!(today);
    match loopback.update(&format!("{}/{NAME}", collection("", "v1", "configmaps", "kube-system")), &stored).await {
        // Somebody else repairs it.
        Err(error) if matches!(error.code(), Some(404 | 409)) => Ok(()),
        result => result.map(|_| ()),
    }
}

/// Creates an object unless it is there. Returns what was there already.
async fn ensure(
    loopback: &Loopback,
    group: &str,
    resource: &str,
    namespace: &str,
    name: &str,
    object: &Json,
) -> Result<Option<Json>, LoopbackError> {
    let collection = collection(group, "v1", resource, namespace);
    let path = format!("{collection}/{name}");
    match loopback.get(&path).await {
        Ok(found) => return Ok(Some(found)),
        Err(error) if error.code() == Some(404) => {}
        Err(error) => return Err(error),
    }
    match loopback.create(&collection, object).await {
        Ok(_) => Ok(None),
        // Another server was faster.
        Err(error) if error.code() == Some(409) => loopback.get(&path).await.map(Some),
        Err(error) => Err(error),
    }
}

async fn priority_classes(loopback: &Loopback) -> Result<(), LoopbackError> {
    // Upstream's values: two above everything that users may give (HighestUserDefinablePriority is 1,000,000,000).
    let classes = [
        ("system-node-critical", 2_000_001_000, "Used for system critical pods that must not be moved from their current node."),
        (
            "system-cluster-critical",
            2_000_000_000,
            "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
        ),
    ];
    for (name, value, description) in classes {
        let class = json!({
            "apiVersion": "scheduling.k8s.io/v1",
            "kind": "PriorityClass",
            "metadata": {"name": name},
            "value": value,
            "description": description,
        });
        ensure(loopback, "scheduling.k8s.io", "priorityclasses", "", name, &class).await?;
    }
    Ok(())
}

/// Writes go out together, so that the store commits them in groups: one by one they would dominate the first start.
const WRITES_AT_ONCE: usize = 64;

async fn rbac(loopback: &Loopback, gates: FeatureGates) -> Result<(), LoopbackError> {
    let all = rbac_policy::objects(gates).into_iter().map(|wanted| rbac_object(loopback, wanted));
    futures::stream::iter(all).buffer_unordered(WRITES_AT_ONCE).try_collect().await
}

async fn rbac_object(loopback: &Loopback, wanted: PolicyObject) -> Result<(), LoopbackError> {
    const GROUP: &str = "rbac.authorization.k8s.io";
    let stored = ensure(loopback, GROUP, wanted.resource, &wanted.namespace, &wanted.name, &wanted.object).await?;
    let Some(stored) = stored else { return Ok(()) };
    if stored["metadata"]["annotations"]["rbac.authorization.kubernetes.io/autoupdate"] == "false" {
        return Ok(());
    }
    let Some(object) = rbac_policy::reconciled(&stored, &wanted.object) else { return Ok(()) };
    let path = format!("{}/{}", collection(GROUP, "v1", wanted.resource, &wanted.namespace), wanted.name);
    match loopback.update(&path, &object).await {
        // Somebody changed it in between; the next start reconciles again.
        Err(error) if error.code() == Some(409) => {
            tracing::info!(resource = wanted.resource, name = wanted.name, "an RBAC object changed while being reconciled");
            Ok(())
        }
        result => result.map(|_| ()),
    }
}
