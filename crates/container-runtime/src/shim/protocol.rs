//! What server and shim say to each other over the shim's unix socket.
//!
//! One connection per request: one line of JSON (with descriptors attached for [`Request::Exec`]), answered by lines of JSON.
//! [`Request::Subscribe`] stays open and carries every exit; [`Request::Attach`] turns into frames after its first answer.
//! A shim outlives the server that started it, upgrades included: fields may be added, never changed.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What the server tells a new shim on its standard input.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct SandboxSpec {
    pub(crate) id: String,
    /// Directory for the socket, the pinned namespaces and `/dev/shm`; exists.
    pub(crate) run_dir: String,
    /// `None`: the host's UTS namespace.
    pub(crate) hostname: Option<String>,
    pub(crate) host_network: bool,
    pub(crate) host_ipc: bool,
    /// One PID namespace for all containers, held by a pause process.
    pub(crate) share_pid: bool,
    pub(crate) sysctls: BTreeMap<String, String>,
}

/// One container to start.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct StartSpec {
    pub(crate) id: String,
    /// OCI bundle.
    pub(crate) bundle: String,
    /// Root of libcontainer's state; holds a directory per container.
    pub(crate) state_root: String,
    pub(crate) tty: bool,
    pub(crate) stdin: bool,
    pub(crate) stdin_once: bool,
    /// CRI log file; empty: no log.
    pub(crate) log_path: String,
    /// Where the [`Exit`] is kept.
    pub(crate) exit_file: String,
    /// cgroup directories of the container, for OOM kills and for killing what is left.
    pub(crate) cgroups: Vec<String>,
    /// The container has a PID namespace of its own, so that the kernel ends all its processes with the first.
    pub(crate) private_pid: bool,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub(crate) enum Request {
    /// Answered by [`Answer::Snapshot`], then one [`Answer::Exited`] per exit.
    Subscribe,
    /// Answered by [`Answer::Started`] or [`Answer::Error`].
    Start(StartSpec),
    /// With stdin, stdout and stderr attached unless `console` is set. Answered by `Started` or `Error`, then `Exited`.
    Exec {
        id: String,
        exec_id: String,
        process: String,
        console: Option<String>,
    },
    /// `exec_id` empty: the container's first process; `all`: everything in its cgroup.
    Kill {
        id: String,
        exec_id: String,
        signal: i32,
        all: bool,
    },
    ReopenLog {
        id: String,
    },
    /// Output from now on, input as the container allows.
    Attach {
        id: String,
    },
    Resize {
        id: String,
        width: u16,
        height: u16,
    },
    /// Forget an exited container.
    Forget {
        id: String,
    },
    /// End the shim and whatever still runs in it.
    Shutdown,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub(crate) enum Answer {
    Done,
    Error { message: String },
    Started { pid: i32, started_at: i64 },
    Exited { id: String, exit: Exit },
    Snapshot { containers: Vec<Running> },
}

/// A container that the shim holds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Running {
    pub(crate) id: String,
    pub(crate) pid: Option<i32>,
    pub(crate) started_at: i64,
    pub(crate) exit: Option<Exit>,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Exit {
    /// 128 + N for signal N.
    pub(crate) code: i32,
    /// Nanoseconds since the epoch.
    pub(crate) finished_at: i64,
    pub(crate) oom_killed: bool,
}

/// Types of the frames of an attached connection: type (1 byte), length (4 bytes, big endian), payload.
pub(crate) mod frame {
    pub(crate) const HEADER: usize = 5;
    /// To the container; empty payload: end of input.
    pub(crate) const STDIN: u8 = 0;
    pub(crate) const STDOUT: u8 = 1;
    pub(crate) const STDERR: u8 = 2;

    pub(crate) fn header(kind: u8, length: usize) -> [u8; HEADER] {
        let length = (length as u32).to_be_bytes();
        [kind, length[0], length[1], length[2], length[3]]
    }
}
