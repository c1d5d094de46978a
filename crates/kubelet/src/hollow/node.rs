//! One hollow node: its Node object, its status, its Lease.

use std::collections::BTreeMap;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::{Node, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeSpec, NodeSystemInfo};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference, Time};
use kube::api::{Api, Patch, PatchParams, PostParams};
use parking_lot::Mutex;
use serde_json::json;

use super::{HollowConfig, numbered};
use crate::node::NodeStatus;

const LEASES: &str = "kube-node-lease";

/// See the module.
pub(super) struct HollowNode {
    wanted: Node,
    status: NodeStatus,
    lease_seconds: i32,
    /// The object as the server has it.
    node: Mutex<Option<Node>>,
    lease: Mutex<Option<Lease>>,
}

impl HollowNode {
    pub(super) fn new(config: &HollowConfig, number: usize) -> Self {
        let name = format!("{}{number}", config.prefix);
        let mut labels: BTreeMap<String, String> =
            config.labels.iter().map(|(key, value)| (key.clone(), numbered(value, number))).collect();
        labels.insert("kubernetes.io/hostname".to_owned(), name.clone());
        for (key, value) in [("arch", crate::node::architecture()), ("os", "linux")] {
            labels.insert(format!("kubernetes.io/{key}"), value.to_owned());
            labels.insert(format!("beta.kubernetes.io/{key}"), value.to_owned());
        }
        let annotation = ("volumes.kubernetes.io/controller-managed-attach-detach".to_owned(), "true".to_owned());
        let wanted = Node {
            metadata: ObjectMeta {
                name: Some(name.clone()),
                labels: Some(labels),
                annotations: Some(BTreeMap::from([annotation])),
                ..ObjectMeta::default()
            },
            spec: Some(NodeSpec {
                provider_id: Some(format!("kubemark://{name}")),
                taints: (!config.taints.is_empty()).then(|| config.taints.clone()),
                ..NodeSpec::default()
            }),
            status: None,
        };
        Self {
            wanted,
            status: status(config, number, &name),
            lease_seconds: i32::try_from(config.lease_duration.as_secs()).unwrap_or(i32::MAX),
            node: Mutex::default(),
            lease: Mutex::default(),
        }
    }

    pub(super) fn name(&self) -> &str {
        self.wanted.metadata.name.as_deref().unwrap_or_default()
    }

    /// Creates the Node; one that exists gets our labels and keeps the rest.
    pub(super) async fn register(&self, client: &kube::Client) -> Result<(), kube::Error> {
        let api: Api<Node> = Api::all(client.clone());
        let node = match api.create(&PostParams::default(), &self.wanted).await {
            Ok(node) => node,
            Err(kube::Error::Api(status)) if status.code == 409 => {
                let labels = json!({"metadata": {"labels": self.wanted.metadata.labels}});
                api.patch(self.name(), &PatchParams::default(), &Patch::Merge(labels)).await?
            }
            Err(error) => return Err(error),
        };
        *self.node.lock() = Some(node);
        Ok(())
    }

    /// Reports the status, heartbeats included.
    pub(super) async fn report_status(&self, client: &kube::Client) -> Result<(), kube::Error> {
        let api: Api<Node> = Api::all(client.clone());
        let patch = self.node.lock().as_ref().map(|node| self.status.patch(node, &Time(jiff::Timestamp::now())).0);
        let Some(patch) = patch else { return Ok(()) };
        let node = api.patch_status(self.name(), &PatchParams::default(), &Patch::Strategic(patch)).await?;
        *self.node.lock() = Some(node);
        Ok(())
    }

    /// Renews the Lease as a kubelet does: one update, without reading it before.
    pub(super) async fn renew_lease(&self, client: &kube::Client) -> Result<(), kube::Error> {
        let api: Api<Lease> = Api::namespaced(client.clone(), LEASES);
        let held = self.lease.lock().take();
        let held = match held {
            Some(lease) => Some(lease),
            None => api.get_opt(self.name()).await?,
        };
        let spec = LeaseSpec {
            holder_identity: Some(self.name().to_owned()),
            lease_duration_seconds: Some(self.lease_seconds),
            renew_time: Some(MicroTime(jiff::Timestamp::now())),
            ..LeaseSpec::default()
        };
        let lease = match held {
            Some(mut lease) => {
                lease.spec = Some(spec);
                api.replace(self.name(), &PostParams::default(), &lease).await?
            }
            None => {
                let uid = self.node.lock().as_ref().and_then(|node| node.metadata.uid.clone());
                let owner = uid.map(|uid| OwnerReference {
                    api_version: "v1".to_owned(),
                    kind: "Node".to_owned(),
                    name: self.name().to_owned(),
                    uid,
                    ..OwnerReference::default()
                });
                let metadata = ObjectMeta {
                    name: Some(self.name().to_owned()),
                    namespace: Some(LEASES.to_owned()),
                    owner_references: owner.map(|owner| vec![owner]),
                    ..ObjectMeta::default()
                };
                api.create(&PostParams::default(), &Lease { metadata, spec: Some(spec) }).await?
            }
        };
        *self.lease.lock() = Some(lease);
        Ok(())
    }
}

/// A node's address: its number in 10.0.0.0/9; pods are in the other half.
pub(super) fn address(number: usize) -> String {
    let [_, b, c, d] = u32::try_from(number + 1).unwrap_or(u32::MAX).to_be_bytes();
    format!("10.{}.{c}.{d}", b & 0x7f)
}

fn status(config: &HollowConfig, number: usize, name: &str) -> NodeStatus {
    let capacity: BTreeMap<String, Quantity> =
        config.capacity.iter().map(|(resource, amount)| (resource.clone(), Quantity(amount.clone()))).collect();
    let condition = |kind: &str, status: &str, reason: &str, message: &str| NodeCondition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_heartbeat_time: None,
        last_transition_time: None,
    };
    let memory = "kubelet has sufficient memory available";
    let addresses = [("InternalIP", address(number)), ("Hostname", name.to_owned())];
    NodeStatus {
        allocatable: capacity.clone(),
        capacity,
        conditions: vec![
            condition("MemoryPressure", "False", "KubeletHasSufficientMemory", memory),
            condition("DiskPressure", "False", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
            condition("PIDPressure", "False", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
            condition("Ready", "True", "KubeletReady", "kubelet is posting ready status"),
        ],
        addresses: addresses.map(|(type_, address)| NodeAddress { type_: type_.to_owned(), address }).to_vec(),
        info: NodeSystemInfo {
            architecture: crate::node::architecture().to_owned(),
            operating_system: "linux".to_owned(),
            os_image: "hollow".to_owned(),
            kubelet_version: config.version.clone(),
            container_runtime_version: "hollow://0.1.0".to_owned(),
            machine_id: name.to_owned(),
            system_uuid: name.to_owned(),
            boot_id: name.to_owned(),
            ..NodeSystemInfo::default()
        },
        endpoints: NodeDaemonEndpoints::default(),
        images: Vec::new(),
        handlers: Vec::new(),
        features: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_says_what_it_is() {
        let config = HollowConfig {
            count: 1,
            prefix: "hollow-".into(),
            first: 0,
            capacity: vec![("cpu".into(), "4".into()), ("pods".into(), "110".into())],
            labels: vec![("topology.kubernetes.io/zone".into(), "zone-{i%2}".into())],
            taints: vec![],
            lease_duration: std::time::Duration::from_secs(40),
            report_period: std::time::Duration::from_secs(300),
            version: "v1.35.0".into(),
        };
        let node = HollowNode::new(&config, 3);
        let labels = node.wanted.metadata.labels.as_ref().unwrap();
        assert_eq!((node.name(), labels["topology.kubernetes.io/zone"].as_str()), ("hollow-3", "zone-1"));
        let (patch, changed) = node.status.patch(&node.wanted, &Time(jiff::Timestamp::UNIX_EPOCH));
        assert!(changed);
        assert_eq!(patch["status"]["allocatable"], json!({"cpu": "4", "pods": "110"}));
        assert_eq!(patch["status"]["conditions"][3]["type"], "Ready");
        assert_eq!(patch["status"]["addresses"][0]["address"], "10.0.0.4");
    }

    #[test]
    fn addresses_are_unique() {
        assert_eq!((address(0), address(255), address(70_000)), ("10.0.0.1".into(), "10.0.1.0".into(), "10.1.17.113".into()));
    }
}
