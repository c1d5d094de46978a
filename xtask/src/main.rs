//! `cargo xtask`: the repository's own tools. `cargo xtask --help` lists them.

mod bench;
mod conformance;
mod differential;
mod gen_schema;
mod go;
mod integration;
mod process;
mod test;
mod tidy;
mod tools;
mod vectors;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Tools of the Rusternetes repository")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a benchmark on a release build; `cargo xtask bench -- --help` lists them.
    Bench(bench::Options),
    /// Run upstream's conformance suite against a cluster of our own and write docs/conformance.md (needs root, and Go once).
    Conformance(conformance::Options),
    /// Send the same random requests to kube-apiserver and to ours, and show what is answered differently (needs Go once).
    #[command(disable_help_flag = true)]
    Differential(differential::Options),
    /// Write the schema facts of `apimachinery` from the published Kubernetes definitions (Go module cache).
    GenSchema(gen_schema::Options),
    /// Run upstream's integration tests against our API server (needs Go).
    Integration(integration::Options),
    /// Run every check and every test, real containers included (needs root).
    Test(test::Options),
    /// Check the rules of HOUSE_STYLE that a compiler does not: crate graph, sizes, banned calls, module headers.
    Tidy(tidy::Options),
    /// Hold upstream's published data (objects, discovery, OpenAPI) against ours and write docs/vectors.md (Go module cache).
    Vectors(vectors::Options),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Bench(options) => bench::run(&options),
        Command::Conformance(options) => conformance::run(&options),
        Command::Differential(options) => differential::run(&options),
        Command::GenSchema(options) => gen_schema::run(&options),
        Command::Integration(options) => integration::run(&options),
        Command::Test(options) => test::run(&options),
        Command::Tidy(options) => tidy::run(&options),
        Command::Vectors(options) => vectors::run(&options),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The root of the workspace: that which cargo runs us for, where a target directory is shared by several clones.
fn workspace_root() -> PathBuf {
    let manifest =
        std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    manifest.parent().unwrap_or(&manifest).to_path_buf()
}
