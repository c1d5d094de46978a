//! The cgroup hierarchy of the node's pods, as upstream's cgroupfs driver lays it out below the configured root:
//! `kubepods/pod<UID>` (Guaranteed), `kubepods/burstable/pod<UID>`, `kubepods/besteffort/pod<UID>`. cgroup v1 (all mounted controllers,
//! also in hybrid mode) and v2.

use std::io;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::Pod;

use crate::pod::access::PodAccess;
use crate::pod::qos::{self, Qos};
use crate::pod::resources::{self, CPU_PERIOD_US};

const MOUNT: &str = "/sys/fs/cgroup";
/// v1 hierarchies that pods are put into.
const CONTROLLERS: [&str; 8] = ["cpu", "cpuacct", "memory", "pids", "blkio", "devices", "freezer", "cpuset"];

#[derive(Debug, Clone, PartialEq, Eq)]
enum Layout {
    /// The unified hierarchy's mount point.
    V2(PathBuf),
    /// Each controller's mount point.
    V1(Vec<(String, PathBuf)>),
    /// No cgroups for pods.
    Off,
}

/// Makes and removes the cgroups of pods.
#[derive(Debug, Clone)]
pub(crate) struct Cgroups {
    layout: Layout,
    root: String,
}

impl Cgroups {
    /// Finds out which cgroups this machine has.
    pub(crate) fn detect(root: &str, enabled: bool) -> Self {
        let layout = if !enabled {
            Layout::Off
        } else if Path::new(MOUNT).join("cgroup.controllers").exists() {
            Layout::V2(PathBuf::from(MOUNT))
        } else {
            // Combined hierarchies (cpu,cpuacct) are reachable under each controller's own name.
            let found: Vec<_> = CONTROLLERS
                .iter()
                .map(|c| ((*c).to_owned(), Path::new(MOUNT).join(c)))
                .filter(|(_, path)| path.is_dir())
                .collect();
            if found.is_empty() { Layout::Off } else { Layout::V1(found) }
        };
        Self { layout, root: root.trim_end_matches('/').to_owned() }
    }

    pub(crate) fn is_v2(&self) -> bool {
        matches!(self.layout, Layout::V2(_))
    }

    /// The pod's cgroup, absolute in the hierarchy: the sandbox's `cgroup_parent`.
    pub(crate) fn parent(&self, pod: &Pod) -> String {
        let pod_name = format!("pod{}", pod.uid());
        match qos::class(pod) {
            Qos::Guaranteed => format!("{}/kubepods/{pod_name}", self.root),
            Qos::Burstable => format!("{}/kubepods/burstable/{pod_name}", self.root),
            Qos::BestEffort => format!("{}/kubepods/besteffort/{pod_name}", self.root),
        }
    }

    fn mounts(&self) -> Vec<(&str, &Path)> {
        match &self.layout {
            Layout::V2(path) => vec![("", path.as_path())],
            Layout::V1(mounts) => mounts.iter().map(|(name, path)| (name.as_str(), path.as_path())).collect(),
            Layout::Off => Vec::new(),
        }
    }

    /// Makes `kubepods` and the classes below it.
    pub(crate) fn ensure_classes(&self, machine_cpus: usize) -> io::Result<()> {
        for class in ["kubepods", "kubepods/burstable", "kubepods/besteffort"] {
            self.create(&format!("{}/{class}", self.root))?;
        }
        let all = i64::try_from(machine_cpus * 1000).unwrap_or(i64::MAX);
        self.set_shares(&format!("{}/kubepods", self.root), resources::shares(all));
        self.set_shares(&format!("{}/kubepods/besteffort", self.root), resources::shares(0));
        Ok(())
    }

    /// Makes the pod's cgroup with its limits; a no-op when it is there.
    pub(crate) fn ensure_pod(&self, pod: &Pod) -> io::Result<()> {
        let path = self.parent(pod);
        if self.mounts().iter().all(|(_, mount)| mount.join(path.trim_start_matches('/')).is_dir()) {
            return Ok(());
        }
        self.create(&path)?;
        self.set_limits(pod);
        Ok(())
    }

    /// Gives the pod's cgroup the limits that the pod has now.
    pub(crate) fn set_limits(&self, pod: &Pod) {
        self.limit(pod, false);
    }

    /// As [`Self::set_limits`], but takes no memory away: on cgroup v2 the kernel kills for that at once.
    pub(crate) fn grow_limits(&self, pod: &Pod) {
        self.limit(pod, true);
    }

    fn limit(&self, pod: &Pod, keeps_memory: bool) {
        let path = self.parent(pod);
        let totals = resources::pod_totals(pod);
        self.set_shares(&path, resources::shares(totals.cpu_request_milli));
        if let Some(limit) = totals.cpu_limit_milli.filter(|l| *l > 0) {
            self.set_quota(&path, resources::quota(limit));
        }
        let file = if self.is_v2() { "memory.max" } else { "memory.limit_in_bytes" };
        // No number means no limit, under which everything fits.
        let is_less = |limit: i64| {
            self.read(&path, "memory", file).and_then(|now| now.trim().parse().ok()).is_some_and(|now: i64| now < limit)
        };
        if let Some(limit) = totals.memory_limit_bytes.filter(|limit| *limit > 0)
            && (!keeps_memory || is_less(limit))
        {
            self.write(&path, "memory", file, &limit.to_string());
        }
    }

    /// Removes the pod's cgroup and what is left below it. Fails while a process is in it.
    pub(crate) fn remove_pod(&self, pod: &Pod) -> io::Result<()> {
        self.remove(&self.parent(pod))
    }

    /// Removes the cgroups of pods that are not in `alive`.
    pub(crate) fn remove_orphans(&self, alive: &dyn Fn(&str) -> bool) {
        for class in ["kubepods", "kubepods/burstable", "kubepods/besteffort"] {
            for (_, mount) in self.mounts() {
                let parent = format!("{}/{class}", self.root);
                let Ok(entries) = std::fs::read_dir(mount.join(parent.trim_start_matches('/'))) else { continue };
                for entry in entries.flatten() {
                    let name = entry.file_name();
                    let Some(uid) = name.to_str().and_then(|n| n.strip_prefix("pod")) else { continue };
                    if entry.file_type().is_ok_and(|t| t.is_dir()) && !alive(uid) {
                        let removed = remove_tree(&entry.path());
                        tracing::debug!(uid, removed = removed.is_ok(), "cgroup of a pod that is gone");
                    }
                }
            }
        }
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        for (_, mount) in self.mounts() {
            remove_tree(&mount.join(path.trim_start_matches('/')))?;
        }
        Ok(())
    }

    fn create(&self, path: &str) -> io::Result<()> {
        for (controller, mount) in self.mounts() {
            let mut current = mount.to_path_buf();
            for part in path.split('/').filter(|p| !p.is_empty()) {
                if controller.is_empty() {
                    enable_controllers(&current);
                }
                let parent = current.clone();
                current.push(part);
                match std::fs::create_dir(&current) {
                    Ok(()) if controller == "cpuset" => inherit_cpuset(&parent, &current),
                    Ok(()) => {}
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                    Err(error) => return Err(error),
                }
            }
            if controller.is_empty() {
                enable_controllers(&current);
            }
        }
        Ok(())
    }

    fn set_shares(&self, path: &str, shares: i64) {
        if self.is_v2() {
            self.write(path, "cpu", "cpu.weight", &weight(shares).to_string());
        } else {
            self.write(path, "cpu", "cpu.shares", &shares.to_string());
        }
    }

    fn set_quota(&self, path: &str, quota_us: i64) {
        if self.is_v2() {
            self.write(path, "cpu", "cpu.max", &format!("{quota_us} {CPU_PERIOD_US}"));
        } else {
            self.write(path, "cpu", "cpu.cfs_period_us", &CPU_PERIOD_US.to_string());
            self.write(path, "cpu", "cpu.cfs_quota_us", &quota_us.to_string());
        }
    }

    fn read(&self, path: &str, controller: &str, file: &str) -> Option<String> {
        let mut mounts = self.mounts().into_iter();
        let (_, mount) = mounts.find(|(name, _)| name.is_empty() || *name == controller)?;
        std::fs::read_to_string(mount.join(path.trim_start_matches('/')).join(file)).ok()
    }

    /// A limit that the kernel does not take (a controller that is missing) costs the limit, not the pod.
    fn write(&self, path: &str, controller: &str, file: &str, value: &str) {
        for (name, mount) in self.mounts() {
            if name.is_empty() || name == controller {
                let target = mount.join(path.trim_start_matches('/')).join(file);
                if let Err(error) = std::fs::write(&target, value) {
                    tracing::warn!(path = %target.display(), value, %error, "cgroup limit was not set");
                }
            }
        }
    }
}

/// cgroup v2's weight for v1's shares, the conversion of KEP-2254.
fn weight(shares: i64) -> i64 {
    if shares == 0 { 0 } else { 1 + (shares.clamp(2, 262_144) - 2) * 9_999 / 262_142 }
}

fn enable_controllers(path: &Path) {
    let Ok(available) = std::fs::read_to_string(path.join("cgroup.controllers")) else { return };
    for controller in available.split_whitespace() {
        // Some cannot be delegated (a cgroup with processes in it, realtime threads): each on its own.
        let _best_effort = std::fs::write(path.join("cgroup.subtree_control"), format!("+{controller}"));
    }
}

/// A new v1 cpuset is empty and takes no process until it has processors and memory nodes.
fn inherit_cpuset(parent: &Path, child: &Path) {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        if let Ok(value) = std::fs::read(parent.join(file)) {
            let _best_effort = std::fs::write(child.join(file), value);
        }
    }
}

fn remove_tree(path: &Path) -> io::Result<()> {
    let entries = match std::fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            remove_tree(&entry.path())?;
        }
    }
    match std::fs::remove_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_by_class() {
        let cgroups = Cgroups::detect("/rusternetes/", true);
        let pod = |resources: serde_json::Value| -> Pod {
            serde_json::from_value(
                serde_json::json!({"metadata": {"uid": "u"}, "spec": {"containers": [{"name": "c", "resources": resources}]}}),
            )
            .unwrap()
        };
        assert_eq!(cgroups.parent(&pod(serde_json::json!({}))), "/rusternetes/kubepods/besteffort/podu");
        assert_eq!(cgroups.parent(&pod(serde_json::json!({"requests": {"cpu": "1"}}))), "/rusternetes/kubepods/burstable/podu");
        assert_eq!(
            cgroups.parent(&pod(serde_json::json!({"limits": {"cpu": "1", "memory": "1Mi"}}))),
            "/rusternetes/kubepods/podu"
        );
    }

    #[test]
    fn memory_is_not_taken_away_before_it_may() {
        let directory = tempfile::tempdir().unwrap();
        let cgroups = Cgroups { layout: Layout::V2(directory.path().to_owned()), ..Cgroups::detect("/r", true) };
        let pod = |limit: &str| -> Pod {
            let container = serde_json::json!({"name": "c", "resources": {"limits": {"cpu": "1", "memory": limit}}});
            serde_json::from_value(serde_json::json!({"metadata": {"uid": "u"}, "spec": {"containers": [container]}})).unwrap()
        };
        let file = directory.path().join(cgroups.parent(&pod("1Mi")).trim_start_matches('/')).join("memory.max");
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(&file, "2097152\n").unwrap();
        let now = || std::fs::read_to_string(&file).unwrap().trim().to_owned();
        cgroups.grow_limits(&pod("1Mi"));
        assert_eq!(now(), "2097152", "it is still used");
        cgroups.set_limits(&pod("1Mi"));
        assert_eq!(now(), "1048576");
        cgroups.grow_limits(&pod("3Mi"));
        assert_eq!(now(), "3145728");
        std::fs::write(&file, "max\n").unwrap();
        cgroups.grow_limits(&pod("1Mi"));
        assert_eq!(now(), "max", "everything fits");
    }

    #[test]
    fn weights() {
        for (shares, expected) in [(2, 1), (1024, 39), (262_144, 10_000)] {
            assert_eq!(weight(shares), expected);
        }
    }
}
