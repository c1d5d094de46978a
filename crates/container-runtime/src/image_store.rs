//! The image store for command-line use.

use std::path::Path;

use crate::images::{ImageError, ImageSummary, Store};

/// The images of a runtime, by the runtime's root directory. Works with and without a running server. Blocking.
pub struct ImageStore {
    store: Store,
}

impl ImageStore {
    /// Opens or creates the store of the runtime with this root directory ([`crate::Config::root`]).
    pub fn open(root: &Path) -> Result<Self, ImageError> {
        Ok(Self { store: Store::open(root, &root.join("containers"))? })
    }

    /// Imports every image of an archive (`docker save` or OCI layout; tar, tar.gz or tar.zst).
    pub fn import(&self, file: &Path) -> Result<Vec<ImageSummary>, ImageError> {
        self.store.import(file)
    }

    /// All images.
    pub fn list(&self) -> Result<Vec<ImageSummary>, ImageError> {
        Ok(self.store.list()?.into_iter().map(ImageSummary::from).collect())
    }

    /// Removes an image by name or id, with all its names. Containers that use it go on.
    pub fn remove(&self, name: &str) -> Result<ImageSummary, ImageError> {
        self.store.remove(name)?.map(ImageSummary::from).ok_or_else(|| ImageError::NotFound(name.to_owned()))
    }
}
