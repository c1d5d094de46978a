//! The first process of a container: cgroup, namespaces and fork are ours, all that happens inside of them is libcontainer's.
//!
//! libcontainer would do this with one process more, and would move it into the cgroup from outside, which costs tens of milliseconds
//! (see [`super::cgroup_entry`]). Its record of the container is written as it would write it: it starts further processes (`oci-exec`).
//! Not done: user and time namespaces, hooks, network devices, Intel RDT; the specification (`runtime/spec.rs`) never asks for them.

use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use libcontainer::config::YoukiConfig;
use libcontainer::container::{Container, ContainerStatus};
use libcontainer::namespaces::Namespaces;
use libcontainer::notify_socket::{NOTIFY_FILE, NotifyListener};
use libcontainer::process::args::{ContainerArgs, ContainerType};
use libcontainer::process::channel;
use libcontainer::process::init::container_init_process;
use libcontainer::syscall::syscall::SyscallType;
use libcontainer::tty;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid, fork};
use oci_spec::runtime::{LinuxNamespaceType, Spec};

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
    let rootfs = spec.root().as_ref().ok_or("the specification has no root")?.path();
    let rootfs = std::fs::canonicalize(rootfs).map_err(|error| format!("{}: {error}", rootfs.display()))?;
    let listener = NotifyListener::new(&directory.join(NOTIFY_FILE)).map_err(describe)?;
    let linux = spec.linux().as_ref().ok_or("the specification is not one for Linux")?;
    let cgroup = linux.cgroups_path().clone().ok_or("the specification names no cgroup")?;
    cgroup_entry::create(&cgroup, id, linux.resources().as_ref())?;

    // Processes of namespaces that the child joins must not look into it.
    nix::sys::prctl::set_dumpable(false).map_err(|error| format!("dumpable: {}", error.desc()))?;
    let namespaces = Namespaces::try_from(linux.namespaces().as_ref()).map_err(describe)?;
    if let Some(pid) = namespaces.get(LinuxNamespaceType::Pid).map_err(describe)? {
        // Takes effect for the child; it enters the others itself.
        namespaces.unshare_or_setns(pid).map_err(describe)?;
    }
    let arguments = ContainerArgs {
        container_type: ContainerType::InitContainer,
        syscall: SyscallType::Linux,
        rootfs,
        console_socket: console.as_ref().map(AsRawFd::as_raw_fd),
        notify_listener: listener,
        preserve_fds: 0,
        container: None,
        user_ns_config: None,
        cgroup_config: cgroup_entry::config(&cgroup, id),
        detached: true,
        executor: Box::new(ProcessExecutor::new(privileges, true)),
        no_pivot: false,
        stdin: None,
        stdout: None,
        stderr: None,
        as_sibling: false,
        pid_file: None,
        spec: Rc::new(spec),
    };
    let pid = fork_init(&arguments)?;
    // The shim starts the process by its notify socket; the state must allow `exec` from then on.
    container.set_status(ContainerStatus::Running).set_creator(0).set_pid(pid.as_raw()).save().map_err(|error| {
        abandon(pid);
        describe(error)
    })?;
    Ok(pid)
}

/// Forks the first process and waits until it is ready to run the command.
fn fork_init(arguments: &ContainerArgs) -> Result<Pid, String> {
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
                // Refused if the process was ready before: then the executor has said why.
                let _ = to_parent.exec_failed(error.to_string());
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
