//! A pod with what the plugins would otherwise work out again and again: its request, its host ports, its affinity terms, its claims.

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, PodAffinityTerm, WeightedPodAffinityTerm};

use crate::label_selector::Selector;
use crate::resource::{PodRequest, pod_request};

/// A host port in use: address, protocol, port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub(crate) struct HostPort {
    pub(crate) address: String,
    pub(crate) protocol: String,
    pub(crate) port: i32,
}

/// `0.0.0.0` and the empty address mean all of the node's.
pub(crate) const ANY_ADDRESS: &str = "0.0.0.0";

/// A term of pod affinity or anti-affinity.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct AffinityTerm {
    /// Namespaces by name; the pod's own if the term names none in either way.
    pub(crate) namespaces: BTreeSet<String>,
    /// Namespaces by label.
    pub(crate) namespace_selector: Selector,
    /// Which pods.
    pub(crate) selector: Selector,
    /// Two nodes are at the same place if they have the same value of this label.
    pub(crate) topology_key: String,
    /// Of preferred terms.
    pub(crate) weight: i64,
}

impl AffinityTerm {
    fn new(pod: &Pod, term: &PodAffinityTerm, weight: i64) -> Self {
        let named: BTreeSet<String> = term.namespaces.iter().flatten().cloned().collect();
        let own = named.is_empty() && term.namespace_selector.is_none();
        let namespaces = if own { pod.metadata.namespace.clone().into_iter().collect() } else { named };
        Self {
            namespaces,
            namespace_selector: Selector::new(term.namespace_selector.as_ref()),
            selector: Selector::new(term.label_selector.as_ref()),
            topology_key: term.topology_key.clone(),
            weight,
        }
    }

    fn weighted(pod: &Pod, term: &WeightedPodAffinityTerm) -> Self {
        Self::new(pod, &term.pod_affinity_term, i64::from(term.weight))
    }

    /// Whether the term is about a pod; `namespace_labels` are those of the pod's namespace.
    pub(crate) fn matches(&self, pod: &Pod, namespace_labels: Option<&crate::label_selector::Labels>) -> bool {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        // A namespace that is not known (yet) has no labels, which the empty selector accepts too.
        let there = self.namespaces.contains(namespace) || self.namespace_selector.matches(namespace_labels);
        there && self.selector.matches(pod.metadata.labels.as_ref())
    }
}

/// See the module.
#[derive(Clone, Debug)]
pub struct PodInfo {
    /// The object.
    pub(crate) pod: Arc<Pod>,
    pub(crate) uid: String,
    pub(crate) request: PodRequest,
    pub(crate) ports: BTreeSet<HostPort>,
    /// `namespace/name` of the claims that it uses, generic ephemeral volumes aside.
    pub(crate) claims: Vec<String>,
    pub(crate) required_affinity: Vec<AffinityTerm>,
    pub(crate) required_anti_affinity: Vec<AffinityTerm>,
    pub(crate) preferred_affinity: Vec<AffinityTerm>,
    pub(crate) preferred_anti_affinity: Vec<AffinityTerm>,
}

impl PodInfo {
    /// A newer version. What is worked out is kept where a change of status (which there are most of) cannot have touched it.
    pub(crate) fn update(before: Option<&Self>, pod: Arc<Pod>) -> Self {
        let Some(before) = before else { return Self::new(pod) };
        let resizable = |pod: &Pod| pod.metadata.generation;
        let sizes = |pod: &Pod| {
            let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_deref()).unwrap_or_default();
            statuses.iter().any(|status| status.resources.is_some() || status.allocated_resources.is_some())
        };
        let same =
            resizable(&before.pod).is_some() && resizable(&before.pod) == resizable(&pod) && !sizes(&pod) && !sizes(&before.pod);
        if !same {
            return Self::new(pod);
        }
        Self { pod, ..before.clone() }
    }

    /// Works it out.
    pub(crate) fn new(pod: Arc<Pod>) -> Self {
        let mut info = Self {
            uid: pod.metadata.uid.clone().unwrap_or_default(),
            request: pod_request(&pod),
            ports: host_ports(&pod),
            claims: claims(&pod),
            required_affinity: Vec::new(),
            required_anti_affinity: Vec::new(),
            preferred_affinity: Vec::new(),
            preferred_anti_affinity: Vec::new(),
            pod,
        };
        let pod = Arc::clone(&info.pod);
        let Some(affinity) = pod.spec.as_ref().and_then(|spec| spec.affinity.as_ref()) else { return info };
        if let Some(own) = &affinity.pod_affinity {
            let required = own.required_during_scheduling_ignored_during_execution.iter().flatten();
            info.required_affinity = required.map(|term| AffinityTerm::new(&pod, term, 0)).collect();
            let preferred = own.preferred_during_scheduling_ignored_during_execution.iter().flatten();
            info.preferred_affinity = preferred.map(|term| AffinityTerm::weighted(&pod, term)).collect();
        }
        if let Some(own) = &affinity.pod_anti_affinity {
            let required = own.required_during_scheduling_ignored_during_execution.iter().flatten();
            info.required_anti_affinity = required.map(|term| AffinityTerm::new(&pod, term, 0)).collect();
            let preferred = own.preferred_during_scheduling_ignored_during_execution.iter().flatten();
            info.preferred_anti_affinity = preferred.map(|term| AffinityTerm::weighted(&pod, term)).collect();
        }
        info
    }

    /// Whether it has terms of any kind, so that others' placement depends on it.
    pub(crate) fn has_affinity(&self) -> bool {
        let terms =
            [&self.required_affinity, &self.required_anti_affinity, &self.preferred_affinity, &self.preferred_anti_affinity];
        terms.iter().any(|terms| !terms.is_empty())
    }

    /// `spec.priority`, 0 if absent.
    pub(crate) fn priority(&self) -> i32 {
        priority(&self.pod)
    }
}

/// `spec.priority`, 0 if absent.
pub(crate) fn priority(pod: &Pod) -> i32 {
    pod.spec.as_ref().and_then(|spec| spec.priority).unwrap_or_default()
}

fn claims(pod: &Pod) -> Vec<String> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let volumes = pod.spec.as_ref().and_then(|spec| spec.volumes.as_ref()).into_iter().flatten();
    volumes.filter_map(|volume| Some(format!("{namespace}/{}", volume.persistent_volume_claim.as_ref()?.claim_name))).collect()
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
