//! The OCI runtime specification of a container, out of its CRI configuration and its image's.
//! <https://github.com/opencontainers/runtime-spec/blob/main/config.md>

use std::collections::BTreeMap;
use std::path::Path;

use cri::v1::{
    ContainerConfig, LinuxContainerResources, LinuxContainerSecurityContext, MountPropagation, NamespaceMode, PodSandboxConfig,
};
use serde_json::{Value, json};

use super::records::UserRecord;
use crate::cgroup::Hierarchies;
use crate::images::ProcessConfig;
use crate::oci::{Privileges, Propagation};

const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Where a container sees its cgroup.
const CGROUPS: &str = "/sys/fs/cgroup";

/// What a specification is made of.
pub(crate) struct Inputs<'a> {
    pub(crate) config: &'a ContainerConfig,
    pub(crate) sandbox: &'a PodSandboxConfig,
    pub(crate) image: &'a ProcessConfig,
    pub(crate) user: &'a UserRecord,
    pub(crate) capabilities: (Vec<String>, Vec<String>),
    pub(crate) rootfs: &'a Path,
    /// Directory with the sandbox's pinned namespaces and files.
    pub(crate) sandbox_run: &'a Path,
    pub(crate) cgroup: &'a str,
    pub(crate) hierarchies: &'a Hierarchies,
    /// First process of the container whose PID namespace is shared (`TARGET`).
    pub(crate) target_pid: Option<i32>,
}

impl Inputs<'_> {
    fn context(&self) -> LinuxContainerSecurityContext {
        self.config.linux.as_ref().and_then(|linux| linux.security_context.clone()).unwrap_or_default()
    }

    /// Whether the configuration mounts something of its own where the container's cgroup would be.
    fn brings_cgroups(&self) -> bool {
        self.config.mounts.iter().any(|mount| Path::new(CGROUPS).starts_with(&mount.container_path))
    }
}

/// The command of a container: the configuration's, or the image's where that says nothing.
pub(crate) fn command(config: &ContainerConfig, image: &ProcessConfig) -> Vec<String> {
    let mut command = config.command.clone();
    let mut arguments = config.args.clone();
    if command.is_empty() {
        command.clone_from(&image.entrypoint);
        if arguments.is_empty() {
            arguments.clone_from(&image.cmd);
        }
    }
    command.extend(arguments);
    command
}

/// The environment: the image's, overridden by the configuration's; later values of a name win.
pub(crate) fn environment(inputs: &Inputs<'_>) -> Vec<String> {
    let mut entries: Vec<(String, String)> = Vec::new();
    let mut set = |name: &str, value: &str| {
        // Neither can be passed on by execve.
        if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
            return;
        }
        match entries.iter_mut().find(|(existing, _)| existing == name) {
            Some(entry) => entry.1 = value.to_owned(),
            None => entries.push((name.to_owned(), value.to_owned())),
        }
    };
    let (path, value) = DEFAULT_PATH.split_once('=').unwrap_or_default();
    set(path, value);
    if inputs.config.tty {
        set("TERM", "xterm");
    }
    set("HOSTNAME", &inputs.sandbox.hostname);
    for entry in &inputs.image.env {
        if let Some((name, value)) = entry.split_once('=') {
            set(name, value);
        }
    }
    for entry in &inputs.config.envs {
        set(&entry.key, &entry.value);
    }
    entries.into_iter().map(|(name, value)| format!("{name}={value}")).collect()
}

/// The working directory.
pub(crate) fn working_directory(config: &ContainerConfig, image: &ProcessConfig) -> String {
    [&config.working_dir, &image.working_dir]
        .into_iter()
        .find(|directory| directory.starts_with('/'))
        .map_or_else(|| "/".to_owned(), Clone::clone)
}

/// `process` of the specification; the same for the container's first process and for those that join it.
pub(crate) fn process(inputs: &Inputs<'_>, arguments: Vec<String>, terminal: bool) -> Value {
    json!({
        "terminal": terminal,
        "user": { "uid": inputs.user.uid, "gid": inputs.user.gid, "additionalGids": inputs.user.groups },
        "args": arguments,
        "env": environment(inputs),
        "cwd": working_directory(inputs.config, inputs.image),
        "noNewPrivileges": inputs.context().no_new_privs,
    })
}

/// The whole specification.
pub(crate) fn spec(inputs: &Inputs<'_>) -> Result<Value, String> {
    let context = inputs.context();
    let arguments = command(inputs.config, inputs.image);
    if arguments.is_empty() {
        return Err("no command specified".to_owned());
    }
    let bidirectional =
        inputs.config.mounts.iter().any(|mount| mount.propagation() == MountPropagation::PropagationBidirectional);
    let mut linux = json!({
        "namespaces": namespaces(inputs, &context)?,
        "cgroupsPath": inputs.cgroup,
        "resources": resources(inputs, &context),
        "rootfsPropagation": if bidirectional { "shared" } else { "slave" },
        "devices": devices(inputs, &context)?,
    });
    if !context.privileged {
        linux["maskedPaths"] = json!(context.masked_paths);
        // The tmpfs above the hierarchies of v1.
        let cgroups = (!inputs.hierarchies.is_v2() && !inputs.brings_cgroups()).then(|| CGROUPS.to_owned());
        linux["readonlyPaths"] = json!(context.readonly_paths.iter().cloned().chain(cgroups).collect::<Vec<_>>());
    }
    Ok(json!({
        "ociVersion": "1.2.0",
        "root": { "path": inputs.rootfs, "readonly": context.readonly_rootfs },
        "process": process(inputs, arguments, inputs.config.tty),
        "mounts": mounts(inputs, &context),
        "linux": linux,
    }))
}

/// What our executor applies.
pub(crate) fn privileges(inputs: &Inputs<'_>) -> Result<Privileges, String> {
    use cri::v1::security_profile::ProfileType;
    let context = inputs.context();
    let seccomp_default = match &context.seccomp {
        Some(profile) if !context.privileged => match profile.profile_type() {
            ProfileType::RuntimeDefault => true,
            ProfileType::Unconfined => false,
            ProfileType::Localhost => {
                return Err(format!("seccomp profile {:?}: localhost profiles are not implemented", profile.localhost_ref));
            }
        },
        _ => false,
    };
    let propagation = |mount: &cri::v1::Mount| match mount.propagation() {
        MountPropagation::PropagationPrivate => Propagation::Private,
        MountPropagation::PropagationHostToContainer => Propagation::Slave,
        MountPropagation::PropagationBidirectional => Propagation::Shared,
    };
    let resources = inputs.config.linux.as_ref().and_then(|linux| linux.resources.as_ref());
    Ok(Privileges {
        capabilities: inputs.capabilities.0.clone(),
        ambient: inputs.capabilities.1.clone(),
        seccomp_default,
        oom_score_adj: resources.map(|resources| resources.oom_score_adj),
        propagation: inputs.config.mounts.iter().map(|mount| (mount.container_path.clone(), propagation(mount))).collect(),
    })
}

fn namespaces(inputs: &Inputs<'_>, context: &LinuxContainerSecurityContext) -> Result<Vec<Value>, String> {
    let options = context.namespace_options.clone().unwrap_or_default();
    let sandbox_options = sandbox_namespaces(inputs.sandbox);
    let pinned = |kind: &str, file: &str| json!({ "type": kind, "path": inputs.sandbox_run.join(file) });
    let mut list = vec![json!({ "type": "mount" })];
    if inputs.hierarchies.is_v2() {
        list.push(json!({ "type": "cgroup" }));
    }
    // The sandbox decides for network and IPC: containers of one pod share them.
    if sandbox_options.network() != NamespaceMode::Node {
        list.push(pinned("network", "netns"));
        list.push(pinned("uts", "utsns"));
    }
    if sandbox_options.ipc() != NamespaceMode::Node {
        list.push(pinned("ipc", "ipcns"));
    }
    match options.pid() {
        NamespaceMode::Container => list.push(json!({ "type": "pid" })),
        NamespaceMode::Pod => list.push(pinned("pid", "pidns")),
        NamespaceMode::Node => {}
        NamespaceMode::Target => {
            let pid = inputs.target_pid.ok_or_else(|| format!("target container {:?} is not running", options.target_id))?;
            list.push(json!({ "type": "pid", "path": format!("/proc/{pid}/ns/pid") }));
        }
    }
    Ok(list)
}

/// The namespace options of a sandbox.
pub(crate) fn sandbox_namespaces(sandbox: &PodSandboxConfig) -> cri::v1::NamespaceOption {
    sandbox
        .linux
        .as_ref()
        .and_then(|linux| linux.security_context.as_ref())
        .and_then(|context| context.namespace_options.clone())
        .unwrap_or_default()
}

fn mounts(inputs: &Inputs<'_>, context: &LinuxContainerSecurityContext) -> Vec<Value> {
    let mode = |read_only: bool| if read_only { "ro" } else { "rw" };
    let system = |target: &str, kind: &str, options: &[&str]| json!({ "destination": target, "type": kind, "source": kind, "options": options });
    let bind = |target: &str, source: &Path, read_only: bool| json!({ "destination": target, "type": "bind", "source": source, "options": ["rbind", mode(read_only)] });
    let shm = if sandbox_namespaces(inputs.sandbox).ipc() == NamespaceMode::Node {
        Path::new("/dev/shm").to_owned()
    } else {
        inputs.sandbox_run.join("shm")
    };
    let sys = mode(!context.privileged);
    let mut list = vec![
        system("/proc", "proc", &["nosuid", "noexec", "nodev"]),
        system("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        system("/dev/pts", "devpts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
        system("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        system("/sys", "sysfs", &["nosuid", "noexec", "nodev", sys]),
        bind("/dev/shm", &shm, false),
        bind("/etc/hostname", &inputs.sandbox_run.join("hostname"), context.readonly_rootfs),
        bind("/etc/resolv.conf", &inputs.sandbox_run.join("resolv.conf"), context.readonly_rootfs),
    ];
    if !inputs.brings_cgroups() {
        list.extend(cgroup_mounts(inputs, sys));
    }
    list.retain(|mount| {
        !inputs.config.mounts.iter().any(|wanted| mount["destination"] == wanted.container_path.trim_end_matches('/'))
    });
    let mut wanted: Vec<&cri::v1::Mount> = inputs.config.mounts.iter().collect();
    // A mount must not hide one that is below it.
    wanted.sort_by_key(|mount| Path::new(&mount.container_path).components().count());
    for mount in wanted {
        let mut value = bind(&mount.container_path, Path::new(&mount.host_path), mount.readonly);
        if mount.recursive_read_only {
            value["options"] = json!(["rbind", "ro", "rro"]);
        }
        list.push(value);
    }
    list
}

/// `/sys/fs/cgroup` as the container sees it: its own cgroup, which only a privileged one may change. In v1 each hierarchy is bound by
/// name: libcontainer's own way mounts them writable, so that root in a container could lift its limits, and looks for the parent process in
/// `/proc` by a number of the wrong PID namespace where that is shared.
fn cgroup_mounts(inputs: &Inputs<'_>, mode: &str) -> Vec<Value> {
    let own = inputs.hierarchies.mount_points(inputs.cgroup);
    if own.is_empty() {
        let options = ["nosuid", "noexec", "nodev", "relatime", mode];
        return vec![json!({ "destination": CGROUPS, "type": "cgroup", "source": "cgroup", "options": options })];
    }
    let options = ["nosuid", "noexec", "nodev", "mode=755", "size=64k"];
    let mut list = vec![json!({ "destination": CGROUPS, "type": "tmpfs", "source": "tmpfs", "options": options })];
    for (name, directory) in own {
        let options = ["bind", "nosuid", "noexec", "nodev", "relatime", mode];
        list.push(json!({ "destination": format!("{CGROUPS}/{name}"), "type": "bind", "source": directory, "options": options }));
    }
    list
}

fn devices(inputs: &Inputs<'_>, context: &LinuxContainerSecurityContext) -> Result<Vec<Value>, String> {
    let mut list = BTreeMap::new();
    if context.privileged {
        for (path, value) in host_devices(Path::new("/dev"), 0) {
            list.insert(path, value);
        }
    }
    for device in &inputs.config.devices {
        let value = device_node(Path::new(&device.host_path), &device.container_path)
            .map_err(|error| format!("device {}: {error}", device.host_path))?
            .ok_or_else(|| format!("device {}: not a device", device.host_path))?;
        list.insert(device.container_path.clone(), value);
    }
    Ok(list.into_values().collect())
}

/// Every device below `/dev` that a privileged container gets: not terminals and not what the container mounts itself.
fn host_devices(directory: &Path, depth: u32) -> Vec<(String, Value)> {
    const SKIPPED: [&str; 7] = ["pts", "shm", "fd", "mqueue", ".lxc", ".lxd-mounts", "console"];
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        if SKIPPED.iter().any(|skipped| name == *skipped) {
            continue;
        }
        match entry.file_type() {
            Ok(kind) if kind.is_dir() && depth < 4 => found.extend(host_devices(&path, depth + 1)),
            Ok(kind) if !kind.is_symlink() => {
                let text = path.to_string_lossy().into_owned();
                if let Ok(Some(value)) = device_node(&path, &text) {
                    found.push((text, value));
                }
            }
            _ => {}
        }
    }
    found
}

fn device_node(host: &Path, target: &str) -> std::io::Result<Option<Value>> {
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    let metadata = std::fs::metadata(host)?;
    let kind = match metadata.file_type() {
        kind if kind.is_char_device() => "c",
        kind if kind.is_block_device() => "b",
        _ => return Ok(None),
    };
    let (major, minor) = (nix::sys::stat::major(metadata.rdev()), nix::sys::stat::minor(metadata.rdev()));
    Ok(Some(json!({
        "path": target, "type": kind, "major": major, "minor": minor,
        "fileMode": metadata.mode() & 0o777, "uid": metadata.uid(), "gid": metadata.gid(),
    })))
}

fn resources(inputs: &Inputs<'_>, context: &LinuxContainerSecurityContext) -> Value {
    let empty = LinuxContainerResources::default();
    let resources = inputs.config.linux.as_ref().and_then(|linux| linux.resources.as_ref()).unwrap_or(&empty);
    let mut value = json!({ "devices": device_rules(inputs, context) });
    let mut cpu = serde_json::Map::new();
    for (name, number) in [("shares", resources.cpu_shares), ("quota", resources.cpu_quota), ("period", resources.cpu_period)] {
        if number != 0 {
            cpu.insert(name.to_owned(), json!(number));
        }
    }
    for (name, set) in [("cpus", &resources.cpuset_cpus), ("mems", &resources.cpuset_mems)] {
        if !set.is_empty() {
            cpu.insert(name.to_owned(), json!(set));
        }
    }
    value["cpu"] = Value::Object(cpu);
    if resources.memory_limit_in_bytes > 0 {
        value["memory"] = json!({ "limit": resources.memory_limit_in_bytes });
        if resources.memory_swap_limit_in_bytes != 0 && accounts_swap(inputs.hierarchies) {
            value["memory"]["swap"] = json!(resources.memory_swap_limit_in_bytes);
        }
    }
    // A kubelet limits every page size that the machine has, to 0 as a rule. As containerd has it, that is not asked of a kernel that
    // cannot.
    if !resources.hugepage_limits.is_empty() && limits_hugepages(inputs.hierarchies) {
        let limits = resources.hugepage_limits.iter().map(|limit| json!({ "pageSize": limit.page_size, "limit": limit.limit }));
        value["hugepageLimits"] = limits.collect();
    }
    if inputs.hierarchies.is_v2() && !resources.unified.is_empty() {
        value["unified"] = json!(resources.unified);
    }
    value
}

/// Whether the kernel counts swap; without, a limit of it cannot be written.
fn accounts_swap(hierarchies: &Hierarchies) -> bool {
    hierarchies.is_v2()
        || hierarchies.directory("memory", "/").is_some_and(|root| root.join("memory.memsw.limit_in_bytes").exists())
}

/// Whether there is a controller that limits hugepages.
fn limits_hugepages(hierarchies: &Hierarchies) -> bool {
    let Some(root) = hierarchies.directory("hugetlb", "/") else { return false };
    let has_it = |controllers: String| controllers.split_whitespace().any(|controller| controller == "hugetlb");
    !hierarchies.is_v2() || std::fs::read_to_string(root.join("cgroup.controllers")).is_ok_and(has_it)
}

fn device_rules(inputs: &Inputs<'_>, context: &LinuxContainerSecurityContext) -> Vec<Value> {
    if context.privileged {
        return vec![json!({ "allow": true, "access": "rwm" })];
    }
    let mut rules = vec![json!({ "allow": false, "access": "rwm" })];
    for device in &inputs.config.devices {
        if let Ok(Some(node)) = device_node(Path::new(&device.host_path), &device.container_path) {
            let access = if device.permissions.is_empty() { "rwm" } else { &device.permissions };
            rules.push(
                json!({ "allow": true, "type": node["type"], "major": node["major"], "minor": node["minor"], "access": access }),
            );
        }
    }
    rules
}
