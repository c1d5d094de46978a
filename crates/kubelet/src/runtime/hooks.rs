//! Lifecycle hooks: exec, httpGet, sleep (<https://kubernetes.io/docs/concepts/containers/container-lifecycle-hooks/>).

use std::time::Duration;

use cri::v1;
use k8s_openapi::api::core::v1::{Container, LifecycleHandler, Pod};

use crate::context::Core;
use crate::pod::access::PodAccess;
use crate::probe::check;

/// Runs one hook to its end. The error is what the hook said, or why it could not run. Dropping the future abandons the hook.
pub(crate) async fn run(
    core: &Core,
    pod: &Pod,
    container: &Container,
    container_id: &str,
    hook: &LifecycleHandler,
) -> Result<(), String> {
    if let Some(exec) = &hook.exec {
        let request = v1::ExecSyncRequest {
            container_id: container_id.to_owned(),
            cmd: exec.command.clone().unwrap_or_default(),
            timeout: 0,
        };
        let response = core.runtime.exec_sync(request).await.map_err(|status| status.message().to_owned())?;
        if response.exit_code == 0 {
            return Ok(());
        }
        let output = String::from_utf8_lossy(&[response.stdout, response.stderr].concat()).into_owned();
        return Err(format!(
            "command '{}' exited with {}: {output}",
            exec.command.clone().unwrap_or_default().join(" "),
            response.exit_code
        ));
    }
    if let Some(action) = &hook.http_get {
        let host = match action.host.as_deref().filter(|h| !h.is_empty()) {
            Some(host) => host.to_owned(),
            None => pod_ip(core, pod).ok_or("failed to find networking container: the pod has no address")?,
        };
        let request = check::HttpCheck::new(container, action, &host)?;
        return request.run(Duration::from_secs(60)).await.map(|_| ());
    }
    if let Some(sleep) = &hook.sleep {
        tokio::time::sleep(Duration::from_secs(sleep.seconds.unsigned_abs())).await;
        return Ok(());
    }
    Err("invalid handler: cannot run a hook of this kind".to_owned())
}

fn pod_ip(core: &Core, pod: &Pod) -> Option<String> {
    core.pods.get(pod.uid())?.status.lock().pod_ip.clone().or_else(|| pod.pod_status().pod_ip.clone())
}
