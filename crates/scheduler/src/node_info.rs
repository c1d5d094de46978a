//! A node with the sums over its pods: what the filters and scores read.

use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Taint};

use crate::pod_info::{HostPort, PodInfo};
use crate::resource::Resources;

/// A node and what runs, or is about to run, on it. A clone shares the pods.
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
    pub(crate) images: Arc<HashMap<String, i64>>,
    /// What most nodes answer without their object being looked at.
    pub(crate) unschedulable: bool,
    taints_that_keep_away: bool,
    taints_that_cost: bool,
    /// All pods, in the order in which they came.
    pods: Vec<Arc<PodInfo>>,
    /// Those with affinity terms of any kind.
    with_affinity: Vec<Arc<PodInfo>>,
    with_ports: Vec<Arc<PodInfo>>,
    with_claims: Vec<Arc<PodInfo>>,
}

impl NodeInfo {
    /// An empty node.
    pub(crate) fn new(node: Arc<Node>) -> Self {
        let mut info = Self {
            node: Arc::clone(&node),
            allocatable: Resources::default(),
            requested: Resources::default(),
            scored: Resources::default(),
            images: Arc::default(),
            unschedulable: false,
            taints_that_keep_away: false,
            taints_that_cost: false,
            pods: Vec::new(),
            with_affinity: Vec::new(),
            with_ports: Vec::new(),
            with_claims: Vec::new(),
        };
        info.set_node(node);
        info
    }

    /// Takes a newer version of the node's object; the pods stay.
    pub(crate) fn set_node(&mut self, node: Arc<Node>) {
        let status = node.status.as_ref();
        self.allocatable = status.and_then(|status| status.allocatable.as_ref()).map(Resources::from_list).unwrap_or_default();
        let images = status.and_then(|status| status.images.as_ref()).into_iter().flatten().flat_map(|image| {
            let bytes = image.size_bytes.unwrap_or_default();
            image.names.iter().flatten().map(move |name| (name.clone(), bytes))
        });
        let images: HashMap<String, i64> = images.collect();
        // A heartbeat brings the same images: whoever compares the pointer need not compare them.
        if *self.images != images {
            self.images = Arc::new(images);
        }
        self.node = node;
        self.unschedulable = self.node.spec.as_ref().is_some_and(|spec| spec.unschedulable == Some(true));
        let has = |effects: &[&str]| self.taints().iter().any(|taint| effects.contains(&taint.effect.as_str()));
        (self.taints_that_keep_away, self.taints_that_cost) = (has(&["NoSchedule", "NoExecute"]), has(&["PreferNoSchedule"]));
    }

    /// Whether any taint keeps pods away that do not tolerate it.
    pub(crate) fn has_hard_taints(&self) -> bool {
        self.taints_that_keep_away
    }

    /// Whether any taint costs score.
    pub(crate) fn has_soft_taints(&self) -> bool {
        self.taints_that_cost
    }

    /// The node's object.
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// The node's object, to be kept.
    pub(crate) fn shared_node(&self) -> &Arc<Node> {
        &self.node
    }

    /// The node's name.
    pub fn name(&self) -> &str {
        self.node.metadata.name.as_deref().unwrap_or_default()
    }

    /// The value of one of the node's labels.
    pub(crate) fn label(&self, key: &str) -> Option<&str> {
        self.node.metadata.labels.as_ref()?.get(key).map(String::as_str)
    }

    /// The pods that count against the node.
    pub(crate) fn pods(&self) -> &[Arc<PodInfo>] {
        &self.pods
    }

    /// Those of them that have affinity terms of any kind.
    pub(crate) fn pods_with_affinity(&self) -> &[Arc<PodInfo>] {
        &self.with_affinity
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
        self.with_ports.iter().flat_map(|pod| &pod.ports)
    }

    /// The pods that use claims, generic ephemeral volumes aside.
    pub(crate) fn pods_with_claims(&self) -> &[Arc<PodInfo>] {
        &self.with_claims
    }

    /// Counts a pod; one that is counted already is replaced.
    pub(crate) fn add_pod(&mut self, pod: &Arc<PodInfo>) {
        self.remove_pod(&pod.uid);
        self.add_new_pod(pod);
    }

    /// Counts a pod that is not counted here.
    pub(crate) fn add_new_pod(&mut self, pod: &Arc<PodInfo>) {
        self.requested.add(&pod.request.requested);
        self.scored.add(&pod.request.scored);
        self.pods.push(Arc::clone(pod));
        if pod.has_affinity() {
            self.with_affinity.push(Arc::clone(pod));
        }
        if !pod.ports.is_empty() {
            self.with_ports.push(Arc::clone(pod));
        }
        if !pod.claims.is_empty() {
            self.with_claims.push(Arc::clone(pod));
        }
    }

    /// Stops counting a pod, if it was.
    pub(crate) fn remove_pod(&mut self, uid: &str) {
        // Who came last is most likely to be meant: it has just been bound, or was not after all.
        let Some(position) = self.pods.iter().rposition(|pod| pod.uid == uid) else { return };
        let pod = self.pods.remove(position);
        self.requested.subtract(&pod.request.requested);
        self.scored.subtract(&pod.request.scored);
        for some in [&mut self.with_affinity, &mut self.with_ports, &mut self.with_claims] {
            some.retain(|other| other.uid != uid);
        }
    }
}
