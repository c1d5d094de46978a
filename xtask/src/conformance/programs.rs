//! The Go programs that judge us: upstream's e2e binary with what its specs call and run. They are built once from the module in
//! `conformance/` into the cache directory; the product itself never needs Go.

use std::path::{Path, PathBuf};

use anyhow::Context;

use super::specs::Spec;
use crate::{go, process, tools, workspace_root};

/// The command line that the suite's specs call.
pub(crate) const KUBECTL: &str = "kubectl";

/// The upstream release that judges us.
const RELEASE: &str = "v1.35.4";

/// The module of the suite and of most programs, in the repository.
const SUITE: &str = "conformance";
/// The module of upstream's components, which are the benchmark's peers.
const PEERS: &str = "bench/peers/kubernetes";
/// The module of etcd, which the benchmark also has as a peer.
const ETCD: &str = "bench/peers/etcd";

/// A program: its file, its module, how `go` builds it, and its package.
const PROGRAMS: [(&str, &str, &[&str], &str); 7] = [
    ("ginkgo", SUITE, &["build"], "github.com/onsi/ginkgo/v2/ginkgo"),
    ("agnhost", SUITE, &["build"], "k8s.io/kubernetes/test/images/agnhost"),
    ("nnp", SUITE, &["build"], "k8s.io/kubernetes/test/images/nonewprivs"),
    (KUBECTL, SUITE, &["build"], "k8s.io/kubernetes/cmd/kubectl"),
    // Without vet, which would look at every package that the suite is made of.
    ("e2e.test", SUITE, &["test", "-c", "-vet=off"], "k8s.io/kubernetes/test/e2e"),
    ("sample-apiserver", SUITE, &["build"], "k8s.io/sample-apiserver"),
    ("etcd", ETCD, &["build"], "."),
];

/// What few specs need, and a part of their names.
const RARE: [(&str, &str); 2] = [("sample-apiserver", "Sample API Server"), ("etcd", "Sample API Server")];

/// The programs, and images of the same names, that none of these specs needs.
pub(crate) fn unneeded(specs: &[Spec]) -> Vec<&'static str> {
    let needs = |part: &str| specs.iter().any(|spec| spec.name.contains(part));
    RARE.iter().filter(|(_, part)| !needs(part)).map(|(program, _)| *program).collect()
}

/// Builds what is missing and returns the directory of the programs. The first time takes some ten minutes.
pub(crate) fn prepare(cache: &Path, without: &[&str]) -> anyhow::Result<PathBuf> {
    let directory = cache.join(format!("bin-{RELEASE}"));
    std::fs::create_dir_all(&directory).with_context(|| format!("cannot create {}", directory.display()))?;
    for (name, module, how, package) in PROGRAMS.iter().filter(|(name, ..)| !without.contains(name)) {
        let file = directory.join(name);
        if !file.exists() {
            eprintln!("building {name}, once");
            // They wait for clusters, nothing is measured by them, and without optimisation they take three quarters of the time to build.
            let how = [*how, &["-gcflags=all=-N -l"]].concat();
            build(&workspace_root().join(module), &file, &how, package).with_context(|| format!("cannot build {name}"))?;
        }
    }
    Ok(directory)
}

/// One of upstream's components, from the benchmark's cache; built if it is not there.
pub(crate) fn peer(name: &str) -> anyhow::Result<PathBuf> {
    let file = tools::cache_directory("peers")?.join(name);
    if !file.exists() {
        eprintln!("building {name}, once");
        let package = format!("k8s.io/kubernetes/cmd/{name}");
        build(&workspace_root().join(PEERS), &file, &["build"], &package).with_context(|| format!("cannot build {name}"))?;
    }
    Ok(file)
}

fn build(module: &Path, file: &Path, how: &[&str], package: &str) -> anyhow::Result<()> {
    let half_done = file.with_extension("partial");
    let mut command = go::command()?;
    // Static, so that the same file runs in any image; the version is what kubectl and the suite report.
    // The compiler collects garbage less often than it would, which takes memory and saves a sixth of its time.
    command.current_dir(module).env("CGO_ENABLED", "0").env("GOGC", "400").args(how).args(["-trimpath", "-buildvcs=false"]);
    command.arg("-ldflags").arg(linker_flags()).arg("-o").arg(&half_done).arg(package);
    process::run(&mut command)?;
    std::fs::rename(&half_done, file).with_context(|| format!("cannot write {}", file.display()))
}

fn linker_flags() -> String {
    let minor = RELEASE.split('.').nth(1).unwrap_or_default();
    format!(
        "-s -w -X k8s.io/component-base/version.gitVersion={RELEASE} -X k8s.io/component-base/version.gitMajor=1 \
         -X k8s.io/component-base/version.gitMinor={minor} -X k8s.io/client-go/pkg/version.gitVersion={RELEASE}"
    )
}

/// Where the Go module cache has upstream's source: test data of some images is taken from it.
pub(crate) fn kubernetes_source(module: &Path) -> anyhow::Result<PathBuf> {
    let mut command = go::command()?;
    command.current_dir(module).args(["list", "-m", "-f", "{{.Dir}}", "k8s.io/kubernetes"]);
    let printed = process::output(&mut command).context("cannot find the source of k8s.io/kubernetes")?;
    Ok(PathBuf::from(printed.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_spec_needs_is_not_built() {
        let spec = |name: &str| Spec { name: name.to_owned(), sig: "api-machinery".to_owned(), serial: false };
        let all = [spec("Aggregator should support the 1.17 Sample API Server"), spec("Secrets should be consumable")];
        assert_eq!(unneeded(&all), [""; 0]);
        assert_eq!(unneeded(&all[1..]), ["sample-apiserver", "etcd"]);
        assert!(RARE.iter().all(|(rare, _)| PROGRAMS.iter().any(|(name, ..)| name == rare)));
    }
}
