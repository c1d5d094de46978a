//! TaintNodesByCondition: a new node is not ready until it says so, and nothing is scheduled on it before.

use apimachinery::{Status, Value};
use async_trait::async_trait;

use crate::admission::{AdmissionPlugin, Attributes, Operation};

const TAINT: &str = "node.kubernetes.io/not-ready";
const EFFECT: &str = "NoSchedule";

pub(super) struct TaintNodesByCondition;

#[async_trait]
impl AdmissionPlugin for TaintNodesByCondition {
    fn name(&self) -> &'static str {
        "TaintNodesByCondition"
    }

    fn handles(&self, operation: Operation) -> bool {
        operation == Operation::Create
    }

    async fn admit(&self, attributes: &mut Attributes) -> Result<(), Status> {
        if !attributes.is_resource("", "nodes") {
            return Ok(());
        }
        let Some(node) = attributes.object.as_mut() else { return Ok(()) };
        let there = node.array_at(&["spec", "taints"]).iter().any(|t| t["key"] == TAINT && t["effect"] == EFFECT);
        if !there {
            let mut taint = Value::object();
            taint.insert("key", TAINT);
            taint.insert("effect", EFFECT);
            node.path_mut(&["spec", "taints"]).array_mut().push(taint);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::admission::plugins::testing::{create, object};

    #[tokio::test]
    async fn taints_once() {
        let mut attributes = create("", "nodes", "Node", &json!({"metadata": {"name": "n"}}));
        for _ in 0..2 {
            TaintNodesByCondition.admit(&mut attributes).await.expect("admitted");
            assert_eq!(object(&attributes)["spec"]["taints"], json!([{"key": TAINT, "effect": EFFECT}]));
        }
    }
}
