//! The errors of the kubelet's boundary and of its work on one pod.

use std::path::PathBuf;

/// Why the kubelet could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The runtime does not answer.
    #[error("the container runtime does not answer")]
    Runtime(#[source] cri::Status),
    /// A directory cannot be made.
    #[error("cannot create {path}")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The HTTPS server cannot listen.
    #[error("the kubelet cannot listen on {address}; choose another port or stop what uses it")]
    Listen {
        /// The address.
        address: std::net::SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The serving certificate or the client authority is unusable.
    #[error("the kubelet's TLS configuration is unusable: {0}")]
    Tls(String),
    /// The configuration contradicts itself.
    #[error("invalid kubelet configuration: {0}")]
    Config(&'static str),
}

/// Why one container could not be started: upstream's waiting reason and the message beside it
/// (`status.containerStatuses[*].state.waiting`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StartFailure {
    /// For example `CrashLoopBackOff`, `ErrImagePull`, `CreateContainerConfigError`.
    pub(crate) reason: &'static str,
    /// What went wrong, for people.
    pub(crate) message: String,
}

impl StartFailure {
    pub(crate) fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }
}
