//! RuntimeClass: a pod's class sets its overhead, node selector and tolerations (KEP-688).

use std::sync::Arc;

use apimachinery::{Status, Value};
use async_trait::async_trait;
use k8s_openapi::api::node::v1::RuntimeClass;

use super::{forbidden, unreadable};
use crate::admission::{AdmissionPlugin, Attributes, Operation};
use crate::objects::{self, Objects};

pub(super) struct RuntimeClassPlugin {
    objects: Arc<dyn Objects>,
}

impl RuntimeClassPlugin {
    pub(super) fn new(objects: Arc<dyn Objects>) -> Self {
        Self { objects }
    }
}

#[async_trait]
impl AdmissionPlugin for RuntimeClassPlugin {
    fn name(&self) -> &'static str {
        "RuntimeClass"
    }

    fn handles(&self, operation: Operation) -> bool {
        operation == Operation::Create
    }

    async fn admit(&self, attributes: &mut Attributes) -> Result<(), Status> {
        if !attributes.is_resource("", "pods") {
            return Ok(());
        }
        let Some(pod) = &attributes.object else { return Ok(()) };
        let overhead = pod.get_path(&["spec", "overhead"]).filter(|o| !o.is_empty()).cloned();
        let Some(name) = pod.str_at(&["spec", "runtimeClassName"]).filter(|n| !n.is_empty()).map(str::to_owned) else {
            return match overhead {
                Some(_) => Err(forbidden(
                    attributes,
                    "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead",
                )),
                None => Ok(()),
            };
        };
        let class: Option<RuntimeClass> = objects::get(self.objects.as_ref(), "", &name).await.map_err(unreadable)?;
        let Some(class) = class else {
            return Err(forbidden(attributes, format!("pod rejected: RuntimeClass {name:?} not found")));
        };
        set_overhead(attributes, &class, overhead)?;
        set_scheduling(attributes, &class)
    }
}

fn set_overhead(attributes: &mut Attributes, class: &RuntimeClass, given: Option<Value>) -> Result<(), Status> {
    let fixed = class.overhead.as_ref().and_then(|o| o.pod_fixed.as_ref()).filter(|fixed| !fixed.is_empty());
    let wanted = fixed.map(Value::from_typed).transpose().map_err(Status::internal_error)?;
    match (given, wanted) {
        (None, None) => {}
        (Some(_), None) => {
            let why = "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead";
            return Err(forbidden(attributes, why));
        }
        (Some(given), Some(wanted)) if given != wanted => {
            let why = "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead";
            return Err(forbidden(attributes, why));
        }
        (_, Some(wanted)) => {
            if let Some(pod) = attributes.object.as_mut() {
                pod.set_path(&["spec", "overhead"], wanted);
            }
        }
    }
    Ok(())
}

fn set_scheduling(attributes: &mut Attributes, class: &RuntimeClass) -> Result<(), Status> {
    let Some(scheduling) = &class.scheduling else { return Ok(()) };
    for (key, value) in scheduling.node_selector.iter().flatten() {
        let Some(pod) = attributes.object.as_mut() else { return Ok(()) };
        match pod.str_at(&["spec", "nodeSelector", key]) {
            Some(other) if other != value => {
                let why = format!(
                    "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {value}; pod.spec.nodeSelector[{key}] = {other}"
                );
                return Err(forbidden(attributes, why));
            }
            _ => pod.set_path(&["spec", "nodeSelector", key], value.as_str()),
        }
    }
    for toleration in scheduling.tolerations.iter().flatten() {
        let toleration = Value::from_typed(toleration).map_err(Status::internal_error)?;
        let Some(pod) = attributes.object.as_mut() else { return Ok(()) };
        if !pod.array_at(&["spec", "tolerations"]).contains(&toleration) {
            pod.path_mut(&["spec", "tolerations"]).array_mut().push(toleration);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::admission::plugins::testing::{create, object};
    use crate::objects::memory::MemoryObjects;

    #[tokio::test]
    async fn classes() {
        let objects = Arc::new(MemoryObjects::default());
        objects.put(
            "runtimeclasses",
            json!({
                "metadata": {"name": "vm"},
                "handler": "vm",
                "overhead": {"podFixed": {"cpu": "250m"}},
                "scheduling": {"nodeSelector": {"vm": "yes"}, "tolerations": [{"key": "vm", "operator": "Exists"}]},
            }),
        );
        let plugin = RuntimeClassPlugin::new(objects);
        let pod = |spec: serde_json::Value| create("", "pods", "Pod", &json!({"metadata": {"name": "p"}, "spec": spec}));
        let mut attributes = pod(json!({"runtimeClassName": "vm"}));
        plugin.admit(&mut attributes).await.expect("admitted");
        let spec = object(&attributes)["spec"].clone();
        assert_eq!(spec["overhead"], json!({"cpu": "250m"}));
        assert_eq!(spec["nodeSelector"], json!({"vm": "yes"}));
        assert_eq!(spec["tolerations"], json!([{"key": "vm", "operator": "Exists"}]));
        for (spec, text) in [
            (json!({"runtimeClassName": "none"}), "RuntimeClass \"none\" not found"),
            (json!({"overhead": {"cpu": "1"}}), "Overhead set without corresponding RuntimeClass"),
            (json!({"runtimeClassName": "vm", "overhead": {"cpu": "1"}}), "doesn't match RuntimeClass's defined Overhead"),
            (
                json!({"runtimeClassName": "vm", "nodeSelector": {"vm": "no"}}),
                "conflict: runtimeClass.scheduling.nodeSelector[vm]",
            ),
        ] {
            let refused = plugin.admit(&mut pod(spec)).await.expect_err(text);
            assert!(refused.message.contains(text), "{}", refused.message);
        }
    }
}
