//! What the runtime knows about one pod, in the form that decisions are made on.

use std::collections::HashMap;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use cri::{Runtime, v1};
use jiff::Timestamp;

use crate::runtime::labels;

/// The longest termination message that is read (upstream: 4096 bytes).
const TERMINATION_MESSAGE_BYTES_MAX: u64 = 4096;
/// The longest tail of the log that stands in for a termination message (upstream: 2048 bytes, 80 lines).
const TERMINATION_LOG_BYTES_MAX: u64 = 2048;
const TERMINATION_LOG_LINES_MAX: usize = 80;

/// A container's state in the runtime.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Created,
    Running,
    Exited,
    Unknown,
}

/// One container, as the runtime reports it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ContainerRecord {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) sandbox_id: String,
    pub(crate) state: State,
    pub(crate) hash: String,
    pub(crate) restart_count: u32,
    pub(crate) image: String,
    pub(crate) image_ref: String,
    pub(crate) created_at: Timestamp,
    pub(crate) started_at: Option<Timestamp>,
    pub(crate) finished_at: Option<Timestamp>,
    pub(crate) exit_code: i32,
    pub(crate) reason: String,
    pub(crate) message: String,
    pub(crate) log_path: String,
    pub(crate) resources: Option<v1::LinuxContainerResources>,
    /// The memory that it asked for when it was started, if a change of it means a restart.
    pub(crate) memory_request: Option<i64>,
    pub(crate) user: Option<v1::LinuxContainerUser>,
}

/// One sandbox, as the runtime reports it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct SandboxRecord {
    pub(crate) id: String,
    pub(crate) attempt: u32,
    pub(crate) ready: bool,
    pub(crate) created_at: i64,
    pub(crate) host_network: bool,
    /// The sandbox's addresses, the primary first; empty also with the host's network.
    pub(crate) ips: Vec<String>,
}

/// Everything of a pod in the runtime.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Snapshot {
    /// The newest first.
    pub(crate) sandboxes: Vec<SandboxRecord>,
    /// The newest first.
    pub(crate) containers: Vec<ContainerRecord>,
}

impl Snapshot {
    /// The newest container of that name.
    pub(crate) fn latest(&self, name: &str) -> Option<&ContainerRecord> {
        self.containers.iter().find(|c| c.name == name)
    }

    /// The newest sandbox, when it is ready.
    pub(crate) fn ready_sandbox(&self) -> Option<&SandboxRecord> {
        self.sandboxes.first().filter(|s| s.ready)
    }

    /// The addresses of the pod.
    pub(crate) fn ips(&self) -> &[String] {
        self.ready_sandbox().map_or(&[], |s| &s.ips)
    }

    /// Containers that may have a process.
    pub(crate) fn alive(&self) -> impl Iterator<Item = &ContainerRecord> {
        self.containers.iter().filter(|c| matches!(c.state, State::Running | State::Unknown | State::Created))
    }

    /// Whether any container runs.
    pub(crate) fn any_running(&self) -> bool {
        self.containers.iter().any(|c| c.state == State::Running)
    }
}

/// Asks the runtime for everything of the pod `uid`.
pub(crate) async fn take(runtime: &dyn Runtime, uid: &str) -> Result<Snapshot, cri::Status> {
    let selector = HashMap::from([(labels::POD_UID.to_owned(), uid.to_owned())]);
    let filter = v1::PodSandboxFilter { label_selector: selector.clone(), ..Default::default() };
    let listed = runtime.list_pod_sandbox(v1::ListPodSandboxRequest { filter: Some(filter) }).await?;
    let mut sandboxes = Vec::with_capacity(listed.items.len());
    for item in listed.items {
        match runtime.pod_sandbox_status(v1::PodSandboxStatusRequest { pod_sandbox_id: item.id, verbose: false }).await {
            Ok(response) => sandboxes.extend(response.status.map(sandbox_record)),
            // Removed since the list.
            Err(status) if status.code() == cri::Code::NotFound => {}
            Err(status) => return Err(status),
        }
    }
    sandboxes.sort_by_key(|s: &SandboxRecord| std::cmp::Reverse(s.created_at));
    let filter = v1::ContainerFilter { label_selector: selector, ..Default::default() };
    let listed = runtime.list_containers(v1::ListContainersRequest { filter: Some(filter) }).await?;
    let mut containers = Vec::with_capacity(listed.containers.len());
    for item in listed.containers {
        match runtime.container_status(v1::ContainerStatusRequest { container_id: item.id, verbose: false }).await {
            Ok(response) => containers.extend(response.status.map(|status| container_record(status, item.pod_sandbox_id))),
            Err(status) if status.code() == cri::Code::NotFound => {}
            Err(status) => return Err(status),
        }
    }
    containers.sort_by_key(|c: &ContainerRecord| std::cmp::Reverse(c.created_at));
    Ok(Snapshot { sandboxes, containers })
}

fn sandbox_record(status: v1::PodSandboxStatus) -> SandboxRecord {
    let network =
        status.linux.as_ref().and_then(|l| l.namespaces.as_ref()).and_then(|n| n.options.as_ref()).map_or(0, |o| o.network);
    let ips = status
        .network
        .iter()
        .flat_map(|n| std::iter::once(n.ip.clone()).chain(n.additional_ips.iter().map(|p| p.ip.clone())))
        .filter(|ip| !ip.is_empty())
        .collect();
    SandboxRecord {
        attempt: status.metadata.as_ref().map_or(0, |m| m.attempt),
        ready: status.state == v1::PodSandboxState::SandboxReady as i32,
        created_at: status.created_at,
        host_network: network == v1::NamespaceMode::Node as i32,
        ips,
        id: status.id,
    }
}

fn timestamp(nanoseconds: i64) -> Option<Timestamp> {
    if nanoseconds <= 0 { None } else { Timestamp::from_nanosecond(i128::from(nanoseconds)).ok() }
}

pub(super) fn container_record(status: v1::ContainerStatus, sandbox_id: String) -> ContainerRecord {
    let state = match v1::ContainerState::try_from(status.state) {
        Ok(v1::ContainerState::ContainerCreated) => State::Created,
        Ok(v1::ContainerState::ContainerRunning) => State::Running,
        Ok(v1::ContainerState::ContainerExited) => State::Exited,
        Ok(v1::ContainerState::ContainerUnknown) | Err(_) => State::Unknown,
    };
    let annotation = |key: &str| status.annotations.get(key).map_or("", String::as_str);
    let message = if state == State::Exited { termination_message(&status) } else { String::new() };
    ContainerRecord {
        name: status
            .labels
            .get(labels::CONTAINER_NAME)
            .cloned()
            .or_else(|| status.metadata.as_ref().map(|m| m.name.clone()))
            .unwrap_or_default(),
        sandbox_id,
        state,
        hash: annotation(labels::CONTAINER_HASH).to_owned(),
        restart_count: annotation(labels::RESTART_COUNT).parse().unwrap_or(0),
        image: status
            .image
            .as_ref()
            .map(|i| if i.user_specified_image.is_empty() { i.image.clone() } else { i.user_specified_image.clone() })
            .unwrap_or_default(),
        image_ref: status.image_ref.clone(),
        created_at: timestamp(status.created_at).unwrap_or_default(),
        started_at: timestamp(status.started_at),
        finished_at: timestamp(status.finished_at),
        exit_code: status.exit_code,
        reason: exit_reason(&status),
        message,
        log_path: status.log_path.clone(),
        resources: status.resources.as_ref().and_then(|r| r.linux.clone()),
        memory_request: annotation(labels::MEMORY_REQUEST).parse().ok(),
        user: status.user.as_ref().and_then(|u| u.linux.clone()),
        id: status.id,
    }
}

/// The runtime's reason; `Completed` and `Error` where it gives none, as upstream's runtimes do.
fn exit_reason(status: &v1::ContainerStatus) -> String {
    if !status.reason.is_empty() || status.state != v1::ContainerState::ContainerExited as i32 {
        return status.reason.clone();
    }
    if status.exit_code == 0 { "Completed" } else { "Error" }.to_owned()
}

/// The container's last words: its termination file, else (policy FallbackToLogsOnError) the end of its log, else the runtime's message.
fn termination_message(status: &v1::ContainerStatus) -> String {
    let path = status.annotations.get(labels::TERMINATION_PATH).map_or("", String::as_str);
    let policy = status.annotations.get(labels::TERMINATION_POLICY).map_or("", String::as_str);
    let mut parts = Vec::new();
    let mut words = String::new();
    if let Some(mount) = status.mounts.iter().find(|m| !path.is_empty() && m.container_path == path) {
        words = tail(Path::new(&mount.host_path), TERMINATION_MESSAGE_BYTES_MAX);
    }
    if words.is_empty() && policy == "FallbackToLogsOnError" && status.exit_code != 0 {
        words = log_tail(Path::new(&status.log_path));
    }
    if !status.message.is_empty() {
        parts.push(status.message.clone());
    }
    if !words.is_empty() {
        parts.push(words);
    }
    parts.join(": ")
}

fn tail(path: &Path, bytes_max: u64) -> String {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = std::fs::File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(bytes_max)))?;
        let mut bytes = Vec::new();
        file.take(bytes_max).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    read().map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

fn log_tail(path: &Path) -> String {
    // Each line carries a time and stream in front, so more is read than is kept.
    let text = tail(path, TERMINATION_LOG_BYTES_MAX * 4);
    let records: Vec<&str> = text.lines().collect();
    let mut kept = String::new();
    for record in &records[records.len().saturating_sub(TERMINATION_LOG_LINES_MAX)..] {
        let mut parts = record.splitn(4, ' ').skip(2);
        let (Some(tag), Some(content)) = (parts.next(), parts.next()) else { continue };
        kept.push_str(content);
        // A partial record (CRI's tag P) is not the end of a line.
        if tag != "P" {
            kept.push('\n');
        }
    }
    let limit = usize::try_from(TERMINATION_LOG_BYTES_MAX).unwrap_or(usize::MAX);
    let mut start = kept.len().saturating_sub(limit);
    while !kept.is_char_boundary(start) {
        start += 1;
    }
    kept.split_off(start)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_log_is_what_the_container_wrote() {
        let path = std::env::temp_dir().join(format!("kubelet-last-words-{}", std::process::id()));
        for (log, expected) in [
            ("", ""),
            ("2026-01-01T00:00:00Z stdout F one\n2026-01-01T00:00:00Z stderr F two\n", "one\ntwo\n"),
            ("2026-01-01T00:00:00Z stdout P DONE\n", "DONE"),
            ("2026-01-01T00:00:00Z stdout P a long \n2026-01-01T00:00:00Z stdout F line\n", "a long line\n"),
            ("2026-01-01T00:00:00Z stdout F \n", "\n"),
            ("no record\n", ""),
        ] {
            std::fs::write(&path, log).expect("log");
            assert_eq!(log_tail(&path), expected, "{log:?}");
        }
        let many: String = (0..200).map(|n| format!("2026-01-01T00:00:00Z stdout F {n}\n")).collect();
        std::fs::write(&path, many).expect("log");
        assert!(log_tail(&path).starts_with("120\n"), "the last 80 lines");
        std::fs::remove_file(&path).expect("is removed");
    }
}
