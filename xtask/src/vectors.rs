//! `cargo xtask vectors`: builds the vectors tool and hands over to it; see `vectors/`.

use std::process::Command;

use crate::{process, workspace_root};

/// Everything goes to the tool.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Groups of classes and options; `--help` lists them.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

/// Builds and runs. The tool writes docs/vectors.md after a whole run.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let root = workspace_root();
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(&root).args([
        "run",
        "--quiet",
        "--package",
        "vectors",
        "--package",
        "rusternetes",
        "--bin",
        "vectors",
        "--",
    ]);
    command.arg("--report").arg(root.join("docs/vectors.md")).args(&options.arguments);
    process::run(&mut command)
}
