//! The processes that make processes of containers: one process, one operation.
//!
//! Standard input, output and error of these processes are the container's own. What they have to say goes to the pipe at
//! [`RESULT_FD`]: `pid N` or `error TEXT`. They must not log: a subscriber would write into the container's output.

mod cgroup_entry;
mod executor;
mod processes;
mod seccomp;

use std::io::Write;
use std::os::fd::FromRawFd;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// The descriptor at which the shim gives these processes the pipe for their result.
pub(crate) const RESULT_FD: i32 = 3;
/// The file beside `config.json` that holds a [`Privileges`].
pub(crate) const PRIVILEGES_FILE: &str = "privileges.json";
/// Begins every message about a command that cannot be run; what libcontainer puts before it is cut off.
pub(crate) const START_FAILED: &str = "unable to start container process: ";

/// What is applied by our own executor, after libcontainer has set the process up and before it runs the command.
///
/// libcontainer keeps all capabilities of the process (its spec names none), because a seccomp filter without `no_new_privs`
/// can only be loaded by a process that still has CAP_SYS_ADMIN.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Privileges {
    /// Capabilities without the `CAP_` prefix for the bounding, permitted and effective sets.
    pub(crate) capabilities: Vec<String>,
    /// Capabilities for the inheritable and ambient sets.
    pub(crate) ambient: Vec<String>,
    /// Load the default seccomp filter.
    pub(crate) seccomp_default: bool,
    /// Adjustment of the OOM killer's score; a refusal of the kernel is tolerated (root without CAP_SYS_RESOURCE).
    pub(crate) oom_score_adj: Option<i64>,
    /// Mount points (inside the container) and the propagation that they get once the root is in place.
    pub(crate) propagation: Vec<(String, Propagation)>,
}

/// Propagation of one mount point, as `mount_namespaces(7)` names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Propagation {
    /// Nothing propagates.
    Private,
    /// From the host into the container.
    Slave,
    /// In both directions.
    Shared,
}

/// `oci-create ROOT ID BUNDLE [CONSOLE-SOCKET]`
pub(crate) fn create(arguments: &[String]) -> i32 {
    let [root, id, bundle, console @ ..] = arguments else {
        return finish(Err("oci-create: arguments missing".to_owned()));
    };
    finish(create_container(root, id, Path::new(bundle), console.first().map(PathBuf::from)))
}

fn create_container(root: &str, id: &str, bundle: &Path, console: Option<PathBuf>) -> Result<i32, String> {
    let privileges = load_privileges(bundle)?;
    adjust_oom_score(privileges.oom_score_adj);
    processes::create(Path::new(root), id, bundle, console, privileges).map(nix::unistd::Pid::as_raw)
}

/// `oci-exec ROOT ID BUNDLE PROCESS-FILE [CONSOLE-SOCKET]`
pub(crate) fn exec(arguments: &[String]) -> i32 {
    let [root, id, bundle, process, console @ ..] = arguments else {
        return finish(Err("oci-exec: arguments missing".to_owned()));
    };
    finish(exec_process(root, id, Path::new(bundle), process, console.first().map(PathBuf::from)))
}

fn exec_process(root: &str, id: &str, bundle: &Path, process: &str, console: Option<PathBuf>) -> Result<i32, String> {
    let privileges = load_privileges(bundle)?;
    adjust_oom_score(privileges.oom_score_adj);
    let result = processes::join(Path::new(root), id, Path::new(process), console, privileges);
    let _ = std::fs::remove_file(process);
    result.map(nix::unistd::Pid::as_raw)
}

fn load_privileges(bundle: &Path) -> Result<Privileges, String> {
    let path = bundle.join(PRIVILEGES_FILE);
    let text = std::fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    serde_json::from_slice(&text).map_err(|error| format!("{}: {error}", path.display()))
}

/// Children inherit the score. Refusal is no error: lowering it needs CAP_SYS_RESOURCE, which root may lack in a container or VM.
fn adjust_oom_score(score: Option<i64>) {
    if let Some(score) = score {
        let _ = std::fs::write("/proc/self/oom_score_adj", score.to_string());
    }
}

/// The whole chain of an error as one line, from our own message on if there is one.
fn describe(error: impl std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        source = inner.source();
    }
    without_cleanup(&text)
}

/// Our own message alone if there is one, else the whole text as one line. That libcontainer could not clean up at once (the cgroup of a
/// process that is just ending is busy) is no news: the runtime does so itself later.
fn without_cleanup(text: &str) -> String {
    let text = text.split(". error during cleanup: ").next().unwrap_or_default();
    match text.find(START_FAILED) {
        // The text can hold the message twice, nested.
        Some(at) => text[at..].lines().next().unwrap_or_default().trim_end_matches(['"', ')', ' ']).to_owned(),
        None => text.replace('\n', " "),
    }
}

/// Tells the shim that a container's command did not run after all.
fn report_start_failure(text: &str) {
    let text = format!("error {text}");
    // SAFETY: the descriptor is open in every first process until its command runs; a failed write is no worse than none.
    #[allow(unsafe_code)]
    unsafe {
        libc::write(RESULT_FD, text.as_ptr().cast(), text.len().min(4096));
    }
}

fn finish(result: Result<i32, String>) -> i32 {
    // SAFETY: the shim passes this descriptor to every process that it starts for these commands; nothing else here owns it.
    #[allow(unsafe_code)]
    let mut pipe = unsafe { std::fs::File::from_raw_fd(RESULT_FD) };
    let (text, code) = match &result {
        Ok(pid) => (format!("pid {pid}"), 0),
        Err(error) => (format!("error {error}"), 1),
    };
    // At most one pipe buffer, so that the write never blocks on a reader that waits for this process to end.
    let text = &text.as_bytes()[..text.len().min(4096)];
    let _ = pipe.write_all(text);
    code
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_one_line_from_our_own_message_on() {
        let exec = "unable to start container process: exec: \"nope\": executable file not found in $PATH";
        for (text, expected) in [
            (format!("failed to create container: exec process failed with error {exec}"), exec),
            (format!("failed to create container: {exec}. error during cleanup: failed to remove cgroup: EBUSY"), exec),
            (format!("outer(\"{exec}\")"), exec),
            ("failed to prepare rootfs\nEINVAL. error during cleanup: x".to_owned(), "failed to prepare rootfs EINVAL"),
        ] {
            assert_eq!(without_cleanup(&text), expected);
        }
    }
}
