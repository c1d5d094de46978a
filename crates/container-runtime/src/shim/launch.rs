//! From the server's request to a running shim: namespaces pinned by bind mounts, the socket, the daemon.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::mount::MsFlags;
use nix::sched::CloneFlags;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid, fork, pipe2, setsid};

use super::protocol::SandboxSpec;
use super::{server, socket};
use crate::reexec;

/// Reads a [`SandboxSpec`] from standard input, sets the sandbox up and leaves the shim behind. Writes `ok` or the error to
/// standard output and returns the exit code of the launching process.
pub(crate) fn main() -> i32 {
    match launch() {
        Ok(()) => 0,
        Err(error) => {
            let _ = std::io::stdout().write_all(error.as_bytes());
            1
        }
    }
}

fn launch() -> Result<(), String> {
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text).map_err(|error| format!("sandbox spec: {error}"))?;
    let spec: SandboxSpec = serde_json::from_str(&text).map_err(|error| format!("sandbox spec: {error}"))?;
    let run_dir = PathBuf::from(&spec.run_dir);
    create_namespaces(&spec, &run_dir)?;
    let socket_path = run_dir.join("shim.sock");
    let _ = std::fs::remove_file(&socket_path);
    let listener = socket::listen(&socket_path).map_err(|error| format!("{}: {error}", socket_path.display()))?;

    let (ready, ready_writer) = pipe2(OFlag::O_CLOEXEC).map_err(|error| format!("pipe: {error}"))?;
    // SAFETY: this process has one thread, so the child may use everything.
    #[allow(unsafe_code)]
    match unsafe { fork() }.map_err(|error| format!("fork: {error}"))? {
        ForkResult::Parent { .. } => {
            drop(ready_writer);
            let mut answer = String::new();
            File::from(ready).read_to_string(&mut answer).map_err(|error| format!("shim: {error}"))?;
            if answer == "ok" { Ok(()) } else { Err(answer) }
        }
        ForkResult::Child => {
            drop(ready);
            let mut ready_writer = File::from(ready_writer);
            let answer = become_daemon(&spec, &run_dir).and_then(|pause| {
                // Again, so that who connects sees our process id (SO_PEERCRED) and not that of the parent, which ends.
                socket::listen_again(&listener).map_err(|error| format!("{}: {error}", socket_path.display()))?;
                Ok(pause)
            });
            let _ = ready_writer.write_all(answer.as_ref().map_or_else(String::as_bytes, |_| b"ok"));
            drop(ready_writer);
            let code = match answer {
                Ok(pause) => {
                    drop(text);
                    server::run(listener, pause)
                }
                Err(_) => 1,
            };
            std::process::exit(code);
        }
    }
}

/// Detaches from the server and, where the pod shares PIDs, starts the pause process.
fn become_daemon(spec: &SandboxSpec, run_dir: &Path) -> Result<Option<Pid>, String> {
    setsid().map_err(|error| format!("setsid: {error}"))?;
    nix::sys::prctl::set_child_subreaper(true).map_err(|error| format!("subreaper: {error}"))?;
    std::env::set_current_dir("/").map_err(|error| format!("chdir: {error}"))?;
    let null = File::options().read(true).write(true).open("/dev/null").map_err(|error| format!("/dev/null: {error}"))?;
    nix::unistd::dup2_stdin(&null)
        .and_then(|()| nix::unistd::dup2_stdout(&null))
        .and_then(|()| nix::unistd::dup2_stderr(&null))
        .map_err(|error| format!("/dev/null: {error}"))?;
    let _ = std::fs::write("/proc/self/oom_score_adj", "-998");
    // 15 characters are all that the kernel keeps.
    let _ = nix::sys::prctl::set_name(c"rusternetes-shm");
    let pause = if spec.share_pid { Some(start_pause(run_dir)?) } else { None };
    let pid_file = run_dir.join("shim.pid");
    std::fs::write(&pid_file, std::process::id().to_string()).map_err(|error| format!("{}: {error}", pid_file.display()))?;
    Ok(pause)
}

/// Makes the sandbox's namespaces in a short-lived child and keeps them by bind mounts of its `/proc/PID/ns` files.
fn create_namespaces(spec: &SandboxSpec, run_dir: &Path) -> Result<(), String> {
    let mut flags = CloneFlags::empty();
    let mut pins = Vec::new();
    if !spec.host_network {
        flags |= CloneFlags::CLONE_NEWNET;
        pins.push(("net", "netns"));
    }
    if !spec.host_ipc {
        flags |= CloneFlags::CLONE_NEWIPC;
        pins.push(("ipc", "ipcns"));
    }
    if spec.hostname.is_some() {
        flags |= CloneFlags::CLONE_NEWUTS;
        pins.push(("uts", "utsns"));
    }
    let (report, report_writer) = pipe2(OFlag::O_CLOEXEC).map_err(|error| format!("pipe: {error}"))?;
    let (release, release_writer) = pipe2(OFlag::O_CLOEXEC).map_err(|error| format!("pipe: {error}"))?;
    // SAFETY: this process has one thread, so the child may use everything.
    #[allow(unsafe_code)]
    let child = match unsafe { fork() }.map_err(|error| format!("fork: {error}"))? {
        ForkResult::Parent { child } => child,
        ForkResult::Child => {
            drop(release_writer);
            drop(report);
            let result = enter_namespaces(spec, flags);
            let _ = File::from(report_writer).write_all(result.as_ref().map_or_else(String::as_bytes, |()| b"ok"));
            let _ = File::from(release).read(&mut [0]);
            std::process::exit(0);
        }
    };
    drop(report_writer);
    drop(release);
    let pinned =
        wait_report(report).and_then(|()| pins.iter().try_for_each(|(kind, name)| pin(child, kind, &run_dir.join(name))));
    drop(release_writer);
    let _ = waitpid(child, None);
    pinned
}

fn wait_report(report: OwnedFd) -> Result<(), String> {
    let mut text = String::new();
    File::from(report).read_to_string(&mut text).map_err(|error| format!("namespaces: {error}"))?;
    if text == "ok" { Ok(()) } else { Err(text) }
}

fn enter_namespaces(spec: &SandboxSpec, flags: CloneFlags) -> Result<(), String> {
    nix::sched::unshare(flags).map_err(|error| format!("unshare {flags:?}: {}", error.desc()))?;
    if let Some(hostname) = &spec.hostname {
        nix::unistd::sethostname(hostname).map_err(|error| format!("hostname {hostname:?}: {}", error.desc()))?;
    }
    if !spec.host_network {
        bring_loopback_up().map_err(|error| format!("loopback: {}", error.desc()))?;
    }
    for (name, value) in &spec.sysctls {
        if name.split(['.', '/']).any(|part| part.is_empty()) {
            return Err(format!("sysctl {name:?}: invalid name"));
        }
        let path = Path::new("/proc/sys").join(name.replace('.', "/"));
        std::fs::write(&path, value).map_err(|error| format!("sysctl {name}={value}: {error}"))?;
    }
    Ok(())
}

fn bring_loopback_up() -> nix::Result<()> {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
    let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    // SAFETY: ifreq is plain data; all zeroes is a valid value.
    #[allow(unsafe_code)]
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = b'l' as libc::c_char;
    request.ifr_name[1] = b'o' as libc::c_char;
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: the request is a valid ifreq and outlives the call.
    #[allow(unsafe_code)]
    nix::errno::Errno::result(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &request) })?;
    Ok(())
}

fn pin(pid: Pid, kind: &str, path: &Path) -> Result<(), String> {
    File::create(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let source = format!("/proc/{pid}/ns/{kind}");
    nix::mount::mount(Some(source.as_str()), path, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .map_err(|error| format!("pinning the {kind} namespace at {}: {}", path.display(), error.desc()))
}

/// Starts the first process of the shared PID namespace as a child of this process, and pins the namespace.
fn start_pause(run_dir: &Path) -> Result<Pid, String> {
    let (report, report_writer) = pipe2(OFlag::O_CLOEXEC).map_err(|error| format!("pipe: {error}"))?;
    // SAFETY: this process has one thread, so the child may use everything.
    #[allow(unsafe_code)]
    match unsafe { fork() }.map_err(|error| format!("fork: {error}"))? {
        ForkResult::Child => {
            drop(report);
            let _ = File::from(report_writer).write_all(&pause_in_new_namespace());
            std::process::exit(0);
        }
        ForkResult::Parent { child } => {
            drop(report_writer);
            let mut bytes = [0; 4];
            let read = File::from(report).read_exact(&mut bytes);
            let _ = waitpid(child, None);
            let pid = i32::from_ne_bytes(bytes);
            if read.is_err() || pid <= 0 {
                return Err("the pause process did not start".to_owned());
            }
            pin(Pid::from_raw(pid), "pid", &run_dir.join("pidns"))?;
            Ok(Pid::from_raw(pid))
        }
    }
}

/// In a child of the shim: forks the pause process, which the shim then inherits as subreaper. Returns its pid as bytes.
fn pause_in_new_namespace() -> [u8; 4] {
    use std::os::unix::process::CommandExt;
    let started = nix::sched::unshare(CloneFlags::CLONE_NEWPID).is_ok().then(|| {
        std::process::Command::new("/proc/self/exe").arg0("pause").arg(reexec::PAUSE).spawn().map(|child| child.id() as i32)
    });
    match started {
        Some(Ok(pid)) => pid.to_ne_bytes(),
        _ => [0; 4],
    }
}

/// The pause process: first process of a PID namespace, reaps what it inherits, has no file system and no capability.
pub(crate) fn pause() -> i32 {
    let _ = nix::sys::prctl::set_name(c"pause");
    // As a plain command (in a container) there may be no right to do this, and no need.
    if std::process::id() == 1 && isolate().is_err() {
        return 1;
    }
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT] {
        signals.add(signal);
    }
    if signals.thread_block().is_err() {
        return 1;
    }
    loop {
        match signals.wait() {
            Ok(Signal::SIGCHLD) => {
                use nix::sys::wait::{WaitPidFlag, WaitStatus};
                while let Ok(status) = waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                    if status == WaitStatus::StillAlive {
                        break;
                    }
                }
            }
            Ok(_) => return 0,
            Err(_) => return 1,
        }
    }
}

/// Containers of the pod see this process: it must show them neither the host's files nor its power.
fn isolate() -> nix::Result<()> {
    use nix::mount::{MntFlags, mount, umount2};
    if nix::sched::unshare(
        CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWIPC | CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWUTS,
    )
    .is_err()
    {
        // Started as the first process of an ordinary container: already isolated.
        return Ok(());
    }
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)?;
    mount(Some("none"), "/proc", Some("tmpfs"), MsFlags::MS_RDONLY, Some("size=0"))?;
    nix::unistd::chdir("/proc")?;
    nix::unistd::pivot_root(".", ".")?;
    umount2(".", MntFlags::MNT_DETACH)?;
    nix::unistd::chdir("/")?;
    let dropped = caps::clear(None, caps::CapSet::Effective)
        .and_then(|()| caps::clear(None, caps::CapSet::Inheritable))
        .and_then(|()| caps::clear(None, caps::CapSet::Permitted));
    dropped.map_err(|_| nix::errno::Errno::EPERM)
}
