//! `cargo xtask conformance images`: the container images of the suite as one OCI archive in the cache directory, under the names that
//! the specs ask for. No registry is asked: the content is our Go builds and Debian packages (`conformance/images/`).

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};

use super::programs;
use crate::process;

/// What the builder calls on this machine.
const TOOLS: [&str; 6] = ["python3", "apt-get", "dpkg-deb", "gcc", "make", "tar"];

/// Builds the archive unless the cache has it.
pub(crate) fn prepare(module: &Path, cache: &Path, programs: &Path) -> anyhow::Result<PathBuf> {
    let builder = module.join("images/build_images.py");
    let bundle = cache.join("images/all.tar");
    if is_newer(&bundle, &builder) {
        return Ok(bundle);
    }
    for tool in TOOLS {
        ensure!(process::is_installed(tool), "building the images needs {tool}, which is not on the PATH");
    }
    let out = cache.join("images");
    std::fs::create_dir_all(&out).with_context(|| format!("cannot create {}", out.display()))?;
    let mut command = Command::new("python3");
    command.arg(&builder).arg("--bin").arg(programs).arg("--k8s").arg(programs::kubernetes_source(module)?);
    command.arg("--out").arg(&out).arg("--bundle").arg(&bundle);
    if let Ok(mirror) = std::env::var("DEBIAN_MIRROR") {
        command.arg("--mirror").arg(mirror);
    }
    process::run(&mut command).context("cannot build the images")?;
    Ok(bundle)
}

/// Whether a file is there and was written after another.
fn is_newer(file: &Path, than: &Path) -> bool {
    let modified = |path: &Path| std::fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
    matches!((modified(file), modified(than)), (Some(file), Some(than)) if file > than)
}
