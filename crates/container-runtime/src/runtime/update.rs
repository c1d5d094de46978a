//! `UpdateContainerResources`: limits of a running container, written straight into its cgroup.

use std::path::{Path, PathBuf};

use cri::Status;
use cri::v1::{LinuxContainerResources, UpdateContainerResourcesRequest};

use super::records::Phase;
use super::{Inner, blocking, io_status};
use crate::cgroup::{Hierarchies, read_number};

impl Inner {
    pub(super) async fn update_resources(&self, request: UpdateContainerResourcesRequest) -> Result<(), Status> {
        let Some(wanted) = request.linux else { return Ok(()) };
        let container = self.container(&request.container_id)?;
        let _operation = container.operation.lock().await;
        let record = container.snapshot();
        match container.phase() {
            Phase::Running { .. } => {}
            _ => return Err(Status::failed_precondition(format!("container {} is not running", record.id))),
        }
        let (hierarchies, cgroup, resources) = (self.hierarchies.clone(), record.cgroup.clone(), wanted.clone());
        blocking(move || apply(&hierarchies, &cgroup, &resources).map_err(Status::unknown)).await?;
        let (_, saved) = container.update(&self.container_file(&record.id), |record| {
            let linux = record.config.0.linux.get_or_insert_default();
            merge(linux.resources.get_or_insert_default(), &wanted);
        });
        saved.map_err(io_status("container record"))
    }
}

/// Numbers that are 0 and texts that are empty mean "as before".
fn merge(current: &mut LinuxContainerResources, wanted: &LinuxContainerResources) {
    let number = |current: &mut i64, wanted: i64| {
        if wanted != 0 {
            *current = wanted;
        }
    };
    number(&mut current.cpu_period, wanted.cpu_period);
    number(&mut current.cpu_quota, wanted.cpu_quota);
    number(&mut current.cpu_shares, wanted.cpu_shares);
    number(&mut current.memory_limit_in_bytes, wanted.memory_limit_in_bytes);
    number(&mut current.memory_swap_limit_in_bytes, wanted.memory_swap_limit_in_bytes);
    number(&mut current.oom_score_adj, wanted.oom_score_adj);
    for (current, wanted) in [(&mut current.cpuset_cpus, &wanted.cpuset_cpus), (&mut current.cpuset_mems, &wanted.cpuset_mems)] {
        if !wanted.is_empty() {
            current.clone_from(wanted);
        }
    }
    current.unified.extend(wanted.unified.clone());
}

fn apply(hierarchies: &Hierarchies, cgroup: &str, wanted: &LinuxContainerResources) -> Result<(), String> {
    let directory = |controller: &str| {
        hierarchies.directory(controller, cgroup).ok_or_else(|| format!("the {controller} controller is not mounted"))
    };
    if hierarchies.is_v2() {
        return directory("unified").and_then(|directory| apply_v2(&directory, wanted));
    }
    for (file, number) in
        [("cpu.shares", wanted.cpu_shares), ("cpu.cfs_period_us", wanted.cpu_period), ("cpu.cfs_quota_us", wanted.cpu_quota)]
    {
        if number != 0 {
            write(directory("cpu")?.join(file), &number.to_string())?;
        }
    }
    for (file, text) in [("cpuset.cpus", &wanted.cpuset_cpus), ("cpuset.mems", &wanted.cpuset_mems)] {
        if !text.is_empty() {
            write(directory("cpuset")?.join(file), text)?;
        }
    }
    apply_memory_v1(&directory("memory")?, wanted)
}

/// The limit with swap must never be below the one without: which goes first depends on the direction.
fn apply_memory_v1(directory: &Path, wanted: &LinuxContainerResources) -> Result<(), String> {
    let (plain, with_swap) = (directory.join("memory.limit_in_bytes"), directory.join("memory.memsw.limit_in_bytes"));
    let limit = wanted.memory_limit_in_bytes;
    let swap = if with_swap.exists() { wanted.memory_swap_limit_in_bytes } else { 0 };
    let mut writes = Vec::new();
    if limit != 0 {
        writes.push((plain.clone(), limit));
    }
    if swap != 0 {
        writes.push((with_swap, swap));
    }
    let current = read_number(&plain).unwrap_or(u64::MAX);
    if limit < 0 || u64::try_from(limit).is_ok_and(|limit| limit > current) {
        writes.reverse();
    }
    writes.into_iter().try_for_each(|(file, number)| write(file, &number.to_string()))
}

fn apply_v2(directory: &Path, wanted: &LinuxContainerResources) -> Result<(), String> {
    if wanted.cpu_shares != 0 {
        write(directory.join("cpu.weight"), &weight(wanted.cpu_shares).to_string())?;
    }
    if wanted.cpu_quota != 0 || wanted.cpu_period != 0 {
        let quota = if wanted.cpu_quota > 0 { wanted.cpu_quota.to_string() } else { "max".to_owned() };
        let period = if wanted.cpu_period > 0 { wanted.cpu_period } else { 100_000 };
        write(directory.join("cpu.max"), &format!("{quota} {period}"))?;
    }
    let limit = |number: i64| if number < 0 { "max".to_owned() } else { number.to_string() };
    if wanted.memory_limit_in_bytes != 0 {
        write(directory.join("memory.max"), &limit(wanted.memory_limit_in_bytes))?;
    }
    if wanted.memory_swap_limit_in_bytes != 0 && directory.join("memory.swap.max").exists() {
        // v2 counts swap alone, the CRI counts both together.
        let swap = match (wanted.memory_swap_limit_in_bytes, wanted.memory_limit_in_bytes) {
            (swap, _) if swap < 0 => swap,
            (swap, memory) => (swap - memory.max(0)).max(0),
        };
        write(directory.join("memory.swap.max"), &limit(swap))?;
    }
    for (file, text) in [("cpuset.cpus", &wanted.cpuset_cpus), ("cpuset.mems", &wanted.cpuset_mems)] {
        if !text.is_empty() {
            write(directory.join(file), text)?;
        }
    }
    for (file, text) in &wanted.unified {
        if file.contains('/') || file.starts_with('.') {
            return Err(format!("unified resource {file:?}: invalid name"));
        }
        write(directory.join(file), text)?;
    }
    Ok(())
}

/// `cpu.weight` (1 to 10000) for v1 shares (2 to 262144): the conversion of KEP-2254.
fn weight(shares: i64) -> i64 {
    1 + ((shares.clamp(2, 262_144) - 2) * 9999) / 262_142
}

fn write(file: PathBuf, text: &str) -> Result<(), String> {
    std::fs::write(&file, text).map_err(|error| format!("writing {text:?} to {}: {error}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_become_weights() {
        for (shares, expected) in [(0, 1), (2, 1), (1024, 39), (262_144, 10_000)] {
            assert_eq!(weight(shares), expected, "{shares}");
        }
    }

    #[test]
    fn only_what_is_given_changes() {
        let mut current = LinuxContainerResources {
            cpu_shares: 100,
            memory_limit_in_bytes: 7,
            cpuset_cpus: "0".to_owned(),
            ..Default::default()
        };
        merge(&mut current, &LinuxContainerResources { cpu_shares: 200, ..Default::default() });
        assert_eq!((current.cpu_shares, current.memory_limit_in_bytes, current.cpuset_cpus.as_str()), (200, 7, "0"));
    }
}
