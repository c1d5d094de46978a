//! runc and crun with a bundle: an unpacked root file system and a `config.json`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use crate::containerd::{self, PAUSE};
use crate::runtime::{Times, succeed};
use crate::{cgroups, peers};

/// How long a killed container may take to end.
const END_MAX: Duration = Duration::from_secs(10);
/// What CRI runtimes give a container that asks for nothing.
const CAPABILITIES: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

/// A bundle and who runs it.
pub(crate) struct Bundle {
    runtime: PathBuf,
    directory: PathBuf,
}

impl Bundle {
    /// Makes the bundle.
    pub(crate) fn new(runtime: &str, directory: &Path) -> anyhow::Result<Self> {
        let runtime = peers::of_debian(runtime, runtime)?;
        let directory = directory.join("bundle");
        let rootfs = directory.join("rootfs");
        for name in ["bin", "dev", "etc", "proc", "sys", "tmp"] {
            std::fs::create_dir_all(rootfs.join(name))?;
        }
        std::fs::copy(containerd::pause()?, rootfs.join(PAUSE.trim_start_matches('/')))?;
        Ok(Self { runtime, directory })
    }

    /// Runs containers one after the other.
    pub(crate) fn run(&self, containers: usize) -> anyhow::Result<Times> {
        let all = || {
            if self.runtime.ends_with("crun") {
                cgroups::without_v2()?;
            }
            let mut times = Times::default();
            for number in 0..containers {
                self.one(&format!("bench-{}-{number}", std::process::id()), &mut times)?;
            }
            Ok(times)
        };
        // A thread of its own may leave the mount namespace of the others.
        let times = std::thread::scope(|scope| scope.spawn(all).join());
        cgroups::remove(&cgroups::own_name());
        times.map_err(|_| anyhow::anyhow!("the run of containers panicked"))?
    }

    fn one(&self, id: &str, times: &mut Times) -> anyhow::Result<()> {
        std::fs::write(self.directory.join("config.json"), specification(id).to_string())?;
        let pid_file = self.directory.join("pid");
        let command = |verb: &str| {
            let mut command = Command::new(&self.runtime);
            command.arg("--root").arg(self.directory.join("state")).arg(verb);
            command
        };
        let begun = Instant::now();
        succeed(command("create").arg("--bundle").arg(&self.directory).arg("--pid-file").arg(&pid_file).arg(id))?;
        times.add("create", begun.elapsed());
        let pid: u32 = std::fs::read_to_string(&pid_file)?.trim().parse().context("no number in the file of the process")?;
        let started = Instant::now();
        succeed(command("start").arg(id))?;
        times.add("start", started.elapsed());
        times.add("create and start", begun.elapsed());
        let started = Instant::now();
        succeed(command("kill").arg(id).arg("KILL"))?;
        while lives(pid) {
            ensure!(started.elapsed() < END_MAX, "container {id} does not end");
            std::thread::yield_now();
        }
        times.add("kill", started.elapsed());
        let started = Instant::now();
        succeed(command("delete").arg(id))?;
        times.add("delete", started.elapsed());
        times.add_whole(begun.elapsed());
        Ok(())
    }
}

/// Whether the process is there and no zombie.
fn lives(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
}

/// What a CRI runtime asks of runc for a container in the host's network.
fn specification(id: &str) -> Value {
    let mount = |destination: &str, kind: &str, options: &[&str]| json!({"destination": destination, "type": kind, "source": kind, "options": options});
    let capabilities: Value = CAPABILITIES.to_vec().into();
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": 0, "gid": 0}, "args": [PAUSE], "env": ["PATH=/bin"], "cwd": "/", "noNewPrivileges": false,
            "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
        },
        "root": {"path": "rootfs"},
        "mounts": [
            mount("/proc", "proc", &["nosuid", "noexec", "nodev"]),
            mount("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
            mount("/dev/pts", "devpts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
            mount("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
            mount("/dev/shm", "tmpfs", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
            mount("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
            mount("/sys/fs/cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", "ro"]),
        ],
        "linux": {
            "cgroupsPath": format!("/{}/{id}", cgroups::own_name()),
            "namespaces": [{"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}],
            "maskedPaths": ["/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
                "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware"],
            "readonlyPaths": ["/proc/asound", "/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
            "resources": {"cpu": {"shares": 2}},
        },
    })
}
