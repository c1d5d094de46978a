//! Sandboxes and containers: what is remembered on disk, and their state in memory.

use std::net::IpAddr;
use std::path::Path;

use base64::Engine;
use parking_lot::Mutex;
use prost::Message;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tokio::sync::watch;

use crate::shim::protocol::Exit;

/// A CRI message within a JSON record: protobuf in base64, so that no field of it is ever lost.
#[derive(Debug, Clone, Default)]
pub(crate) struct Wire<M>(pub(crate) M);

impl<M: Message> Serialize for Wire<M> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&base64::engine::general_purpose::STANDARD.encode(self.0.encode_to_vec()))
    }
}

impl<'de, M: Message + Default> Deserialize<'de> for Wire<M> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = base64::engine::general_purpose::STANDARD.decode(text).map_err(serde::de::Error::custom)?;
        M::decode(bytes.as_slice()).map(Self).map_err(serde::de::Error::custom)
    }
}

/// `sandbox.json`
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct SandboxRecord {
    pub(crate) id: String,
    pub(crate) config: Wire<cri::v1::PodSandboxConfig>,
    pub(crate) runtime_handler: String,
    pub(crate) created_at: i64,
    /// Set up completely, and not stopped since.
    pub(crate) ready: bool,
    pub(crate) ips: Vec<IpAddr>,
    /// Absolute path of the cgroup above the containers.
    pub(crate) cgroup_parent: String,
}

/// `container.json`
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ContainerRecord {
    pub(crate) id: String,
    pub(crate) sandbox_id: String,
    pub(crate) config: Wire<cri::v1::ContainerConfig>,
    /// Image names of the CRI: what was asked for is in the configuration.
    pub(crate) image_ref: String,
    pub(crate) image_id: String,
    /// Layers in use; the image store reads this field.
    pub(crate) layers: Vec<String>,
    pub(crate) created_at: i64,
    /// 0 before the start.
    pub(crate) started_at: i64,
    pub(crate) user: UserRecord,
    /// Number of the signal that asks the container to stop.
    pub(crate) stop_signal: i32,
    pub(crate) cgroup: String,
    pub(crate) log_path: String,
    pub(crate) private_pid: bool,
    /// Why the start failed.
    pub(crate) start_error: Option<String>,
}

/// Who the container runs as.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct UserRecord {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
}

/// A sandbox. `operation` serialises what changes it.
pub(crate) struct Sandbox {
    pub(crate) record: Mutex<SandboxRecord>,
    pub(crate) operation: tokio::sync::Mutex<()>,
}

impl Sandbox {
    pub(crate) fn new(record: SandboxRecord) -> Self {
        Self { record: Mutex::new(record), operation: tokio::sync::Mutex::default() }
    }

    pub(crate) fn snapshot(&self) -> SandboxRecord {
        self.record.lock().clone()
    }

    /// Changes the record in memory and in the file `path`. The change holds even if it could not be written.
    pub(crate) fn update(&self, path: &Path, change: impl FnOnce(&mut SandboxRecord)) -> (SandboxRecord, std::io::Result<()>) {
        update(&self.record, path, change)
    }
}

/// Where a container is in its life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Phase {
    Created,
    Running { pid: i32 },
    Exited { exit: Exit, reason: String, message: String },
}

impl Phase {
    /// The phase of a container whose shim saw its end.
    pub(crate) fn exited(exit: Exit) -> Self {
        let reason = match exit {
            Exit { oom_killed: true, .. } => "OOMKilled",
            Exit { code: 0, .. } => "Completed",
            _ => "Error",
        };
        Self::Exited { exit, reason: reason.to_owned(), message: String::new() }
    }
}

/// A container. `operation` serialises what changes it.
pub(crate) struct Container {
    pub(crate) record: Mutex<ContainerRecord>,
    pub(crate) phase: watch::Sender<Phase>,
    pub(crate) operation: tokio::sync::Mutex<()>,
    /// Whether what only a running container needs was freed; held while that is done.
    pub(crate) released: tokio::sync::Mutex<bool>,
}

impl Container {
    pub(crate) fn new(record: ContainerRecord, phase: Phase) -> Self {
        Self {
            record: Mutex::new(record),
            phase: watch::Sender::new(phase),
            operation: tokio::sync::Mutex::default(),
            released: tokio::sync::Mutex::default(),
        }
    }

    pub(crate) fn snapshot(&self) -> ContainerRecord {
        self.record.lock().clone()
    }

    /// Changes the record in memory and in the file `path`. The change holds even if it could not be written.
    pub(crate) fn update(
        &self,
        path: &Path,
        change: impl FnOnce(&mut ContainerRecord),
    ) -> (ContainerRecord, std::io::Result<()>) {
        update(&self.record, path, change)
    }

    pub(crate) fn phase(&self) -> Phase {
        self.phase.borrow().clone()
    }
}

/// One writer at a time: the file never holds an older record than memory, and no writer takes another's temporary file away.
fn update<R: Clone + Serialize>(record: &Mutex<R>, path: &Path, change: impl FnOnce(&mut R)) -> (R, std::io::Result<()>) {
    let mut record = record.lock();
    change(&mut record);
    let saved = save(path, &*record);
    (record.clone(), saved)
}

/// Replaces the record of something that nobody else knows yet; later changes go through `update`. Without fsync: after a crash of the machine its containers are gone, whatever the record says.
pub(crate) fn save(path: &Path, record: &impl Serialize) -> std::io::Result<()> {
    let temporary = path.with_extension("new");
    std::fs::write(&temporary, serde_json::to_vec(record)?)?;
    std::fs::rename(&temporary, path)
}

/// Reads a record; `None` if it is not there or not readable.
pub(crate) fn load<T: DeserializeOwned>(path: &Path) -> Option<T> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writers_at_the_same_time_all_succeed_and_the_last_wins() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("record.json");
        let record = Mutex::new(0_u32);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        update(&record, &path, |number| *number += 1).1.expect("saved");
                    }
                });
            }
        });
        assert_eq!(load::<u32>(&path), Some(200));
    }
}
