//! The pods that belong together with a pod that does not say so itself: those of its services and of its controller.

use client::Store;
use k8s_openapi::api::core::v1::{Pod, Service};

use crate::framework::Listers;
use crate::label_selector::{Labels, Selector};

/// Services by the first pair of their selector: a pod looks at those of its own labels, not at all of its namespace.
const INDEX: &str = "first of the selector";

fn place(namespace: &str, key: &str, value: &str) -> String {
    // Neither names nor labels hold spaces.
    format!("{namespace} {key} {value}")
}

fn selector(service: &Service) -> Option<&Labels> {
    service.spec.as_ref()?.selector.as_ref()
}

/// Makes the index that [`default_selector`] goes by.
pub(super) fn index(services: &Store<Service>) {
    let first = |service: &Service| {
        let namespace = service.metadata.namespace.as_deref().unwrap_or_default();
        let first = selector(service).and_then(Labels::first_key_value);
        first.map(|(key, value)| place(namespace, key, value)).into_iter().collect()
    };
    services.add_index(INDEX, first);
}

/// The selector of the pod's like; everything if nothing selects it.
pub(super) fn default_selector(pod: &Pod, listers: &Listers) -> Selector {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let labels = pod.metadata.labels.as_ref();
    let mut wanted = Labels::new();
    for (key, value) in labels.into_iter().flatten() {
        for service in listers.services.by_index(INDEX, &place(namespace, key, value)) {
            let has = |(key, value): (&String, &String)| labels.is_some_and(|labels| labels.get(key) == Some(value));
            if let Some(selector) = selector(&service).filter(|selector| selector.iter().all(has)) {
                wanted.extend(selector.clone());
            }
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
