//! DefaultBinder: binds through `pods/binding`.

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{Binding, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::PostParams;
use kube::{Api, ResourceExt};

use crate::framework::{Bind, ClusterEvent, Code, Hint, Plugin, Status};

pub(super) struct DefaultBinder;

impl Plugin for DefaultBinder {
    fn name(&self) -> &'static str {
        "DefaultBinder"
    }

    /// It never rejects a pod.
    fn hint(&self, _pod: &Pod, _event: &ClusterEvent) -> Hint {
        Hint::Skip
    }

    fn as_bind(&self) -> Option<&dyn Bind> {
        Some(self)
    }
}

#[async_trait]
impl Bind for DefaultBinder {
    async fn bind(&self, client: &kube::Client, pod: &Pod, node: &str) -> Status {
        let namespace = pod.namespace().unwrap_or_default();
        let binding = Binding {
            // The uid keeps the binding from hitting a pod that took the name since.
            metadata: ObjectMeta {
                name: pod.metadata.name.clone(),
                namespace: pod.metadata.namespace.clone(),
                uid: pod.uid(),
                ..ObjectMeta::default()
            },
            target: ObjectReference { kind: Some("Node".to_owned()), name: Some(node.to_owned()), ..ObjectReference::default() },
        };
        let pods = Api::<Pod>::namespaced(client.clone(), &namespace);
        // The server answers with a Status object.
        let bound: kube::Result<serde_json::Value> =
            pods.create_subresource("binding", &pod.name_any(), &PostParams::default(), &binding).await;
        match bound {
            Ok(_) => Status::success(),
            Err(error) => Status::new(Code::Error, [error.to_string()]),
        }
    }
}
