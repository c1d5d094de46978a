//! Exit codes and the errors that carry one.

/// Wrong flags or arguments.
pub(crate) const USAGE: u8 = 2;
/// The data directory is in use, from a newer version, or cannot be written.
pub(crate) const DATA_DIRECTORY: u8 = 3;
/// An address or port is taken.
pub(crate) const ADDRESS_IN_USE: u8 = 4;
/// Root is needed.
pub(crate) const PRIVILEGES: u8 = 5;
const FAILURE: u8 = 1;

/// A failure that has an exit code of its own.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Exit {
    code: u8,
    message: String,
}

impl Exit {
    pub(crate) fn new(code: u8, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

/// The code of the first error in the chain that has one.
pub(crate) fn code(error: &anyhow::Error) -> u8 {
    error.chain().find_map(|cause| cause.downcast_ref::<Exit>()).map_or(FAILURE, |exit| exit.code)
}
