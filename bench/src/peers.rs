//! Upstream's executables, built from the Go module proxy into a cache directory; nothing of them is committed.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail, ensure};

/// What can be built.
struct Peer {
    name: &'static str,
    /// The Go module in `bench/peers/`, and the package in it.
    module: &'static str,
    package: &'static str,
    /// Whether parts of it are C (kine's SQLite is the one that k3s ships).
    cgo: bool,
}

const PEERS: [Peer; 8] = [
    Peer { name: "kube-apiserver", module: "kubernetes", package: "k8s.io/kubernetes/cmd/kube-apiserver", cgo: false },
    Peer { name: "kube-scheduler", module: "kubernetes", package: "k8s.io/kubernetes/cmd/kube-scheduler", cgo: false },
    Peer {
        name: "kube-controller-manager",
        module: "kubernetes",
        package: "k8s.io/kubernetes/cmd/kube-controller-manager",
        cgo: false,
    },
    Peer { name: "kubelet", module: "kubernetes", package: "k8s.io/kubernetes/cmd/kubelet", cgo: false },
    Peer { name: "kube-proxy", module: "kubernetes", package: "k8s.io/kubernetes/cmd/kube-proxy", cgo: false },
    Peer { name: "coredns", module: "coredns", package: "github.com/coredns/coredns", cgo: false },
    Peer { name: "etcd", module: "etcd", package: ".", cgo: false },
    Peer { name: "kine", module: "kine", package: "github.com/k3s-io/kine", cgo: true },
];

/// Without these kube-apiserver takes itself for v0.0.0.
const VERSION: &str = "-s -w -X k8s.io/component-base/version.gitVersion=v1.35.4 -X k8s.io/component-base/version.gitMajor=1 \
                       -X k8s.io/component-base/version.gitMinor=35";

/// The executable of a peer; builds it (minutes) if the cache does not have it.
pub(crate) fn find(name: &str) -> anyhow::Result<PathBuf> {
    let Some(peer) = PEERS.into_iter().find(|peer| peer.name == name) else {
        bail!("no peer is called {name:?}");
    };
    let executable = cache()?.join(name);
    if !executable.exists() {
        eprintln!("building {name} (several minutes, once)");
        let status = Command::new("go")
            .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("peers").join(peer.module))
            .env("CGO_ENABLED", if peer.cgo { "1" } else { "0" })
            .args(["build", "-trimpath", "-ldflags", VERSION, "-o"])
            .arg(&executable)
            .arg(peer.package)
            .status()
            .context("peers are built with Go, which is not installed (Debian: golang)")?;
        ensure!(status.success(), "go build of {name} ended with {status}");
    }
    Ok(executable)
}

/// An executable of a Debian package, in the usual directories.
pub(crate) fn of_debian(name: &str, package: &str) -> anyhow::Result<PathBuf> {
    let directories = ["/usr/bin", "/usr/sbin"];
    let found = directories.into_iter().map(|directory| Path::new(directory).join(name)).find(|path| path.exists());
    found.with_context(|| format!("the peer needs {name}, which is not installed (Debian: apt-get install {package})"))
}

/// `$XDG_CACHE_HOME/rusternetes/peers`, made if needed.
pub(crate) fn cache() -> anyhow::Result<PathBuf> {
    let base = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache")))
        .context("neither XDG_CACHE_HOME nor HOME is set")?;
    let cache = base.join("rusternetes/peers");
    std::fs::create_dir_all(&cache).with_context(|| format!("cannot create {}", cache.display()))?;
    Ok(cache)
}
