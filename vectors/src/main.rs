//! `cargo xtask vectors`: upstream's published data against our codecs and our server.
//!
//! Everything comes from the Go module cache, where `go mod download` in `conformance/` puts it; nothing of it is committed. Each class
//! of vectors says how many there are and how many hold; what differs on purpose is counted under its reason, and what differs without
//! one is a failure. What upstream has only as Go code is not here: the report says what that is.

mod cel;
mod codecs;
mod compare;
mod discovery;
mod field_sets;
mod modules;
mod openapi;
mod report;
mod server;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Parser;

use modules::Modules;
use report::Class;

/// Upstream's published data against our codecs and our server.
#[derive(Parser)]
#[command(name = "cargo xtask vectors")]
struct Options {
    /// Only these groups of classes: codecs, discovery, openapi, apply, cel. The report is left alone then.
    groups: Vec<String>,
    /// Where the report goes.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Show all failures instead of the first few of each class.
    #[arg(long)]
    all: bool,
}

type Group = (&'static str, fn(&Modules) -> Result<Vec<Class>>);

const GROUPS: [Group; 5] = [
    ("codecs", codecs::run),
    ("discovery", discovery::run),
    ("openapi", openapi::run),
    ("apply", field_sets::run),
    ("cel", cel::run),
];

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether everything holds.
fn run(options: &Options) -> Result<bool> {
    if let Some(unknown) = options.groups.iter().find(|name| GROUPS.iter().all(|(known, _)| known != name)) {
        let known: Vec<&str> = GROUPS.iter().map(|(name, _)| *name).collect();
        bail!("there is no group {unknown}; there are {}", known.join(", "));
    }
    let modules = Modules::find()?;
    let mut classes = Vec::new();
    for (name, judge) in GROUPS {
        if options.groups.is_empty() || options.groups.iter().any(|wanted| wanted == name) {
            classes.extend(judge(&modules).with_context(|| format!("group {name}"))?);
        }
    }
    for class in &classes {
        print!("{}", class.summary(if options.all { usize::MAX } else { 5 }));
    }
    if let (Some(path), true) = (&options.report, options.groups.is_empty()) {
        std::fs::write(path, report::document(&classes)).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(classes.iter().all(Class::holds))
}
