//! What containers and sandboxes use: read from their cgroups when somebody asks, never in the background.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use cri::{Status, v1};

use super::records::{Container, ContainerRecord, Phase};
use super::sandbox::matches_labels;
use super::{Inner, blocking};
use crate::cgroup::{Hierarchies, processes, read_keyed, read_number};
use crate::clock;

/// Between two samples there must be so much time for a rate to mean anything.
const RATE_INTERVAL_MIN: i64 = 100_000_000;

/// CPU time at a moment, for the rate between two questions.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CpuSample {
    at: i64,
    usage: u64,
    /// The rate found at the last two samples that were far enough apart.
    rate: Option<u64>,
}

fn value(value: u64) -> Option<v1::UInt64Value> {
    Some(v1::UInt64Value { value })
}

impl Inner {
    pub(super) async fn container_stats(&self, id: &str) -> Result<v1::ContainerStats, Status> {
        let container = self.container(id)?;
        self.stats_of(vec![container]).await?.pop().ok_or_else(|| Status::internal("no statistics"))
    }

    pub(super) async fn list_container_stats(&self, filter: v1::ContainerStatsFilter) -> Result<Vec<v1::ContainerStats>, Status> {
        let containers: Vec<Arc<Container>> = {
            let containers = self.containers.read();
            let matching = containers.values().filter(|container| {
                let record = container.record.lock();
                (filter.id.is_empty() || record.id.starts_with(&filter.id))
                    && (filter.pod_sandbox_id.is_empty() || record.sandbox_id.starts_with(&filter.pod_sandbox_id))
                    && matches_labels(&record.config.0.labels, &filter.label_selector)
            });
            matching.filter(|container| matches!(container.phase(), Phase::Running { .. })).cloned().collect()
        };
        self.stats_of(containers).await
    }

    async fn stats_of(&self, containers: Vec<Arc<Container>>) -> Result<Vec<v1::ContainerStats>, Status> {
        let this = self.this.upgrade().ok_or_else(|| Status::unavailable("the runtime is closing"))?;
        blocking(move || Ok(containers.iter().map(|container| this.read_container(container)).collect())).await
    }

    /// Blocking.
    fn read_container(&self, container: &Container) -> v1::ContainerStats {
        let record = container.snapshot();
        let running = matches!(container.phase(), Phase::Running { .. });
        let limit = record
            .config
            .0
            .linux
            .as_ref()
            .and_then(|linux| linux.resources.as_ref())
            .map_or(0, |resources| resources.memory_limit_in_bytes);
        let reader = Reader { hierarchies: &self.hierarchies, path: &record.cgroup };
        let cpu = if running { reader.cpu_nanoseconds().map(|usage| self.cpu_usage(&record.id, usage)) } else { None };
        v1::ContainerStats {
            cpu,
            memory: if running { reader.memory(u64::try_from(limit).unwrap_or(0)) } else { None },
            swap: if running { reader.swap() } else { None },
            writable_layer: Some(self.writable_layer(&record)),
            io: None,
            attributes: Some(v1::ContainerAttributes {
                id: record.id,
                metadata: record.config.0.metadata,
                labels: record.config.0.labels,
                annotations: record.config.0.annotations,
            }),
        }
    }

    fn cpu_usage(&self, key: &str, usage: u64) -> v1::CpuUsage {
        let now = clock::nanoseconds();
        let mut samples = self.cpu_samples.lock();
        let previous = samples.get(key).copied();
        let sample = match previous {
            Some(previous) if now - previous.at < RATE_INTERVAL_MIN => previous,
            Some(previous) => {
                let elapsed = (now - previous.at) as u128;
                let rate = u128::from(usage.saturating_sub(previous.usage)) * 1_000_000_000 / elapsed;
                CpuSample { at: now, usage, rate: u64::try_from(rate).ok() }
            }
            None => CpuSample { at: now, usage, rate: None },
        };
        samples.insert(key.to_owned(), sample);
        v1::CpuUsage {
            timestamp: now,
            usage_core_nano_seconds: value(usage),
            usage_nano_cores: sample.rate.and_then(value),
            psi: None,
        }
    }

    /// Blocking: walks the changed files.
    fn writable_layer(&self, record: &ContainerRecord) -> v1::FilesystemUsage {
        let (bytes, inodes) = disk_usage(&self.layout.container(&record.id).join("upper"));
        v1::FilesystemUsage {
            timestamp: clock::nanoseconds(),
            fs_id: Some(v1::FilesystemIdentifier { mountpoint: self.images.store.root().display().to_string() }),
            used_bytes: value(bytes),
            inodes_used: value(inodes),
        }
    }

    pub(super) async fn sandbox_stats(&self, id: &str) -> Result<v1::PodSandboxStats, Status> {
        let sandbox = self.sandbox(id)?.snapshot();
        let containers = self.containers_of(&sandbox.id);
        let pid = containers.iter().find_map(|container| match container.phase() {
            Phase::Running { pid } => Some(pid),
            _ => None,
        });
        let running = containers.into_iter().filter(|container| matches!(container.phase(), Phase::Running { .. })).collect();
        let container_stats = self.stats_of(running).await?;
        let reader = Reader { hierarchies: &self.hierarchies, path: &sandbox.cgroup_parent };
        Ok(v1::PodSandboxStats {
            linux: Some(v1::LinuxPodSandboxStats {
                cpu: reader.cpu_nanoseconds().map(|usage| self.cpu_usage(&sandbox.id, usage)),
                memory: reader.memory(0),
                network: pid.and_then(network),
                process: reader.process_count(&container_stats),
                containers: container_stats,
                io: None,
            }),
            windows: None,
            attributes: Some(v1::PodSandboxAttributes {
                id: sandbox.id,
                metadata: sandbox.config.0.metadata,
                labels: sandbox.config.0.labels,
                annotations: sandbox.config.0.annotations,
            }),
        })
    }

    pub(super) async fn list_sandbox_stats(
        &self,
        filter: &v1::PodSandboxStatsFilter,
    ) -> Result<Vec<v1::PodSandboxStats>, Status> {
        let ids: Vec<String> = {
            let sandboxes = self.sandboxes.read();
            let records = sandboxes.values().map(|sandbox| sandbox.snapshot()).filter(|record| {
                record.ready
                    && (filter.id.is_empty() || record.id.starts_with(&filter.id))
                    && matches_labels(&record.config.0.labels, &filter.label_selector)
            });
            records.map(|record| record.id).collect()
        };
        let mut list = Vec::with_capacity(ids.len());
        for id in ids {
            // One that was removed meanwhile is no error.
            list.extend(self.sandbox_stats(&id).await.ok());
        }
        Ok(list)
    }

    /// Forgets the samples of what is removed.
    pub(super) fn forget_samples(&self, id: &str) {
        self.cpu_samples.lock().remove(id);
    }
}

/// Reads one cgroup.
struct Reader<'a> {
    hierarchies: &'a Hierarchies,
    path: &'a str,
}

impl Reader<'_> {
    fn file(&self, controller: &str, name: &str) -> Option<PathBuf> {
        Some(self.hierarchies.directory(controller, self.path)?.join(name))
    }

    fn cpu_nanoseconds(&self) -> Option<u64> {
        if self.hierarchies.is_v2() {
            return read_keyed(&self.file("cpu", "cpu.stat")?, "usage_usec").map(|microseconds| microseconds * 1000);
        }
        read_number(&self.file("cpuacct", "cpuacct.usage")?)
    }

    /// `limit` 0: none.
    fn memory(&self, limit: u64) -> Option<v1::MemoryUsage> {
        let v2 = self.hierarchies.is_v2();
        let pick = |v1: &'static str, unified: &'static str| if v2 { unified } else { v1 };
        let usage = read_number(&self.file("memory", pick("memory.usage_in_bytes", "memory.current"))?)?;
        let stat = self.file("memory", "memory.stat")?;
        let keyed = |v1, unified| read_keyed(&stat, pick(v1, unified));
        // The kubelet's definition: what cannot be dropped at once.
        let working_set = usage.saturating_sub(keyed("total_inactive_file", "inactive_file").unwrap_or(0));
        Some(v1::MemoryUsage {
            timestamp: clock::nanoseconds(),
            working_set_bytes: value(working_set),
            available_bytes: if limit > 0 { value(limit.saturating_sub(working_set)) } else { None },
            usage_bytes: value(usage),
            rss_bytes: keyed("total_rss", "anon").and_then(value),
            page_faults: keyed("total_pgfault", "pgfault").and_then(value),
            major_page_faults: keyed("total_pgmajfault", "pgmajfault").and_then(value),
            psi: None,
        })
    }

    fn swap(&self) -> Option<v1::SwapUsage> {
        let used = if self.hierarchies.is_v2() {
            read_number(&self.file("memory", "memory.swap.current")?)?
        } else {
            let both = read_number(&self.file("memory", "memory.memsw.usage_in_bytes")?)?;
            both.saturating_sub(read_number(&self.file("memory", "memory.usage_in_bytes")?)?)
        };
        Some(v1::SwapUsage { timestamp: clock::nanoseconds(), swap_available_bytes: None, swap_usage_bytes: value(used) })
    }

    fn process_count(&self, containers: &[v1::ContainerStats]) -> Option<v1::ProcessUsage> {
        let directory = self.hierarchies.directory("memory", self.path)?;
        let ids = containers.iter().filter_map(|stats| stats.attributes.as_ref()).map(|attributes| attributes.id.as_str());
        let count: usize = ids.map(|id| processes(&directory.join(id)).len()).sum();
        Some(v1::ProcessUsage { timestamp: clock::nanoseconds(), process_count: value(count as u64) })
    }
}

/// The interfaces that a process sees, except loopback.
fn network(pid: i32) -> Option<v1::NetworkUsage> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/net/dev")).ok()?;
    let interfaces: Vec<v1::NetworkInterfaceUsage> = text.lines().filter_map(parse_interface).collect();
    Some(v1::NetworkUsage {
        timestamp: clock::nanoseconds(),
        default_interface: interfaces.iter().find(|interface| interface.name == "eth0").or(interfaces.first()).cloned(),
        interfaces,
    })
}

/// A line of `/proc/net/dev`: eight numbers received, eight transmitted.
fn parse_interface(line: &str) -> Option<v1::NetworkInterfaceUsage> {
    let (name, numbers) = line.split_once(':')?;
    let numbers: Vec<u64> = numbers.split_whitespace().filter_map(|number| number.parse().ok()).collect();
    let name = name.trim();
    if name == "lo" || numbers.len() < 16 {
        return None;
    }
    Some(v1::NetworkInterfaceUsage {
        name: name.to_owned(),
        rx_bytes: value(numbers[0]),
        rx_errors: value(numbers[2]),
        tx_bytes: value(numbers[8]),
        tx_errors: value(numbers[10]),
    })
}

/// Bytes and inodes of a directory tree.
fn disk_usage(directory: &Path) -> (u64, u64) {
    use std::os::unix::fs::MetadataExt;
    let (mut bytes, mut inodes) = (0, 0);
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let Ok(metadata) = entry.metadata() else { continue };
        inodes += 1;
        bytes += metadata.blocks() * 512;
        if metadata.is_dir() {
            let below = disk_usage(&entry.path());
            bytes += below.0;
            inodes += below.1;
        }
    }
    (bytes, inodes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interfaces_of_proc_net_dev() {
        let check = |line: &str, expected: Option<(&str, u64, u64)>| {
            let found = parse_interface(line);
            let numbers = |usage: &v1::NetworkInterfaceUsage| {
                (usage.rx_bytes.map_or(0, |rx| rx.value), usage.tx_bytes.map_or(0, |tx| tx.value))
            };
            assert_eq!(found.as_ref().map(|usage| (usage.name.as_str(), numbers(usage).0, numbers(usage).1)), expected, "{line}");
        };
        check("  eth0: 100 2 0 0 0 0 0 0 700 8 0 0 0 0 0 0", Some(("eth0", 100, 700)));
        check("    lo: 100 2 0 0 0 0 0 0 700 8 0 0 0 0 0 0", None);
        check("Inter-|   Receive  |  Transmit", None);
    }
}
