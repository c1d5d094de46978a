//! NodePorts: two pods of a node never share a host port.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::Pod;

use crate::framework::{ClusterEvent, Code, CycleState, EventSet, Filter, Hint, Plugin, PreFilter, Sign, Signer, Status};
use crate::node_info::NodeInfo;
use crate::pod_info::{ANY_ADDRESS, HostPort, PodInfo, host_ports};
use crate::snapshot::Snapshot;

pub(super) struct NodePorts;

/// What the pod wants.
#[derive(Clone)]
struct Wanted(BTreeSet<HostPort>);

fn conflict(one: &HostPort, other: &HostPort) -> bool {
    let same_address = one.address == other.address || one.address == ANY_ADDRESS || other.address == ANY_ADDRESS;
    one.port == other.port && one.protocol == other.protocol && same_address
}

impl Plugin for NodePorts {
    fn name(&self) -> &'static str {
        "NodePorts"
    }

    fn events(&self) -> EventSet {
        EventSet::ASSIGNED_DELETE.and(EventSet::NODE_ADD)
    }

    fn hint(&self, info: &PodInfo, event: &ClusterEvent) -> Hint {
        let pod = &*info.pod;
        match event {
            ClusterEvent::AssignedPod { old: Some(old), new: None } => {
                let (wanted, freed) = (host_ports(pod), host_ports(old));
                let helps = wanted.iter().any(|one| freed.iter().any(|other| conflict(one, other)));
                if helps { Hint::Queue } else { Hint::Skip }
            }
            ClusterEvent::Node { old: None, .. } => Hint::Queue,
            _ => Hint::Skip,
        }
    }

    fn as_pre_filter(&self) -> Option<&dyn PreFilter> {
        Some(self)
    }

    fn as_filter(&self) -> Option<&dyn Filter> {
        Some(self)
    }

    fn as_sign(&self) -> Option<&dyn Sign> {
        Some(self)
    }
}

impl Sign for NodePorts {
    fn sign(&self, pod: &PodInfo, signer: &mut Signer) {
        signer.add("v1.Pod.Spec.HostPorts()", || Ok(&pod.ports));
    }
}

impl PreFilter for NodePorts {
    fn pre_filter(&self, state: &mut CycleState, pod: &Pod, _snapshot: &Snapshot) -> (Status, Option<Vec<String>>) {
        let wanted = host_ports(pod);
        if wanted.is_empty() {
            return (Status::skip(), None);
        }
        state.put(Wanted(wanted));
        (Status::success(), None)
    }
}

impl Filter for NodePorts {
    fn filter(&self, state: &CycleState, _pod: &Pod, node: &NodeInfo) -> Status {
        let Some(Wanted(wanted)) = state.get() else { return Status::success() };
        if wanted.iter().any(|one| node.host_ports().any(|other| conflict(one, other))) {
            return Status::new(Code::Unschedulable, ["node(s) didn't have free ports for the requested pod ports"]);
        }
        Status::success()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::plugins::testing::{filter, info, node, pod};

    #[test]
    fn ports_conflict_by_address_and_protocol() {
        let wants = |address: &str, protocol: &str, port: i32| {
            let ports = json!([{"containerPort": 80, "hostPort": port, "hostIP": address, "protocol": protocol}]);
            pod(json!({"containers": [{"name": "c", "ports": ports}]}))
        };
        let mut on = node(json!({"metadata": {"name": "n"}}));
        on.add_pod(&info(wants("127.0.0.1", "TCP", 80)));
        let check = |pod: Pod, expected: Code| assert_eq!(filter(&NodePorts, &pod, &on), expected);
        check(wants("127.0.0.1", "TCP", 80), Code::Unschedulable);
        check(wants("", "TCP", 80), Code::Unschedulable);
        check(wants("0.0.0.0", "TCP", 80), Code::Unschedulable);
        check(wants("127.0.0.2", "TCP", 80), Code::Success);
        check(wants("127.0.0.1", "UDP", 80), Code::Success);
        check(wants("127.0.0.1", "TCP", 81), Code::Success);
        check(pod(json!({"containers": [{"name": "c"}]})), Code::Success);
    }
}
