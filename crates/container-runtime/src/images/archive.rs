//! Images out of archive files: `docker save` (manifest.json) and OCI layouts (index.json), plain or compressed.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Component, Path};

use serde::Deserialize;

use super::ImageError;
use super::manifest::{Descriptor, Manifest, select_platform};
use super::reference::Reference;
use super::store::{Image, NewImage, Store, decompress, digest, layer_keys, parse_config};

/// Longest document (manifest, configuration) that is read.
const DOCUMENT_MAX: u64 = 16 * 1024 * 1024;

/// Imports every image of the archive.
pub(super) fn import(store: &Store, path: &Path) -> Result<Vec<Image>, ImageError> {
    let _hold = store.hold()?;
    let plain = store.ingest_path();
    let result = Archive::open(path, &plain).and_then(|archive| import_all(store, &archive));
    let _ = std::fs::remove_file(plain);
    result
}

fn import_all(store: &Store, archive: &Archive) -> Result<Vec<Image>, ImageError> {
    if archive.contains("manifest.json") {
        return import_docker(store, archive);
    }
    if archive.contains("index.json") {
        return import_layout(store, archive);
    }
    Err(ImageError::Invalid("the archive holds neither manifest.json (docker save) nor index.json (OCI layout)".to_owned()))
}

/// One image of a Docker archive.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Vec<String>,
}

fn import_docker(store: &Store, archive: &Archive) -> Result<Vec<Image>, ImageError> {
    let images: Vec<DockerImage> = serde_json::from_slice(&archive.read("manifest.json")?)
        .map_err(|error| ImageError::Invalid(format!("manifest.json: {error}")))?;
    images
        .into_iter()
        .map(|image| {
            let tags = image.repo_tags.unwrap_or_default();
            add(store, archive, archive.read(&image.config)?, &image.layers, &tags)
        })
        .collect()
}

fn import_layout(store: &Store, archive: &Archive) -> Result<Vec<Image>, ImageError> {
    let Manifest::Index { manifests } = parse(&archive.read("index.json")?, "index.json")? else {
        return Err(ImageError::Invalid("index.json is not an index".to_owned()));
    };
    // One image per name; an index without names is one image for several platforms.
    let named: Vec<&Descriptor> = manifests.iter().filter(|descriptor| name_of(descriptor).is_some()).collect();
    let wanted: Vec<&Descriptor> = if named.is_empty() { select_platform(&manifests).into_iter().collect() } else { named };
    if wanted.is_empty() {
        return Err(ImageError::Invalid("the archive holds no image for this platform".to_owned()));
    }
    wanted
        .into_iter()
        .map(|descriptor| {
            let (config, layers) = resolve(archive, descriptor, 0)?;
            let layers: Vec<String> = layers.iter().map(|layer| blob_path(&layer.digest)).collect::<Result<_, _>>()?;
            let tags: Vec<String> = name_of(descriptor).into_iter().collect();
            add(store, archive, archive.read_blob(&config.digest)?, &layers, &tags)
        })
        .collect()
}

/// The configuration and the layers behind a descriptor, through nested indexes.
fn resolve(archive: &Archive, descriptor: &Descriptor, depth: u32) -> Result<(Descriptor, Vec<Descriptor>), ImageError> {
    match parse(&archive.read_blob(&descriptor.digest)?, &descriptor.digest)? {
        Manifest::Image { config, layers } => Ok((config, layers)),
        Manifest::Index { manifests } if depth < 4 => match select_platform(&manifests) {
            Some(selected) => resolve(archive, selected, depth + 1),
            None => Err(ImageError::Invalid("the archive holds no image for this platform".to_owned())),
        },
        Manifest::Index { .. } => Err(ImageError::Invalid("indexes nested too deeply".to_owned())),
    }
}

fn name_of(descriptor: &Descriptor) -> Option<String> {
    let full = descriptor.annotations.get("io.containerd.image.name");
    let reference = descriptor.annotations.get("org.opencontainers.image.ref.name");
    // The second is by the specification only a tag unless it holds a slash.
    full.or(reference.filter(|name| name.contains(['/', ':']))).cloned()
}

fn add(store: &Store, archive: &Archive, config_json: Vec<u8>, layers: &[String], tags: &[String]) -> Result<Image, ImageError> {
    let config = parse_config(&config_json)?;
    let diff_ids = &config.rootfs.diff_ids;
    if diff_ids.len() != layers.len() {
        return Err(ImageError::Invalid(format!("{} layers, but {} layer digests", layers.len(), diff_ids.len())));
    }
    let tags = tags
        .iter()
        .map(|tag| Reference::parse(tag).map(|name| name.tagged().unwrap_or_else(|| name.to_string())))
        .collect::<Result<Vec<_>, _>>()?;
    let keys = layer_keys(diff_ids);
    for (index, path) in layers.iter().enumerate() {
        if !store.has_layer(&keys[index]) {
            store.add_layer(archive.open_entry(path)?, &diff_ids[index], &keys[index], &keys[..index])?;
        }
    }
    store.add(NewImage { config_json, layers: keys, tags, digests: Vec::new(), pinned: false })
}

fn parse(json: &[u8], what: &str) -> Result<Manifest, ImageError> {
    serde_json::from_slice(json).map_err(|error| ImageError::Invalid(format!("{what}: {error}")))
}

fn blob_path(digest: &str) -> Result<String, ImageError> {
    let hex = digest.strip_prefix("sha256:").ok_or_else(|| ImageError::Invalid(format!("digest {digest:?} is not sha256")))?;
    Ok(format!("blobs/sha256/{hex}"))
}

/// An uncompressed tar file with a directory of its members, so that they can be read in any order without unpacking.
struct Archive {
    file: std::path::PathBuf,
    members: HashMap<String, Member>,
}

enum Member {
    Data {
        offset: u64,
        length: u64,
    },
    /// Old `docker save` links a layer to an equal one.
    Link(String),
}

impl Archive {
    /// Opens `path`; a compressed archive is expanded to the file `plain` first.
    fn open(path: &Path, plain: &Path) -> Result<Self, ImageError> {
        let mut file = File::open(path).map_err(ImageError::io("opening", path))?;
        let mut magic = [0; 4];
        let compressed = file.read_exact(&mut magic).is_ok() && matches!(magic, [0x1f, 0x8b, ..] | [0x28, 0xb5, 0x2f, 0xfd]);
        file.seek(SeekFrom::Start(0)).map_err(ImageError::io("reading", path))?;
        let file_path = if compressed {
            let mut expanded = File::create(plain).map_err(ImageError::io("creating", plain))?;
            decompress(file)
                .and_then(|mut reader| std::io::copy(&mut reader, &mut expanded))
                .map_err(ImageError::io("expanding", path))?;
            plain
        } else {
            path
        };
        let members = Self::members(file_path).map_err(|error| ImageError::Invalid(format!("{}: {error}", path.display())))?;
        Ok(Self { file: file_path.to_owned(), members })
    }

    fn members(path: &Path) -> std::io::Result<HashMap<String, Member>> {
        let mut members = HashMap::new();
        for entry in tar::Archive::new(File::open(path)?).entries_with_seek()? {
            let entry = entry?;
            let name = normalise(&entry.path()?);
            let kind = entry.header().entry_type();
            if kind.is_file() {
                let member = Member::Data { offset: entry.raw_file_position(), length: entry.size() };
                members.insert(name, member);
            } else if let Some(target) = entry.link_name()?.filter(|_| kind.is_symlink() || kind.is_hard_link()) {
                let target = match (kind.is_symlink(), Path::new(&name).parent()) {
                    (true, Some(parent)) => normalise(&parent.join(&target)),
                    _ => normalise(&target),
                };
                members.insert(name, Member::Link(target));
            }
        }
        Ok(members)
    }

    fn contains(&self, name: &str) -> bool {
        self.members.contains_key(name)
    }

    fn locate(&self, name: &str) -> Result<(u64, u64), ImageError> {
        let mut name = normalise(Path::new(name));
        for _ in 0..8 {
            match self.members.get(&name) {
                Some(Member::Data { offset, length }) => return Ok((*offset, *length)),
                Some(Member::Link(target)) => name = target.clone(),
                None => break,
            }
        }
        Err(ImageError::Invalid(format!("{name} is not in the archive")))
    }

    fn open_entry(&self, name: &str) -> Result<impl Read + use<>, ImageError> {
        let (offset, length) = self.locate(name)?;
        let mut file = File::open(&self.file).map_err(ImageError::io("opening", &self.file))?;
        file.seek(SeekFrom::Start(offset)).map_err(ImageError::io("reading", &self.file))?;
        Ok(std::io::BufReader::with_capacity(64 * 1024, file.take(length)))
    }

    fn read(&self, name: &str) -> Result<Vec<u8>, ImageError> {
        let mut bytes = Vec::new();
        self.open_entry(name)?.take(DOCUMENT_MAX).read_to_end(&mut bytes).map_err(ImageError::io("reading", &self.file))?;
        Ok(bytes)
    }

    fn read_blob(&self, expected: &str) -> Result<Vec<u8>, ImageError> {
        let bytes = self.read(&blob_path(expected)?)?;
        let found = digest(&bytes);
        if found == expected { Ok(bytes) } else { Err(ImageError::Invalid(format!("content {expected} has digest {found}"))) }
    }
}

fn normalise(path: &Path) -> String {
    let mut parts: Vec<String> = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(part) => parts.push(part.to_string_lossy().into_owned()),
            Component::ParentDir => drop(parts.pop()),
            _ => {}
        }
    }
    parts.join("/")
}
