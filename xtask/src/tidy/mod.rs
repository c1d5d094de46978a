//! `cargo xtask tidy`: house rules that no compiler checks. Each rule is a module; a finding names file and line.

mod graph;
mod size;
mod source;
mod text;

use anyhow::bail;

use crate::workspace_root;

/// How to run tidy.
#[derive(clap::Args, Default)]
pub(crate) struct Options {
    /// Write today's sizes to the ratchet file. An offender may only shrink: larger values are refused.
    #[arg(long)]
    update: bool,
}

/// Runs all rules; fails with the list of findings.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let root = workspace_root();
    let sources = source::load(&root)?;
    let mut findings = graph::check(&root)?;
    findings.extend(text::check(&sources));
    findings.extend(size::check(&root, &sources, options.update)?);
    if findings.is_empty() {
        println!("tidy: {} files, no findings", sources.len());
        return Ok(());
    }
    for finding in &findings {
        eprintln!("tidy: {finding}");
    }
    bail!("tidy: {} findings", findings.len())
}
