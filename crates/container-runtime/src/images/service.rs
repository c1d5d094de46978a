//! CRI `ImageService` over the store.

use std::path::Path;
use std::sync::Arc;

use cri::{Status, v1};

use super::store::{Image, ImageSummary, Store};
use super::{ImageError, Puller, archive, builtin};

/// Names of the built-in image.
pub(crate) fn builtin_names() -> [String; 2] {
    [concat!("localhost/rusternetes:", env!("CARGO_PKG_VERSION")).to_owned(), "localhost/rusternetes:latest".to_owned()]
}

/// The image half of the runtime.
pub(crate) struct ImageService {
    pub(crate) store: Arc<Store>,
    pub(crate) puller: Puller,
}

impl ImageService {
    /// Makes sure of the built-in image, and removes what nobody uses.
    pub(crate) fn prepare(&self, executable: &Path) -> Result<(), ImageError> {
        builtin::install(&self.store, executable, &builtin_names())?;
        self.store.collect()
    }

    pub(crate) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Store) -> Result<T, ImageError> + Send + 'static,
    ) -> Result<T, Status> {
        let store = self.store.clone();
        tokio::task::spawn_blocking(move || work(&store))
            .await
            .map_err(|error| Status::internal(error.to_string()))?
            .map_err(|error| status(&error))
    }
}

/// A CRI status for an image error.
pub(crate) fn status(error: &ImageError) -> Status {
    let text = error.chain();
    match error {
        ImageError::InvalidName(_) => Status::invalid_argument(text),
        ImageError::NotFound(_) | ImageError::Pull { missing: true, .. } => Status::not_found(text),
        ImageError::InUse(_) => Status::failed_precondition(text),
        _ => Status::unknown(text),
    }
}

/// Images below `root` for commands that run beside a server, or without one.
impl Store {
    /// Imports the images of an archive file.
    pub(crate) fn import(&self, path: &Path) -> Result<Vec<ImageSummary>, ImageError> {
        Ok(archive::import(self, path)?.into_iter().map(ImageSummary::from).collect())
    }
}

impl From<Image> for ImageSummary {
    fn from(image: Image) -> Self {
        Self {
            id: image.id,
            tags: image.repo_tags.into_iter().collect(),
            digests: image.repo_digests.into_iter().collect(),
            size: image.size,
        }
    }
}

fn cri_image(image: Image) -> v1::Image {
    let (user, _group) = image.config.user.split_once(':').unwrap_or((&image.config.user, ""));
    let uid = match user {
        "" => None,
        number => number.parse().ok(),
    };
    v1::Image {
        username: if uid.is_none() { user.to_owned() } else { String::new() },
        uid: uid.map(|value| v1::Int64Value { value }),
        spec: Some(v1::ImageSpec { image: image.id.clone(), ..v1::ImageSpec::default() }),
        id: image.id,
        repo_tags: image.repo_tags.into_iter().collect(),
        repo_digests: image.repo_digests.into_iter().collect(),
        size: image.size,
        pinned: image.pinned,
    }
}

fn image_name(spec: Option<v1::ImageSpec>) -> Result<String, Status> {
    match spec.map(|spec| spec.image).filter(|name| !name.is_empty()) {
        Some(name) => Ok(name),
        None => Err(Status::invalid_argument("no image named")),
    }
}

#[async_trait::async_trait]
impl cri::Images for ImageService {
    async fn list_images(&self, request: v1::ListImagesRequest) -> Result<v1::ListImagesResponse, Status> {
        let filter = request.filter.and_then(|filter| filter.image).map(|spec| spec.image).filter(|name| !name.is_empty());
        let images = self
            .blocking(move |store| match filter {
                Some(name) => Ok(store.find(&name)?.into_iter().collect()),
                None => store.list(),
            })
            .await?;
        Ok(v1::ListImagesResponse { images: images.into_iter().map(cri_image).collect() })
    }

    async fn image_status(&self, request: v1::ImageStatusRequest) -> Result<v1::ImageStatusResponse, Status> {
        let name = image_name(request.image)?;
        let image = self.blocking(move |store| store.find(&name)).await?;
        Ok(v1::ImageStatusResponse { image: image.map(cri_image), info: Default::default() })
    }

    async fn pull_image(&self, request: v1::PullImageRequest) -> Result<v1::PullImageResponse, Status> {
        let name = image_name(request.image)?;
        // The built-in image has no registry to come from, whatever the pull policy says.
        let wanted = name.clone();
        if let Some(image) = self.blocking(move |store| store.find(&wanted)).await?.filter(|image| image.pinned) {
            return Ok(v1::PullImageResponse { image_ref: image.id });
        }
        let image = self.puller.pull(&name, request.auth.as_ref()).await.map_err(|error| status(&error))?;
        Ok(v1::PullImageResponse { image_ref: image.id })
    }

    async fn remove_image(&self, request: v1::RemoveImageRequest) -> Result<v1::RemoveImageResponse, Status> {
        let name = image_name(request.image)?;
        self.blocking(move |store| store.remove(&name)).await?;
        Ok(v1::RemoveImageResponse {})
    }

    async fn image_fs_info(&self, _request: v1::ImageFsInfoRequest) -> Result<v1::ImageFsInfoResponse, Status> {
        let (usage, mountpoint) = self.blocking(|store| Ok((store.usage(), store.root().display().to_string()))).await?;
        let usage = v1::FilesystemUsage {
            timestamp: crate::clock::nanoseconds(),
            fs_id: Some(v1::FilesystemIdentifier { mountpoint }),
            used_bytes: Some(v1::UInt64Value { value: usage.0 }),
            inodes_used: Some(v1::UInt64Value { value: usage.1 }),
        };
        Ok(v1::ImageFsInfoResponse { image_filesystems: vec![usage.clone()], container_filesystems: vec![usage] })
    }
}
