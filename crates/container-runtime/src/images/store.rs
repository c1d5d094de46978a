//! The image store: what is there, what may go. Blocking; every function is safe against other processes on the same root.

use std::collections::{BTreeSet, HashSet};
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::ImageError;
use super::layer;
use super::manifest::{ImageConfig, ProcessConfig};
use super::reference::{Reference, is_digest};

/// An image in the index.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Image {
    /// Digest of the configuration.
    pub(crate) id: String,
    pub(crate) repo_tags: BTreeSet<String>,
    pub(crate) repo_digests: BTreeSet<String>,
    /// Keys of the layers, bottom first.
    pub(crate) layers: Vec<String>,
    /// Bytes on disk.
    pub(crate) size: u64,
    /// Never collected.
    #[serde(default)]
    pub(crate) pinned: bool,
    pub(crate) config: ProcessConfig,
}

impl Image {
    /// The name by which other programs know the image: a digest of a registry if there is one.
    pub(crate) fn reference(&self) -> &str {
        self.repo_digests.first().unwrap_or(&self.id)
    }

    fn answers_to(&self, name: &Reference) -> bool {
        match &name.digest {
            Some(digest) => self.repo_digests.contains(&name.with_digest(digest)),
            None => name.tagged().is_some_and(|tagged| self.repo_tags.contains(&tagged)),
        }
    }
}

/// An image as a user sees it.
#[derive(Debug, Clone)]
pub struct ImageSummary {
    /// Digest of the configuration.
    pub id: String,
    /// `NAME:TAG`
    pub tags: Vec<String>,
    /// `NAME@DIGEST`
    pub digests: Vec<String>,
    /// Bytes on disk.
    pub size: u64,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Index {
    images: Vec<Image>,
}

impl Index {
    fn find(&self, text: &str) -> Option<&Image> {
        let by_id = |id: &str| self.images.iter().find(|image| image.id == id);
        if is_digest(text) {
            return by_id(text);
        }
        if let Some(image) = Reference::parse(text).ok().and_then(|name| self.images.iter().find(|image| image.answers_to(&name)))
        {
            return Some(image);
        }
        // An id without its algorithm, whole or the first digits of it.
        let hexadecimal = (8..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let mut matching = self.images.iter().filter(|image| hexadecimal && image.id["sha256:".len()..].starts_with(text));
        matching.next().filter(|_| matching.next().is_none())
    }
}

/// Cached index with the identity of the file that it was read from.
type Cache = Mutex<Option<((u64, i64, i64), Arc<Index>)>>;

/// The store below one root directory.
pub(crate) struct Store {
    root: PathBuf,
    /// Directory of the container records, which name the layers that they use.
    containers: PathBuf,
    cache: Cache,
}

/// While it lives, no layer is collected.
pub(crate) struct UseGuard {
    /// Locked; the lock ends when the file is closed.
    _file: File,
}

/// An image about to be added.
pub(crate) struct NewImage {
    pub(crate) config_json: Vec<u8>,
    pub(crate) layers: Vec<String>,
    pub(crate) tags: Vec<String>,
    pub(crate) digests: Vec<String>,
    pub(crate) pinned: bool,
}

impl Store {
    /// Opens or creates the store below `root/images`; `containers` holds the container records.
    pub(crate) fn open(root: &Path, containers: &Path) -> Result<Self, ImageError> {
        let root = root.join("images");
        for directory in ["blobs/sha256", "layers", "ingest"] {
            let path = root.join(directory);
            std::fs::create_dir_all(&path).map_err(ImageError::io("creating", &path))?;
        }
        Ok(Self { root, containers: containers.to_owned(), cache: Mutex::new(None) })
    }

    fn lock_file(&self, name: &str) -> Result<File, ImageError> {
        let path = self.root.join(name);
        File::options().create(true).truncate(false).write(true).open(&path).map_err(ImageError::io("opening", &path))
    }

    /// Keeps layers from being collected: to be held from looking an image up to writing down who uses it.
    pub(crate) fn hold(&self) -> Result<UseGuard, ImageError> {
        let file = self.lock_file("use.lock")?;
        file.lock_shared().map_err(ImageError::io("locking", &self.root.join("use.lock")))?;
        Ok(UseGuard { _file: file })
    }

    fn read(&self) -> Result<Arc<Index>, ImageError> {
        let path = self.root.join("index.json");
        let mut file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Arc::default()),
            Err(error) => return Err(ImageError::io("opening", &path)(error)),
        };
        let metadata = file.metadata().map_err(ImageError::io("reading", &path))?;
        let identity = (metadata.ino(), metadata.mtime(), metadata.mtime_nsec());
        if let Some((cached, index)) = &*self.cache.lock()
            && *cached == identity
        {
            return Ok(index.clone());
        }
        let mut text = Vec::new();
        file.read_to_end(&mut text).map_err(ImageError::io("reading", &path))?;
        let index: Index =
            serde_json::from_slice(&text).map_err(|error| ImageError::io("parsing", &path)(std::io::Error::other(error)))?;
        let index = Arc::new(index);
        *self.cache.lock() = Some((identity, index.clone()));
        Ok(index)
    }

    /// Changes the index under its lock, and replaces the file if it changed.
    fn update<T>(&self, change: impl FnOnce(&mut Index) -> Result<T, ImageError>) -> Result<T, ImageError> {
        let lock = self.lock_file("lock")?;
        lock.lock().map_err(ImageError::io("locking", &self.root.join("lock")))?;
        let mut index = Index::clone(&*self.read()?);
        let result = change(&mut index)?;
        let path = self.root.join("index.json");
        let text = serde_json::to_vec(&index).map_err(|error| ImageError::io("writing", &path)(std::io::Error::other(error)))?;
        write_file(&path, &text)?;
        Ok(result)
    }

    pub(crate) fn list(&self) -> Result<Vec<Image>, ImageError> {
        Ok(self.read()?.images.clone())
    }

    /// Finds an image by name, digest or id.
    pub(crate) fn find(&self, text: &str) -> Result<Option<Image>, ImageError> {
        Ok(self.read()?.find(text).cloned())
    }

    /// Adds an image whose layers are in place; its names move from other images to it.
    pub(crate) fn add(&self, new: NewImage) -> Result<Image, ImageError> {
        let id = digest(&new.config_json);
        self.write_blob(&id, &new.config_json)?;
        let config = parse_config(&new.config_json)?;
        let size = new.layers.iter().map(|key| self.layer_usage(key).bytes).sum();
        self.update(|index| {
            for other in &mut index.images {
                other.repo_tags.retain(|tag| !new.tags.contains(tag));
            }
            if !index.images.iter().any(|image| image.id == id) {
                index.images.push(Image {
                    id: id.clone(),
                    repo_tags: BTreeSet::new(),
                    repo_digests: BTreeSet::new(),
                    layers: new.layers,
                    size,
                    pinned: new.pinned,
                    config: config.config,
                });
            }
            let image = index.images.iter_mut().find(|image| image.id == id).expect("it was just added");
            image.repo_tags.extend(new.tags);
            image.repo_digests.extend(new.digests);
            Ok(image.clone())
        })
    }

    /// Removes an image with all its names. Containers that use it keep its layers.
    pub(crate) fn remove(&self, text: &str) -> Result<Option<Image>, ImageError> {
        let removed = self.update(|index| {
            let Some(image) = index.find(text).cloned() else { return Ok(None) };
            if image.pinned {
                return Err(ImageError::InUse(text.to_owned()));
            }
            index.images.retain(|other| other.id != image.id);
            Ok(Some(image))
        })?;
        self.collect()?;
        Ok(removed)
    }

    /// Drops images that satisfy `unwanted`.
    pub(crate) fn retain(&self, unwanted: impl Fn(&Image) -> bool) -> Result<(), ImageError> {
        if !self.read()?.images.iter().any(&unwanted) {
            return Ok(());
        }
        self.update(|index| {
            index.images.retain(|image| !unwanted(image));
            Ok(())
        })
    }

    /// Removes layers and work that nobody uses. Does nothing while somebody holds the store.
    pub(crate) fn collect(&self) -> Result<(), ImageError> {
        let lock = self.lock_file("use.lock")?;
        if lock.try_lock().is_err() {
            return Ok(());
        }
        let index = self.read()?;
        let mut used: HashSet<String> = index.images.iter().flat_map(|image| image.layers.iter().cloned()).collect();
        used.extend(self.layers_of_containers());
        for (directory, keep) in [("layers", Some(&used)), ("ingest", None)] {
            for entry in std::fs::read_dir(self.root.join(directory)).into_iter().flatten().flatten() {
                let name = entry.file_name().to_string_lossy().into_owned();
                if keep.is_some_and(|used| used.contains(&name)) {
                    continue;
                }
                let path = entry.path();
                let removed = if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
                removed.map_err(ImageError::io("removing", &path))?;
            }
        }
        let configs: HashSet<&str> = index.images.iter().map(|image| &image.id["sha256:".len()..]).collect();
        for entry in std::fs::read_dir(self.root.join("blobs/sha256")).into_iter().flatten().flatten() {
            if !configs.contains(entry.file_name().to_string_lossy().as_ref()) {
                let _ = std::fs::remove_file(entry.path());
            }
        }
        Ok(())
    }

    fn layers_of_containers(&self) -> Vec<String> {
        #[derive(Deserialize)]
        struct Record {
            #[serde(default)]
            layers: Vec<String>,
        }
        std::fs::read_dir(&self.containers)
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| std::fs::read(entry.path().join("container.json")).ok())
            .filter_map(|text| serde_json::from_slice::<Record>(&text).ok())
            .flat_map(|record| record.layers)
            .collect()
    }

    /// A new directory or file name for work in progress; hold the store while it is used.
    pub(crate) fn ingest_path(&self) -> PathBuf {
        self.root.join("ingest").join(format!("{:016x}", rand::random::<u64>()))
    }

    /// The unpacked tree of a layer.
    pub(crate) fn layer_path(&self, key: &str) -> PathBuf {
        self.root.join("layers").join(key).join("fs")
    }

    /// Where all layers are.
    pub(crate) fn layers_root(&self) -> PathBuf {
        self.root.join("layers")
    }

    pub(crate) fn has_layer(&self, key: &str) -> bool {
        self.root.join("layers").join(key).is_dir()
    }

    /// Unpacks a layer (compressed or not) above `parents` (keys, bottom first), checks that it is `diff_id`, and gives it a key.
    pub(crate) fn add_layer(&self, archive: impl Read, diff_id: &str, key: &str, parents: &[String]) -> Result<(), ImageError> {
        let work = self.ingest_path();
        let fs = work.join("fs");
        std::fs::create_dir_all(&fs).map_err(ImageError::io("creating", &fs))?;
        let result = self.unpack(archive, &fs, diff_id, parents).and_then(|usage| {
            let path = work.join("usage");
            std::fs::write(&path, format!("{} {}", usage.bytes, usage.inodes)).map_err(ImageError::io("writing", &path))?;
            self.install_layer(&work, key)
        });
        if result.is_err() {
            let _ = std::fs::remove_dir_all(&work);
        }
        result
    }

    fn unpack(&self, archive: impl Read, fs: &Path, diff_id: &str, parents: &[String]) -> Result<layer::Usage, ImageError> {
        let parents: Vec<PathBuf> = parents.iter().rev().map(|key| self.layer_path(key)).collect();
        let mut hashing = HashingReader::new(decompress(archive).map_err(ImageError::io("reading", fs))?);
        let usage = layer::unpack(&mut hashing, fs, &parents)
            .map_err(|error| ImageError::Invalid(format!("layer {diff_id}: {error}")))?;
        // The archive ends before the file does: the rest counts too.
        std::io::copy(&mut hashing, &mut std::io::sink()).map_err(ImageError::io("reading", fs))?;
        let found = hashing.digest();
        if found != diff_id {
            return Err(ImageError::Invalid(format!("layer has digest {found}, its configuration says {diff_id}")));
        }
        Ok(usage)
    }

    /// Moves a prepared directory (`fs` and `usage`) into place; a layer that is there already wins.
    pub(crate) fn install_layer(&self, work: &Path, key: &str) -> Result<(), ImageError> {
        let path = self.root.join("layers").join(key);
        match std::fs::rename(work, &path) {
            Ok(()) => Ok(()),
            Err(_) if path.is_dir() => {
                let _ = std::fs::remove_dir_all(work);
                Ok(())
            }
            Err(error) => Err(ImageError::io("installing", &path)(error)),
        }
    }

    fn layer_usage(&self, key: &str) -> layer::Usage {
        let text = std::fs::read_to_string(self.root.join("layers").join(key).join("usage")).unwrap_or_default();
        let mut numbers = text.split_whitespace().map(|number| number.parse().unwrap_or(0));
        layer::Usage { bytes: numbers.next().unwrap_or(0), inodes: numbers.next().unwrap_or(0) }
    }

    /// Bytes and inodes of all layers.
    pub(crate) fn usage(&self) -> (u64, u64) {
        std::fs::read_dir(self.layers_root())
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| self.layer_usage(&entry.file_name().to_string_lossy()))
            .fold((0, 0), |(bytes, inodes), usage| (bytes + usage.bytes, inodes + usage.inodes))
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    fn write_blob(&self, id: &str, bytes: &[u8]) -> Result<(), ImageError> {
        let path = self.root.join("blobs/sha256").join(&id["sha256:".len()..]);
        if path.exists() { Ok(()) } else { write_file(&path, bytes) }
    }
}

/// `sha256:HEX`
pub(crate) fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

/// Keys of the layers with these diff ids: the first digits of their chain ids, which keeps overlay's list of lower
/// directories below one page. <https://github.com/opencontainers/image-spec/blob/main/config.md#layer-chainid>
pub(crate) fn layer_keys(diff_ids: &[String]) -> Vec<String> {
    let mut chain = String::new();
    diff_ids
        .iter()
        .map(|diff_id| {
            chain = if chain.is_empty() { diff_id.clone() } else { digest(format!("{chain} {diff_id}").as_bytes()) };
            chain["sha256:".len()..][..20].to_owned()
        })
        .collect()
}

/// Parses and checks an image configuration.
pub(crate) fn parse_config(json: &[u8]) -> Result<ImageConfig, ImageError> {
    let config: ImageConfig =
        serde_json::from_slice(json).map_err(|error| ImageError::Invalid(format!("configuration: {error}")))?;
    match config.rootfs.diff_ids.iter().find(|diff_id| !is_digest(diff_id)) {
        Some(diff_id) => Err(ImageError::Invalid(format!("layer digest {diff_id:?}"))),
        None => Ok(config),
    }
}

fn write_file(path: &Path, bytes: &[u8]) -> Result<(), ImageError> {
    let temporary = path.with_extension(format!("{:08x}.new", rand::random::<u32>()));
    let write = || {
        let mut file = File::create(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)
    };
    write().map_err(ImageError::io("writing", path))
}

/// Decompresses gzip and zstd, known by their first bytes; anything else is taken as it is.
pub(crate) fn decompress<'a>(mut archive: impl Read + 'a) -> std::io::Result<Box<dyn Read + 'a>> {
    let mut magic = [0; 4];
    let mut length = 0;
    while length < magic.len() {
        match archive.read(&mut magic[length..])? {
            0 => break,
            read => length += read,
        }
    }
    let whole = std::io::Cursor::new(magic[..length].to_vec()).chain(archive);
    Ok(match magic {
        [0x1f, 0x8b, ..] => Box::new(flate2::read::MultiGzDecoder::new(whole)),
        [0x28, 0xb5, 0x2f, 0xfd] => Box::new(zstd::Decoder::new(whole)?),
        _ => Box::new(whole),
    })
}

/// Hashes what is read through it.
pub(crate) struct HashingReader<R> {
    inner: R,
    hash: Sha256,
}

impl<R> HashingReader<R> {
    pub(crate) fn new(inner: R) -> Self {
        Self { inner, hash: Sha256::new() }
    }

    pub(crate) fn digest(self) -> String {
        format!("sha256:{}", hex::encode(self.hash.finalize()))
    }
}

impl<R: Read> Read for HashingReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let length = self.inner.read(buffer)?;
        self.hash.update(&buffer[..length]);
        Ok(length)
    }
}
