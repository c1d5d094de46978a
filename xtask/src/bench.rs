//! `cargo xtask bench`: builds the release executable (unless one is named) and the bench tool, then hands over to the latter.

use std::process::Command;

use crate::{process, workspace_root};

/// Everything goes to the bench tool.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// A benchmark and its options; `--help` lists them.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

/// Builds and runs.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let cargo = |arguments: &[&str]| {
        let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command.current_dir(workspace_root()).args(arguments);
        command
    };
    // An executable that is named is built already.
    if !options.arguments.iter().any(|argument| argument == "--executable" || argument.starts_with("--executable=")) {
        process::run(&mut cargo(&["build", "--release", "--package", "rusternetes"]))?;
    }
    process::run(
        cargo(&["run", "--quiet", "--profile", "measuring", "--package", "bench", "--bin", "bench", "--"])
            .args(&options.arguments),
    )
}
