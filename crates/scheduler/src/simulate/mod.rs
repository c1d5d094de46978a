//! Where pods would go, and why not elsewhere, without touching the cluster: cycles of the real plugins over a picture of it.
//!
//! Pods are placed one after the other, each as if those before it had been bound. Differences from the scheduler: every node is looked
//! at (no sampling), among equals the choice is always the same, extenders are not asked, nothing is evicted.

mod cluster;
mod template;

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use parking_lot::Mutex;
use rand::SeedableRng;
use rand::rngs::StdRng;

pub use cluster::{Cluster, ClusterError};
pub use template::{TemplateError, pods_of};

use crate::cache::Cache;
use crate::config::{Config, ConfigError};
use crate::cycle::{Course, Settings, Surroundings, schedule};
use crate::framework::{CycleState, Handle, Profile, Status};
use crate::pod_info::PodInfo;
use crate::snapshot::Snapshot;

/// A picture of a cluster with pods being placed on it.
pub struct Simulation {
    profiles: BTreeMap<String, Arc<Profile>>,
    priorities: BTreeMap<String, i32>,
    default_priority: i32,
    cache: Cache,
    snapshot: Snapshot,
}

/// What would become of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It would be bound.
    Bound {
        /// To this node.
        node: String,
    },
    /// Others would have to go first.
    Preempts {
        /// It would be nominated for this node.
        node: String,
        /// `NAMESPACE/NAME` of those who would be evicted.
        victims: Vec<String>,
        /// What the pod's condition would say meanwhile.
        message: String,
    },
    /// It would stay pending.
    Pending {
        /// What the pod's condition would say.
        message: String,
    },
}

/// What is said of one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeOpinion {
    /// The node.
    pub node: String,
    /// The weighted sum of its scores, if the pod fits.
    pub score: Option<i64>,
    /// Why it does not.
    pub reasons: Vec<String>,
}

/// One pod's result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// `NAMESPACE/NAME`.
    pub pod: String,
    /// What would become of it.
    pub fate: Fate,
    /// All nodes: those that fit by score, then the others by name.
    pub nodes: Vec<NodeOpinion>,
}

impl Simulation {
    /// Begins with a cluster as it is. Its pending pods are not placed.
    pub fn new(config: &Config, cluster: Cluster) -> Result<Self, ConfigError> {
        let handle = Handle { listers: cluster.listers(), random: Mutex::new(StdRng::seed_from_u64(0)), ..Handle::default() };
        let profiles = config.make_profiles(&Arc::new(handle))?;
        let mut cache = Cache::default();
        for node in cluster.nodes {
            cache.set_node(Arc::new(node));
        }
        for pod in cluster.pods {
            let ended = matches!(pod.status.as_ref().and_then(|status| status.phase.as_deref()), Some("Succeeded" | "Failed"));
            let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).filter(|name| !name.is_empty());
            if let Some(node) = node.filter(|_| !ended) {
                cache.place(&node, &Arc::new(PodInfo::new(Arc::new(pod))));
            }
        }
        let by_default = cluster.priority_classes.iter().find(|class| class.global_default == Some(true));
        let default_priority = by_default.map_or(0, |class| class.value);
        let priorities = cluster.priority_classes.into_iter().map(|class| (class.name_any(), class.value)).collect();
        Ok(Self { profiles, priorities, default_priority, cache, snapshot: Snapshot::default() })
    }

    /// Says where a pod would go; those that follow find it there.
    pub fn place(&mut self, mut pod: Pod) -> Verdict {
        let name = format!("{}/{}", pod.namespace().unwrap_or_default(), pod.name_any());
        self.complete(&mut pod, &name);
        let scheduler = pod.spec.as_ref().and_then(|spec| spec.scheduler_name.clone()).unwrap_or_default();
        let pending = |message: String| Verdict { pod: name.clone(), fate: Fate::Pending { message }, nodes: Vec::new() };
        let Some(profile) = self.profiles.get(&scheduler).cloned() else {
            return pending(format!("no profile is called {scheduler:?}: another scheduler has to place it"));
        };
        let gate = profile.pre_enqueue(&pod);
        if !gate.is_success() {
            return pending(gate.message());
        }
        let info = Arc::new(PodInfo::new(Arc::new(pod)));
        self.cache.refresh(&mut self.snapshot);
        let nodes = opinions(&profile, &info, &self.snapshot);
        let settings = Settings { percentage_of_nodes_to_score: 100, batching: false };
        let around = Surroundings { snapshot: &self.snapshot, settings, extenders: &[] };
        let fate = match schedule(&profile, &info, around, &mut Course::default()) {
            Ok(placement) => {
                self.cache.place(&placement.node, &info);
                Fate::Bound { node: placement.node }
            }
            Err(rejection) => match rejection.eviction {
                None => Fate::Pending { message: rejection.message },
                Some(eviction) => {
                    let victims = eviction
                        .victims
                        .iter()
                        .map(|victim| format!("{}/{}", victim.pod.namespace().unwrap_or_default(), victim.pod.name_any()));
                    let victims = victims.collect();
                    eviction.victims.iter().for_each(|victim| self.cache.remove_pod(&victim.uid));
                    self.cache.place(&eviction.node, &info);
                    Fate::Preempts { node: eviction.node.clone(), victims, message: rejection.message }
                }
            },
        };
        Verdict { pod: name, fate, nodes }
    }

    /// What the API server would have added, as far as scheduling depends on it.
    fn complete(&self, pod: &mut Pod, name: &str) {
        // The cache knows pods by uid.
        pod.metadata.uid.get_or_insert_with(|| format!("simulated {name}"));
        let Some(spec) = pod.spec.as_mut() else { return };
        template::set_defaults(spec);
        if spec.priority.is_none() {
            let class = spec.priority_class_name.as_deref().filter(|name| !name.is_empty());
            spec.priority = Some(class.map_or(self.default_priority, |class| {
                let system = match class {
                    "system-node-critical" => 2_000_001_000,
                    "system-cluster-critical" => 2_000_000_000,
                    _ => self.default_priority,
                };
                self.priorities.get(class).copied().unwrap_or(system)
            }));
        }
    }
}

/// What the filters and scores say of every node.
fn opinions(profile: &Profile, pod: &Arc<PodInfo>, snapshot: &Snapshot) -> Vec<NodeOpinion> {
    let mut state = CycleState::new(Arc::clone(pod));
    let all = |reasons: Vec<String>| {
        let of_node = |node: &Arc<crate::node_info::NodeInfo>| NodeOpinion {
            node: node.name().to_owned(),
            score: None,
            reasons: reasons.clone(),
        };
        snapshot.nodes().iter().map(of_node).collect::<Vec<_>>()
    };
    let texts = |status: &Status| status.reasons().iter().map(ToString::to_string).collect::<Vec<_>>();
    let pre_filtered = match profile.pre_filter(&mut state, &pod.pod, snapshot) {
        Ok(result) if result.status.is_success() => result,
        Ok(result) => return all(texts(&result.status)),
        Err(status) => return all(texts(&status)),
    };
    let named = |node: &str| pre_filtered.nodes.as_ref().is_none_or(|nodes| nodes.contains(node));
    let (mut fitting, mut refused) = (Vec::new(), Vec::new());
    for node in snapshot.nodes() {
        let status = profile.filter_node(&state, &pod.pod, node);
        if status.is_success() && named(node.name()) {
            fitting.push(Arc::clone(node));
            continue;
        }
        let mut reasons = texts(&status);
        if reasons.is_empty() {
            let names: Vec<&str> = pre_filtered.naming.iter().copied().collect();
            reasons.push(format!("node(s) didn't satisfy plugin(s) [{}]", names.join(" ")));
        }
        refused.push(NodeOpinion { node: node.name().to_owned(), score: None, reasons });
    }
    let scores =
        profile.pre_score(&mut state, &pod.pod, &fitting, snapshot).and_then(|()| profile.score(&state, &pod.pod, &fitting));
    let scores = scores.unwrap_or_else(|_| vec![0; fitting.len()]);
    let scored = fitting.iter().zip(scores);
    let mut opinions: Vec<NodeOpinion> = scored
        .map(|(node, score)| NodeOpinion { node: node.name().to_owned(), score: Some(score), reasons: Vec::new() })
        .collect();
    opinions.sort_by(|a, b| (b.score, &a.node).cmp(&(a.score, &b.node)));
    refused.sort_by(|a, b| a.node.cmp(&b.node));
    opinions.extend(refused);
    opinions
}

#[cfg(test)]
mod tests;
