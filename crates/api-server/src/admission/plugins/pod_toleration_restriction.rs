//! PodTolerationRestriction: pods get the tolerations of their namespace's annotation, and may have none but those of its whitelist. For namespaces
//! that say nothing the plugin's configuration has both.

use std::sync::Arc;

use apimachinery::{Reason, Status, Value};
use async_trait::async_trait;
use k8s_openapi::api::core::v1::Toleration;

use serde::Deserialize;
use serde_json::Value as Json;

use super::namespace;
use crate::admission::config::versioned;
use crate::admission::{AdmissionPlugin, Attributes, Operation};
use crate::kinds;
use crate::objects::Objects;

const DEFAULTS: &str = "scheduler.alpha.kubernetes.io/defaultTolerations";
const WHITELIST: &str = "scheduler.alpha.kubernetes.io/tolerationsWhitelist";

/// What holds for namespaces without annotations.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(in crate::admission) struct TolerationConfig {
    default: Vec<Toleration>,
    whitelist: Vec<Toleration>,
}

impl TolerationConfig {
    pub(in crate::admission) fn read(config: &Json) -> Result<Self, String> {
        const MEMBER: &str = "podtolerationrestriction";
        let read: Self = versioned(config, &[("podtolerationrestriction.admission.k8s.io/v1alpha1", "Configuration")])?;
        let whole = serde_json::json!({MEMBER: config}).to_string();
        let whole = Value::from_slice(whole.as_bytes()).map_err(|error| error.to_string())?;
        let errors = ["default", "whitelist"].into_iter().flat_map(|list| kinds::toleration_errors(&whole, [MEMBER, list]));
        let errors: Vec<String> = errors.map(|error| error.to_string()).collect();
        if errors.is_empty() { Ok(read) } else { Err(format!("invalid config: [{}]", errors.join(" "))) }
    }
}

pub(super) struct PodTolerationRestriction {
    objects: Arc<dyn Objects>,
    config: TolerationConfig,
}

impl PodTolerationRestriction {
    pub(super) fn new(objects: Arc<dyn Objects>, config: TolerationConfig) -> Self {
        Self { objects, config }
    }

    /// The tolerations in an annotation of the namespace; `None` where there is no such annotation.
    async fn annotated(&self, attributes: &Attributes, annotation: &str) -> Result<Option<Vec<Toleration>>, Status> {
        let namespace = namespace(self.objects.as_ref(), &attributes.namespace).await?;
        match namespace.meta().annotation(annotation).filter(|text| !text.is_empty()) {
            // Upstream shows the bare error too.
            Some(text) => serde_json::from_str::<Option<Vec<Toleration>>>(text)
                .map_err(|error| Status::new(Reason::Unknown, error.to_string())),
            None => Ok(None),
        }
    }

    async fn check(&self, attributes: &Attributes) -> Result<(), Status> {
        let Some(pod) = &attributes.object else { return Ok(()) };
        let tolerations = tolerations(pod)?;
        if tolerations.is_empty() {
            return Ok(());
        }
        let (whitelist, whose) = match self.annotated(attributes, WHITELIST).await? {
            Some(whitelist) => (whitelist, "namespace"),
            None => (self.config.whitelist.clone(), "cluster"),
        };
        let covered = |toleration| whitelist.iter().any(|wider| covers(wider, toleration));
        if whitelist.is_empty() || tolerations.iter().all(covered) {
            return Ok(());
        }
        let merged = "pod tolerations (possibly merged with namespace default tolerations)";
        let why = format!("{merged} conflict with its {whose} whitelist");
        Err(Status::new(Reason::Unknown, why))
    }
}

#[async_trait]
impl AdmissionPlugin for PodTolerationRestriction {
    fn name(&self) -> &'static str {
        "PodTolerationRestriction"
    }

    fn handles(&self, operation: Operation) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
    }

    async fn admit(&self, attributes: &mut Attributes) -> Result<(), Status> {
        if !attributes.is_resource("", "pods") {
            return Ok(());
        }
        let mut added = match attributes.operation {
            Operation::Create => self.annotated(attributes, DEFAULTS).await?.unwrap_or_else(|| self.config.default.clone()),
            _ => Vec::new(),
        };
        if let Some(pod) = attributes.object.as_mut() {
            let told = pod.str_at(&["status", "qosClass"]).filter(|class| !class.is_empty());
            if told.unwrap_or_else(|| kinds::qos_class(&pod["spec"])) != "BestEffort" {
                added.push(Toleration {
                    key: Some("node.kubernetes.io/memory-pressure".to_owned()),
                    operator: Some("Exists".to_owned()),
                    effect: Some("NoSchedule".to_owned()),
                    ..Toleration::default()
                });
            }
            if !added.is_empty() {
                let mut all = tolerations(pod)?;
                all.append(&mut added);
                let merged = merged(&all).into_iter().map(Value::from_typed).collect::<Result<Vec<_>, _>>();
                pod.set_path(&["spec", "tolerations"], merged.map_err(Status::internal_error)?);
            }
        }
        self.check(attributes).await
    }

    async fn validate(&self, attributes: &Attributes) -> Result<(), Status> {
        if attributes.is_resource("", "pods") { self.check(attributes).await } else { Ok(()) }
    }
}

fn tolerations(pod: &Value) -> Result<Vec<Toleration>, Status> {
    let each = pod.array_at(&["spec", "tolerations"]).iter().map(Value::to_typed);
    each.collect::<Result<_, _>>().map_err(Status::internal_error)
}

fn text(field: &Option<String>) -> &str {
    field.as_deref().unwrap_or_default()
}

/// Whether they say the same: a field that is empty is as one that is not there.
fn same(a: &Toleration, b: &Toleration) -> bool {
    let words = |t: &Toleration| [&t.key, &t.operator, &t.value, &t.effect].map(|field| text(field).to_owned());
    words(a) == words(b) && a.toleration_seconds == b.toleration_seconds
}

/// Whether the first tolerates all that the second does.
fn covers(wider: &Toleration, toleration: &Toleration) -> bool {
    if same(wider, toleration) {
        return true;
    }
    let any_key = text(&wider.key).is_empty() && text(&wider.operator) == "Exists";
    let key = any_key || text(&wider.key) == text(&toleration.key);
    let effect = text(&wider.effect).is_empty() || text(&wider.effect) == text(&toleration.effect);
    let seconds = match (text(&wider.effect), wider.toleration_seconds) {
        ("NoExecute", Some(most)) => toleration.toleration_seconds.is_some_and(|seconds| seconds <= most),
        _ => true,
    };
    let value = match text(&wider.operator) {
        "Equal" | "" => text(&toleration.operator) == "Equal" && text(&wider.value) == text(&toleration.value),
        operator => operator == "Exists",
    };
    key && effect && seconds && value
}

/// All but those that another covers; of equal ones the first stays.
fn merged(all: &[Toleration]) -> Vec<&Toleration> {
    let mut kept: Vec<&Toleration> = Vec::new();
    for (index, toleration) in all.iter().enumerate() {
        let later = || all[index + 1..].iter().any(|other| !same(toleration, other) && covers(other, toleration));
        if !kept.iter().any(|other| covers(other, toleration)) && !later() {
            kept.push(toleration);
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use serde_json::{Value as Json, json};

    use super::*;
    use crate::admission::plugins::testing::{create, object};
    use crate::objects::memory::MemoryObjects;

    fn plugin(annotations: &Json) -> PodTolerationRestriction {
        let objects = Arc::new(MemoryObjects::default());
        objects.put("namespaces", json!({"metadata": {"name": "ns", "annotations": annotations}}));
        PodTolerationRestriction::new(objects, TolerationConfig::default())
    }

    fn pod(spec: &Json) -> Attributes {
        create("", "pods", "Pod", &json!({"metadata": {"name": "p"}, "spec": spec}))
    }

    #[tokio::test]
    async fn defaults() {
        let exists = json!({"key": "a", "operator": "Exists"});
        let equal = json!({"key": "a", "operator": "Equal", "value": "b", "effect": "NoSchedule"});
        let pressure = json!({"key": "node.kubernetes.io/memory-pressure", "operator": "Exists", "effect": "NoSchedule"});
        let annotation = |tolerations: &[&Json]| json!({DEFAULTS: json!(tolerations).to_string()});
        let requests = json!([{"resources": {"requests": {"cpu": "1"}}}]);
        for (annotations, spec, expected) in [
            (json!({}), json!({}), json!(null)),
            (annotation(&[&exists]), json!({}), json!([exists])),
            (annotation(&[&exists]), json!({"tolerations": [equal]}), json!([exists])),
            (annotation(&[&equal]), json!({"tolerations": [exists]}), json!([exists])),
            (annotation(&[]), json!({"containers": requests, "tolerations": [equal]}), json!([equal, pressure])),
        ] {
            let mut attributes = pod(&spec);
            plugin(&annotations).admit(&mut attributes).await.expect("admitted");
            assert_eq!(object(&attributes)["spec"]["tolerations"], expected, "{annotations} {spec}");
        }
        let wrong = plugin(&json!({DEFAULTS: "x"})).admit(&mut pod(&json!({}))).await.expect_err("not JSON");
        assert_eq!(wrong.code, 500);
    }

    #[tokio::test]
    async fn whitelist() {
        let list = json!([{"key": "a", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 10}]);
        for (toleration, free) in [
            (json!({"key": "a", "operator": "Equal", "value": "x", "effect": "NoExecute", "tolerationSeconds": 10}), true),
            (json!({"key": "a", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 11}), false),
            (json!({"key": "a", "operator": "Exists", "effect": "NoExecute"}), false),
            (json!({"key": "a", "operator": "Exists", "effect": "NoSchedule"}), false),
            (json!({"key": "b", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 1}), false),
        ] {
            let attributes = pod(&json!({"tolerations": [toleration]}));
            let answer = plugin(&json!({WHITELIST: list.to_string()})).validate(&attributes).await;
            assert_eq!(answer.is_ok(), free, "{toleration}");
            plugin(&json!({WHITELIST: ""})).validate(&attributes).await.expect("no whitelist");
        }
    }

    #[test]
    fn wrong_configurations() {
        let read = |member: &str, tolerations: Json| {
            let mut config = json!({"apiVersion": "podtolerationrestriction.admission.k8s.io/v1alpha1", "kind": "Configuration"});
            config[member] = tolerations;
            TolerationConfig::read(&config).map(drop)
        };
        let key = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
        for (tolerations, why) in [
            (json!([{"operator": "Exists"}]), ""),
            (json!([{"key": "a", "operator": "Exists"}, {"value": "b"}]), &*format!("[1].operator: Invalid value: \"\": {key}")),
            (
                json!([{"key": "a", "operator": "Like"}]),
                "[0].operator: Unsupported value: \"Like\": supported values: \"Equal\", \"Exists\"",
            ),
            (
                json!([{"key": "a", "effect": "NoSchedule", "tolerationSeconds": 1}]),
                "[0].effect: Invalid value: \"NoSchedule\": effect must be 'NoExecute' when `tolerationSeconds` is set",
            ),
        ] {
            for member in ["default", "whitelist"] {
                let expected = if why.is_empty() {
                    Ok(())
                } else {
                    Err(format!("invalid config: [podtolerationrestriction.{member}{why}]"))
                };
                assert_eq!(read(member, tolerations.clone()), expected);
            }
        }
        let two = read("default", json!([{"key": "a", "operator": "x", "effect": "y"}])).expect_err("twice wrong");
        assert_eq!(two.matches("podtolerationrestriction.default[0]").count(), 2, "{two}");
    }

    #[tokio::test]
    async fn a_configuration() {
        let toleration = |key: &str| json!({"key": key, "operator": "Exists"});
        let config = json!({
            "apiVersion": "podtolerationrestriction.admission.k8s.io/v1alpha1", "kind": "Configuration",
            "default": [toleration("a")], "whitelist": [toleration("a"), toleration("b")],
        });
        let config = TolerationConfig::read(&config).expect("reads");
        let plugin = |annotations: Json| {
            let objects = Arc::new(MemoryObjects::default());
            objects.put("namespaces", json!({"metadata": {"name": "ns", "annotations": annotations}}));
            PodTolerationRestriction::new(objects, config.clone())
        };
        let mut attributes = pod(&json!({}));
        plugin(json!({})).admit(&mut attributes).await.expect("the cluster's");
        assert_eq!(object(&attributes)["spec"]["tolerations"], json!([toleration("a")]));
        let mut attributes = pod(&json!({}));
        plugin(json!({DEFAULTS: "[]"})).admit(&mut attributes).await.expect("the namespace's");
        assert_eq!(object(&attributes)["spec"]["tolerations"], json!(null));
        let mut attributes = pod(&json!({"tolerations": [toleration("c")]}));
        let refused = plugin(json!({})).admit(&mut attributes).await.expect_err("not on the list");
        assert!(refused.message.ends_with("conflict with its cluster whitelist"), "{}", refused.message);
    }
}
