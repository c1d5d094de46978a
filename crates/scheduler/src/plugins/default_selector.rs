//! The pods that belong together with a pod that does not say so itself: those of its services and of its controller.

use k8s_openapi::api::core::v1::Pod;

use crate::framework::Listers;
use crate::label_selector::{Labels, Selector};

/// The selector of the pod's like; everything if nothing selects it.
pub(super) fn default_selector(pod: &Pod, listers: &Listers) -> Selector {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let labels = pod.metadata.labels.as_ref();
    let mut wanted = Labels::new();
    for service in listers.services.list_namespace(namespace) {
        let selector = service.spec.as_ref().and_then(|spec| spec.selector.as_ref()).filter(|selector| !selector.is_empty());
        if let Some(selector) = selector.filter(|selector| Selector::from_labels(*selector).matches(labels)) {
            wanted.extend(selector.clone());
        }
    }
    let owner = pod.metadata.owner_references.iter().flatten().find(|owner| owner.controller == Some(true));
    let Some(owner) = owner else { return Selector::from_labels(&wanted) };
    let group = owner.api_version.split_once('/').map_or("", |(group, _)| group);
    let mut more = None;
    match (group, owner.kind.as_str()) {
        ("", "ReplicationController") => {
            let controller = listers.replication_controllers.get(namespace, &owner.name);
            wanted.extend(controller.and_then(|object| object.spec.clone()).and_then(|spec| spec.selector).unwrap_or_default());
        }
        ("apps", "ReplicaSet") => {
            more = listers.replica_sets.get(namespace, &owner.name).and_then(|set| set.spec.clone()).map(|spec| spec.selector);
        }
        ("apps", "StatefulSet") => {
            more = listers.stateful_sets.get(namespace, &owner.name).and_then(|set| set.spec.clone()).map(|spec| spec.selector);
        }
        _ => {}
    }
    let mut selector = Selector::from_labels(&wanted);
    if let Some(more) = more {
        selector.extend(Selector::new(Some(&more)));
    }
    selector
}
