//! Priority: turns a pod's PriorityClass into its number, and keeps at most one class the default.

use std::sync::Arc;

use apimachinery::{Status, Value};
use async_trait::async_trait;
use k8s_openapi::api::scheduling::v1::PriorityClass;

use super::{forbidden, unreadable};
use crate::admission::{AdmissionPlugin, Attributes, Operation};
use crate::objects::{self, ListScope, Objects};

pub(super) struct Priority {
    objects: Arc<dyn Objects>,
}

impl Priority {
    pub(super) fn new(objects: Arc<dyn Objects>) -> Self {
        Self { objects }
    }

    /// The default class; the lowest one if several got in by a race.
    async fn default_class(&self) -> Result<Option<PriorityClass>, Status> {
        let classes: Vec<PriorityClass> = objects::list(self.objects.as_ref(), ListScope::default()).await.map_err(unreadable)?;
        Ok(classes.into_iter().filter(|c| c.global_default == Some(true)).min_by_key(|c| c.value))
    }

    async fn resolve(&self, attributes: &Attributes, pod: &mut Value) -> Result<(), Status> {
        let name = pod.str_at(&["spec", "priorityClassName"]).unwrap_or_default().to_owned();
        let class = if name.is_empty() {
            self.default_class().await?
        } else {
            let class: Option<PriorityClass> = objects::get(self.objects.as_ref(), "", &name).await.map_err(unreadable)?;
            if class.is_none() {
                return Err(forbidden(attributes, format!("no PriorityClass with name {name} was found")));
            }
            class
        };
        let (priority, policy) = match &class {
            None => (0, Some("PreemptLowerPriority".to_owned())),
            Some(class) => (i64::from(class.value), class.preemption_policy.clone()),
        };
        if let Some(given) = pod.i64_at(&["spec", "priority"]).filter(|given| *given != priority) {
            let why = format!(
                "the integer value of priority ({given}) must not be provided in pod spec; priority admission controller computed {priority} from the given PriorityClass name"
            );
            return Err(forbidden(attributes, why));
        }
        pod.set_path(&["spec", "priority"], priority);
        if let (true, Some(class)) = (name.is_empty(), &class) {
            pod.set_path(&["spec", "priorityClassName"], class.metadata.name.as_deref().unwrap_or_default());
        }
        let Some(policy) = policy else { return Ok(()) };
        if let Some(given) = pod.str_at(&["spec", "preemptionPolicy"]).filter(|given| *given != policy) {
            let why = format!(
                "the string value of PreemptionPolicy ({given}) must not be provided in pod spec; priority admission controller computed {policy} from the given PriorityClass name"
            );
            return Err(forbidden(attributes, why));
        }
        pod.set_path(&["spec", "preemptionPolicy"], policy);
        Ok(())
    }
}

#[async_trait]
impl AdmissionPlugin for Priority {
    fn name(&self) -> &'static str {
        "Priority"
    }

    fn handles(&self, operation: Operation) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
    }

    async fn admit(&self, attributes: &mut Attributes) -> Result<(), Status> {
        if !attributes.is_resource("", "pods") {
            return Ok(());
        }
        let Some(mut pod) = attributes.object.take() else { return Ok(()) };
        let result = match (attributes.operation, &attributes.old_object) {
            (Operation::Update, Some(old)) => {
                // Clients that do not know the fields may leave them out.
                for field in ["priority", "preemptionPolicy"] {
                    if let (None, Some(value)) = (pod.get_path(&["spec", field]), old.get_path(&["spec", field])) {
                        let value = value.clone();
                        pod.set_path(&["spec", field], value);
                    }
                }
                Ok(())
            }
            _ => self.resolve(attributes, &mut pod).await,
        };
        attributes.object = Some(pod);
        result
    }

    async fn validate(&self, attributes: &Attributes) -> Result<(), Status> {
        if !attributes.is_resource("scheduling.k8s.io", "priorityclasses") {
            return Ok(());
        }
        let Some(class) = attributes.object.as_ref().filter(|c| c["globalDefault"].as_bool() == Some(true)) else {
            return Ok(());
        };
        let Some(other) = self.default_class().await?.and_then(|c| c.metadata.name) else { return Ok(()) };
        if attributes.operation == Operation::Create || other != class.meta().name() {
            let why = format!("PriorityClass {other} is already marked as default. Only one default can exist");
            return Err(forbidden(attributes, why));
        }
        Ok(())
    }
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
        objects.put("priorityclasses", json!({"metadata": {"name": "high"}, "value": 1000}));
        let plugin = Priority::new(objects.clone());
        let pod = |spec: serde_json::Value| create("", "pods", "Pod", &json!({"metadata": {"name": "p"}, "spec": spec}));
        for (spec, wanted) in [
            (json!({}), json!({"priority": 0, "preemptionPolicy": "PreemptLowerPriority"})),
            (json!({"priorityClassName": "high"}), json!({"priorityClassName": "high", "priority": 1000})),
            (json!({"priority": 0}), json!({"priority": 0, "preemptionPolicy": "PreemptLowerPriority"})),
        ] {
            let mut attributes = pod(spec);
            plugin.admit(&mut attributes).await.expect("admitted");
            assert_eq!(object(&attributes)["spec"], wanted);
        }
        for (spec, text) in [
            (json!({"priorityClassName": "none"}), "no PriorityClass with name none was found"),
            (json!({"priority": 7}), "the integer value of priority (7) must not be provided"),
            (json!({"preemptionPolicy": "Never"}), "the string value of PreemptionPolicy (Never) must not be provided"),
        ] {
            let refused = plugin.admit(&mut pod(spec)).await.expect_err(text);
            assert!(refused.message.contains(text), "{}", refused.message);
        }
        objects.put("priorityclasses", json!({"metadata": {"name": "usual"}, "value": 5, "globalDefault": true}));
        let mut attributes = pod(json!({}));
        plugin.admit(&mut attributes).await.expect("admitted");
        assert_eq!(object(&attributes)["spec"], json!({"priorityClassName": "usual", "priority": 5}));
        let second = json!({"metadata": {"name": "second"}, "value": 6, "globalDefault": true});
        let second = create("scheduling.k8s.io", "priorityclasses", "PriorityClass", &second);
        let refused = plugin.validate(&second).await.expect_err("two defaults");
        assert!(refused.message.contains("PriorityClass usual is already marked as default"), "{}", refused.message);
    }
}
