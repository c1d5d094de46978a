//! Containers after their start: stopped, removed, listed, described.

use std::time::Duration;

use cri::v1::{self, ContainerEventType};
use cri::{Code, Status};

use super::layout::{remove_with_mounts, unmount};
use super::records::{Container, ContainerRecord, Phase};
use super::sandbox::matches_labels;
use super::{Inner, blocking, shim_client};
use crate::shim::protocol::{Exit, Request};

/// How long SIGKILL may take until the end of a container is known. Processes in uninterruptible sleep take longer; the
/// kubelet asks again.
const KILL_TIMEOUT: Duration = Duration::from_secs(30);
/// Ends the name of the directory of a container that is removed; no id has a point in it.
const REMOVED: &str = ".removed";

impl Inner {
    /// Stops a container: its own signal, and SIGKILL after `timeout` seconds.
    pub(super) async fn stop_container(&self, id: &str, timeout: i64) -> Result<(), Status> {
        let Ok(container) = self.container(id) else { return Ok(()) };
        let record = container.snapshot();
        let mut phase = container.phase.subscribe();
        if timeout > 0 && matches!(*phase.borrow(), Phase::Running { .. }) {
            self.signal(&record, record.stop_signal, false).await?;
            let patience = Duration::from_secs(u64::try_from(timeout).unwrap_or(0));
            let exited = phase.wait_for(|phase| matches!(phase, Phase::Exited { .. }));
            if tokio::time::timeout(patience, exited).await.is_ok() {
                return Ok(());
            }
        }
        self.stop_container_now(&container).await
    }

    /// Kills a running container and waits for its end. One that was never started cannot be started any more.
    pub(super) async fn stop_container_now(&self, container: &Container) -> Result<(), Status> {
        let record = container.snapshot();
        let mut phase = container.phase.subscribe();
        match container.phase() {
            Phase::Exited { .. } => return Ok(()),
            Phase::Created => {
                // A start that is under way comes first.
                let _operation = container.operation.lock().await;
                if container.phase() == Phase::Created {
                    return Ok(());
                }
            }
            Phase::Running { .. } => {}
        }
        match self.signal(&record, libc::SIGKILL, true).await {
            // The shim's end is the containers' end: its watcher will say so.
            Err(error) if error.code() == Code::Unavailable => {}
            other => other?,
        }
        let exited = phase.wait_for(|phase| matches!(phase, Phase::Exited { .. }));
        match tokio::time::timeout(KILL_TIMEOUT, exited).await {
            Ok(_) => Ok(()),
            Err(_) => {
                Err(Status::deadline_exceeded(format!("container {} has not ended {KILL_TIMEOUT:?} after SIGKILL", record.id)))
            }
        }
    }

    pub(super) async fn signal(&self, record: &ContainerRecord, signal: i32, all: bool) -> Result<(), Status> {
        let request = Request::Kill { id: record.id.clone(), exec_id: String::new(), signal, all };
        shim_client::call(&self.layout.shim_socket(&record.sandbox_id), &request).await.map(drop)
    }

    /// Removes a container, killing it first if it runs.
    pub(super) async fn remove_container(&self, id: &str) -> Result<(), Status> {
        let Ok(container) = self.container(id) else { return Ok(()) };
        self.stop_container_now(&container).await?;
        let _operation = container.operation.lock().await;
        let record = container.snapshot();
        self.release_container(&container).await;
        let forget = Request::Forget { id: record.id.clone() };
        let _ = shim_client::call(&self.layout.shim_socket(&record.sandbox_id), &forget).await;
        let this = self.this.upgrade().ok_or_else(|| Status::unavailable("the runtime is closing"))?;
        let id = record.id.clone();
        blocking(move || {
            this.delete_container_files(&id);
            Ok(())
        })
        .await?;
        if self.containers.write().remove(&record.id).is_some() {
            self.forget_samples(&record.id);
            self.publish_gone(&record.sandbox_id, &record.id);
        }
        Ok(())
    }

    /// Frees what only a running container needs: root file system, cgroup, libcontainer's state. Done once; who comes second waits.
    pub(super) async fn release_container(&self, container: &Container) {
        let mut released = container.released.lock().await;
        let Some(this) = self.this.upgrade().filter(|_| !*released) else { return };
        let record = container.snapshot();
        let (id, cgroup) = (record.id, record.cgroup);
        *released = blocking(move || {
            unmount(&this.layout.rootfs(&id));
            let _ = std::fs::remove_dir_all(this.layout.oci().join(&id));
            this.hierarchies.remove(&cgroup);
            Ok(())
        })
        .await
        .is_ok();
    }

    /// Blocking. Everything of a container but its log, which is the kubelet's. Its directory is only renamed here: how many files it has
    /// written is nothing that a removal should wait for. What a crash leaves of it the next start removes, as it belongs to no container.
    pub(super) fn delete_container_files(&self, id: &str) {
        let directory = self.layout.container(id);
        let removed = if id.ends_with(REMOVED) { directory.clone() } else { directory.with_extension(&REMOVED[1..]) };
        // First: as long as there is a record, the image's layers are in use.
        let _ = std::fs::remove_file(self.container_file(id));
        let renamed = remove_with_mounts(&self.layout.container_run(id)).and_then(|()| std::fs::rename(&directory, &removed));
        match renamed {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return,
            Err(error) => {
                tracing::warn!(container = id, %error, "files of a container could not be removed");
                return;
            }
            Ok(()) => {}
        }
        let id = id.to_owned();
        self.tasks.spawn_blocking(move || {
            if let Err(error) = std::fs::remove_dir_all(&removed) {
                tracing::warn!(container = id, %error, "files of a container could not be removed");
            }
        });
    }

    /// A container has ended.
    pub(super) async fn note_exit(&self, container: &Container, phase: Phase) {
        let changed = container.phase.send_if_modified(|current| {
            let running = !matches!(current, Phase::Exited { .. });
            if running {
                *current = phase;
            }
            running
        });
        if !changed {
            return;
        }
        let record = container.snapshot();
        self.publish(&record.sandbox_id, &record.id, ContainerEventType::ContainerStoppedEvent);
        self.release_container(container).await;
    }

    pub(super) async fn reopen_log(&self, id: &str) -> Result<(), Status> {
        let record = self.running(id)?;
        let request = Request::ReopenLog { id: record.id.clone() };
        shim_client::call(&self.layout.shim_socket(&record.sandbox_id), &request).await.map(drop)
    }

    /// The record of a container that runs.
    pub(crate) fn running(&self, id: &str) -> Result<ContainerRecord, Status> {
        let container = self.container(id)?;
        match container.phase() {
            Phase::Running { .. } => Ok(container.snapshot()),
            _ => Err(Status::failed_precondition(format!("container {id} is not running"))),
        }
    }

    pub(super) fn list_containers(&self, filter: &v1::ContainerFilter) -> Vec<v1::Container> {
        let containers = self.containers.read();
        let mut items: Vec<v1::Container> = containers
            .values()
            .map(|container| (container.snapshot(), container.phase()))
            .filter(|(record, phase)| {
                (filter.id.is_empty() || record.id.starts_with(&filter.id))
                    && (filter.pod_sandbox_id.is_empty() || record.sandbox_id.starts_with(&filter.pod_sandbox_id))
                    && filter.state.as_ref().is_none_or(|wanted| wanted.state == state(phase) as i32)
                    && matches_labels(&record.config.0.labels, &filter.label_selector)
            })
            .map(|(record, phase)| v1::Container {
                id: record.id,
                pod_sandbox_id: record.sandbox_id,
                image_ref: record.image_ref,
                image_id: record.image_id,
                state: state(&phase) as i32,
                created_at: record.created_at,
                metadata: record.config.0.metadata,
                image: record.config.0.image,
                labels: record.config.0.labels,
                annotations: record.config.0.annotations,
            })
            .collect();
        items.sort_by_key(|item| item.created_at);
        items
    }
}

fn state(phase: &Phase) -> v1::ContainerState {
    match phase {
        Phase::Created => v1::ContainerState::ContainerCreated,
        Phase::Running { .. } => v1::ContainerState::ContainerRunning,
        Phase::Exited { .. } => v1::ContainerState::ContainerExited,
    }
}

/// CRI `ContainerStatus`.
pub(super) fn container_status(container: &Container) -> v1::ContainerStatus {
    let (record, phase) = (container.snapshot(), container.phase());
    let config = record.config.0;
    let state = state(&phase) as i32;
    let (exit, reason, message) = match phase {
        Phase::Exited { exit, reason, message } => (exit, reason, message),
        _ => (Exit { code: 0, finished_at: 0, oom_killed: false }, String::new(), String::new()),
    };
    let groups = record.user.groups.iter().map(|group| i64::from(*group)).collect();
    v1::ContainerStatus {
        id: record.id,
        state,
        created_at: record.created_at,
        started_at: record.started_at,
        finished_at: exit.finished_at,
        exit_code: exit.code,
        image_ref: record.image_ref,
        image_id: record.image_id,
        reason,
        message,
        log_path: record.log_path,
        user: Some(v1::ContainerUser {
            linux: Some(v1::LinuxContainerUser {
                uid: i64::from(record.user.uid),
                gid: i64::from(record.user.gid),
                supplemental_groups: groups,
            }),
        }),
        resources: config
            .linux
            .as_ref()
            .and_then(|linux| linux.resources.clone())
            .map(|linux| v1::ContainerResources { linux: Some(linux), windows: None }),
        stop_signal: cri_signal(record.stop_signal) as i32,
        metadata: config.metadata,
        image: config.image,
        labels: config.labels,
        annotations: config.annotations,
        mounts: config.mounts,
    }
}

/// The number of the stop signal: the configuration's, the image's, SIGTERM.
pub(super) fn stop_signal(config: &v1::ContainerConfig, image: &str) -> i32 {
    let wanted = config.stop_signal();
    let name = if wanted == v1::Signal::RuntimeDefault { image } else { wanted.as_str_name() };
    signal_number(name).unwrap_or(libc::SIGTERM)
}

fn signal_number(name: &str) -> Option<i32> {
    if let Ok(number) = name.parse() {
        return (1..=64).contains(&number).then_some(number);
    }
    let upper = name.to_ascii_uppercase();
    let bare = upper.strip_prefix("SIG").unwrap_or(&upper);
    // glibc's 34 and 64, as container images mean them.
    let offset =
        |text: &str| text.trim_start_matches(['+', '-']).trim_start_matches("PLUS").trim_start_matches("MINUS").parse::<i32>();
    if let Some(rest) = bare.strip_prefix("RTMIN") {
        return if rest.is_empty() { Some(34) } else { offset(rest).ok().map(|offset| 34 + offset) };
    }
    if let Some(rest) = bare.strip_prefix("RTMAX") {
        return if rest.is_empty() { Some(64) } else { offset(rest).ok().map(|offset| 64 - offset) };
    }
    let canonical = match bare {
        "CLD" => "CHLD",
        "IOT" => "ABRT",
        "POLL" => "IO",
        other => other,
    };
    format!("SIG{canonical}").parse::<nix::sys::signal::Signal>().ok().map(|signal| signal as i32)
}

fn cri_signal(number: i32) -> v1::Signal {
    (1..=65)
        .filter_map(|value| v1::Signal::try_from(value).ok())
        .find(|signal| signal_number(signal.as_str_name()) == Some(number))
        .unwrap_or(v1::Signal::RuntimeDefault)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_by_name_and_number() {
        let check = |name: &str, expected| assert_eq!(signal_number(name), expected, "{name}");
        check("SIGTERM", Some(15));
        check("quit", Some(3));
        check("9", Some(9));
        check("SIGRTMIN+3", Some(37));
        check("SIGRTMINPLUS3", Some(37));
        check("RTMAX-1", Some(63));
        check("SIGRTMAXMINUS14", Some(50));
        check("SIGPOLL", Some(29));
        check("", None);
        check("SIGNOPE", None);
        check("65", None);
        assert_eq!(cri_signal(15), v1::Signal::Sigterm);
        assert_eq!(cri_signal(37), v1::Signal::Sigrtminplus3);
        let config = v1::ContainerConfig { stop_signal: v1::Signal::Sigusr1 as i32, ..Default::default() };
        assert_eq!(stop_signal(&config, "SIGQUIT"), libc::SIGUSR1);
        assert_eq!(stop_signal(&v1::ContainerConfig::default(), "SIGQUIT"), libc::SIGQUIT);
        assert_eq!(stop_signal(&v1::ContainerConfig::default(), ""), libc::SIGTERM);
    }
}
