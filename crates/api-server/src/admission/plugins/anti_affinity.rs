//! LimitPodHardAntiAffinityTopology: what a pod must not share with others is a node, never a zone.

use apimachinery::Status;
use async_trait::async_trait;

use super::forbidden;
use crate::admission::{AdmissionPlugin, Attributes, Operation};

const ALLOWED: &str = "kubernetes.io/hostname";

pub(super) struct LimitPodHardAntiAffinityTopology;

#[async_trait]
impl AdmissionPlugin for LimitPodHardAntiAffinityTopology {
    fn name(&self) -> &'static str {
        "LimitPodHardAntiAffinityTopology"
    }

    fn handles(&self, operation: Operation) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
    }

    async fn validate(&self, attributes: &Attributes) -> Result<(), Status> {
        let Some(pod) = attributes.object.as_ref().filter(|_| attributes.is_resource("", "pods")) else { return Ok(()) };
        let terms = pod.array_at(&["spec", "affinity", "podAntiAffinity", "requiredDuringSchedulingIgnoredDuringExecution"]);
        let keys = terms.iter().map(|term| term.str_at(&["topologyKey"]).unwrap_or_default());
        match keys.into_iter().find(|key| *key != ALLOWED) {
            Some(key) => {
                let why = format!(
                    "affinity.PodAntiAffinity.RequiredDuringScheduling has TopologyKey {key} but only key {ALLOWED} is allowed"
                );
                Err(forbidden(attributes, why))
            }
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::admission::plugins::testing::create;

    #[tokio::test]
    async fn keys() {
        for (kind, key, free) in [
            ("requiredDuringSchedulingIgnoredDuringExecution", ALLOWED, true),
            ("requiredDuringSchedulingIgnoredDuringExecution", "zone", false),
            ("preferredDuringSchedulingIgnoredDuringExecution", "zone", true),
        ] {
            let affinity = json!({"podAntiAffinity": {kind: [{"topologyKey": key}]}});
            let attributes = create("", "pods", "Pod", &json!({"metadata": {"name": "p"}, "spec": {"affinity": affinity}}));
            let answer = LimitPodHardAntiAffinityTopology.validate(&attributes).await;
            assert_eq!(answer.is_ok(), free, "{kind} {key}");
            if let Err(status) = answer {
                assert!(status.message.ends_with("has TopologyKey zone but only key kubernetes.io/hostname is allowed"));
            }
        }
    }
}
