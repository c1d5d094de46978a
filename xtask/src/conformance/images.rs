//! `cargo xtask conformance images`: the container images of the suite as one OCI archive in the cache directory, under the names that
//! the specs ask for. No registry is asked: the content is our Go builds and Debian packages (`conformance/images/`).

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use anyhow::{Context, ensure};

use super::programs;
use crate::process;

/// What the builder calls on this machine.
const TOOLS: [&str; 6] = ["python3", "apt-get", "dpkg-deb", "gcc", "make", "tar"];

/// The images of one choice of specs.
pub(crate) struct Images {
    builder: PathBuf,
    out: PathBuf,
    /// The archive with all images; it does for every choice.
    whole: PathBuf,
    /// The archive without those that the choice does not need.
    bundle: PathBuf,
    without: Vec<&'static str>,
    /// Fetches what images are made of besides our Go builds.
    fetching: Option<Child>,
}

impl Images {
    /// Begins to fetch what is missing, beside whatever else there is to do until [`Images::finish`].
    pub(crate) fn begin(module: &Path, cache: &Path, without: &[&'static str]) -> anyhow::Result<Self> {
        let (builder, out) = (module.join("images/build_images.py"), cache.join("images"));
        let digest = digest(&builder)?;
        let archive = |part: &str| out.join(format!("{part}-{digest:016x}.tar"));
        let whole = archive("all");
        let bundle = if without.is_empty() { whole.clone() } else { archive(&format!("without-{}", without.join("-"))) };
        let mut images = Self { builder, out, whole, bundle, without: without.to_vec(), fetching: None };
        if images.built().is_none() {
            for tool in TOOLS {
                ensure!(process::is_installed(tool), "building the images needs {tool}, which is not on the PATH");
            }
            std::fs::create_dir_all(&images.out).with_context(|| format!("cannot create {}", images.out.display()))?;
            let child = images.command().arg("--sources-only").spawn().context("cannot start python3")?;
            images.fetching = Some(child);
        }
        Ok(images)
    }

    /// The archive, built from these programs unless the cache has it.
    pub(crate) fn finish(mut self, module: &Path, programs: &Path) -> anyhow::Result<PathBuf> {
        if let Some(built) = self.built() {
            return Ok(built);
        }
        if let Some(mut child) = self.fetching.take() {
            let status = child.wait().context("cannot wait for python3")?;
            ensure!(status.success(), "cannot fetch what the images are made of: {status}");
        }
        let half_done = self.bundle.with_extension("partial");
        let mut command = self.command();
        command.arg("--bin").arg(programs).arg("--k8s").arg(programs::kubernetes_source(module)?).arg("--bundle").arg(&half_done);
        for name in &self.without {
            command.arg("--without").arg(name);
        }
        process::run(&mut command).context("cannot build the images")?;
        std::fs::rename(&half_done, &self.bundle).with_context(|| format!("cannot write {}", self.bundle.display()))?;
        Ok(self.bundle.clone())
    }

    /// The archive that the cache has.
    fn built(&self) -> Option<PathBuf> {
        [&self.whole, &self.bundle].into_iter().find(|file| file.exists()).cloned()
    }

    fn command(&self) -> Command {
        let mut command = Command::new("python3");
        command.arg(&self.builder).arg("--out").arg(&self.out);
        if let Ok(mirror) = std::env::var("DEBIAN_MIRROR") {
            command.arg("--mirror").arg(mirror);
        }
        command
    }
}

/// The fetching ends with us if the programs cannot be built.
impl Drop for Images {
    fn drop(&mut self) {
        if let Some(mut child) = self.fetching.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// What the builder's text is known by: a checkout says nothing true about when a file was changed.
fn digest(file: &Path) -> anyhow::Result<u64> {
    let text = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    Ok(hasher.finish())
}
