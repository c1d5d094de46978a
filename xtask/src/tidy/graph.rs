//! The dependency graph between our crates (ARCHITECTURE.md): an edge that is not listed here is a finding.

use std::path::Path;
use std::process::Command;

use anyhow::Context;
use serde::Deserialize;

use crate::process;

/// Each crate and the crates of ours that it may use. Components meet only through the Kubernetes API.
const ALLOWED: &[(&str, &[&str])] = &[
    ("apimachinery", &[]),
    ("typed", &[]),
    ("cel", &["apimachinery"]),
    ("storage", &[]),
    ("cri", &[]),
    ("client", &["apimachinery", "typed"]),
    ("serving", &[]),
    ("component-server", &["client", "serving"]),
    ("nftables", &[]),
    ("streaming", &[]),
    ("api-server", &["apimachinery", "cel", "serving", "storage", "streaming", "typed"]),
    ("network", &["nftables"]),
    ("container-runtime", &["cri", "network", "streaming"]),
    ("kubelet", &["apimachinery", "client", "cri", "serving"]),
    ("kube-proxy", &["apimachinery", "client", "network", "nftables"]),
    ("dns", &["apimachinery", "client"]),
    ("scheduler", &["apimachinery", "cel", "client"]),
    ("controller-manager", &["apimachinery", "cel", "client", "serving"]),
    (
        "rusternetes",
        &[
            "api-server",
            "apimachinery",
            "client",
            "component-server",
            "container-runtime",
            "controller-manager",
            "cri",
            "dns",
            "kube-proxy",
            "kubelet",
            "network",
            "scheduler",
            "serving",
            "storage",
        ],
    ),
    ("bench", &["apimachinery", "client", "container-runtime", "cri", "dns", "kube-proxy"]),
    ("simulation", &[]),
    ("vectors", &["api-server", "apimachinery", "storage"]),
    ("xtask", &["apimachinery"]),
];

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    dependencies: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    name: String,
    kind: Option<String>,
    path: Option<String>,
}

/// Compares cargo's view of the workspace with the table. Development dependencies are free: tests may start anything.
pub(super) fn check(root: &Path) -> anyhow::Result<Vec<String>> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let json = process::output(Command::new(cargo).current_dir(root).args(["metadata", "--no-deps", "--format-version", "1"]))?;
    let metadata: Metadata = serde_json::from_str(&json).context("cargo metadata")?;
    let mut findings = Vec::new();
    for package in &metadata.packages {
        let Some((_, allowed)) = ALLOWED.iter().find(|(name, _)| *name == package.name) else {
            findings.push(format!("crate {} is not in the table of xtask/src/tidy/graph.rs", package.name));
            continue;
        };
        for dependency in package.dependencies.iter().filter(|d| d.path.is_some() && d.kind.as_deref() != Some("dev")) {
            if !allowed.contains(&dependency.name.as_str()) {
                findings.push(format!("crate {} may not depend on {}: see ARCHITECTURE.md", package.name, dependency.name));
            }
        }
    }
    Ok(findings)
}
