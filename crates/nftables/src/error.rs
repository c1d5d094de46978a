//! The errors of this crate.

/// What can go wrong between us and the kernel's netfilter.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The netlink socket could not be opened, or a call on it failed.
    #[error("netlink socket: {operation}")]
    Socket {
        /// The call that failed.
        operation: &'static str,
        /// Its error.
        #[source]
        source: std::io::Error,
    },
    /// The kernel refused an object; nothing of the batch (or request) was applied.
    #[error("the kernel refused to {object}{}", hint(.detail))]
    Refused {
        /// Operation and object, for example `add chain ip kube-proxy services`.
        object: String,
        /// The kernel's own explanation, where it gives one.
        detail: Option<String>,
        /// The error number as an I/O error.
        #[source]
        source: std::io::Error,
    },
    /// The kernel did not answer a batch: it was neither confirmed nor refused.
    #[error("the kernel did not confirm a batch of {messages} messages")]
    Unconfirmed {
        /// How many messages the batch held.
        messages: u32,
    },
    /// The kernel sent something that is not a netlink message of the expected kind.
    #[error("malformed netlink message: {0}")]
    Malformed(&'static str),
}

fn hint(detail: &Option<String>) -> String {
    detail.as_ref().map(|text| format!(" ({text})")).unwrap_or_default()
}

impl Error {
    /// The error number of the kernel's refusal or of the failed call, if there is one.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Socket { source, .. } | Self::Refused { source, .. } => source.raw_os_error(),
            Self::Unconfirmed { .. } | Self::Malformed(_) => None,
        }
    }

    /// Whether the kernel refused because the object does not exist.
    pub fn is_not_found(&self) -> bool {
        self.errno() == Some(libc::ENOENT)
    }
}
