//! Ending everything that a runtime has started, as a reboot would: for a server that shall leave no trace.

use std::collections::BTreeSet;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::unistd::Pid;

use crate::cgroup::{Hierarchies, processes};
use crate::runtime::remove_with_mounts;

/// How long killed processes may take to disappear.
const EXIT_MAX: Duration = Duration::from_secs(10);

/// Kills all shims and containers of a runtime that no server uses any more, unmounts everything below `data_dir` and `run_dir`, and
/// removes `run_dir` and the cgroups. What is on disk in `data_dir` stays: the next start brings the pods back. Blocking.
pub fn kill_all(data_dir: &Path, run_dir: &Path, cgroup_parent: &str) -> io::Result<()> {
    // Shims first, so that nobody writes down how the containers end: after a reboot nobody would know.
    let mut killed = kill_shims(run_dir);
    let hierarchies = Hierarchies::detect()?;
    let deadline = Instant::now() + EXIT_MAX;
    loop {
        let mut left: BTreeSet<i32> =
            hierarchies.directories(cgroup_parent).iter().flat_map(|directory| all_processes(directory)).collect();
        left.retain(|pid| is_alive(*pid));
        // For good: its number may soon be somebody else's.
        killed.retain(|pid| is_alive(*pid));
        left.extend(&killed);
        if left.is_empty() {
            break;
        }
        if Instant::now() > deadline {
            return Err(io::Error::new(io::ErrorKind::TimedOut, format!("processes do not end: {left:?}")));
        }
        for pid in left {
            // Gone already is as good.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        // No event says when a cgroup has become empty in every version; the deadline bounds the wait.
        #[allow(clippy::disallowed_methods)]
        std::thread::sleep(Duration::from_millis(5));
    }
    unmount_below(data_dir, false);
    unmount_below(run_dir, true);
    remove_with_mounts(run_dir)?;
    hierarchies.remove(cgroup_parent);
    Ok(())
}

/// The process at the other end of each shim's socket.
fn kill_shims(run_dir: &Path) -> BTreeSet<i32> {
    let sandboxes = std::fs::read_dir(run_dir.join("sandboxes")).into_iter().flatten().flatten();
    let shims: BTreeSet<i32> = sandboxes
        .filter_map(|sandbox| UnixStream::connect(sandbox.path().join("shim.sock")).ok())
        .filter_map(|socket| getsockopt(&socket, PeerCredentials).ok())
        .map(|credentials| credentials.pid())
        .filter(|pid| *pid > 1)
        .collect();
    for pid in &shims {
        let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
    }
    shims
}

/// Whether a process still does something. A zombie does not: it waits for a parent who may never ask, as the first process of a
/// container often does not.
fn is_alive(pid: i32) -> bool {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
    // The name in parentheses may hold anything; the state follows it.
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

/// The processes of a cgroup and of all below it.
fn all_processes(directory: &Path) -> Vec<i32> {
    let mut found = processes(directory);
    for child in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        if child.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.extend(all_processes(&child.path()));
        }
    }
    found
}

/// Unmounts what is mounted below a directory and, if it is the runtime's `own` bind mount, the directory itself.
fn unmount_below(directory: &Path, own: bool) {
    // As the kernel names it.
    let directory = directory.canonicalize().unwrap_or_else(|_| directory.to_owned());
    let prefix = format!("{}/", directory.display());
    let own = own.then(|| directory.to_string_lossy());
    let text = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let is_ours = |mount: &&str| mount.starts_with(&prefix) || own.as_deref() == Some(*mount);
    let mut mounts: Vec<&str> = text.lines().filter_map(|line| line.split(' ').nth(4)).filter(is_ours).collect();
    mounts.sort_by_key(|mount| std::cmp::Reverse(mount.len()));
    for mount in mounts {
        // Lazily, so that a process that is still on its way out does not hold it.
        let _ = nix::mount::umount2(mount, nix::mount::MntFlags::MNT_DETACH);
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_zombie_is_not_alive() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().expect("a process");
        let pid = i32::try_from(child.id()).expect("a process id");
        assert!(is_alive(pid));
        drop(child.stdin.take());
        let deadline = Instant::now() + EXIT_MAX;
        // Nobody has waited for it yet, so that it is still listed.
        while is_alive(pid) && Instant::now() < deadline {
            std::thread::yield_now();
        }
        assert!(!is_alive(pid) && Path::new(&format!("/proc/{pid}")).exists());
        child.wait().expect("it has ended");
        assert!(!is_alive(pid));
    }
}
