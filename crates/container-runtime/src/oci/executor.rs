//! The last steps of a container process before its own command: propagation of mounts, seccomp, capabilities, `execve`.

use std::collections::HashSet;
use std::ffi::CString;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use caps::{CapSet, Capability};
use libcontainer::workload::{Executor, ExecutorError, ExecutorValidationError};
use nix::mount::MsFlags;
use oci_spec::runtime::Spec;

use super::{Privileges, Propagation, START_FAILED, seccomp};

/// libcontainer's hook for running the command of a container; see the module.
#[derive(Clone)]
pub(super) struct ProcessExecutor {
    privileges: Privileges,
    /// First process of a container, as opposed to one more in a running container.
    init: bool,
}

impl ProcessExecutor {
    pub(super) fn new(privileges: Privileges, init: bool) -> Self {
        Self { privileges, init }
    }

    /// Becomes the command; returns only if that fails.
    fn run(&self, spec: &Spec) -> Result<std::convert::Infallible, String> {
        let arguments = arguments(spec);
        let path = find_executable(arguments, path_variable(spec))?;
        self.apply_privileges()?;
        let c_string = |text: &str| CString::new(text).map_err(|_| format!("argument {text:?} contains NUL"));
        let program = c_string(&path.to_string_lossy())?;
        let arguments = arguments.iter().map(|text| c_string(text)).collect::<Result<Vec<_>, _>>()?;
        let Err(error) = nix::unistd::execv(&program, &arguments);
        let text = match error {
            nix::errno::Errno::ENOEXEC => "exec format error",
            nix::errno::Errno::ENOENT => "no such file or directory",
            nix::errno::Errno::EACCES => "permission denied",
            other => other.desc(),
        };
        Err(format!("exec {}: {text}", path.display()))
    }

    fn apply_privileges(&self) -> Result<(), String> {
        if self.privileges.seccomp_default {
            seccomp::load_default(&self.privileges.capabilities)?;
        }
        drop_capabilities(&self.privileges).map_err(|error| format!("capabilities: {error}"))
    }
}

impl Executor for ProcessExecutor {
    fn exec(&self, spec: &Spec) -> Result<(), ExecutorError> {
        let Err(text) = self.run(spec);
        let text = format!("{START_FAILED}{text}");
        if self.init {
            // libcontainer has reported success long ago: the shim still listens for this.
            super::report_start_failure(&text);
        }
        Err(ExecutorError::Other(text))
    }

    fn validate(&self, spec: &Spec) -> Result<(), ExecutorValidationError> {
        let failed = |text: String| ExecutorValidationError::ArgValidationError(format!("{START_FAILED}{text}"));
        if self.init {
            set_propagation(&self.privileges.propagation).map_err(failed)?;
        }
        find_executable(arguments(spec), path_variable(spec)).map_err(failed)?;
        Ok(())
    }
}

fn arguments(spec: &Spec) -> &[String] {
    spec.process().as_ref().and_then(|process| process.args().as_deref()).unwrap_or_default()
}

fn path_variable(spec: &Spec) -> &str {
    spec.process()
        .as_ref()
        .and_then(|process| process.env().as_ref())
        .and_then(|env| env.iter().rev().find_map(|entry| entry.strip_prefix("PATH=")))
        .unwrap_or("/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
}

/// The file to run, with the error texts that users know from runc.
fn find_executable(arguments: &[String], path: &str) -> Result<PathBuf, String> {
    let Some(name) = arguments.first().filter(|name| !name.is_empty()) else {
        return Err("no command specified".to_owned());
    };
    if name.contains('/') {
        let metadata = std::fs::metadata(name).map_err(|error| {
            let text = match error.kind() {
                std::io::ErrorKind::NotFound => "no such file or directory".to_owned(),
                std::io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
                _ => error.to_string(),
            };
            format!("exec: {name:?}: stat {name}: {text}")
        })?;
        if metadata.is_dir() {
            return Err(format!("exec: {name:?}: is a directory"));
        }
        if metadata.permissions().mode() & 0o111 == 0 {
            return Err(format!("exec: {name:?}: permission denied"));
        }
        return Ok(PathBuf::from(name));
    }
    path.split(':')
        .map(|directory| Path::new(if directory.is_empty() { "." } else { directory }).join(name))
        .find(|candidate| {
            std::fs::metadata(candidate).is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
        })
        .ok_or_else(|| format!("exec: {name:?}: executable file not found in $PATH"))
}

/// libcontainer leaves every bind mount with the propagation of its source; the CRI says what it must be.
fn set_propagation(mounts: &[(String, Propagation)]) -> Result<(), String> {
    for (path, propagation) in mounts {
        let flag = match propagation {
            Propagation::Private => MsFlags::MS_PRIVATE,
            Propagation::Slave => MsFlags::MS_SLAVE,
            Propagation::Shared => continue,
        };
        nix::mount::mount(None::<&str>, path.as_str(), None::<&str>, flag | MsFlags::MS_REC, None::<&str>)
            .map_err(|error| format!("propagation of {path}: {}", error.desc()))?;
    }
    Ok(())
}

fn drop_capabilities(privileges: &Privileges) -> Result<(), caps::errors::CapsError> {
    let wanted = parse(&privileges.capabilities);
    let ambient: HashSet<Capability> = parse(&privileges.ambient).intersection(&wanted).copied().collect();
    for capability in caps::read(None, CapSet::Bounding)?.difference(&wanted) {
        caps::drop(None, CapSet::Bounding, *capability)?;
    }
    // A capability that this machine's root does not have cannot be given.
    let wanted: HashSet<Capability> = caps::read(None, CapSet::Permitted)?.intersection(&wanted).copied().collect();
    let ambient: HashSet<Capability> = ambient.intersection(&wanted).copied().collect();
    caps::set(None, CapSet::Inheritable, &ambient)?;
    caps::set(None, CapSet::Effective, &wanted)?;
    caps::set(None, CapSet::Permitted, &wanted)?;
    if caps::read(None, CapSet::Ambient)? != ambient {
        caps::set(None, CapSet::Ambient, &ambient)?;
    }
    Ok(())
}

fn parse(names: &[String]) -> HashSet<Capability> {
    names.iter().filter_map(|name| format!("CAP_{name}").parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(arguments: &[&str], path: &str, expected: Result<&str, &str>) {
        let arguments: Vec<String> = arguments.iter().map(|text| (*text).to_owned()).collect();
        let found = find_executable(&arguments, path);
        match (found, expected) {
            (Ok(found), Ok(expected)) => assert_eq!(found, Path::new(expected)),
            (Err(text), Err(expected)) => assert_eq!(text, expected),
            (found, expected) => panic!("{arguments:?}: {found:?}, expected {expected:?}"),
        }
    }

    #[test]
    fn finds_commands_or_says_why_not() {
        check(&["sh", "-c", "true"], "/nowhere:/bin", Ok("/bin/sh"));
        check(&["/bin/sh"], "", Ok("/bin/sh"));
        check(&["/etc/passwd"], "", Err("exec: \"/etc/passwd\": permission denied"));
        check(&["/etc"], "", Err("exec: \"/etc\": is a directory"));
        check(&["/nope"], "", Err("exec: \"/nope\": stat /nope: no such file or directory"));
        check(&["nope"], "/bin", Err("exec: \"nope\": executable file not found in $PATH"));
        check(&[], "/bin", Err("no command specified"));
    }
}
