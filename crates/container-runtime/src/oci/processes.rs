//! Processes of containers, the first one and those that join it: cgroup and fork are ours, all that happens after is libcontainer's.
//!
//! libcontainer would do this with one process more, and would move it into the cgroup from outside, which costs tens of milliseconds
//! (see [`super::cgroup_entry`]). The records of a container are libcontainer's own.
//! Not done: user and time namespaces, hooks, network devices, Intel RDT; the specification (`runtime/spec.rs`) never asks for them.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use libcontainer::config::YoukiConfig;
use libcontainer::container::{Container, ContainerStatus};
use libcontainer::namespaces::Namespaces;
use libcontainer::notify_socket::{NOTIFY_FILE, NotifyListener, NotifySocket};
use libcontainer::process::args::{ContainerArgs, ContainerType};
use libcontainer::process::channel;
use libcontainer::process::init::container_init_process;
use libcontainer::syscall::syscall::SyscallType;
use libcontainer::tty;
use nix::fcntl::OFlag;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid, fork, pipe2};
use oci_spec::runtime::{Linux, LinuxBuilder, LinuxNamespaceBuilder, LinuxNamespaceType, Process, Spec};

use super::executor::ProcessExecutor;
use super::{Privileges, cgroup_entry, describe};

/// Makes the container of a bundle and leaves its first process behind, waiting to be started. The calling process ends up in the
/// container's cgroup and should end soon. It must have one thread.
pub(super) fn create(
    root: &Path,
    id: &str,
    bundle: &Path,
    console: Option<PathBuf>,
    privileges: Privileges,
) -> Result<Pid, String> {
    let spec = Spec::load(bundle.join("config.json")).map_err(describe)?;
    let directory = root.join(id);
    std::fs::create_dir_all(root)
        .and_then(|()| std::fs::create_dir(&directory))
        .map_err(|error| format!("{}: {error}", directory.display()))?;
    let mut container = Container::new(id, ContainerStatus::Creating, None, bundle, &directory).map_err(describe)?;
    YoukiConfig::from_spec(&spec, id).and_then(|config| config.save(&directory)).map_err(describe)?;
    let console =
        console.map(|path| tty::setup_console_socket(&directory, &path, "console-socket")).transpose().map_err(describe)?;
    let listener = NotifyListener::new(&directory.join(NOTIFY_FILE)).map_err(describe)?;
    let linux = spec.linux().as_ref().ok_or("the specification is not one for Linux")?;
    let cgroup = linux.cgroups_path().clone().ok_or("the specification names no cgroup")?;
    cgroup_entry::create(&cgroup, id, linux.resources().as_ref())?;
    enter_pid_namespace(linux)?;
    let arguments = Arguments { id, spec, cgroup, listener, console: console.as_ref(), privileges, joining: None };
    let pid = fork_process(&arguments.complete()?, None)?;
    // The shim starts the process by its notify socket; the state must allow `exec` from then on.
    container.set_status(ContainerStatus::Running).set_creator(0).set_pid(pid.as_raw()).save().map_err(|error| {
        abandon(pid);
        describe(error)
    })?;
    Ok(pid)
}

/// Starts one more process in a running container. `process` is the file that says which. The rest as [`create`].
pub(super) fn join(
    root: &Path,
    id: &str,
    process: &Path,
    console: Option<PathBuf>,
    privileges: Privileges,
) -> Result<Pid, String> {
    let directory = root.join(id);
    let container = Container::load(directory.clone()).map_err(describe)?;
    let first = container.pid().filter(|_| container.status() == ContainerStatus::Running).ok_or("the container does not run")?;
    let mut spec = Spec::load(container.bundle().join("config.json")).map_err(describe)?;
    let cgroup = adapt(&mut spec, process, first.as_raw())?;
    // Unique: the number of this process.
    let name = format!("process-{}", std::process::id());
    let console = console.map(|path| tty::setup_console_socket(&directory, &path, &format!("{name}.tty")));
    let console = console.transpose().map_err(describe)?;
    let socket = directory.join(format!("{name}.sock"));
    let listener = NotifyListener::new(&socket).map_err(describe)?;
    cgroup_entry::enter(&cgroup, id)?;
    enter_pid_namespace(spec.linux().as_ref().ok_or("the specification is not one for Linux")?)?;
    let (failure, failure_writer) = pipe2(OFlag::O_CLOEXEC).map_err(|error| format!("pipe: {}", error.desc()))?;
    let arguments =
        Arguments { id, spec, cgroup, listener, console: console.as_ref(), privileges, joining: Some(&failure_writer) };
    let started = arguments.complete().and_then(|arguments| fork_process(&arguments, Some(&failure_writer)));
    let started = started.and_then(|pid| NotifySocket::new(&socket).notify_container_start().map(|()| pid).map_err(describe));
    let _ = std::fs::remove_file(&socket);
    let _ = std::fs::remove_file(directory.join(format!("{name}.tty")));
    let pid = started?;
    // Closed by the kernel when the command runs.
    drop(failure_writer);
    let mut text = String::new();
    File::from(failure).read_to_string(&mut text).map_err(|error| format!("pipe: {error}"))?;
    if text.is_empty() { Ok(pid) } else { Err(super::without_cleanup(&text)) }
}

/// Makes the specification of a container's first process that of another one in its namespaces; returns the cgroup.
fn adapt(spec: &mut Spec, process: &Path, first: i32) -> Result<PathBuf, String> {
    let text = std::fs::read(process).map_err(|error| format!("{}: {error}", process.display()))?;
    let process: Process = serde_json::from_slice(&text).map_err(|error| format!("{}: {error}", process.display()))?;
    let linux = spec.linux().as_ref().ok_or("the specification is not one for Linux")?;
    let cgroup = linux.cgroups_path().clone().ok_or("the specification names no cgroup")?;
    let mut namespaces = Vec::new();
    for namespace in linux.namespaces().iter().flatten() {
        let name = match namespace.typ() {
            LinuxNamespaceType::Mount => "mnt",
            LinuxNamespaceType::Network => "net",
            LinuxNamespaceType::Uts => "uts",
            LinuxNamespaceType::Ipc => "ipc",
            LinuxNamespaceType::Pid => "pid",
            LinuxNamespaceType::Cgroup => "cgroup",
            other => return Err(format!("{other:?} namespaces are not joined")),
        };
        let joined = LinuxNamespaceBuilder::default().typ(namespace.typ()).path(format!("/proc/{first}/ns/{name}"));
        namespaces.push(joined.build().map_err(describe)?);
    }
    let linux = LinuxBuilder::default().namespaces(namespaces).cgroups_path(cgroup.clone()).build().map_err(describe)?;
    spec.set_process(Some(process)).set_linux(Some(linux));
    Ok(cgroup)
}

/// Takes effect for children; they enter the other namespaces themselves.
fn enter_pid_namespace(linux: &Linux) -> Result<(), String> {
    // Processes of namespaces that a child joins must not look into it.
    nix::sys::prctl::set_dumpable(false).map_err(|error| format!("dumpable: {}", error.desc()))?;
    let namespaces = Namespaces::try_from(linux.namespaces().as_ref()).map_err(describe)?;
    match namespaces.get(LinuxNamespaceType::Pid).map_err(describe)? {
        Some(pid) => namespaces.unshare_or_setns(pid).map_err(describe),
        None => Ok(()),
    }
}

/// What one process differs from another in, for libcontainer.
struct Arguments<'a> {
    id: &'a str,
    spec: Spec,
    cgroup: PathBuf,
    listener: NotifyListener,
    console: Option<&'a OwnedFd>,
    privileges: Privileges,
    /// The pipe of a process that joins a container, for its failure.
    joining: Option<&'a OwnedFd>,
}

impl Arguments<'_> {
    fn complete(self) -> Result<ContainerArgs, String> {
        let rootfs = self.spec.root().as_ref().ok_or("the specification has no root")?.path();
        let rootfs = std::fs::canonicalize(rootfs).map_err(|error| format!("{}: {error}", rootfs.display()))?;
        let container_type = match self.joining {
            None => ContainerType::InitContainer,
            Some(pipe) => ContainerType::TenantContainer { exec_notify_fd: pipe.as_raw_fd() },
        };
        Ok(ContainerArgs {
            container_type,
            syscall: SyscallType::Linux,
            rootfs,
            console_socket: self.console.map(AsRawFd::as_raw_fd),
            notify_listener: self.listener,
            preserve_fds: 0,
            container: None,
            user_ns_config: None,
            cgroup_config: cgroup_entry::config(&self.cgroup, self.id),
            detached: true,
            executor: Box::new(ProcessExecutor::new(self.privileges, self.joining.is_none())),
            no_pivot: false,
            stdin: None,
            stdout: None,
            stderr: None,
            as_sibling: false,
            pid_file: None,
            spec: Rc::new(self.spec),
        })
    }
}

/// Forks the process and waits until it is ready to run the command. What goes wrong after that goes to `failure`.
fn fork_process(arguments: &ContainerArgs, failure: Option<&OwnedFd>) -> Result<Pid, String> {
    let (mut to_parent, mut from_child) = channel::main_channel().map_err(describe)?;
    let (to_child, mut from_parent) = channel::init_channel().map_err(describe)?;
    // SAFETY: this process has one thread, so the child may use everything.
    #[allow(unsafe_code)]
    match unsafe { fork() }.map_err(|error| format!("fork: {}", error.desc()))? {
        ForkResult::Child => {
            // The other ends are the parent's; a failure to close one shows when it waits.
            let _ = from_child.close();
            let _ = to_child.close();
            if let Err(error) = container_init_process(arguments, &mut to_parent, &mut from_parent) {
                // Refused if the process was ready before: then only the pipe, or the executor, can say why.
                let _ = to_parent.exec_failed(error.to_string());
                if let Some(pipe) = failure.and_then(|pipe| pipe.try_clone().ok()) {
                    let _ = File::from(pipe).write_all(describe(error).as_bytes());
                }
            }
            // SAFETY: ends the process; nothing of the parent's, of which this is a copy, may be torn down here.
            unsafe { libc::_exit(1) }
        }
        ForkResult::Parent { child } => {
            let closed = to_parent.close().and_then(|()| from_parent.close());
            let ready = closed.and_then(|()| from_child.wait_for_init_ready());
            ready.map(|()| child).map_err(|error| {
                abandon(child);
                describe(error)
            })
        }
    }
}

/// Ends a first process that will not be used.
fn abandon(pid: Pid) {
    // It may have ended already.
    let _ = kill(pid, Signal::SIGKILL);
    let _ = waitpid(pid, None);
}
