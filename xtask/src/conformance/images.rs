//! `cargo xtask conformance images`: the container images of the suite as one OCI archive in the cache directory, under the names that
//! the specs ask for. No registry is asked: the content is our Go builds and Debian packages (`conformance/images/`).

use std::hash::{DefaultHasher, Hash, Hasher};
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
    let out = cache.join("images");
    let bundle = out.join(format!("all-{:016x}.tar", digest(&builder)?));
    if bundle.exists() {
        return Ok(bundle);
    }
    for tool in TOOLS {
        ensure!(process::is_installed(tool), "building the images needs {tool}, which is not on the PATH");
    }
    std::fs::create_dir_all(&out).with_context(|| format!("cannot create {}", out.display()))?;
    let half_done = bundle.with_extension("partial");
    let mut command = Command::new("python3");
    command.arg(&builder).arg("--bin").arg(programs).arg("--k8s").arg(programs::kubernetes_source(module)?);
    command.arg("--out").arg(&out).arg("--bundle").arg(&half_done);
    if let Ok(mirror) = std::env::var("DEBIAN_MIRROR") {
        command.arg("--mirror").arg(mirror);
    }
    process::run(&mut command).context("cannot build the images")?;
    std::fs::rename(&half_done, &bundle).with_context(|| format!("cannot write {}", bundle.display()))?;
    Ok(bundle)
}

/// What the builder's text is known by: a checkout says nothing true about when a file was changed.
fn digest(file: &Path) -> anyhow::Result<u64> {
    let text = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    Ok(hasher.finish())
}
