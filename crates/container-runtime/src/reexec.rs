//! The commands of the executable that exist only to be started by the runtime itself.
//!
//! Container work needs processes of its own: libcontainer changes the directory, the dumpability and the namespaces of the
//! process that it runs in, and containers must outlive the server. Those processes are this very executable, told by its first
//! argument what to be. Invariant: [`dispatch`] runs before any thread exists, so the code behind it may fork.

use crate::{oci, shim};

/// First argument of the process that owns the containers of one sandbox.
pub(crate) const SHIM: &str = "shim";
/// First argument of the process that creates one container through libcontainer.
pub(crate) const OCI_CREATE: &str = "oci-create";
/// First argument of the process that starts one more process in a running container.
pub(crate) const OCI_EXEC: &str = "oci-exec";
/// First argument of the process that holds a pod's shared PID namespace.
pub(crate) const PAUSE: &str = "pause";

/// Takes the process over when its first argument names an internal command, and then does not return.
///
/// Call it first thing in `main`, before threads or an async runtime exist.
pub fn dispatch() {
    let mut arguments = std::env::args();
    let _name = arguments.next();
    let Some(command) = arguments.next() else {
        return;
    };
    let rest: Vec<String> = match command.as_str() {
        SHIM | OCI_CREATE | OCI_EXEC | PAUSE => arguments.collect(),
        _ => return,
    };
    let code = match command.as_str() {
        SHIM => shim::main(),
        OCI_CREATE => oci::create(&rest),
        OCI_EXEC => oci::exec(&rest),
        _ => shim::pause(),
    };
    std::process::exit(code);
}
