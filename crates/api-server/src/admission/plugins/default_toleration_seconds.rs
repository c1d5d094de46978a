//! DefaultTolerationSeconds: pods stay five minutes on a node that is not ready or unreachable, unless they say otherwise.

use apimachinery::{Status, Value};
use async_trait::async_trait;

use crate::admission::{AdmissionPlugin, Attributes, Operation};

/// Upstream's `--default-not-ready-toleration-seconds` and `--default-unreachable-toleration-seconds`.
const SECONDS: i64 = 300;
const KEYS: [&str; 2] = ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"];

pub(super) struct DefaultTolerationSeconds;

#[async_trait]
impl AdmissionPlugin for DefaultTolerationSeconds {
    fn name(&self) -> &'static str {
        "DefaultTolerationSeconds"
    }

    fn handles(&self, operation: Operation) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
    }

    async fn admit(&self, attributes: &mut Attributes) -> Result<(), Status> {
        if !attributes.is_resource("", "pods") {
            return Ok(());
        }
        let Some(pod) = attributes.object.as_mut() else { return Ok(()) };
        for key in KEYS {
            let empty_or = |value: &Value, wanted: &str| value.as_str().unwrap_or_default().is_empty() || *value == wanted;
            let tolerations = pod.array_at(&["spec", "tolerations"]);
            if tolerations.iter().any(|t| empty_or(&t["key"], key) && empty_or(&t["effect"], "NoExecute")) {
                continue;
            }
            let mut toleration = Value::object();
            toleration.insert("key", key);
            toleration.insert("operator", "Exists");
            toleration.insert("effect", "NoExecute");
            toleration.insert("tolerationSeconds", SECONDS);
            pod.path_mut(&["spec", "tolerations"]).array_mut().push(toleration);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value as Json, json};

    use super::*;
    use crate::admission::plugins::testing::{create, object};

    async fn check(before: Json, added: &[&str]) {
        let count = before.as_array().map_or(0, Vec::len);
        let mut attributes = create("", "pods", "Pod", &json!({"metadata": {"name": "p"}, "spec": {"tolerations": before}}));
        DefaultTolerationSeconds.admit(&mut attributes).await.expect("admitted");
        let after = object(&attributes)["spec"]["tolerations"].as_array().cloned().unwrap_or_default();
        let keys: Vec<_> = after[count..].iter().map(|t| t["key"].as_str().expect("key")).collect();
        assert_eq!(keys, added, "{before}");
    }

    #[tokio::test]
    async fn tolerations() {
        check(json!([]), &KEYS).await;
        check(json!([{"operator": "Exists"}]), &[]).await;
        check(json!([{"key": KEYS[0], "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 5}]), &[KEYS[1]]).await;
        check(json!([{"key": KEYS[0], "effect": "NoSchedule"}]), &KEYS).await;
    }
}
