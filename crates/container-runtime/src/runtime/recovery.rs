//! At the start of a runtime: shims that still run are taken over, what a crash or a reboot left behind is removed.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use super::layout::remove_with_mounts;
use super::records::{self, Container, ContainerRecord, Phase, Sandbox, SandboxRecord};
use super::shim_client::{self, Conversation};
use super::start::start_failed;
use super::watch_shim::lost;
use super::{Inner, OpenError};
use crate::shim::protocol::{Answer, Exit, Request, Running};

impl Inner {
    pub(super) async fn recover(&self) -> Result<(), OpenError> {
        let mut live = Vec::new();
        for id in directory_names(&self.layout.root.join("sandboxes")) {
            match records::load::<SandboxRecord>(&self.sandbox_file(&id)) {
                Some(record) if record.id == id => {
                    if let Some(connection) = self.recover_sandbox(record).await {
                        live.push((id, connection));
                    }
                }
                _ => {
                    self.tear_down_sandbox(&id).await;
                    let _ = std::fs::remove_dir_all(self.layout.sandbox(&id));
                }
            }
        }
        let mut running: Vec<Running> = Vec::new();
        let mut conversations = Vec::new();
        for (id, (conversation, containers)) in live {
            running.extend(containers);
            conversations.push((id, conversation));
        }
        for id in directory_names(&self.layout.root.join("containers")) {
            match records::load::<ContainerRecord>(&self.container_file(&id)) {
                Some(record) if record.id == id && self.sandboxes.read().contains_key(&record.sandbox_id) => {
                    self.recover_container(record, &running).await
                }
                _ => self.delete_container_files(&id),
            }
        }
        self.remove_strays().await;
        let ids: Vec<String> = conversations.iter().map(|(id, _)| id.clone()).collect();
        self.config.network.reconcile(&ids).await.map_err(OpenError::Network)?;
        for (id, conversation) in conversations {
            self.watch(id, conversation);
        }
        Ok(())
    }

    /// Connects to the sandbox's shim. A sandbox without one is not ready, and holds nothing any more.
    async fn recover_sandbox(&self, mut record: SandboxRecord) -> Option<(Conversation, Vec<Running>)> {
        let id = record.id.clone();
        let connection = if record.ready { self.take_over(&id).await } else { None };
        if connection.is_none() {
            self.tear_down_sandbox(&id).await;
            if record.ready {
                record.ready = false;
                self.save_sandbox(&record);
            }
        }
        self.sandboxes.write().insert(id, Arc::new(Sandbox::new(record)));
        connection
    }

    async fn take_over(&self, id: &str) -> Option<(Conversation, Vec<Running>)> {
        let mut conversation = shim_client::open(&self.layout.shim_socket(id), &Request::Subscribe, &[]).ok()?;
        match conversation.answer().await.ok()? {
            Answer::Snapshot { containers } => Some((conversation, containers)),
            _ => None,
        }
    }

    async fn recover_container(&self, mut record: ContainerRecord, running: &[Running]) {
        let held = running.iter().find(|held| held.id == record.id);
        let on_disk = records::load::<Exit>(&self.layout.container(&record.id).join("exit.json"));
        let sandbox_ready = self.sandboxes.read().get(&record.sandbox_id).is_some_and(|sandbox| sandbox.record.lock().ready);
        let phase = match (on_disk.or(held.and_then(|held| held.exit)), held) {
            (Some(exit), _) => Phase::exited(exit),
            (None, Some(Running { pid: Some(pid), started_at, .. })) => {
                record.started_at = *started_at;
                Phase::Running { pid: *pid }
            }
            // Being created in the shim this moment: its answer went to a server that is gone.
            (None, Some(_)) => lost(),
            (None, None) => match &record.start_error {
                Some(message) => start_failed(message, record.created_at),
                None if record.started_at == 0 && sandbox_ready => Phase::Created,
                None => lost(),
            },
        };
        let (id, ended) = (record.id.clone(), matches!(phase, Phase::Exited { .. }));
        let container = Arc::new(Container::new(record, phase));
        if ended {
            self.release_container(&container).await;
        }
        self.containers.write().insert(id, container);
    }

    /// Run directories of nothing that is known.
    async fn remove_strays(&self) {
        let sandboxes: HashSet<String> = self.sandboxes.read().keys().cloned().collect();
        let containers: HashSet<String> = self.containers.read().keys().cloned().collect();
        for id in directory_names(&self.layout.run.join("sandboxes")).into_iter().filter(|id| !sandboxes.contains(id)) {
            self.tear_down_sandbox(&id).await;
        }
        for (directory, known) in [("containers", &containers), ("oci", &containers)] {
            let directory = self.layout.run.join(directory);
            for id in directory_names(&directory).into_iter().filter(|id| !known.contains(id)) {
                if let Err(error) = remove_with_mounts(&directory.join(&id)) {
                    tracing::warn!(container = id, %error, "leftovers of a container could not be removed");
                }
            }
        }
    }
}

fn directory_names(directory: &Path) -> Vec<String> {
    std::fs::read_dir(directory)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect()
}
