//! The image that needs no pull: the running executable as `/bin/rusternetes`, and nothing else but empty directories.
//!
//! The executable is not read: its layer is a hard link (a copy only across file systems), and its identity is that of the
//! file (device, inode, size, time of change), not a digest of its content. The image never leaves this machine, so that
//! nobody can compare. An upgraded executable is another file, hence another image with the same names; containers of the
//! old one keep its layer.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use super::ImageError;
use super::manifest::{ImageConfig, ProcessConfig, Rootfs, architecture};
use super::store::{Image, NewImage, Store, digest, layer_keys};

/// Directories of the image and their modes.
const DIRECTORIES: [(&str, u32); 9] = [
    ("bin", 0o755),
    ("dev", 0o755),
    ("etc", 0o755),
    ("proc", 0o755),
    ("root", 0o700),
    ("run", 0o755),
    ("sys", 0o755),
    ("tmp", 0o1777),
    ("var", 0o755),
];

/// Puts the image for `executable` into the store under `names`, unless it is there.
pub(super) fn install(store: &Store, executable: &Path, names: &[String]) -> Result<Image, ImageError> {
    let opened = File::open(executable).map_err(ImageError::io("opening", executable))?;
    let metadata = opened.metadata().map_err(ImageError::io("reading", executable))?;
    let identity = format!(
        "rusternetes executable {} {} {} {}.{}",
        metadata.dev(),
        metadata.ino(),
        metadata.len(),
        metadata.mtime(),
        metadata.mtime_nsec()
    );
    let diff_id = digest(identity.as_bytes());
    let config = image_config(&diff_id);
    let config_json = serde_json::to_vec(&config).map_err(|error| ImageError::Invalid(error.to_string()))?;
    let id = digest(&config_json);
    let layers = layer_keys(&config.rootfs.diff_ids);
    let _hold = store.hold()?;
    let current = store.find(&id)?;
    if let Some(image) = current
        && names.iter().all(|name| image.repo_tags.contains(name))
        && store.has_layer(&layers[0])
    {
        return Ok(image);
    }
    if !store.has_layer(&layers[0]) {
        let work = store.ingest_path();
        make_layer(&work, executable, metadata.len()).map_err(ImageError::io("making the layer of", executable))?;
        store.install_layer(&work, &layers[0])?;
    }
    let image = store.add(NewImage { config_json, layers, tags: names.to_vec(), digests: Vec::new(), pinned: true })?;
    // Executables of the past.
    store.retain(|other| other.pinned && other.repo_tags.is_empty())?;
    Ok(image)
}

fn image_config(diff_id: &str) -> ImageConfig {
    let text = |parts: &[&str]| parts.iter().map(|part| (*part).to_owned()).collect();
    ImageConfig {
        architecture: architecture().to_owned(),
        os: "linux".to_owned(),
        config: ProcessConfig {
            env: text(&["PATH=/bin"]),
            entrypoint: text(&["/bin/rusternetes"]),
            cmd: text(&["hello"]),
            working_dir: "/".to_owned(),
            labels: BTreeMap::from([("org.opencontainers.image.title".to_owned(), "rusternetes".to_owned())]),
            ..ProcessConfig::default()
        },
        rootfs: Rootfs { kind: "layers".to_owned(), diff_ids: vec![diff_id.to_owned()] },
    }
}

fn make_layer(work: &Path, executable: &Path, size: u64) -> std::io::Result<()> {
    let fs = work.join("fs");
    std::fs::create_dir_all(&fs)?;
    std::fs::set_permissions(&fs, std::fs::Permissions::from_mode(0o755))?;
    for (name, mode) in DIRECTORIES {
        let path = fs.join(name);
        std::fs::create_dir(&path)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode))?;
    }
    std::fs::write(
        fs.join("etc/passwd"),
        "root:x:0:0:root:/root:/bin/rusternetes\nnobody:x:65534:65534:nobody:/:/bin/rusternetes\n",
    )?;
    std::fs::write(fs.join("etc/group"), "root:x:0:\nnogroup:x:65534:\n")?;
    symlink("../run", fs.join("var/run"))?;
    let target = fs.join("bin/rusternetes");
    // Follows the link of /proc/self/exe, whose target may have been replaced since: then the link has no name to link to.
    let linked = nix::unistd::linkat(
        nix::fcntl::AT_FDCWD,
        executable,
        nix::fcntl::AT_FDCWD,
        &target,
        nix::fcntl::AtFlags::AT_SYMLINK_FOLLOW,
    );
    if linked.is_err() {
        std::fs::copy(executable, &target)?;
        std::fs::set_permissions(&target, std::fs::Permissions::from_mode(0o755))?;
    }
    std::fs::write(work.join("usage"), format!("{size} {}", DIRECTORIES.len() + 4))
}
