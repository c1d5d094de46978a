//! LimitRanger: default requests and limits for containers, and the bounds of a namespace's LimitRanges.

use std::collections::BTreeMap;
use std::sync::Arc;

use apimachinery::{Quantity, Status, Value};
use async_trait::async_trait;
use k8s_openapi::api::core::v1::{LimitRange, LimitRangeItem};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as ApiQuantity;

use super::{forbidden, unreadable};
use crate::admission::{AdmissionPlugin, Attributes, Operation};
use crate::objects::{self, ListScope, Objects};

const ANNOTATION: &str = "kubernetes.io/limit-ranger";
const KINDS: [(&str, &str); 2] = [("containers", "container"), ("initContainers", "init container")];

type Resources = BTreeMap<String, Quantity>;

pub(super) struct LimitRanger {
    objects: Arc<dyn Objects>,
}

impl LimitRanger {
    pub(super) fn new(objects: Arc<dyn Objects>) -> Self {
        Self { objects }
    }

    /// The limits that apply, none for what the plugin does not look at.
    async fn limits(&self, attributes: &Attributes) -> Result<Vec<LimitRangeItem>, Status> {
        let pod = attributes.resource.group.is_empty() && attributes.resource.resource == "pods";
        let created = attributes.is_resource("", "pods") && attributes.operation == Operation::Create;
        let resized = pod && attributes.subresource == "resize" && attributes.operation == Operation::Update;
        let going = attributes.old_object.as_ref().is_some_and(|old| old.meta().deletion_timestamp().is_some());
        if going || !(created || resized || attributes.is_resource("", "persistentvolumeclaims")) {
            return Ok(Vec::new());
        }
        let scope = ListScope { namespace: &attributes.namespace, ..ListScope::default() };
        let ranges: Vec<LimitRange> = objects::list(self.objects.as_ref(), scope).await.map_err(unreadable)?;
        Ok(ranges.into_iter().filter_map(|range| range.spec).flat_map(|spec| spec.limits).collect())
    }
}

#[async_trait]
impl AdmissionPlugin for LimitRanger {
    fn name(&self) -> &'static str {
        "LimitRanger"
    }

    fn handles(&self, operation: Operation) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
    }

    async fn admit(&self, attributes: &mut Attributes) -> Result<(), Status> {
        if attributes.resource.resource != "pods" {
            return Ok(());
        }
        let limits = self.limits(attributes).await?;
        let (mut requests, mut maxima) = (BTreeMap::new(), BTreeMap::new());
        for limit in limits.iter().filter(|l| l.type_ == "Container") {
            requests.extend(limit.default_request.iter().flatten().map(|(k, v)| (k.as_str(), v.0.as_str())));
            maxima.extend(limit.default.iter().flatten().map(|(k, v)| (k.as_str(), v.0.as_str())));
        }
        if let Some(pod) = attributes.object.as_mut().filter(|_| !(requests.is_empty() && maxima.is_empty())) {
            set_defaults(pod, &requests, &maxima);
        }
        Ok(())
    }

    async fn validate(&self, attributes: &Attributes) -> Result<(), Status> {
        let limits = self.limits(attributes).await?;
        let Some(object) = attributes.object.as_ref().filter(|_| !limits.is_empty()) else { return Ok(()) };
        let mut errors = Vec::new();
        for limit in &limits {
            match (attributes.resource.resource.as_str(), limit.type_.as_str()) {
                ("pods", "Container") => {
                    for container in KINDS.iter().flat_map(|(kind, _)| object.array_at(&["spec", kind])) {
                        let (requests, maxima) = (resources(container, "requests"), resources(container, "limits"));
                        check(limit, &requests, &maxima, &mut errors);
                    }
                }
                ("pods", "Pod") => check(limit, &pod_total(object, "requests"), &pod_total(object, "limits"), &mut errors),
                ("persistentvolumeclaims", "PersistentVolumeClaim") => {
                    check_claim(limit, &resources(&object["spec"], "requests"), &mut errors);
                }
                _ => {}
            }
        }
        match errors.as_slice() {
            [] => Ok(()),
            [one] => Err(forbidden(attributes, one)),
            many => Err(forbidden(attributes, format!("[{}]", many.join(", ")))),
        }
    }
}

fn set_defaults(pod: &mut Value, requests: &BTreeMap<&str, &str>, limits: &BTreeMap<&str, &str>) {
    let mut notes = Vec::new();
    for (kind, text) in KINDS {
        if pod.array_at(&["spec", kind]).is_empty() {
            continue;
        }
        for container in pod.path_mut(&["spec", kind]).array_mut() {
            let name = container["name"].as_str().unwrap_or_default().to_owned();
            for (part, what, defaults) in [("limits", "limit", limits), ("requests", "request", requests)] {
                let missing: Vec<_> =
                    defaults.iter().filter(|(k, _)| container.get_path(&["resources", part, k]).is_none()).collect();
                for (resource, quantity) in &missing {
                    container.set_path(&["resources", part, resource], **quantity);
                }
                if !missing.is_empty() {
                    let names = missing.iter().map(|(k, _)| **k).collect::<Vec<_>>().join(", ");
                    notes.push((what, format!("{names} {what} for {text} {name}")));
                }
            }
        }
    }
    if notes.is_empty() {
        return;
    }
    // Upstream tells each container's requests before its limits.
    let ordered: Vec<String> = notes
        .chunk_by(|a, b| a.0 == "limit" && b.0 == "request")
        .flat_map(|pair| pair.iter().rev().map(|(_, note)| note.clone()))
        .collect();
    pod.meta_mut().set_annotation(ANNOTATION, &format!("LimitRanger plugin set: {}", ordered.join("; ")));
}

fn resources(holder: &Value, part: &str) -> Resources {
    let parsed = |(key, value): (&apimachinery::Key, &Value)| Some((key.as_str().to_owned(), Quantity::from_value(value).ok()?));
    holder
        .get_path(&["resources", part])
        .and_then(Value::as_object)
        .map(|m| m.iter().filter_map(parsed).collect())
        .unwrap_or_default()
}

fn add(total: &mut Resources, more: &Resources) {
    for (key, quantity) in more {
        let sum = total.get(key).map_or(*quantity, |have| have.plus(*quantity));
        total.insert(key.clone(), sum);
    }
}

fn raise(total: &mut Resources, least: &Resources) {
    for (key, quantity) in least {
        if total.get(key).is_none_or(|have| have < quantity) {
            total.insert(key.clone(), *quantity);
        }
    }
}

/// What the whole pod needs: all containers and sidecars together, or the largest moment of its initialization.
fn pod_total(pod: &Value, part: &str) -> Resources {
    let mut total = Resources::new();
    for container in pod.array_at(&["spec", "containers"]) {
        add(&mut total, &resources(container, part));
    }
    let (mut sidecars, mut initialization) = (Resources::new(), Resources::new());
    for container in pod.array_at(&["spec", "initContainers"]) {
        let own = resources(container, part);
        if container["restartPolicy"] == "Always" {
            add(&mut total, &own);
            add(&mut sidecars, &own);
            raise(&mut initialization, &sidecars);
        } else {
            let mut moment = own;
            add(&mut moment, &sidecars);
            raise(&mut initialization, &moment);
        }
    }
    raise(&mut total, &initialization);
    // Resources of the pod as a whole (KEP-2837) replace the sums.
    for (key, quantity) in resources(&pod["spec"], part) {
        total.insert(key, quantity);
    }
    total
}

fn bounds(list: Option<&BTreeMap<String, ApiQuantity>>) -> impl Iterator<Item = (&str, Quantity)> {
    list.into_iter().flatten().filter_map(|(key, value)| Some((key.as_str(), Quantity::parse(&value.0).ok()?)))
}

fn check(limit: &LimitRangeItem, requests: &Resources, limits: &Resources, errors: &mut Vec<String>) {
    let kind = &limit.type_;
    for (key, min) in bounds(limit.min.as_ref()) {
        let usage = format!("minimum {key} usage per {kind} is {min}");
        match (requests.get(key), limits.get(key)) {
            (None, _) => errors.push(format!("{usage}.  No request is specified")),
            (Some(request), _) if *request < min => errors.push(format!("{usage}, but request is {request}")),
            (_, Some(limit)) if *limit < min => errors.push(format!("{usage}, but limit is {limit}")),
            _ => {}
        }
    }
    for (key, max) in bounds(limit.max.as_ref()) {
        let usage = format!("maximum {key} usage per {kind} is {max}");
        match (requests.get(key), limits.get(key)) {
            (_, None) => errors.push(format!("{usage}.  No limit is specified")),
            (_, Some(limit)) if *limit > max => errors.push(format!("{usage}, but limit is {limit}")),
            (Some(request), _) if *request > max => errors.push(format!("{usage}, but request is {request}")),
            _ => {}
        }
    }
    for (key, ratio) in bounds(limit.max_limit_request_ratio.as_ref()) {
        let text = format!("{key} max limit to request ratio per {kind} is {ratio}");
        let Some(request) = requests.get(key).filter(|q| !q.is_zero()) else {
            errors.push(format!("{text}, but no request is specified or request is 0"));
            continue;
        };
        let Some(limit) = limits.get(key).filter(|q| !q.is_zero()) else {
            errors.push(format!("{text}, but no limit is specified or limit is 0"));
            continue;
        };
        let observed = limit.as_f64() / request.as_f64();
        if observed > ratio.as_f64() {
            errors.push(format!("{text}, but provided ratio is {observed:.6}"));
        }
    }
}

fn check_claim(limit: &LimitRangeItem, requests: &Resources, errors: &mut Vec<String>) {
    let min = LimitRangeItem { type_: limit.type_.clone(), min: limit.min.clone(), ..LimitRangeItem::default() };
    check(&min, requests, &Resources::new(), errors);
    for (key, max) in bounds(limit.max.as_ref()) {
        let usage = format!("maximum {key} usage per {} is {max}", limit.type_);
        match requests.get(key) {
            None => errors.push(format!("{usage}.  No request is specified")),
            Some(request) if *request > max => errors.push(format!("{usage}, but request is {request}")),
            Some(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value as Json, json};

    use super::*;
    use crate::admission::plugins::testing::{create, object};
    use crate::objects::memory::MemoryObjects;

    fn plugin(limits: Json) -> LimitRanger {
        let objects = MemoryObjects::default();
        objects.put("limitranges", json!({"metadata": {"namespace": "ns", "name": "l"}, "spec": {"limits": limits}}));
        LimitRanger::new(Arc::new(objects))
    }

    fn pod(resources: Json) -> Attributes {
        let spec = json!({"containers": [{"name": "c", "resources": resources}]});
        create("", "pods", "Pod", &json!({"metadata": {"name": "p"}, "spec": spec}))
    }

    #[tokio::test]
    async fn defaults() {
        let plugin = plugin(json!([{
            "type": "Container", "default": {"cpu": "500m", "memory": "1Gi"}, "defaultRequest": {"cpu": "100m"},
        }]));
        let mut attributes = pod(json!({"limits": {"cpu": "1"}}));
        plugin.admit(&mut attributes).await.expect("admitted");
        let pod = object(&attributes);
        assert_eq!(
            pod["spec"]["containers"][0]["resources"],
            json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "100m"}})
        );
        assert_eq!(
            pod["metadata"]["annotations"][ANNOTATION],
            "LimitRanger plugin set: cpu request for container c; memory limit for container c"
        );
    }

    #[tokio::test]
    async fn bounds_of_containers_and_pods() {
        let container = json!([{
            "type": "Container", "min": {"cpu": "100m"}, "max": {"cpu": "2"}, "maxLimitRequestRatio": {"cpu": "4"},
        }]);
        for (resources, text) in [
            (json!({"requests": {"cpu": "500m"}, "limits": {"cpu": "1"}}), ""),
            (
                json!({"requests": {"cpu": "50m"}, "limits": {"cpu": "100m"}}),
                "minimum cpu usage per Container is 100m, but request is 50m",
            ),
            (json!({"requests": {"cpu": "1"}, "limits": {"cpu": "3"}}), "maximum cpu usage per Container is 2, but limit is 3"),
            (json!({"requests": {"cpu": "1"}}), "maximum cpu usage per Container is 2.  No limit is specified"),
            (
                json!({"requests": {"cpu": "100m"}, "limits": {"cpu": "1"}}),
                "ratio per Container is 4, but provided ratio is 10.000000",
            ),
        ] {
            let message = plugin(container.clone()).validate(&pod(resources)).await.err().map(|s| s.message).unwrap_or_default();
            assert!(message.contains(text) && message.is_empty() == text.is_empty(), "{message}");
        }
        let total = plugin(json!([{"type": "Pod", "max": {"memory": "1Gi"}}]));
        let refused = total.validate(&pod(json!({"limits": {"memory": "2Gi"}}))).await.expect_err("too much");
        assert!(refused.message.ends_with("maximum memory usage per Pod is 1Gi, but limit is 2Gi"), "{}", refused.message);
    }

    #[test]
    fn totals() {
        let pod = json!({"spec": {
            "initContainers": [
                {"restartPolicy": "Always", "resources": {"requests": {"cpu": "1"}}},
                {"resources": {"requests": {"cpu": "3"}}},
            ],
            "containers": [{"resources": {"requests": {"cpu": "500m"}}}, {"resources": {"requests": {"cpu": "1"}}}],
        }});
        let pod = Value::from_slice(pod.to_string().as_bytes()).expect("JSON");
        // 2.5 while running (sidecar included), 4 while initializing.
        assert_eq!(pod_total(&pod, "requests")["cpu"].to_string(), "4");
    }
}
