//! One task per sandbox that listens to its shim: ends of containers, and the end of the shim itself.

use cri::v1::{self, ContainerEventType};

use super::container::container_status;
use super::records::{Phase, SandboxRecord, save};
use super::shim_client::{self, Conversation};
use super::{Inner, records};
use crate::clock;
use crate::shim::protocol::{Answer, Exit, Request, Running};

/// Exit code and reason of a container whose end nobody saw; containerd's.
const UNKNOWN_CODE: i32 = 255;
const UNKNOWN_REASON: &str = "Unknown";

/// The phase of a container whose shim is gone.
pub(super) fn lost() -> Phase {
    Phase::Exited {
        exit: Exit { code: UNKNOWN_CODE, finished_at: clock::nanoseconds(), oom_killed: false },
        reason: UNKNOWN_REASON.to_owned(),
        message: "the process that watched this container is gone".to_owned(),
    }
}

impl Inner {
    /// Starts to listen to the shim of a sandbox that was just set up.
    pub(super) fn watch_shim(&self, sandbox: &str) {
        match shim_client::open(&self.layout.shim_socket(sandbox), &Request::Subscribe, &[]) {
            Ok(conversation) => self.watch(sandbox.to_owned(), conversation),
            Err(error) => {
                tracing::warn!(sandbox, %error, "the shim cannot be reached");
                let (this, sandbox) = (self.this.clone(), sandbox.to_owned());
                self.tasks.spawn(async move {
                    if let Some(this) = this.upgrade() {
                        this.shim_lost(&sandbox).await;
                    }
                });
            }
        }
    }

    /// Listens until the shim or the runtime ends.
    pub(super) fn watch(&self, sandbox: String, mut conversation: Conversation) {
        let (this, cancel) = (self.this.clone(), self.cancel.clone());
        self.tasks.spawn(async move {
            loop {
                let answer = tokio::select! {
                    () = cancel.cancelled() => return,
                    answer = conversation.next() => answer,
                };
                let Some(this) = this.upgrade() else { return };
                match answer {
                    Ok(Answer::Exited { id, exit }) => this.container_exited(&id, exit).await,
                    Ok(Answer::Snapshot { containers }) => this.apply_snapshot(containers).await,
                    Ok(_) => {}
                    Err(_) => return this.shim_lost(&sandbox).await,
                }
            }
        });
    }

    async fn container_exited(&self, id: &str, exit: Exit) {
        let Ok(container) = self.container(id) else { return };
        self.note_exit(&container, Phase::exited(exit)).await;
    }

    /// What the shim holds: containers that were started or have ended while nobody listened.
    pub(super) async fn apply_snapshot(&self, containers: Vec<Running>) {
        for running in containers {
            let Ok(container) = self.container(&running.id) else { continue };
            if let (Phase::Created, Some(pid)) = (container.phase(), running.pid) {
                self.note_started(&container, pid, running.started_at);
            }
            if let Some(exit) = running.exit {
                self.note_exit(&container, Phase::exited(exit)).await;
            }
        }
    }

    /// The shim is gone: with the sandbox, which is usual, or without, which ends everything in it.
    pub(super) async fn shim_lost(&self, id: &str) {
        let Ok(sandbox) = self.sandbox(id) else { return };
        let mut was_ready = false;
        if sandbox.record.lock().ready {
            let path = self.sandbox_file(&sandbox.snapshot().id);
            let (_, saved) = sandbox.update(&path, |record| was_ready = std::mem::replace(&mut record.ready, false));
            // A stop that is under way says so itself.
            if sandbox.operation.try_lock().is_ok() {
                tracing::warn!(sandbox = id, "the shim of a sandbox is gone");
            }
            if let Err(error) = saved {
                tracing::warn!(sandbox = id, %error, "sandbox record could not be written");
            }
        }
        for container in self.containers_of(id) {
            let record = container.snapshot();
            if matches!(container.phase(), Phase::Running { .. }) {
                let exit = records::load::<Exit>(&self.layout.container(&record.id).join("exit.json"));
                self.note_exit(&container, exit.map_or_else(lost, Phase::exited)).await;
            }
        }
        if was_ready {
            self.publish(id, id, ContainerEventType::ContainerStoppedEvent);
        }
    }

    pub(super) fn save_sandbox(&self, record: &SandboxRecord) {
        if let Err(error) = save(&self.sandbox_file(&record.id), record) {
            tracing::warn!(sandbox = record.id, %error, "sandbox record could not be written");
        }
    }

    /// Tells listeners about a change of a container, or of a sandbox if both ids are its.
    pub(super) fn publish(&self, sandbox: &str, container: &str, kind: ContainerEventType) {
        if !self.events.is_heard() {
            return;
        }
        let Ok(record) = self.sandbox(sandbox) else { return };
        self.events.send(v1::ContainerEventResponse {
            container_id: container.to_owned(),
            container_event_type: kind as i32,
            created_at: clock::nanoseconds(),
            pod_sandbox_status: Some(self.sandbox_status(&record)),
            containers_statuses: self.containers_of(sandbox).iter().map(|container| container_status(container)).collect(),
        });
    }

    /// Tells listeners that a container or sandbox is removed.
    pub(super) fn publish_gone(&self, sandbox: &str, container: &str) {
        if !self.events.is_heard() {
            return;
        }
        let status = self.sandbox(sandbox).ok().map(|sandbox| self.sandbox_status(&sandbox));
        self.events.send(v1::ContainerEventResponse {
            container_id: container.to_owned(),
            container_event_type: ContainerEventType::ContainerDeletedEvent as i32,
            created_at: clock::nanoseconds(),
            pod_sandbox_status: status,
            containers_statuses: self.containers_of(sandbox).iter().map(|container| container_status(container)).collect(),
        });
    }
}
