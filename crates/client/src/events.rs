//! Records what happened to an object as core/v1 Events, as client-go's `tools/record` does.
//!
//! Recording never blocks: a queue of 1,000 events feeds one writer task, and when it is full the event is dropped
//! (client-go's DropIfChannelFull). Similar events are counted, combined and limited by the correlator.

use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Resource, ResourceExt};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::events_correlator::{Correlator, Decision};

/// client-go's maxQueuedEvents.
const QUEUE_LEN: usize = 1000;
/// client-go's maxTriesPerEvent.
const TRIES_MAX: u32 = 12;
/// client-go's defaultSleepDuration.
const RETRY_AFTER: Duration = Duration::from_secs(10);

/// The type of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// Information.
    Normal,
    /// Something may be wrong.
    Warning,
}

/// A reference to an object of a built-in type, for [`EventRecorder::record_reference`].
pub fn object_reference<K: Resource<DynamicType = ()>>(object: &K) -> ObjectReference {
    ObjectReference {
        api_version: Some(K::api_version(&()).into_owned()),
        kind: Some(K::kind(&()).into_owned()),
        namespace: object.namespace(),
        name: object.meta().name.clone(),
        uid: object.uid(),
        resource_version: object.resource_version(),
        field_path: None,
    }
}

/// Records events in the name of one component. Cheap to clone.
#[derive(Clone)]
pub struct EventRecorder {
    component: String,
    host: Option<String>,
    sender: mpsc::Sender<Event>,
}

impl EventRecorder {
    /// A recorder for a component (`deployment-controller`, `kubelet`, ...) on a host (the node's name for node components), and the
    /// future that writes, to be spawned by the caller; it ends with the token or with the last recorder.
    pub fn new(
        client: kube::Client,
        component: impl Into<String>,
        host: Option<String>,
        token: CancellationToken,
    ) -> (Self, BoxFuture<'static, ()>) {
        let (sender, receiver) = mpsc::channel(QUEUE_LEN);
        let recorder = Self { component: component.into(), host, sender };
        let writer = Writer { client, correlator: Correlator::default() };
        (recorder, writer.run(receiver, token).boxed())
    }

    /// The same writer and queue in the name of another component.
    pub fn for_component(&self, component: impl Into<String>) -> Self {
        Self { component: component.into(), ..self.clone() }
    }

    /// Records an event about an object.
    pub fn record<K: Resource<DynamicType = ()>>(&self, object: &K, kind: EventKind, reason: &str, message: impl Into<String>) {
        self.record_reference(object_reference(object), kind, reason, message);
    }

    /// Records an event about a referenced object; `field_path` may name a container as `spec.containers{NAME}`.
    pub fn record_reference(&self, involved_object: ObjectReference, kind: EventKind, reason: &str, message: impl Into<String>) {
        let now = Timestamp::now();
        let namespace = involved_object.namespace.clone().unwrap_or_else(|| "default".into());
        let object_name = involved_object.name.as_deref().unwrap_or("");
        let event = Event {
            metadata: ObjectMeta { name: Some(event_name(object_name, now)), namespace: Some(namespace), ..Default::default() },
            involved_object,
            reason: Some(reason.into()),
            message: Some(message.into()),
            first_timestamp: Some(Time(now)),
            last_timestamp: Some(Time(now)),
            count: Some(1),
            type_: Some(
                match kind {
                    EventKind::Normal => "Normal",
                    EventKind::Warning => "Warning",
                }
                .into(),
            ),
            source: Some(EventSource { component: Some(self.component.clone()), host: self.host.clone() }),
            reporting_component: Some(self.component.clone()),
            reporting_instance: Some(self.host.clone().unwrap_or_default()),
            ..Default::default()
        };
        if self.sender.try_send(event).is_err() {
            tracing::debug!(component = self.component, "event queue is full, event dropped");
        }
    }
}

/// `OBJECT.NANOSECONDS` in hexadecimal, shortened to the 253 characters of a DNS subdomain.
fn event_name(object: &str, now: Timestamp) -> String {
    let suffix = format!(".{:x}", now.as_nanosecond());
    let mut end = object.len().min(253 - suffix.len());
    while !object.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{suffix}", &object[..end])
}

struct Writer {
    client: kube::Client,
    correlator: Correlator,
}

impl Writer {
    async fn run(mut self, mut receiver: mpsc::Receiver<Event>, token: CancellationToken) {
        loop {
            let event = tokio::select! {
                () = token.cancelled() => return,
                event = receiver.recv() => event,
            };
            let Some(event) = event else { return };
            let decision = self.correlator.correlate(event, Timestamp::now());
            tokio::select! {
                () = token.cancelled() => return,
                () = self.write(decision) => {}
            }
        }
    }

    async fn write(&mut self, decision: Decision) {
        let (key, event, mut count_up) = match decision {
            Decision::Drop => return,
            Decision::Create { key, event } => (key, event, false),
            Decision::Count { key, event } => (key, event, true),
        };
        let namespace = event.metadata.namespace.clone().unwrap_or_default();
        let api: Api<Event> = Api::namespaced(self.client.clone(), &namespace);
        for attempt in 1..=TRIES_MAX {
            let result =
                if count_up { patch_count(&api, &event).await } else { api.create(&PostParams::default(), &event).await };
            match result {
                Ok(written) => {
                    let count = written.count.unwrap_or(1);
                    self.correlator.written(&key, &written.name_any(), count, Timestamp::now());
                    return;
                }
                // The Event expired or was deleted: make it anew, keeping the count.
                Err(kube::Error::Api(status)) if count_up && status.code == 404 => {
                    count_up = false;
                    continue;
                }
                Err(error @ kube::Error::Api(_)) => {
                    tracing::debug!(namespace, error = &error as &dyn std::error::Error, "server rejected event");
                    return;
                }
                Err(error) => {
                    tracing::debug!(namespace, error = &error as &dyn std::error::Error, attempt, "cannot write event");
                }
            }
            tokio::time::sleep(RETRY_AFTER).await;
        }
    }
}

async fn patch_count(api: &Api<Event>, event: &Event) -> kube::Result<Event> {
    let patch = serde_json::json!({
        "count": event.count,
        "lastTimestamp": event.last_timestamp,
        "message": event.message,
    });
    api.patch(&event.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn event_names_fit_into_a_dns_subdomain() {
        let now = Timestamp::from_second(1_700_000_000).expect("in range");
        assert_eq!(
            event_name("web", now),
            "web.1797a11b53220000".replace("1797a11b53220000", &format!("{:x}", now.as_nanosecond()))
        );
        assert_eq!(event_name(&"a".repeat(300), now).len(), 253);
    }
}
