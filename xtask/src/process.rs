//! Child processes of the tools: run to the end, fail with the command line in the error.

use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

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

/// Sends a signal. By the shell, whose own `kill` a bare machine has.
fn signal(name: &str, pid: u32) -> anyhow::Result<()> {
    run(Command::new("sh").args(["-c", "kill -s \"$0\" \"$1\"", name, &pid.to_string()]))
}

/// Asks a child process to end (SIGTERM), and kills it if it has not after so long.
pub(crate) fn end(child: &mut Child, longest: Duration) -> anyhow::Result<()> {
    let pid = child.id();
    let (ended, waits) = mpsc::channel::<()>();
    signal("TERM", pid)?;
    std::thread::scope(|scope| {
        scope.spawn(move || match waits.recv_timeout(longest) {
            Err(mpsc::RecvTimeoutError::Timeout) => signal("KILL", pid),
            _ => Ok(()),
        });
        child.wait()?;
        drop(ended);
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn children_end() {
        let run = |script: &str| {
            let mut child = Command::new("sh").args(["-c", script]).stdout(Stdio::piped()).spawn().expect("sh is there");
            // It says when it is ready to be asked.
            let mut ready = [0];
            std::io::Read::read_exact(child.stdout.as_mut().expect("is a pipe"), &mut ready).expect("it says so");
            child
        };
        let mut polite = run("trap 'exit 7' TERM; echo; while :; do sleep 0.01; done");
        end(&mut polite, Duration::from_secs(60)).expect("it ends");
        assert_eq!(polite.wait().expect("it has ended").code(), Some(7));
        let mut deaf = run("trap '' TERM; echo; while :; do sleep 0.01; done");
        end(&mut deaf, Duration::from_millis(1)).expect("it ends");
        assert_eq!(deaf.wait().expect("it has ended").code(), None, "it was killed");
    }
}
