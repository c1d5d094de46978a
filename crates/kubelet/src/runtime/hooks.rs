//! Lifecycle hooks: exec, httpGet, sleep (<https://kubernetes.io/docs/concepts/containers/container-lifecycle-hooks/>).

use std::time::Duration;

use cri::v1;
use k8s_openapi::api::core::v1::{Container, ExecAction, HTTPGetAction, LifecycleHandler, Pod};

use crate::context::Core;
use crate::pod::access::PodAccess;
use crate::probe::check;

/// Runs one hook to its end. The error is upstream's text, which the status of a container shows whose postStart hook failed. Dropping the
/// future abandons the hook.
pub(crate) async fn run(
    core: &Core,
    pod: &Pod,
    container: &Container,
    container_id: &str,
    hook: &LifecycleHandler,
) -> Result<(), String> {
    let of = || format!("for Container \"{}\" in Pod \"{}\" failed - error", container.name, pod.display());
    if let Some(action) = &hook.exec {
        let command = action.command.clone().unwrap_or_default().join(" ");
        return exec(core, container_id, action)
            .await
            .map_err(|(error, output)| format!("Exec lifecycle hook ([{command}]) {}: {error}, message: {output:?}", of()));
    }
    if let Some(action) = &hook.http_get {
        let path = action.path.as_deref().unwrap_or_default();
        return get(core, pod, container, action)
            .await
            .map_err(|error| format!("HTTP lifecycle hook ({path}) {}: {error}", of()));
    }
    if let Some(sleep) = &hook.sleep {
        tokio::time::sleep(Duration::from_secs(sleep.seconds.unsigned_abs())).await;
        return Ok(());
    }
    Err("Cannot run handler: invalid handler: it has no action".to_owned())
}

/// The error, and all that the command has said.
async fn exec(core: &Core, container_id: &str, action: &ExecAction) -> Result<(), (String, String)> {
    let command = action.command.clone().unwrap_or_default();
    let text = command.join(" ");
    let request = v1::ExecSyncRequest { container_id: container_id.to_owned(), cmd: command, timeout: 0 };
    let response = core.runtime.exec_sync(request).await.map_err(|status| (status.message().to_owned(), String::new()))?;
    if response.exit_code == 0 {
        return Ok(());
    }
    let stderr = String::from_utf8_lossy(&response.stderr).into_owned();
    let output = String::from_utf8_lossy(&response.stdout).into_owned() + &stderr;
    Err((format!("command '{text}' exited with {}: {stderr}", response.exit_code), output))
}

async fn get(core: &Core, pod: &Pod, container: &Container, action: &HTTPGetAction) -> Result<(), String> {
    let host = match action.host.as_deref().filter(|h| !h.is_empty()) {
        Some(host) => host.to_owned(),
        None => pod_ip(core, pod).ok_or("failed to find networking container: the pod has no address")?,
    };
    let request = check::HttpCheck::new(container, action, &host)?;
    if let Some(host) = request.notify(Duration::from_secs(60)).await? {
        let message = format!("request to HTTPS lifecycle hook {host} got HTTP response, retry with HTTP succeeded");
        core.events.pod(pod, "Warning", "LifecycleHTTPFallback", message);
    }
    Ok(())
}

fn pod_ip(core: &Core, pod: &Pod) -> Option<String> {
    core.pods.get(pod.uid())?.status.lock().pod_ip.clone().or_else(|| pod.pod_status().pod_ip.clone())
}
