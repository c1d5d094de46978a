//! Images: the store, its sources (registries, archives, the running executable), and file systems made from them.
//!
//! On disk, below the runtime's root:
//! - `images/index.json`: every image; replaced whole, under the lock `images/lock`. Servers and commands share it.
//! - `images/blobs/sha256/HEX`: configurations and manifests.
//! - `images/layers/KEY/fs`: an unpacked layer; KEY is taken from the chain of layers below and including it.
//! - `images/ingest/`: work in progress, removed at the next collection.

mod archive;
mod builtin;
mod layer;
mod manifest;
mod pull;
mod reference;
mod service;
mod snapshot;
mod store;

pub(crate) use layer::{open_file_in_root, open_in_root};
pub(crate) use manifest::ProcessConfig;
pub(crate) use pull::Puller;
pub use pull::RegistryConfig;
pub(crate) use service::ImageService;
pub(crate) use snapshot::mount_overlay;
pub use store::ImageSummary;
pub(crate) use store::{Image, Store};

/// What can go wrong with images.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// Not an image name.
    #[error("invalid image name {0:?}")]
    InvalidName(String),
    /// No such image in the store.
    #[error("image {0:?} not found")]
    NotFound(String),
    /// A container uses the image, or it is built in.
    #[error("image {0:?} is in use")]
    InUse(String),
    /// Files of the store.
    #[error("{action} {path}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: String,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// An archive or a registry delivered something else than an image.
    #[error("invalid image: {0}")]
    Invalid(String),
    /// A registry could not be reached or refused.
    #[error("failed to pull image {image:?}: {message}")]
    Pull {
        /// The name as it was asked for.
        image: String,
        /// Why, in the registry's or the network's words.
        message: String,
        /// Whether the registry knows no such image.
        missing: bool,
    },
}

impl ImageError {
    pub(crate) fn io(action: &'static str, path: &std::path::Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.display().to_string();
        move |source| Self::Io { action, path, source }
    }

    /// The message with its causes.
    pub(crate) fn chain(&self) -> String {
        match self {
            Self::Io { source, .. } => format!("{self}: {source}"),
            other => other.to_string(),
        }
    }
}
