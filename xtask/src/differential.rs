//! `cargo xtask differential`: builds our server (debug) and the bench tool, which does the work (docs/differential.md): it has the HTTP client,
//! knows how upstream's server is built and started, and the schema facts. This one stays small.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Context;

use crate::{process, workspace_root};

/// Everything goes to the bench tool.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// `--seed S --requests N` and more; `--help` lists them.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

/// Builds and runs.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(workspace_root()).args(["build", "-p", "rusternetes", "-p", "bench"]);
    let messages = process::output(cargo.arg("--message-format=json-render-diagnostics")).context("cannot build")?;
    let executables = messages.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let executables: Vec<PathBuf> = executables.filter_map(|message| message["executable"].as_str().map(PathBuf::from)).collect();
    let named = |name: &str| {
        let found = executables.iter().find(|path| path.file_stem().is_some_and(|stem| stem == name));
        found.with_context(|| format!("cargo named no executable {name}"))
    };
    let mut tool = Command::new(named("bench")?);
    tool.current_dir(workspace_root()).arg("differential").arg("--executable").arg(named("rusternetes")?);
    process::run(tool.args(&options.arguments))
}
