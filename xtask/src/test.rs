//! `cargo xtask test`: what CI runs, and what anyone runs before landing.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;

use crate::{process, tidy, tools, workspace_root};

/// What to run.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Only the tests, without rustfmt, clippy, cargo-deny and tidy, and with what `cargo test` has compiled.
    #[arg(long)]
    tests_only: bool,
    /// Passed to `cargo test`, after `--workspace` (for example a filter).
    #[arg(trailing_var_arg = true)]
    arguments: Vec<String>,
}

/// Runs the static checks, then clippy and the tests of every crate. The end-to-end tests find upstream's kubectl and the registry
/// through the environment variables that are set here.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let toolbox = tools::prepare()?;
    if !options.tests_only {
        static_checks(&toolbox)?;
    }
    let mut tests = tests(&toolbox, &options.arguments);
    if !options.tests_only {
        lint(&mut tests);
    }
    process::run(&mut tests).context("lints or tests failed")
}

/// Makes clippy the compiler of the workspace's own crates, so that one pass lints and builds them. `cargo clippy` would check all
/// dependencies first and build them again for the tests: minutes on a machine without compiled ones.
fn lint(build: &mut Command) {
    let beside = |cargo: OsString| Path::new(&cargo).with_file_name("clippy-driver");
    let driver = std::env::var_os("CARGO").map(beside).filter(|driver| driver.exists());
    build.env("RUSTC_WORKSPACE_WRAPPER", driver.unwrap_or_else(|| PathBuf::from("clippy-driver")));
    // As `cargo clippy -- -D warnings` hands it on.
    build.env("CLIPPY_ARGS", "-D__CLIPPY_HACKERY__warnings__CLIPPY_HACKERY__");
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

/// The checks that need no compiler, cheapest first; clippy comes with the build ([`lint`]).
fn static_checks(toolbox: &tools::Toolbox) -> anyhow::Result<()> {
    process::run(&mut cargo(&["fmt", "--all", "--check"])).context("run `cargo fmt --all`")?;
    tidy::run(&tidy::Options::default())?;
    let mut deny = Command::new(&toolbox.cargo_deny);
    // Advisories need a database from GitHub, which CI cannot reach.
    deny.current_dir(workspace_root()).args(["check", "bans", "licenses", "sources"]);
    process::run(&mut deny)
}

/// A call of the cargo that runs us.
fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(workspace_root()).args(arguments);
    command
}
