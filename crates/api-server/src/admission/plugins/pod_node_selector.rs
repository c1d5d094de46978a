//! PodNodeSelector: a pod gets the node selector of its namespace's annotation, and may not contradict it.
//!
//! Not here: upstream's configuration file, which names a selector for all namespaces and, by namespace, all labels that may be used.

use std::collections::BTreeMap;
use std::sync::Arc;

use apimachinery::field::{Error, Path};
use apimachinery::{Reason, Status, Value, validation};
use async_trait::async_trait;

use super::{forbidden, namespace};
use crate::admission::{AdmissionPlugin, Attributes, Operation};
use crate::objects::Objects;

const ANNOTATION: &str = "scheduler.alpha.kubernetes.io/node-selector";

pub(super) struct PodNodeSelector {
    objects: Arc<dyn Objects>,
}

impl PodNodeSelector {
    pub(super) fn new(objects: Arc<dyn Objects>) -> Self {
        Self { objects }
    }

    /// The selector that the pod must have, if it has no other value for one of its labels.
    async fn selector(&self, attributes: &Attributes) -> Result<BTreeMap<String, String>, Status> {
        let namespace = namespace(self.objects.as_ref(), &attributes.namespace).await?;
        let text = namespace.meta().annotation(ANNOTATION).unwrap_or_default();
        let selector = parse(text).map_err(|why| Status::new(Reason::Unknown, why))?;
        let pod = attributes.object.as_ref();
        let has = |key: &str| pod.and_then(|pod| pod.str_at(&["spec", "nodeSelector", key]));
        if selector.iter().any(|(key, value)| has(key).is_some_and(|other| other != value)) {
            return Err(forbidden(attributes, "pod node label selector conflicts with its namespace node label selector"));
        }
        Ok(selector)
    }
}

#[async_trait]
impl AdmissionPlugin for PodNodeSelector {
    fn name(&self) -> &'static str {
        "PodNodeSelector"
    }

    fn handles(&self, operation: Operation) -> bool {
        operation == Operation::Create
    }

    async fn admit(&self, attributes: &mut Attributes) -> Result<(), Status> {
        if !attributes.is_resource("", "pods") {
            return Ok(());
        }
        let selector = self.selector(attributes).await?;
        if let Some(pod) = attributes.object.as_mut() {
            for (key, value) in selector {
                pod.set_path(&["spec", "nodeSelector", &key], Value::from(value));
            }
        }
        Ok(())
    }

    async fn validate(&self, attributes: &Attributes) -> Result<(), Status> {
        if attributes.is_resource("", "pods") { self.selector(attributes).await.map(drop) } else { Ok(()) }
    }
}

/// Labels that must be equal, `a=b,c=d`.
fn parse(text: &str) -> Result<BTreeMap<String, String>, String> {
    let mut labels = BTreeMap::new();
    for part in text.split(',').filter(|_| !text.is_empty()) {
        let sides: Vec<_> = part.split('=').collect();
        let [key, value] = sides.as_slice() else { return Err(format!("invalid selector: [{}]", sides.join(" "))) };
        let (key, value) = (key.trim(), value.trim());
        let wrong = |whole: &str, problems: Vec<String>, path: &Path| match problems.is_empty() {
            true => Ok(()),
            false => Err(Error::invalid(path, whole, problems.join("; ")).to_string()),
        };
        // Upstream has no path for these.
        wrong(key, validation::is_qualified_name(key), &Path::new("<nil>"))?;
        wrong(value, validation::is_label_value(value), &Path::root().key(key))?;
        labels.insert(key.to_owned(), value.to_owned());
    }
    Ok(labels)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::admission::plugins::testing::{create, object};
    use crate::objects::memory::MemoryObjects;

    #[tokio::test]
    async fn selectors() {
        let conflict = "pod node label selector conflicts with its namespace node label selector";
        for (annotation, given, expected) in [
            ("", json!({}), Ok(json!({}))),
            ("a=b", json!({}), Ok(json!({"a": "b"}))),
            (" a = b ,c=", json!({"d": "e"}), Ok(json!({"a": "b", "c": "", "d": "e"}))),
            ("a=b", json!({"a": "b"}), Ok(json!({"a": "b"}))),
            ("a=b", json!({"a": "c"}), Err(conflict)),
            ("a", json!({}), Err("invalid selector: [a]")),
            ("a=b=c", json!({}), Err("invalid selector: [a b c]")),
            ("=b", json!({}), Err("Invalid value")),
        ] {
            let objects = Arc::new(MemoryObjects::default());
            objects.put("namespaces", json!({"metadata": {"name": "ns", "annotations": {ANNOTATION: annotation}}}));
            let plugin = PodNodeSelector::new(objects);
            let mut attributes = create("", "pods", "Pod", &json!({"metadata": {"name": "p"}, "spec": {"nodeSelector": given}}));
            match (plugin.admit(&mut attributes).await, expected) {
                (Ok(()), Ok(selector)) => {
                    assert_eq!(object(&attributes)["spec"]["nodeSelector"], selector, "{annotation}");
                    plugin.validate(&attributes).await.expect("valid");
                }
                (Err(status), Err(text)) => assert!(status.message.contains(text), "{}", status.message),
                (got, expected) => panic!("{annotation}: {got:?}, not {expected:?}"),
            }
        }
    }
}
