//! Child processes of the tools: run to the end, fail with the command line in the error.

use std::process::{Command, Stdio};

use anyhow::{Context, bail};

/// Runs a command with our own output streams; an exit code other than 0 is an error that names the command.
pub(crate) fn run(command: &mut Command) -> anyhow::Result<()> {
    let status = command.status().with_context(|| format!("cannot start {command:?}"))?;
    if !status.success() {
        bail!("{command:?} ended with {status}");
    }
    Ok(())
}

/// Runs a command and returns what it printed.
pub(crate) fn output(command: &mut Command) -> anyhow::Result<String> {
    let output = command.stderr(Stdio::inherit()).output().with_context(|| format!("cannot start {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?} ended with {}", output.status);
    }
    String::from_utf8(output.stdout).with_context(|| format!("{command:?} did not print UTF-8"))
}

/// Whether a program of this name is on the PATH.
pub(crate) fn is_installed(program: &str) -> bool {
    let Some(path) = std::env::var_os("PATH") else { return false };
    std::env::split_paths(&path).any(|directory| directory.join(program).is_file())
}

/// Asks a process to end (SIGTERM). By the shell, whose own `kill` a bare machine has.
pub(crate) fn terminate(pid: u32) -> anyhow::Result<()> {
    run(Command::new("sh").args(["-c", "kill -TERM \"$0\"", &pid.to_string()]))
}
