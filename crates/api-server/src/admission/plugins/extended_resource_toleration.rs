//! ExtendedResourceToleration: pods that ask for an extended resource tolerate the taint that keeps others off its nodes.

use std::collections::BTreeSet;

use apimachinery::{Status, Value};
use async_trait::async_trait;

use crate::admission::{AdmissionPlugin, Attributes, Operation};
use crate::kinds;

pub(super) struct ExtendedResourceToleration;

#[async_trait]
impl AdmissionPlugin for ExtendedResourceToleration {
    fn name(&self) -> &'static str {
        "ExtendedResourceToleration"
    }

    fn handles(&self, operation: Operation) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
    }

    async fn admit(&self, attributes: &mut Attributes) -> Result<(), Status> {
        if !attributes.is_resource("", "pods") {
            return Ok(());
        }
        let Some(pod) = attributes.object.as_mut() else { return Ok(()) };
        for resource in extended(pod) {
            let mut toleration = Value::object();
            toleration.insert("key", resource);
            toleration.insert("operator", "Exists");
            toleration.insert("effect", "NoSchedule");
            let same = |have: &Value| {
                ["key", "operator", "effect"].into_iter().all(|field| have[field] == toleration[field])
                    && have["value"].as_str().unwrap_or_default().is_empty()
            };
            let tolerations = pod.path_mut(&["spec", "tolerations"]).array_mut();
            let mut found = false;
            for have in tolerations.iter_mut().filter(|have| same(have)) {
                *have = toleration.clone();
                found = true;
            }
            if !found {
                tolerations.push(toleration);
            }
        }
        Ok(())
    }
}

fn extended(pod: &Value) -> BTreeSet<String> {
    let containers = ["containers", "initContainers"].into_iter().flat_map(|kind| pod.array_at(&["spec", kind]));
    let requests = containers.filter_map(|container| container.get_path(&["resources", "requests"])?.as_object());
    let names = requests.flat_map(|requests| requests.keys().map(|key| key.as_str()));
    names.filter(|name| kinds::is_extended_resource(name)).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::admission::plugins::testing::{create, object};

    #[tokio::test]
    async fn tolerations() {
        let toleration = |key: &str| json!({"key": key, "operator": "Exists", "effect": "NoSchedule"});
        let pod = json!({"metadata": {"name": "p"}, "spec": {
            "containers": [{"resources": {"requests": {"b.com/x": "1", "cpu": "1", "kubernetes.io/x": "1"}}}],
            "initContainers": [{"resources": {"requests": {"a.com/x": "1"}}}],
            "tolerations": [toleration("b.com/x"), {"key": "other"}],
        }});
        let mut attributes = create("", "pods", "Pod", &pod);
        ExtendedResourceToleration.admit(&mut attributes).await.expect("admitted");
        let expected = json!([toleration("b.com/x"), {"key": "other"}, toleration("a.com/x")]);
        assert_eq!(object(&attributes)["spec"]["tolerations"], expected);
    }
}
