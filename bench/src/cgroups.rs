//! cgroups of the benchmark: CPU time of a process with everything that it starts, and the removal of what peers leave behind.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};

/// A name that no other run has.
pub(crate) fn own_name() -> String {
    format!("rusternetes-bench-{}", std::process::id())
}

/// Counts the CPU time of all processes in a cgroup of its own, those that have ended included. Dropping it removes the cgroup, which is
/// busy while processes live in it.
pub(crate) struct Accounting {
    directory: PathBuf,
}

impl Accounting {
    /// Makes the cgroup: v1's cpuacct where there is one, else v2.
    pub(crate) fn new(name: &str) -> anyhow::Result<Self> {
        let mounts = mounts();
        let find = |wanted: &dyn Fn(&Mount) -> bool| mounts.iter().find(|mount| wanted(mount)).map(|mount| mount.path.clone());
        let root = find(&|mount| mount.options.split(',').any(|option| option == "cpuacct"))
            .or_else(|| find(&|mount| mount.kind == "cgroup2"))
            .context("no cgroup hierarchy counts CPU time")?;
        let directory = root.join(name);
        std::fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
        Ok(Self { directory })
    }

    /// The same command, run inside.
    pub(crate) fn wrap(&self, command: &Command) -> Command {
        let mut wrapped = Command::new("sh");
        wrapped.args(["-c", r#"echo $$ > "$0/cgroup.procs" && exec "$@""#]).arg(&self.directory);
        wrapped.arg(command.get_program()).args(command.get_args());
        wrapped
    }

    /// Seconds of CPU so far.
    pub(crate) fn cpu_seconds(&self) -> anyhow::Result<f64> {
        let read = |name: &str| std::fs::read_to_string(self.directory.join(name));
        if let Ok(nanoseconds) = read("cpuacct.usage") {
            return Ok(nanoseconds.trim().parse::<u64>()? as f64 / 1e9);
        }
        let text = read("cpu.stat").with_context(|| format!("{} counts no CPU time", self.directory.display()))?;
        let microseconds =
            text.lines().find_map(|line| line.strip_prefix("usage_usec ")).context("cpu.stat without usage_usec")?;
        Ok(microseconds.parse::<u64>()? as f64 / 1e6)
    }
}

impl Drop for Accounting {
    fn drop(&mut self) {
        remove_tree(&self.directory);
    }
}

/// Removes a cgroup in every hierarchy, with those below it, as far as nothing lives there.
pub(crate) fn remove(name: &str) {
    mounts().iter().for_each(|mount| remove_tree(&mount.path.join(name)));
}

/// Moves the calling thread into a mount namespace of its own in which cgroup v2 is not mounted beside v1: crun refuses to run where both are.
pub(crate) fn without_v2() -> anyhow::Result<()> {
    use nix::mount::{MntFlags, MsFlags, mount, umount2};
    use nix::sched::CloneFlags;
    let mounts = mounts();
    ensure!(mounts.iter().any(|mount| mount.kind == "cgroup"), "there is no cgroup v1 here");
    nix::sched::unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS).context("cannot make a mount namespace")?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)?;
    for place in mounts.iter().filter(|mount| mount.kind == "cgroup2") {
        umount2(&place.path, MntFlags::MNT_DETACH).with_context(|| format!("cannot unmount {}", place.path.display()))?;
    }
    Ok(())
}

/// A mounted hierarchy.
struct Mount {
    path: PathBuf,
    kind: String,
    options: String,
}

fn mounts() -> Vec<Mount> {
    let text = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let parse = |line: &str| {
        let (left, right) = line.split_once(" - ")?;
        let mut right = right.split(' ');
        let (kind, _, options) = (right.next()?, right.next()?, right.next()?);
        let path = left.split(' ').nth(4)?;
        matches!(kind, "cgroup" | "cgroup2").then(|| Mount {
            path: PathBuf::from(path),
            kind: kind.to_owned(),
            options: options.to_owned(),
        })
    };
    text.lines().filter_map(parse).filter(|mount| mount.path.starts_with("/sys/fs/cgroup")).collect()
}

fn remove_tree(directory: &Path) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path());
        }
    }
    // Missing or busy: nothing that could be done about it.
    let _ = std::fs::remove_dir(directory);
}
