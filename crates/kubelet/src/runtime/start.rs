//! Starts one container: image, configuration, create, start, postStart hook; upstream's `startContainer`.

use std::time::Duration;

use cri::v1;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod};
use tokio_util::sync::CancellationToken;

use crate::context::Core;
use crate::error::StartFailure;
use crate::image::Keyring;
use crate::pod::access::PodAccess;
use crate::pod::actions::{Kill, KillReason};
use crate::runtime::container;
use crate::runtime::security::{self, ImageUser};
use crate::runtime::snapshot::Snapshot;
use crate::runtime::{hooks, kill, sandbox};
use crate::volume::Volumes;

/// What every container of one pass is started with.
pub(crate) struct Context<'a> {
    pub(crate) core: &'a Core,
    pub(crate) pod: &'a Pod,
    pub(crate) snapshot: &'a Snapshot,
    pub(crate) sandbox_id: &'a str,
    pub(crate) attempt: u32,
    /// The pod's addresses, the primary first.
    pub(crate) ips: &'a [String],
    pub(crate) volumes: &'a Volumes,
    pub(crate) keyring: &'a Keyring,
    /// Cancelled when the pod has to stop: pulls and hooks are abandoned.
    pub(crate) stop: &'a CancellationToken,
}

/// Why a container was not started.
pub(crate) enum Failure {
    /// The pod is stopping.
    Stopped,
    /// It failed, and may be tried again then.
    Failed { failure: StartFailure, retry_at: Option<Timestamp> },
}

impl From<StartFailure> for Failure {
    fn from(failure: StartFailure) -> Self {
        Self::Failed { failure, retry_at: None }
    }
}

/// Starts one container; `target` is the container whose process namespace an ephemeral one joins.
pub(crate) async fn start_container(context: &Context<'_>, spec: &Container, target: Option<&str>) -> Result<(), Failure> {
    let Context { core, pod, .. } = *context;
    let warn = |reason: &str, message: String| core.events.container(pod, &spec.name, "Warning", reason, message);
    let sandbox_config =
        sandbox::config(core, pod, context.attempt).map_err(|s| StartFailure::new("CreateContainerConfigError", s.message()))?;
    let pulled = tokio::select! {
        () = context.stop.cancelled() => return Err(Failure::Stopped),
        pulled = core.puller.ensure(core, pod, spec, context.keyring, &sandbox_config) => pulled,
    };
    let image = pulled.map_err(|(failure, retry_at)| {
        warn("Failed", format!("Error: {}", failure.reason));
        Failure::Failed { failure, retry_at }
    })?;
    let config_error = |message: String| {
        warn("Failed", format!("Error: {message}"));
        StartFailure::new("CreateContainerConfigError", message)
    };
    let user = image_user(core, &image).await;
    security::verify_non_root(pod, spec, &user).map_err(config_error)?;
    let target_id = target
        .map(|name| {
            context.snapshot.latest(name).map(|c| c.id.clone()).ok_or_else(|| format!("unable to find target container {name}"))
        })
        .transpose()
        .map_err(config_error)?;
    let restart_count = restart_count(context, spec);
    let config =
        container::config(context, spec, &image, restart_count, target_id.as_deref(), &user).await.map_err(config_error)?;
    let request = v1::CreateContainerRequest {
        pod_sandbox_id: context.sandbox_id.to_owned(),
        config: Some(config),
        sandbox_config: Some(sandbox_config),
    };
    let created = bounded(context.stop, core.runtime.create_container(request)).await?.map_err(|status| {
        warn("Failed", format!("Error: {}", status.message()));
        StartFailure::new("CreateContainerError", status.message())
    })?;
    core.events.container(pod, &spec.name, "Normal", "Created", "Container created");
    let id = created.container_id;
    let start = core.runtime.start_container(v1::StartContainerRequest { container_id: id.clone() });
    bounded(context.stop, start).await?.map_err(|status| {
        warn("Failed", format!("Error: {}", status.message()));
        StartFailure::new("RunContainerError", status.message())
    })?;
    core.events.container(pod, &spec.name, "Normal", "Started", "Container started");
    tracing::debug!(namespace = pod.namespace(), name = pod.name(), container = spec.name, id, "container started");
    post_start(context, spec, &id).await
}

/// How long the runtime may take to create or start a container (upstream: `runtimeRequestTimeout`, two minutes).
const CALL_TIMEOUT: Duration = Duration::from_secs(120);
/// How much longer a pod that has to stop waits for such a call.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// Waits for a call of the runtime, but not for ever: a stuck runtime must not keep a pod from being deleted.
async fn bounded<T>(
    stop: &CancellationToken,
    call: impl Future<Output = Result<T, cri::Status>>,
) -> Result<Result<T, cri::Status>, Failure> {
    let stopped = async {
        stop.cancelled().await;
        tokio::time::sleep(STOP_TIMEOUT).await;
    };
    tokio::select! {
        () = stopped => Err(Failure::Stopped),
        done = tokio::time::timeout(CALL_TIMEOUT, call) => Ok(done.unwrap_or_else(|_| Err(cri::Status::deadline_exceeded("context deadline exceeded")))),
    }
}

async fn post_start(context: &Context<'_>, spec: &Container, id: &str) -> Result<(), Failure> {
    let Some(hook) = spec.lifecycle.as_ref().and_then(|l| l.post_start.as_ref()) else { return Ok(()) };
    let (core, pod) = (context.core, context.pod);
    let ran = tokio::select! {
        () = context.stop.cancelled() => return Err(Failure::Stopped),
        ran = hooks::run(core, pod, spec, id, hook) => ran,
    };
    let Err(message) = ran else { return Ok(()) };
    core.events.container(pod, &spec.name, "Warning", "FailedPostStartHook", "PostStartHook failed");
    let kill = Kill {
        id: id.to_owned(),
        name: spec.name.clone(),
        message: "FailedPostStartHook".to_owned(),
        reason: KillReason::Unknown,
    };
    if let Err(status) = kill::kill_container(core, pod, &kill).await {
        tracing::warn!(
            namespace = pod.namespace(),
            name = pod.name(),
            container = spec.name,
            error = status.message(),
            "a container whose postStart hook failed was not killed"
        );
    }
    Err(StartFailure::new("PostStartHookError", message).into())
}

async fn image_user(core: &Core, image: &str) -> ImageUser {
    let spec = v1::ImageSpec { image: image.to_owned(), ..Default::default() };
    let status = core.images.image_status(v1::ImageStatusRequest { image: Some(spec), verbose: false }).await;
    let Some(image) = status.ok().and_then(|s| s.image) else { return ImageUser::default() };
    let uid = image.uid.map(|u| u.value);
    // No user at all means root.
    ImageUser { uid: uid.or_else(|| image.username.is_empty().then_some(0)), name: image.username }
}

/// One more than the last; after a runtime lost its state, one more than the newest log (`N.log`).
fn restart_count(context: &Context<'_>, spec: &Container) -> u32 {
    if let Some(latest) = context.snapshot.latest(&spec.name) {
        return latest.restart_count + 1;
    }
    let pod = context.pod;
    let directory = context.core.config.pod_log_dir(pod.namespace(), pod.name(), pod.uid()).join(&spec.name);
    let Ok(entries) = std::fs::read_dir(directory) else { return 0 };
    let newest = entries.flatten().filter_map(|e| e.file_name().to_str()?.split('.').next()?.parse::<u32>().ok()).max();
    newest.map_or(0, |n| n + 1)
}
