//! `cargo xtask test`: what CI runs, and what anyone runs before landing.

use std::process::Command;

use anyhow::Context;

use crate::{process, tidy, tools, workspace_root};

/// What to run.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Only the tests, without rustfmt, clippy, cargo-deny and tidy.
    #[arg(long)]
    tests_only: bool,
    /// Passed to `cargo test`, after `--workspace` (for example a filter).
    #[arg(trailing_var_arg = true)]
    arguments: Vec<String>,
}

/// Runs the static checks, then the tests of every crate. The end-to-end tests find upstream's kubectl and the registry
/// through the environment variables that are set here.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let toolbox = tools::prepare()?;
    if !options.tests_only {
        static_checks(&toolbox)?;
    }
    process::run(&mut tests(&toolbox, &options.arguments)).context("tests failed")
}

/// `cargo test` over the workspace, told where upstream's kubectl is.
fn tests(toolbox: &tools::Toolbox, arguments: &[String]) -> Command {
    let mut command = cargo(&["test", "--workspace", "--no-fail-fast"]);
    command.args(arguments);
    for (version, path) in &toolbox.kubectl {
        command.env(format!("RUSTERNETES_KUBECTL_{version}"), path);
    }
    command
}

/// The checks that need no running program, cheapest first.
fn static_checks(toolbox: &tools::Toolbox) -> anyhow::Result<()> {
    process::run(&mut cargo(&["fmt", "--all", "--check"])).context("run `cargo fmt --all`")?;
    tidy::run(&tidy::Options::default())?;
    let mut deny = Command::new(&toolbox.cargo_deny);
    // Advisories need a database from GitHub, which CI cannot reach.
    deny.current_dir(workspace_root()).args(["check", "bans", "licenses", "sources"]);
    process::run(&mut deny)?;
    process::run(&mut cargo(&["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"]))
}

/// A call of the cargo that runs us.
fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(workspace_root()).args(arguments);
    command
}
