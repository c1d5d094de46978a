//! PodNodeSelector: a pod gets the node selector of its namespace's annotation, and may not contradict it. The plugin's configuration names a
//! selector for namespaces that say nothing and, by namespace, all labels that may be used.

use std::collections::BTreeMap;
use std::sync::Arc;

use apimachinery::field::{Error, Path};
use apimachinery::{Reason, Status, Value, validation};
use async_trait::async_trait;

use serde_json::Value as Json;

use super::{forbidden, namespace};
use crate::admission::{AdmissionPlugin, Attributes, Operation};
use crate::objects::Objects;

const ANNOTATION: &str = "scheduler.alpha.kubernetes.io/node-selector";

/// The key of the selector for namespaces without an annotation.
const DEFAULT: &str = "clusterDefaultNodeSelector";

/// Selectors by namespace.
#[derive(Clone, Debug, Default)]
pub(in crate::admission) struct NodeSelectors(BTreeMap<String, String>);

impl NodeSelectors {
    pub(in crate::admission) fn read(config: &Json) -> Result<Self, String> {
        let selectors = config["podNodeSelectorPluginConfig"].clone();
        let selectors: Option<BTreeMap<String, String>> = serde_json::from_value(selectors).map_err(|error| error.to_string())?;
        Ok(Self(selectors.unwrap_or_default()))
    }

    /// The selector for namespaces without an annotation.
    pub(in crate::admission) fn default_selector(&self) -> &str {
        self.0.get(DEFAULT).map(String::as_str).unwrap_or_default()
    }

    fn whitelist(&self, namespace: &str) -> &str {
        self.0.get(namespace).map(String::as_str).unwrap_or_default()
    }
}

pub(super) struct PodNodeSelector {
    objects: Arc<dyn Objects>,
    config: NodeSelectors,
}

impl PodNodeSelector {
    pub(super) fn new(objects: Arc<dyn Objects>, config: NodeSelectors) -> Self {
        Self { objects, config }
    }

    /// Where the configuration says which labels pods of a namespace may select, they select no other.
    fn check_whitelist(&self, attributes: &Attributes) -> Result<(), Status> {
        let allowed = parse(self.config.whitelist(&attributes.namespace)).map_err(|why| Status::new(Reason::Unknown, why))?;
        let selector = attributes.object.as_ref().and_then(|pod| pod.get_path(&["spec", "nodeSelector"]));
        let mut selected = selector.and_then(Value::as_object).into_iter().flatten();
        let fits = |key: &str, value: &Value| allowed.get(key).is_some_and(|allowed| *value == allowed.as_str());
        if allowed.is_empty() || selected.all(|(key, value)| fits(key.as_str(), value)) {
            return Ok(());
        }
        Err(forbidden(attributes, "pod node label selector labels conflict with its namespace whitelist"))
    }

    /// The selector that the pod must have, if it has no other value for one of its labels.
    async fn selector(&self, attributes: &Attributes) -> Result<BTreeMap<String, String>, Status> {
        let namespace = namespace(self.objects.as_ref(), &attributes.namespace).await?;
        let text = namespace.meta().annotation(ANNOTATION).unwrap_or(self.config.default_selector());
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
        if !attributes.is_resource("", "pods") {
            return Ok(());
        }
        self.selector(attributes).await?;
        self.check_whitelist(attributes)
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
            let plugin = PodNodeSelector::new(objects, NodeSelectors::default());
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

    #[tokio::test]
    async fn a_configuration() {
        let config = json!({"podNodeSelectorPluginConfig": {"clusterDefaultNodeSelector": "a=b", "ns": "a=b,c=d"}});
        for (annotations, given, expected) in [
            (json!({}), json!({}), Ok(json!({"a": "b"}))),
            (json!({}), json!({"c": "d"}), Ok(json!({"a": "b", "c": "d"}))),
            (json!({ANNOTATION: "c=d"}), json!({}), Ok(json!({"c": "d"}))),
            (json!({}), json!({"e": "f"}), Err("pod node label selector labels conflict with its namespace whitelist")),
            (json!({ANNOTATION: "a=x"}), json!({}), Err("whitelist")),
        ] {
            let objects = Arc::new(MemoryObjects::default());
            objects.put("namespaces", json!({"metadata": {"name": "ns", "annotations": annotations}}));
            let plugin = PodNodeSelector::new(objects, NodeSelectors::read(&config).expect("reads"));
            let mut attributes = create("", "pods", "Pod", &json!({"metadata": {"name": "p"}, "spec": {"nodeSelector": given}}));
            plugin.admit(&mut attributes).await.expect("no conflict");
            match (plugin.validate(&attributes).await, expected) {
                (Ok(()), Ok(selector)) => assert_eq!(object(&attributes)["spec"]["nodeSelector"], selector),
                (Err(status), Err(text)) => assert!(status.message.contains(text), "{}", status.message),
                (got, expected) => panic!("{annotations}: {got:?}, not {expected:?}"),
            }
        }
    }
}
