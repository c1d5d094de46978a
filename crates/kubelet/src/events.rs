//! Events in the kubelet's name, with upstream's reasons, types and texts.

use client::{EventKind, EventRecorder};
use k8s_openapi::api::core::v1::{ObjectReference, Pod};

use crate::pod::access::{PodAccess, container_reference};

/// Records events about this node, its pods and their containers.
#[derive(Clone)]
pub(crate) struct Events {
    recorder: EventRecorder,
    node_name: String,
}

fn kind(name: &str) -> EventKind {
    if name == "Warning" { EventKind::Warning } else { EventKind::Normal }
}

impl Events {
    pub(crate) fn new(recorder: EventRecorder, node_name: String) -> Self {
        Self { recorder, node_name }
    }

    /// About the node; upstream uses the node's name as its uid here.
    pub(crate) fn node(&self, event_type: &str, reason: &str, message: impl Into<String>) {
        let reference = ObjectReference {
            kind: Some("Node".to_owned()),
            name: Some(self.node_name.clone()),
            uid: Some(self.node_name.clone()),
            ..ObjectReference::default()
        };
        self.recorder.record_reference(reference, kind(event_type), reason, message);
    }

    /// About a pod.
    pub(crate) fn pod(&self, pod: &Pod, event_type: &str, reason: &str, message: impl Into<String>) {
        self.recorder.record_reference(pod.reference(), kind(event_type), reason, message);
    }

    /// About one container of a pod.
    pub(crate) fn container(&self, pod: &Pod, container: &str, event_type: &str, reason: &str, message: impl Into<String>) {
        self.recorder.record_reference(container_reference(pod, container), kind(event_type), reason, message);
    }
}
