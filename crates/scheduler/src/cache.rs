//! The scheduler's picture of the nodes: what the API server says, plus the pods assumed on a node while they are being bound.
//!
//! Copy on write: a scheduling cycle reads its own [`Snapshot`], changes touch only the nodes concerned, and only those are copied into
//! the next one.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Node;

use crate::node_info::NodeInfo;
use crate::pod_info::PodInfo;
use crate::snapshot::Snapshot;

#[derive(Default)]
pub(crate) struct Cache {
    nodes: Vec<Arc<NodeInfo>>,
    positions: HashMap<String, usize>,
    /// The node of each pod that is counted, by uid.
    placed: HashMap<String, String>,
    /// Pods that were placed before their node was known, by node.
    homeless: HashMap<String, HashMap<String, Arc<PodInfo>>>,
    /// The positions whose node changed since the last refresh.
    dirty: BTreeSet<usize>,
    /// A node is gone since the last refresh: positions have moved.
    moved: bool,
}

impl Cache {
    pub(crate) fn set_node(&mut self, node: Arc<Node>) {
        let name = node.metadata.name.clone().unwrap_or_default();
        if let Some(&position) = self.positions.get(&name) {
            self.dirty.insert(position);
            Arc::make_mut(&mut self.nodes[position]).set_node(node);
            return;
        }
        let mut info = NodeInfo::new(node);
        for pod in self.homeless.remove(&name).unwrap_or_default().values() {
            info.add_pod(pod);
        }
        self.dirty.insert(self.nodes.len());
        self.positions.insert(name, self.nodes.len());
        self.nodes.push(Arc::new(info));
    }

    /// Forgets a node. Its pods wait for it to come back, until they are gone themselves.
    pub(crate) fn remove_node(&mut self, name: &str) {
        let Some(position) = self.positions.remove(name) else { return };
        self.moved = true;
        let gone = self.nodes.swap_remove(position);
        if let Some(moved) = self.nodes.get(position) {
            self.positions.insert(moved.name().to_owned(), position);
        }
        if gone.pod_count() > 0 {
            let pods = gone.pods().iter().map(|pod| (pod.uid.clone(), Arc::clone(pod)));
            self.homeless.insert(name.to_owned(), pods.collect());
        }
    }

    /// Counts a pod on its node: assumed, bound, or changed there.
    pub(crate) fn place(&mut self, node: &str, pod: &Arc<PodInfo>) {
        let uid = &pod.uid;
        let before = self.placed.get(uid);
        let is_here = before.is_some_and(|before| before == node);
        if before.is_some() && !is_here {
            self.remove_pod(uid);
        }
        if !is_here {
            self.placed.insert(uid.clone(), node.to_owned());
        }
        match self.positions.get(node) {
            Some(&position) => {
                self.dirty.insert(position);
                let info = Arc::make_mut(&mut self.nodes[position]);
                if is_here { info.add_pod(pod) } else { info.add_new_pod(pod) }
            }
            None => {
                self.homeless.entry(node.to_owned()).or_default().insert(uid.clone(), Arc::clone(pod));
            }
        }
    }

    /// Stops counting a pod: it is gone, finished, or could not be bound.
    pub(crate) fn remove_pod(&mut self, uid: &str) {
        let Some(node) = self.placed.remove(uid) else { return };
        if let Some(&position) = self.positions.get(&node) {
            self.dirty.insert(position);
            Arc::make_mut(&mut self.nodes[position]).remove_pod(uid);
        } else if let Some(pods) = self.homeless.get_mut(&node) {
            pods.remove(uid);
            if pods.is_empty() {
                self.homeless.remove(&node);
            }
        }
    }

    /// A pod that is counted on some node.
    pub(crate) fn placed_pod(&self, uid: &str) -> Option<Arc<PodInfo>> {
        let node = self.placed.get(uid)?;
        match self.positions.get(node) {
            Some(&position) => self.nodes[position].pods().iter().find(|pod| pod.uid == uid).cloned(),
            None => self.homeless.get(node)?.get(uid).cloned(),
        }
    }

    /// Whether a pod is counted on some node.
    pub(crate) fn is_placed(&self, uid: &str) -> bool {
        self.placed.contains_key(uid)
    }

    /// How many nodes and counted pods there are.
    pub(crate) fn sizes(&self) -> (usize, usize) {
        (self.nodes.len(), self.placed.len())
    }

    /// A snapshot from scratch.
    #[cfg(test)]
    pub(crate) fn refresh_whole(&mut self, snapshot: &mut Snapshot) {
        *snapshot = Snapshot::of(self.nodes.iter().cloned());
    }

    /// Brings the one snapshot of this cache up to date.
    pub(crate) fn refresh(&mut self, snapshot: &mut Snapshot) {
        if std::mem::take(&mut self.moved) {
            snapshot.set_all(&self.nodes);
            self.dirty.clear();
            return;
        }
        for position in std::mem::take(&mut self.dirty) {
            snapshot.set(position, Arc::clone(&self.nodes[position]));
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};
    use serde_json::json;

    use super::*;
    use crate::label_selector::Selector;

    fn node(name: &str) -> Arc<Node> {
        Arc::new(serde_json::from_value(json!({"metadata": {"name": name}, "status": {"allocatable": {"cpu": "2"}}})).unwrap())
    }

    fn pod(uid: &str) -> Arc<PodInfo> {
        let spec = json!({"containers": [{"name": "a", "resources": {"requests": {"cpu": "500m"}}}]});
        let pod: Pod = serde_json::from_value(json!({"metadata": {"uid": uid}, "spec": spec})).unwrap();
        Arc::new(PodInfo::new(Arc::new(pod)))
    }

    fn used(cache: &mut Cache) -> Vec<(String, i64)> {
        let mut snapshot = Snapshot::default();
        cache.moved = true;
        cache.refresh(&mut snapshot);
        let mut found: Vec<_> = snapshot.nodes().iter().map(|info| (info.name().to_owned(), info.requested.milli_cpu)).collect();
        found.sort();
        found
    }

    #[test]
    fn sums_follow_the_pods() {
        let mut cache = Cache::default();
        cache.place("a", &pod("early"));
        cache.set_node(node("a"));
        cache.set_node(node("b"));
        assert_eq!(used(&mut cache), [("a".into(), 500), ("b".into(), 0)]);
        cache.place("b", &pod("one"));
        cache.place("b", &pod("one"));
        assert_eq!(used(&mut cache), [("a".into(), 500), ("b".into(), 500)], "placing twice counts once");
        cache.place("a", &pod("one"));
        assert_eq!(used(&mut cache), [("a".into(), 1000), ("b".into(), 0)], "a pod counts on one node");
        cache.remove_pod("early");
        cache.remove_node("b");
        assert_eq!(used(&mut cache), [("a".into(), 500)]);
        cache.remove_node("a");
        assert_eq!(used(&mut cache), []);
        cache.set_node(node("a"));
        assert_eq!(used(&mut cache), [("a".into(), 500)], "a node that comes back has its pods");
    }

    #[test]
    fn a_snapshot_does_not_change_until_it_is_refreshed() {
        let mut cache = Cache::default();
        cache.set_node(node("a"));
        let mut snapshot = Snapshot::default();
        cache.refresh(&mut snapshot);
        cache.place("a", &pod("one"));
        assert_eq!(snapshot.nodes()[0].requested.milli_cpu, 0);
        cache.refresh(&mut snapshot);
        assert_eq!(snapshot.nodes()[0].requested.milli_cpu, 500);
    }

    /// A pod by its number: some have claims, some affinity, some ports.
    fn varied(number: u32) -> Arc<PodInfo> {
        let mut spec = json!({"containers": [{"name": "a", "resources": {"requests": {"cpu": format!("{}m", number * 7), "example.com/x": number % 3}}}]});
        if number.is_multiple_of(2) {
            spec["volumes"] = json!([{"name": "v", "persistentVolumeClaim": {"claimName": format!("c{}", number % 5)}}]);
        }
        if number.is_multiple_of(3) {
            let term = json!({"topologyKey": "zone", "labelSelector": {}});
            spec["affinity"] = json!({"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}});
        }
        if number.is_multiple_of(5) {
            spec["containers"][0]["ports"] = json!([{"containerPort": 1, "hostPort": number}]);
        }
        let metadata = json!({"uid": format!("u{number}"), "namespace": "d", "labels": {"app": (number % 4).to_string()}});
        let object = json!({"metadata": metadata, "spec": spec});
        Arc::new(PodInfo::new(Arc::new(serde_json::from_value(object).unwrap())))
    }

    /// What a snapshot says, in an order that does not depend on its history.
    fn facts(snapshot: &Snapshot) -> Vec<String> {
        let mut facts: Vec<String> = Vec::new();
        for node in snapshot.nodes() {
            let mut pods: Vec<_> = node.pods().iter().map(|pod| pod.uid.clone()).collect();
            pods.sort();
            let mut ports: Vec<_> = node.host_ports().map(|port| port.port).collect();
            ports.sort_unstable();
            facts.push(format!("{} {pods:?} {ports:?} {:?} {:?}", node.name(), node.requested, node.scored));
            assert_eq!(snapshot.get(node.name()).map(|found| found.name()), Some(node.name()));
        }
        facts.extend(snapshot.nodes_with_affinity().map(|node| format!("affinity {}", node.name())));
        facts.extend((0..5).map(|number| format!("claim {number} {}", snapshot.is_claim_used(&format!("d/c{number}")))));
        for app in 0..4 {
            let mut selector = Selector::default();
            selector.require("app", "In", vec![app.to_string()]);
            facts.extend(snapshot.nodes_with_pods("d", &selector).iter().map(|node| format!("app {app} on {}", node.name())));
        }
        facts.sort();
        facts
    }

    #[test]
    fn an_incremental_snapshot_equals_one_from_scratch() {
        for seed in 0..50 {
            let mut random = StdRng::seed_from_u64(seed);
            let (mut cache, mut snapshot) = (Cache::default(), Snapshot::default());
            let mut truth: (BTreeSet<u32>, HashMap<u32, u32>) = Default::default();
            for _ in 0..200 {
                let (number, place) = (random.random_range(0..30), random.random_range(0..6));
                let name = format!("n{place}");
                match random.random_range(0..10) {
                    0 => {
                        cache.remove_node(&name);
                        truth.0.remove(&place);
                    }
                    1..=2 => {
                        cache.set_node(node(&name));
                        truth.0.insert(place);
                    }
                    3..=7 => {
                        cache.place(&name, &varied(number));
                        truth.1.insert(number, place);
                    }
                    _ => {
                        cache.remove_pod(&format!("u{number}"));
                        truth.1.remove(&number);
                    }
                }
                if random.random_bool(0.3) {
                    cache.refresh(&mut snapshot);
                    let scratch = truth.0.iter().map(|place| {
                        let mut info = NodeInfo::new(node(&format!("n{place}")));
                        let here = truth.1.iter().filter(|(_, on)| *on == place);
                        here.for_each(|(number, _)| info.add_pod(&varied(*number)));
                        Arc::new(info)
                    });
                    assert_eq!(facts(&snapshot), facts(&Snapshot::of(scratch)), "seed {seed}");
                }
            }
        }
    }
}
