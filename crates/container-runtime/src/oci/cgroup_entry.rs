//! The cgroup of a new container: made, limited, and entered by the process that forks the container's first one.
//!
//! In v1 the process enters by itself (`0` into `tasks`). Everybody else's way, a process id into `cgroup.procs`, takes a lock against all
//! forks and exits of the machine, and with it waits for an RCU grace period: 10 to 20 ms (`cgroup_procs_write_start` in the kernel's
//! kernel/cgroup/cgroup.c spares a lone thread that moves itself). In v2, where one thread cannot leave the others' cgroup, libcontainer's way is taken.

use std::path::{Path, PathBuf};

use libcgroups::common::{CgroupConfig, CgroupManager, ControllerOpt};
use libcontainer::container::Container;
use oci_spec::runtime::LinuxResources;

use super::describe;
use crate::cgroup::Hierarchies;

/// What every container may do with devices, beside what the specification says: make any node, and use the standard ones, its console
/// and terminals, and TUN. The same list as libcontainer's.
const DEVICES: [&str; 12] = [
    "c 1:3 rwm",
    "c 1:5 rwm",
    "c 1:7 rwm",
    "c 5:0 rwm",
    "c 1:9 rwm",
    "c 1:8 rwm",
    "c *:* m",
    "b *:* m",
    "c 5:1 rwm",
    "c 136:* rwm",
    "c 5:2 rwm",
    "c 10:200 rwm",
];

/// How libcontainer names the cgroup.
pub(super) fn config(path: &Path, id: &str) -> CgroupConfig {
    CgroupConfig { cgroup_path: path.to_owned(), systemd_cgroup: false, container_name: id.to_owned() }
}

/// Makes the cgroup `path` with its limits and moves this process, which must have one thread, into it.
pub(super) fn create(path: &Path, id: &str, resources: Option<&LinuxResources>) -> Result<(), String> {
    let hierarchies = Hierarchies::detect().map_err(|error| format!("cgroups: {error}"))?;
    if hierarchies.is_v2() {
        return create_v2(path, id, resources);
    }
    let text = path.to_string_lossy();
    // Named hierarchies too, as runc does: tools know a process's container by them.
    let directories = hierarchies.directories(&text);
    for directory in &directories {
        std::fs::create_dir_all(directory).map_err(|error| format!("{}: {error}", directory.display()))?;
    }
    let directory = |controller: &str| hierarchies.directory(controller, &text);
    if let (Some(mount), Some(_)) = (hierarchies.directory("cpuset", "/"), directory("cpuset")) {
        inherit_cpuset(&mount, Path::new(text.trim_start_matches('/')))?;
    }
    if let Some(resources) = resources {
        limit(resources, directory)?;
    }
    move_in(&directories)
}

/// Moves this process, which must have one thread, into a cgroup that is there.
pub(super) fn enter(path: &Path, id: &str) -> Result<(), String> {
    let hierarchies = Hierarchies::detect().map_err(|error| format!("cgroups: {error}"))?;
    if hierarchies.is_v2() { create_v2(path, id, None) } else { move_in(&hierarchies.directories(&path.to_string_lossy())) }
}

fn move_in(directories: &[PathBuf]) -> Result<(), String> {
    directories.iter().try_for_each(|directory| write(directory.join("tasks"), "0"))
}

fn create_v2(path: &Path, id: &str, resources: Option<&LinuxResources>) -> Result<(), String> {
    let manager = libcgroups::common::create_cgroup_manager(config(path, id)).map_err(describe)?;
    // The only way to a process id of its own version of nix.
    let this = Container::default().set_pid(nix::unistd::Pid::this().as_raw()).pid().ok_or("no process id")?;
    manager.add_task(this).map_err(describe)?;
    let Some(resources) = resources else { return Ok(()) };
    let options = ControllerOpt { resources, freezer_state: None, oom_score_adj: None, disable_oom_killer: false };
    manager.apply(&options).map_err(describe)
}

/// A cpuset without processors or memory takes no process: those that have none get their parent's.
fn inherit_cpuset(mount: &Path, relative: &Path) -> Result<(), String> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let mut current = mount.to_owned();
        let mut inherited = read(current.join(file))?;
        for component in relative.components() {
            current.push(component);
            let own = read(current.join(file))?;
            if own.is_empty() {
                write(current.join(file), &inherited)?;
            } else {
                inherited = own;
            }
        }
    }
    Ok(())
}

/// Writes what `runtime/spec.rs` puts into the resources.
fn limit(resources: &LinuxResources, directory: impl Fn(&str) -> Option<PathBuf>) -> Result<(), String> {
    let set = |controller: &str, file: &str, value: Option<String>| match (value, directory(controller)) {
        (None, _) => Ok(()),
        (Some(value), Some(directory)) => write(directory.join(file), &value),
        (Some(_), None) => Err(format!("the {controller} controller is not mounted")),
    };
    if let Some(devices) = directory("devices") {
        for rule in resources.devices().iter().flatten() {
            write(devices.join(if rule.allow() { "devices.allow" } else { "devices.deny" }), &rule.to_string())?;
        }
        DEVICES.iter().try_for_each(|rule| write(devices.join("devices.allow"), rule))?;
    }
    if let Some(cpu) = resources.cpu() {
        set("cpu", "cpu.shares", cpu.shares().map(|shares| shares.to_string()))?;
        set("cpu", "cpu.cfs_period_us", cpu.period().map(|period| period.to_string()))?;
        set("cpu", "cpu.cfs_quota_us", cpu.quota().map(|quota| quota.to_string()))?;
        set("cpuset", "cpuset.cpus", cpu.cpus().clone())?;
        set("cpuset", "cpuset.mems", cpu.mems().clone())?;
    }
    if let Some(memory) = resources.memory() {
        // In this order: the limit with swap must never be below the one without.
        set("memory", "memory.limit_in_bytes", memory.limit().map(|limit| limit.to_string()))?;
        set("memory", "memory.memsw.limit_in_bytes", memory.swap().map(|limit| limit.to_string()))?;
    }
    for pages in resources.hugepage_limits().iter().flatten() {
        set("hugetlb", &format!("hugetlb.{}.limit_in_bytes", pages.page_size()), Some(pages.limit().to_string()))?;
    }
    Ok(())
}

fn read(file: PathBuf) -> Result<String, String> {
    let text = std::fs::read_to_string(&file).map_err(|error| format!("{}: {error}", file.display()))?;
    Ok(text.trim().to_owned())
}

fn write(file: PathBuf, text: &str) -> Result<(), String> {
    std::fs::write(&file, text).map_err(|error| format!("writing {text:?} to {}: {error}", file.display()))
}
