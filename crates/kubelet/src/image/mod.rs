//! Images of containers: pull policy, back-off, credentials; upstream's image manager with its reasons and texts.

mod keyring;
pub(crate) mod reference;

use std::collections::HashMap;
use std::time::Duration;

use cri::v1;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod};
use parking_lot::Mutex;

pub(crate) use keyring::Keyring;

use crate::context::Core;
use crate::error::StartFailure;
use crate::objects::{Kind, Object};
use crate::pod::access::PodAccess;
use crate::pod::backoff::Backoff;

/// After a failed pull the pod is looked at again this soon, so that the status says that it backs off.
const RECHECK: Duration = Duration::from_secs(1);

#[derive(Default)]
struct State {
    backoff: Backoff,
    /// The last error of each key.
    errors: HashMap<String, String>,
}

/// Pulls images; remembers failures by pod and image.
#[derive(Default)]
pub(crate) struct Puller {
    state: Mutex<State>,
}

/// Why there is no image, and when to try again.
type NoImage = (StartFailure, Option<Timestamp>);

/// The credentials that a pod's `imagePullSecrets` hold; missing secrets count as none, as upstream has it.
pub(crate) async fn pull_secrets(core: &Core, pod: &Pod) -> Keyring {
    let mut keyring = Keyring::default();
    for reference in pod.pod_spec().image_pull_secrets.iter().flatten() {
        match core.objects.get(core, pod, Kind::Secret, &reference.name).await {
            Ok(Some(Object::Secret(secret))) => {
                if let Err(error) = keyring.add(&secret) {
                    tracing::warn!(namespace = pod.namespace(), name = reference.name, %error, "unusable image pull secret");
                }
            }
            Ok(_) => {
                let message = format!(
                    "Unable to retrieve some image pull secrets ({}); attempting to pull the image may not succeed.",
                    reference.name
                );
                core.events.pod(pod, "Warning", "FailedToRetrieveImagePullSecret", message);
            }
            Err(error) => {
                tracing::warn!(namespace = pod.namespace(), name = reference.name, error, "image pull secret was not read")
            }
        }
    }
    keyring
}

impl Puller {
    /// Makes sure that the container's image is here; its reference in the runtime.
    pub(crate) async fn ensure(
        &self,
        core: &Core,
        pod: &Pod,
        container: &Container,
        keyring: &Keyring,
        sandbox: &v1::PodSandboxConfig,
    ) -> Result<String, NoImage> {
        let requested = container.image.as_deref().unwrap_or("");
        let image = reference::with_default_tag(requested).map_err(|error| {
            let message = format!("Failed to apply default image tag \"{requested}\": {error}");
            core.events.container(pod, &container.name, "Warning", "InspectFailed", &message);
            (StartFailure::new("InvalidImageName", message), None)
        })?;
        let spec = v1::ImageSpec { image: image.clone(), user_specified_image: requested.to_owned(), ..Default::default() };
        let policy = container.image_pull_policy.as_deref().unwrap_or("IfNotPresent");
        if policy != "Always" {
            if let Some(present) = self.present(core, pod, container, &spec).await? {
                let message =
                    format!("Container image \"{requested}\" already present on machine and can be accessed by the pod");
                core.events.container(pod, &container.name, "Normal", "Pulled", message);
                return Ok(present);
            }
            if policy == "Never" {
                let message = format!("Container image \"{requested}\" is not present with pull policy of Never");
                core.events.container(pod, &container.name, "Warning", "ErrImageNeverPull", &message);
                return Err((StartFailure::new("ErrImageNeverPull", message), None));
            }
        }
        self.pull(core, pod, container, spec, keyring, sandbox).await
    }

    async fn present(
        &self,
        core: &Core,
        pod: &Pod,
        container: &Container,
        spec: &v1::ImageSpec,
    ) -> Result<Option<String>, NoImage> {
        match core.images.image_status(v1::ImageStatusRequest { image: Some(spec.clone()), verbose: false }).await {
            Ok(response) => Ok(response.image.map(|i| i.id)),
            Err(status) if status.code() == cri::Code::NotFound => Ok(None),
            Err(status) => {
                let message = format!("Failed to inspect image \"\": {}", status.message());
                core.events.container(pod, &container.name, "Warning", "InspectFailed", &message);
                Err((StartFailure::new("ImageInspectError", message), None))
            }
        }
    }

    async fn pull(
        &self,
        core: &Core,
        pod: &Pod,
        container: &Container,
        spec: v1::ImageSpec,
        keyring: &Keyring,
        sandbox: &v1::PodSandboxConfig,
    ) -> Result<String, NoImage> {
        let requested = spec.user_specified_image.clone();
        let key = format!("{}_{requested}", pod.uid());
        self.waits(core, pod, container, &key, &requested)?;
        core.events.container(pod, &container.name, "Normal", "Pulling", format!("Pulling image \"{requested}\""));
        let begun = std::time::Instant::now();
        let mut credentials: Vec<Option<v1::AuthConfig>> = keyring.lookup(&spec.image).into_iter().map(Some).collect();
        if credentials.is_empty() {
            credentials.push(None);
        }
        let mut errors = Vec::new();
        for auth in credentials {
            let request = v1::PullImageRequest { image: Some(spec.clone()), auth, sandbox_config: Some(sandbox.clone()) };
            match core.images.pull_image(request).await {
                Ok(response) => {
                    self.state.lock().backoff.reset(&key);
                    let size = image_size(core, &response.image_ref).await;
                    let took = go_seconds(begun.elapsed());
                    let message = format!(
                        "Successfully pulled image \"{requested}\" in {took} ({took} including waiting). Image size: {size} bytes."
                    );
                    core.events.container(pod, &container.name, "Normal", "Pulled", message);
                    return Ok(response.image_ref);
                }
                Err(status) => errors.push(status.message().to_owned()),
            }
        }
        errors.dedup();
        let error = errors.join(", ");
        core.events.container(
            pod,
            &container.name,
            "Warning",
            "Failed",
            format!("Failed to pull image \"{requested}\": {error}"),
        );
        let reason = classify(&error);
        let now = Timestamp::now();
        let mut state = self.state.lock();
        state.backoff.next(&key, now, now);
        state.errors.insert(key, format!("{reason}: {error}"));
        Err((StartFailure::new(reason, error), now.checked_add(RECHECK).ok()))
    }

    /// Fails while the image backs off.
    fn waits(&self, core: &Core, pod: &Pod, container: &Container, key: &str, requested: &str) -> Result<(), NoImage> {
        let mut state = self.state.lock();
        let Some(until) = state.backoff.until_since_update(key, Timestamp::now()) else {
            state.errors.remove(key);
            return Ok(());
        };
        let mut message = format!("Back-off pulling image \"{requested}\"");
        core.events.container(pod, &container.name, "Normal", "BackOff", &message);
        if let Some(error) = state.errors.get(key) {
            message = format!("{message}: {error}");
        }
        Err((StartFailure::new("ImagePullBackOff", message), Some(until)))
    }
}

fn classify(error: &str) -> &'static str {
    ["RegistryUnavailable", "SignatureValidationFailed"]
        .into_iter()
        .find(|known| error.starts_with(known))
        .unwrap_or("ErrImagePull")
}

async fn image_size(core: &Core, image: &str) -> u64 {
    let spec = v1::ImageSpec { image: image.to_owned(), ..Default::default() };
    let status = core.images.image_status(v1::ImageStatusRequest { image: Some(spec), verbose: false }).await;
    status.ok().and_then(|s| s.image).map_or(0, |i| i.size)
}

/// A duration as Go prints it, in whole milliseconds.
fn go_seconds(duration: Duration) -> String {
    let millis = duration.as_millis();
    if millis < 1000 {
        return format!("{millis}ms");
    }
    let text = format!("{}.{:03}", millis / 1000, millis % 1000);
    format!("{}s", text.trim_end_matches('0').trim_end_matches('.'))
}
