//! The errors of the pod network.

use std::path::PathBuf;

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A configuration value makes no sense.
    #[error("pod network configuration: {0}")]
    Config(String),
    /// All addresses of a range are in use.
    #[error("no free pod address is left in {cidr}")]
    Exhausted {
        /// The range.
        cidr: String,
    },
    /// The kernel refused a link, address or route.
    #[error("cannot {operation}")]
    Netlink {
        /// What was asked for, with names.
        operation: String,
        /// The kernel's error.
        #[source]
        source: std::io::Error,
    },
    /// A network namespace could not be entered.
    #[error("cannot enter the network namespace {path}")]
    Namespace {
        /// Its path.
        path: PathBuf,
        /// The error.
        #[source]
        source: std::io::Error,
    },
    /// A file of the state directory or a sysctl could not be read or written.
    #[error("cannot {operation} {path}")]
    File {
        /// "read", "write", "remove", "create".
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// The error.
        #[source]
        source: std::io::Error,
    },
    /// nf_tables refused a change.
    #[error("cannot change the pod network's nftables table")]
    Nftables(#[from] nftables::Error),
    /// A host port is taken by another sandbox.
    #[error("host port {port} is already mapped to sandbox {sandbox}")]
    PortTaken {
        /// The port, with its protocol and address.
        port: String,
        /// Who has it.
        sandbox: String,
    },
    /// A task or thread of ours died; its panic was logged.
    #[error("a network task ended without an answer")]
    TaskDied,
}
