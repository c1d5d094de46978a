//! Facts about this machine, read from the kernel: once at start ([`Machine`]), or at each look ([`Pressure`]).

use std::collections::BTreeMap;
use std::path::Path;

/// What does not change while the kubelet runs.
#[derive(Debug, Clone, Default)]
pub(crate) struct Machine {
    pub(crate) cpus: usize,
    pub(crate) memory_bytes: u64,
    /// Page size suffix (`2Mi`, `1Gi`) to bytes set aside in all.
    pub(crate) hugepages: BTreeMap<String, u64>,
    pub(crate) disk_bytes: u64,
    pub(crate) kernel_version: String,
    pub(crate) os_image: String,
    pub(crate) machine_id: String,
    pub(crate) system_uuid: String,
    pub(crate) boot_id: String,
    pub(crate) swap_bytes: u64,
}

/// How full the machine is now.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Pressure {
    pub(crate) memory_available_bytes: u64,
    pub(crate) disk_bytes: u64,
    pub(crate) disk_available_bytes: u64,
    pub(crate) inodes: u64,
    pub(crate) inodes_free: u64,
    pub(crate) pids_max: u64,
    pub(crate) pids: u64,
}

fn text(path: &str) -> String {
    std::fs::read_to_string(path).map(|s| s.trim().to_owned()).unwrap_or_default()
}

fn meminfo(key: &str) -> u64 {
    let Ok(info) = std::fs::read_to_string("/proc/meminfo") else { return 0 };
    let line = info.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok()).map_or(0, |kib| kib * 1024)
}

fn hugepages() -> BTreeMap<String, u64> {
    let mut sizes = BTreeMap::new();
    let Ok(entries) = std::fs::read_dir("/sys/kernel/mm/hugepages") else { return sizes };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(kib) = name.to_str().and_then(|n| n.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse::<u64>().ok()) else {
            continue;
        };
        let count: u64 = text(&entry.path().join("nr_hugepages").to_string_lossy()).parse().unwrap_or(0);
        sizes.insert(crate::quantity::bytes(kib * 1024).0, count * kib * 1024);
    }
    sizes
}

fn os_image() -> String {
    let release =
        ["/etc/os-release", "/usr/lib/os-release"].iter().find_map(|path| std::fs::read_to_string(path).ok()).unwrap_or_default();
    let pretty = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    pretty.map_or_else(|| "Unknown".to_owned(), |value| value.trim_matches('"').to_owned())
}

impl Machine {
    /// Reads the facts; what the kernel does not tell stays empty.
    pub(crate) fn read(root_dir: &Path) -> Self {
        let pressure = Pressure::read(root_dir);
        let kernel_version = nix::sys::utsname::uname().map(|u| u.release().to_string_lossy().into_owned()).unwrap_or_default();
        let machine_id = text("/etc/machine-id");
        let system_uuid =
            Some(text("/sys/class/dmi/id/product_uuid")).filter(|uuid| !uuid.is_empty()).unwrap_or_else(|| machine_id.clone());
        Self {
            cpus: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            memory_bytes: meminfo("MemTotal"),
            hugepages: hugepages(),
            disk_bytes: pressure.disk_bytes,
            kernel_version,
            os_image: os_image(),
            machine_id,
            system_uuid,
            boot_id: text("/proc/sys/kernel/random/boot_id"),
            swap_bytes: meminfo("SwapTotal"),
        }
    }
}

impl Pressure {
    /// Looks at memory, the file system of `root_dir`, and process ids.
    pub(crate) fn read(root_dir: &Path) -> Self {
        let mut pressure = Self {
            memory_available_bytes: meminfo("MemAvailable"),
            pids_max: text("/proc/sys/kernel/pid_max").parse().unwrap_or(u64::MAX),
            // "0.00 0.00 0.00 1/123 4567": the number behind the slash is all scheduling entities.
            pids: text("/proc/loadavg").split_whitespace().nth(3).and_then(|f| f.split('/').nth(1)?.parse().ok()).unwrap_or(0),
            ..Self::default()
        };
        if let Ok(stat) = nix::sys::statvfs::statvfs(root_dir) {
            let block = stat.fragment_size();
            // As df counts: blocks that only root may take are no capacity.
            pressure.disk_bytes = (stat.blocks() - stat.blocks_free() + stat.blocks_available()) * block;
            pressure.disk_available_bytes = stat.blocks_available() * block;
            pressure.inodes = stat.files();
            pressure.inodes_free = stat.files_available();
        }
        pressure
    }
}

/// Go's name of this machine's architecture, as `nodeInfo.architecture` and `kubernetes.io/arch` carry it.
pub(crate) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "arm" => "arm",
        "powerpc64" => "ppc64le",
        "x86" => "386",
        other => other,
    }
}
