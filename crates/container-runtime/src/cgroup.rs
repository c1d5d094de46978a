//! cgroups: where they are (v1, hybrid or v2), what they say, their removal. Limits at creation are libcontainer's work.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

/// The mounted hierarchies of this machine.
#[derive(Debug, Clone)]
pub(crate) enum Hierarchies {
    /// By controller; several controllers can share a directory.
    V1(BTreeMap<String, PathBuf>),
    V2(PathBuf),
}

impl Hierarchies {
    /// Finds them the way libcontainer does: v2 only if it is mounted on `/sys/fs/cgroup` itself.
    pub(crate) fn detect() -> io::Result<Self> {
        let root = Path::new("/sys/fs/cgroup");
        if nix::sys::statfs::statfs(root).is_ok_and(|stat| stat.filesystem_type() == nix::sys::statfs::CGROUP2_SUPER_MAGIC) {
            return Ok(Self::V2(root.to_owned()));
        }
        let controllers = parse_mounts(&std::fs::read_to_string("/proc/self/mountinfo")?);
        if controllers.is_empty() {
            return Err(io::Error::new(io::ErrorKind::NotFound, "no cgroup hierarchy is mounted under /sys/fs/cgroup"));
        }
        Ok(Self::V1(controllers))
    }

    /// Every directory of the cgroup `path` (as in `cgroupsPath`: absolute, below the root of each hierarchy).
    pub(crate) fn directories(&self, path: &str) -> Vec<PathBuf> {
        let relative = path.trim_start_matches('/');
        let mut directories: Vec<PathBuf> = match self {
            Self::V1(controllers) => controllers.values().map(|mount| mount.join(relative)).collect(),
            Self::V2(mount) => vec![mount.join(relative)],
        };
        directories.sort();
        directories.dedup();
        directories
    }

    /// The directory of one v1 controller, or the v2 directory.
    pub(crate) fn directory(&self, controller: &str, path: &str) -> Option<PathBuf> {
        let relative = path.trim_start_matches('/');
        match self {
            Self::V1(controllers) => controllers.get(controller).map(|mount| mount.join(relative)),
            Self::V2(mount) => Some(mount.join(relative)),
        }
    }

    /// The directories of the cgroup `path` by the names under which a container sees them in v1: each controller, each named hierarchy, and
    /// hierarchies of several controllers by all of them (`cpu,cpuacct`) too. None in v2.
    pub(crate) fn mount_points(&self, path: &str) -> BTreeMap<String, PathBuf> {
        let Self::V1(controllers) = self else { return BTreeMap::new() };
        let relative = path.trim_start_matches('/');
        let mut found = BTreeMap::new();
        for (controller, mount) in controllers {
            found.insert(controller.trim_start_matches("name=").to_owned(), mount.join(relative));
            if let Some(name) = mount.file_name() {
                found.insert(name.to_string_lossy().into_owned(), mount.join(relative));
            }
        }
        found
    }

    pub(crate) fn is_v2(&self) -> bool {
        matches!(self, Self::V2(_))
    }

    /// Removes the cgroup and those below it, ending what still runs there.
    pub(crate) fn remove(&self, path: &str) {
        for directory in self.directories(path) {
            remove_tree(&directory);
        }
    }
}

/// Controllers and mount points out of `/proc/self/mountinfo`, whole hierarchies only.
fn parse_mounts(mountinfo: &str) -> BTreeMap<String, PathBuf> {
    let mut found = BTreeMap::new();
    for line in mountinfo.lines() {
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let (left, right): (Vec<&str>, Vec<&str>) = (left.split(' ').collect(), right.split(' ').collect());
        let (Some(mount), [kind, _, options, ..]) = (left.get(4), right.as_slice()) else { continue };
        if *kind != "cgroup" || !mount.starts_with("/sys/fs/cgroup") {
            continue;
        }
        for option in options.split(',').filter(|option| !matches!(*option, "rw" | "ro" | "xattr")) {
            found.entry(option.to_owned()).or_insert_with(|| PathBuf::from(mount));
        }
    }
    found
}

/// Processes directly in one cgroup directory.
pub(crate) fn processes(directory: &Path) -> Vec<i32> {
    std::fs::read_to_string(directory.join("cgroup.procs"))
        .unwrap_or_default()
        .lines()
        .filter_map(|line| line.parse().ok())
        .collect()
}

/// How many processes of the cgroup the OOM killer has ended; 0 for directories without memory controller.
pub(crate) fn oom_kills(directory: &Path) -> u64 {
    ["memory.events", "memory.oom_control"]
        .iter()
        .filter_map(|file| read_keyed(&directory.join(file), "oom_kill"))
        .max()
        .unwrap_or(0)
}

/// The number behind `key` in a file of `KEY NUMBER` lines.
pub(crate) fn read_keyed(path: &Path, key: &str) -> Option<u64> {
    let text = std::fs::read_to_string(path).ok()?;
    text.lines().find_map(|line| match line.split_once(' ') {
        Some((name, value)) if name == key => value.trim().parse().ok(),
        _ => None,
    })
}

/// The number in a file that holds only that; `max` reads as none.
pub(crate) fn read_number(path: &Path) -> Option<u64> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn remove_tree(directory: &Path) {
    let Ok(entries) = std::fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path());
        }
    }
    // A killed process leaves its cgroup when it is reaped: a few milliseconds.
    for attempt in 0..50 {
        match std::fs::remove_dir(directory) {
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {}
            _ => return,
        }
        if attempt % 10 == 0 {
            for pid in processes(directory) {
                let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
            }
        }
        // No event says when a cgroup has become empty in every version; callers are off the async threads.
        #[allow(clippy::disallowed_methods)]
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_controllers_of_a_hybrid_machine() {
        let mountinfo = "30 25 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n\
            31 30 0:27 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:3 - cgroup cgroup rw,cpu,cpuacct\n\
            32 30 0:28 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n\
            33 30 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup rw\n\
            34 30 0:30 / /mnt/cg rw - cgroup cgroup rw,memory\n";
        let found = parse_mounts(mountinfo);
        let names: Vec<&str> = found.keys().map(String::as_str).collect();
        assert_eq!(names, ["cpu", "cpuacct", "name=systemd"]);
        let hierarchies = Hierarchies::V1(found);
        let directories = hierarchies.directories("/kubepods/x");
        assert_eq!(
            directories,
            [Path::new("/sys/fs/cgroup/cpu,cpuacct/kubepods/x"), Path::new("/sys/fs/cgroup/systemd/kubepods/x")]
        );
        let seen: Vec<String> = hierarchies.mount_points("/x").into_keys().collect();
        assert_eq!(seen, ["cpu", "cpu,cpuacct", "cpuacct", "systemd"]);
    }
}
