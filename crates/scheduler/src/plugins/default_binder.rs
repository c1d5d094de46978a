//! DefaultBinder: binds through `pods/binding`.

use std::time::Duration;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{Binding, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::PostParams;
use kube::{Api, ResourceExt};

use crate::framework::{Bind, ClusterEvent, Code, EventSet, Hint, Plugin, Status};
use crate::pod_info::PodInfo;

/// How often it is looked whether a pod was bound, when the answer was lost.
const LOOKS: u32 = 4;
/// How long to wait then, times the attempt.
const LOOK_AFTER: Duration = Duration::from_millis(100);

pub(super) struct DefaultBinder;

impl Plugin for DefaultBinder {
    fn name(&self) -> &'static str {
        "DefaultBinder"
    }

    fn events(&self) -> EventSet {
        EventSet::NONE
    }

    /// It never rejects a pod.
    fn hint(&self, _pod: &PodInfo, _event: &ClusterEvent) -> Hint {
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
            Err(error) if is_doubtful(&error) && is_bound(&pods, pod, node).await => Status::success(),
            Err(error) => Status::new(Code::Error, [error.to_string()]),
        }
    }
}

/// Whether the server may have bound the pod although it did not say so.
fn is_doubtful(error: &kube::Error) -> bool {
    !matches!(error, kube::Error::Api(status) if status.code < 500)
}

/// Looks whether the pod is bound: if its room were given to another while it is, the node would get more than it has.
async fn is_bound(pods: &Api<Pod>, pod: &Pod, node: &str) -> bool {
    for attempt in 0..LOOKS {
        tokio::time::sleep(LOOK_AFTER * attempt).await;
        match pods.get_opt(&pod.name_any()).await {
            Ok(found) => {
                let found = found.filter(|found| found.uid() == pod.uid());
                return found.and_then(|found| found.spec).and_then(|spec| spec.node_name).as_deref() == Some(node);
            }
            Err(error) => tracing::debug!(%error, attempt, "cannot look whether the pod is bound"),
        }
    }
    false
}
