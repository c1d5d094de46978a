//! The `rusternetes` executable: parses the command line, wires the components, reports errors. Logic lives in the crates.
//!
//! Exit codes: 0 success, 1 a failure at run time, 2 wrong usage, 3 the data directory cannot be used, 4 an address or port is
//! taken, 5 not enough privileges.

mod api_server;
mod certificate_files;
mod component;
mod controller_manager_command;
mod exit;
mod file_changes;
mod flags;
mod hello;
mod hollow_command;
mod image;
mod memory;
mod reset;
mod scheduler_command;
mod server;
mod serving;
mod simulate_command;

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The version that `--version`, the built-in image's tag and the node's `kubeletVersion` build upon.
const VERSION: &str = env!("CARGO_PKG_VERSION");

#[derive(Parser)]
#[command(
    name = "rusternetes",
    version = VERSION,
    about = "Kubernetes in one binary. Without a command: `server`, a complete cluster on this machine",
    after_help = "Exit codes: 0 success, 1 failure at run time, 2 wrong usage, 3 the data directory cannot be used,\n4 an address or port is taken, 5 not enough privileges."
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a complete cluster on this machine, in the foreground.
    Server(server::Options),
    /// Run the API server alone, with upstream's flags; the executable called `kube-apiserver` is this command.
    #[command(visible_alias = api_server::UPSTREAM_NAME)]
    ApiServer(api_server::Options),
    /// Run the controllers alone, against any API server; the executable called `kube-controller-manager` is this command.
    #[command(visible_alias = controller_manager_command::UPSTREAM_NAME)]
    ControllerManager(controller_manager_command::Options),
    /// Run the scheduler alone, against any API server; the executable called `kube-scheduler` is this command.
    #[command(visible_alias = scheduler_command::UPSTREAM_NAME)]
    Scheduler(scheduler_command::Options),
    /// Register Nodes without containers, and say of their pods that they run: to try a control plane at scale.
    Hollow(hollow_command::Options),
    /// Stop all containers of a server that is not running and remove what it left on this machine, its data too.
    Reset(reset::Options),
    /// Manage the images of the embedded container runtime.
    Image(image::Options),
    /// Serve a page that says where it runs: the example workload of the README.
    Hello(hello::Options),
}

fn main() -> ExitCode {
    // Container processes, shims and the like are this executable again; they never come back from here.
    container_runtime::reexec::dispatch();
    let arguments = match Arguments::try_parse_from(with_default_command(std::env::args_os().collect())) {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version go to stdout with code 0, mistakes to stderr with code 2.
            let code = if error.use_stderr() { exit::USAGE } else { 0 };
            // A closed output is no reason to fail differently.
            let _ = error.print();
            return ExitCode::from(code);
        }
    };
    let result = match arguments.command {
        Command::Server(options) => server::run(options),
        Command::ApiServer(options) => api_server::run(&options),
        Command::ControllerManager(options) => controller_manager_command::run(&options),
        Command::Scheduler(options) => scheduler_command::run(&options),
        Command::Hollow(options) => hollow_command::run(&options),
        Command::Reset(options) => reset::run(&options),
        Command::Image(options) => image::run(options),
        Command::Hello(options) => hello::run(&options),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(exit::code(&error))
        }
    }
}

/// `rusternetes` and `rusternetes --flag` mean `rusternetes server ...`; the name of a component of upstream is its command.
fn with_default_command(mut arguments: Vec<OsString>) -> Vec<OsString> {
    let called = arguments.first().and_then(|path| Path::new(path).file_name()).and_then(|name| name.to_str());
    let components = [
        (api_server::UPSTREAM_NAME, "api-server"),
        (controller_manager_command::UPSTREAM_NAME, "controller-manager"),
        (scheduler_command::UPSTREAM_NAME, "scheduler"),
    ];
    if let Some((_, command)) = components.into_iter().find(|(name, _)| called == Some(*name)) {
        arguments.insert(1, command.into());
        return arguments;
    }
    let names_server = match arguments.get(1).and_then(|argument| argument.to_str()) {
        None => arguments.len() <= 1,
        Some("-h" | "--help" | "-V" | "--version") => false,
        Some(argument) => argument.starts_with('-'),
    };
    if names_server {
        let position = arguments.len().min(1);
        arguments.insert(position, "server".into());
    }
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_is_the_default_command() {
        let check = |given: &[&str], expected: &[&str]| {
            let given = given.iter().map(OsString::from).collect();
            assert_eq!(with_default_command(given), expected.iter().map(OsString::from).collect::<Vec<_>>());
        };
        check(&["rusternetes"], &["rusternetes", "server"]);
        check(&["rusternetes", "--secure-port", "1"], &["rusternetes", "server", "--secure-port", "1"]);
        check(&["rusternetes", "--help"], &["rusternetes", "--help"]);
        check(&["/bin/kube-scheduler", "--v=2"], &["/bin/kube-scheduler", "scheduler", "--v=2"]);
        check(&["kube-controller-manager", "--v=2"], &["kube-controller-manager", "controller-manager", "--v=2"]);
        check(&["/bin/kube-apiserver", "--v=2"], &["/bin/kube-apiserver", "api-server", "--v=2"]);
        check(&["rusternetes", "image", "list"], &["rusternetes", "image", "list"]);
    }

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Arguments::command().debug_assert();
    }
}
