//! `PodTopologyLabels`: a pod has the zone and region of its node as labels (KEP-4742), from when it is bound or made for a node.

use std::sync::Arc;

use apimachinery::Status;
use async_trait::async_trait;

use super::unreadable;
use crate::admission::{AdmissionPlugin, Attributes, Operation};
use crate::objects::Objects;

const LABELS: [&str; 2] = ["topology.kubernetes.io/zone", "topology.kubernetes.io/region"];

pub(super) struct PodTopologyLabels {
    objects: Arc<dyn Objects>,
    /// The feature is on; otherwise nothing is done.
    enabled: bool,
}

impl PodTopologyLabels {
    pub(super) fn new(objects: Arc<dyn Objects>, enabled: bool) -> Self {
        Self { objects, enabled }
    }
}

#[async_trait]
impl AdmissionPlugin for PodTopologyLabels {
    fn name(&self) -> &'static str {
        "PodTopologyLabels"
    }

    fn handles(&self, operation: Operation) -> bool {
        self.enabled && operation == Operation::Create
    }

    async fn admit(&self, attributes: &mut Attributes) -> Result<(), Status> {
        if !attributes.resource.group.is_empty() || attributes.resource.resource != "pods" {
            return Ok(());
        }
        let Some(object) = attributes.object.as_mut() else { return Ok(()) };
        let node = match attributes.subresource.as_str() {
            "" => object.str_at(&["spec", "nodeName"]),
            // The labels of a Binding become the pod's.
            "binding" if object["target"]["kind"] == "Node" => object.str_at(&["target", "name"]),
            _ => None,
        };
        let Some(node) = node.filter(|name| !name.is_empty()) else { return Ok(()) };
        // A node that is not there (yet) has no labels.
        let labels = self.objects.labels("", "nodes", "", node).await.map_err(unreadable)?.unwrap_or_default();
        for (key, value) in labels.iter().filter(|(key, _)| LABELS.contains(&key.as_str())) {
            object.meta_mut().set_label(key, value);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value as Json, json};

    use super::super::testing::{create, object};
    use super::*;
    use crate::objects::memory::MemoryObjects;

    async fn labels(subresource: &str, given: Json) -> Json {
        let objects = MemoryObjects::default();
        let on_node =
            json!({"topology.kubernetes.io/zone": "z", "topology.kubernetes.io/region": "r", "topology.kubernetes.io/x": "y"});
        objects.put("nodes", json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n", "labels": on_node}}));
        let mut attributes = create("", "pods", "Pod", &given);
        attributes.subresource = subresource.to_owned();
        PodTopologyLabels::new(Arc::new(objects), true).admit(&mut attributes).await.expect("admits");
        object(&attributes)["metadata"]["labels"].clone()
    }

    #[tokio::test]
    async fn a_pod_has_its_nodes_zone_and_region() {
        let both = json!({"topology.kubernetes.io/zone": "z", "topology.kubernetes.io/region": "r"});
        assert_eq!(labels("", json!({"metadata": {"name": "p"}, "spec": {"nodeName": "n"}})).await, both);
        let old = json!({"topology.kubernetes.io/zone": "other"});
        let pod = json!({"metadata": {"name": "p", "labels": old}, "spec": {"nodeName": "n"}});
        assert_eq!(labels("", pod).await, both);
        let target = |kind: &str, name: &str| json!({"metadata": {"name": "p"}, "target": {"kind": kind, "name": name}});
        assert_eq!(labels("binding", target("Node", "n")).await, both);
        for (subresource, given) in [
            ("", json!({"metadata": {"name": "p"}})),
            ("", json!({"metadata": {"name": "p"}, "spec": {"nodeName": "gone"}})),
            ("binding", target("", "n")),
            ("eviction", json!({"metadata": {"name": "p"}, "spec": {"nodeName": "n"}})),
        ] {
            assert_eq!(labels(subresource, given.clone()).await, Json::Null, "{subresource} {given}");
        }
    }
}
