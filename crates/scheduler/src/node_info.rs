//! A node with the sums over its pods: what the filters and scores read.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod, Taint};

use crate::resource::{PodRequest, Resources, pod_request};

/// A host port in use: address, protocol, port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct HostPort {
    pub(crate) address: String,
    pub(crate) protocol: String,
    pub(crate) port: i32,
}

/// `0.0.0.0` and the empty address mean all of the node's.
pub(crate) const ANY_ADDRESS: &str = "0.0.0.0";

/// A node and what runs, or is about to run, on it.
#[derive(Clone, Debug)]
pub struct NodeInfo {
    node: Arc<Node>,
    /// What the node has for pods.
    pub(crate) allocatable: Resources,
    /// The sum of what its pods ask for.
    pub(crate) requested: Resources,
    /// The same as scoring counts it.
    pub(crate) scored: Resources,
    /// The bytes of each image on the node, by name.
    pub(crate) images: HashMap<String, i64>,
    pods: HashMap<String, PodRequest>,
    ports: HashMap<String, BTreeSet<HostPort>>,
}

impl NodeInfo {
    /// An empty node.
    pub(crate) fn new(node: Arc<Node>) -> Self {
        let mut info = Self {
            node: Arc::clone(&node),
            allocatable: Resources::default(),
            requested: Resources::default(),
            scored: Resources::default(),
            images: HashMap::new(),
            pods: HashMap::new(),
            ports: HashMap::new(),
        };
        info.set_node(node);
        info
    }

    /// Takes a newer version of the node's object; the pods stay.
    pub(crate) fn set_node(&mut self, node: Arc<Node>) {
        let status = node.status.as_ref();
        self.allocatable = status.and_then(|status| status.allocatable.as_ref()).map(Resources::from_list).unwrap_or_default();
        self.images = status
            .and_then(|status| status.images.as_ref())
            .into_iter()
            .flatten()
            .flat_map(|image| {
                let bytes = image.size_bytes.unwrap_or_default();
                image.names.iter().flatten().map(move |name| (name.clone(), bytes))
            })
            .collect();
        self.node = node;
    }

    /// The node's object.
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// The node's name.
    pub fn name(&self) -> &str {
        self.node.metadata.name.as_deref().unwrap_or_default()
    }

    /// How many pods count against the node.
    pub fn pod_count(&self) -> usize {
        self.pods.len()
    }

    /// The node's taints.
    pub(crate) fn taints(&self) -> &[Taint] {
        self.node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default()
    }

    /// The host ports in use.
    pub(crate) fn host_ports(&self) -> impl Iterator<Item = &HostPort> {
        self.ports.values().flatten()
    }

    /// Counts a pod; one that is counted already is replaced.
    pub(crate) fn add_pod(&mut self, uid: &str, pod: &Pod) {
        self.remove_pod(uid);
        let request = pod_request(pod);
        self.requested.add(&request.requested);
        self.scored.add(&request.scored);
        self.pods.insert(uid.to_owned(), request);
        let ports = host_ports(pod);
        if !ports.is_empty() {
            self.ports.insert(uid.to_owned(), ports);
        }
    }

    /// Stops counting a pod, if it was.
    pub(crate) fn remove_pod(&mut self, uid: &str) {
        if let Some(request) = self.pods.remove(uid) {
            self.requested.subtract(&request.requested);
            self.scored.subtract(&request.scored);
            self.ports.remove(uid);
        }
    }
}

/// The host ports that a pod wants.
pub(crate) fn host_ports(pod: &Pod) -> BTreeSet<HostPort> {
    let Some(spec) = &pod.spec else { return BTreeSet::new() };
    let sidecars = spec.init_containers.iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always"));
    spec.containers
        .iter()
        .chain(sidecars)
        .flat_map(|container| container.ports.iter().flatten())
        .filter_map(|port| {
            let number = port.host_port.filter(|number| *number > 0)?;
            Some(HostPort {
                address: port.host_ip.clone().filter(|address| !address.is_empty()).unwrap_or_else(|| ANY_ADDRESS.to_owned()),
                protocol: port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
                port: number,
            })
        })
        .collect()
}
