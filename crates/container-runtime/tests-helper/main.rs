//! What the integration tests start as runtime executable, and what runs in their containers: one static file can be both.

// A program that does nothing but wait may block.
#![allow(clippy::disallowed_methods)]

use std::io::{Read, Write};
use std::time::Duration;

fn main() {
    container_runtime::reexec::dispatch();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    run(&words);
}

fn run(words: &[&str]) {
    match words {
        // Several commands: `first -- second`.
        words if words.contains(&"--") => words.split(|word| *word == "--").for_each(run),
        ["echo", text @ ..] => println!("{}", text.join(" ")),
        ["echo-error", text @ ..] => eprintln!("{}", text.join(" ")),
        ["print", text] => {
            print!("{text}");
            let _ = std::io::stdout().flush();
        }
        ["exit", code] => std::process::exit(code.parse().expect("code")),
        ["sleep"] => std::thread::sleep(Duration::from_secs(3600)),
        ["sleep-ms", milliseconds] => std::thread::sleep(Duration::from_millis(milliseconds.parse().expect("number"))),
        ["cat"] => copy_input(),
        ["cat", path] => print!("{}", std::fs::read_to_string(path).unwrap_or_else(|error| fail(path, &error))),
        ["write", path, text] => std::fs::write(path, text).unwrap_or_else(|error| fail(path, &error)),
        ["list", path] => {
            let mut names: Vec<String> = std::fs::read_dir(path)
                .unwrap_or_else(|error| fail(path, &error))
                .map(|entry| entry.expect("entry").file_name().to_string_lossy().into_owned())
                .collect();
            names.sort();
            println!("{}", names.join(" "));
        }
        ["env", name] => println!("{}", std::env::var(name).unwrap_or_default()),
        ["id"] => {
            let status = std::fs::read_to_string("/proc/self/status").expect("status");
            let wanted = ["Uid:", "Gid:", "Groups:", "CapEff:", "CapBnd:", "NoNewPrivs:", "Seccomp:"];
            status.lines().filter(|line| wanted.iter().any(|name| line.starts_with(name))).for_each(|line| println!("{line}"));
        }
        ["pid"] => println!("{}", std::process::id()),
        ["hostname"] => print!("{}", std::fs::read_to_string("/proc/sys/kernel/hostname").expect("hostname")),
        ["pwd"] => println!("{}", std::env::current_dir().expect("directory").display()),
        ["fill-memory"] => fill_memory(),
        ["count", from] => count(from.parse().expect("number")),
        // The first process of a container ignores SIGTERM unless it handles it: this one dies of it.
        ["die-of-term"] => die_of_term(),
        ["unshare"] => println!("{:?}", nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWUTS)),
        ["thread"] => std::thread::spawn(|| println!("from a thread")).join().expect("thread"),
        ["terminal"] => terminal(),
        ["upper-server", port] => upper_server(port.parse().expect("port")),
        ["serve", directory, cgroup] => serve(directory, cgroup),
        other => {
            eprintln!("unknown command {other:?}");
            std::process::exit(2);
        }
    }
}

fn fail<T>(path: &str, error: &std::io::Error) -> T {
    eprintln!("{path}: {error}");
    std::process::exit(1);
}

fn copy_input() {
    let mut buffer = [0; 4096];
    loop {
        match std::io::stdin().read(&mut buffer) {
            Ok(0) | Err(_) => return,
            Ok(length) => {
                let _ = std::io::stdout().write_all(&buffer[..length]);
                let _ = std::io::stdout().flush();
            }
        }
    }
}

fn fill_memory() {
    let mut all = Vec::new();
    loop {
        all.push(vec![1_u8; 1024 * 1024]);
        std::hint::black_box(&all);
    }
}

fn count(from: u64) {
    for number in from.. {
        println!("{number}");
        let _ = std::io::stdout().flush();
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn die_of_term() {
    println!("waiting");
    let mut signals = nix::sys::signal::SigSet::empty();
    signals.add(nix::sys::signal::Signal::SIGTERM);
    signals.thread_block().expect("mask");
    signals.wait().expect("signal");
    println!("terminated");
    std::process::exit(7);
}

/// Answers `size` with the size of the terminal, until `quit`.
fn terminal() {
    println!("ready");
    for line in std::io::stdin().lines() {
        match line.expect("line").trim() {
            "size" => {
                // SAFETY: the size is plain data that the call fills in.
                #[allow(unsafe_code)]
                let size = unsafe {
                    let mut size: libc::winsize = std::mem::zeroed();
                    libc::ioctl(0, libc::TIOCGWINSZ, &mut size);
                    size
                };
                println!("{}x{}", size.ws_col, size.ws_row);
            }
            "quit" => return,
            _ => {}
        }
    }
}

/// A server with a sandbox of two containers: prints their ids, then waits to be killed. One container ends only after that.
fn serve(directory: &str, cgroup: &str) {
    use cri::{Runtime, v1};
    let directory = std::path::Path::new(directory);
    let config = container_runtime::Config {
        root: directory.join("root"),
        run_dir: directory.join("run"),
        executable: std::env::current_exe().expect("executable"),
        cgroup_parent: cgroup.to_owned(),
        streaming_address: "127.0.0.1:0".parse().expect("address"),
        network: std::sync::Arc::new(container_runtime::LoopbackNetwork),
        registries: container_runtime::RegistryConfig::default(),
    };
    let run = async {
        let runtime = container_runtime::ContainerRuntime::open(config).await.expect("open");
        let options = v1::NamespaceOption { pid: v1::NamespaceMode::Container as i32, ..Default::default() };
        let sandbox_config = v1::PodSandboxConfig {
            metadata: Some(v1::PodSandboxMetadata { name: "served".to_owned(), ..Default::default() }),
            hostname: "served".to_owned(),
            log_directory: directory.join("logs/served").to_string_lossy().into_owned(),
            ..Default::default()
        };
        let request = v1::RunPodSandboxRequest { config: Some(sandbox_config.clone()), runtime_handler: String::new() };
        let sandbox = runtime.run_pod_sandbox(request).await.expect("sandbox").pod_sandbox_id;
        println!("{sandbox}");
        for (name, arguments) in [("lasting", &["count", "0"][..]), ("ending", &["sleep-ms", "300", "--", "exit", "9"])] {
            let config = v1::ContainerConfig {
                metadata: Some(v1::ContainerMetadata { name: name.to_owned(), attempt: 0 }),
                image: Some(v1::ImageSpec { image: "localhost/rusternetes:latest".to_owned(), ..Default::default() }),
                args: arguments.iter().map(|text| (*text).to_owned()).collect(),
                log_path: format!("{name}/0.log"),
                linux: Some(v1::LinuxContainerConfig {
                    security_context: Some(v1::LinuxContainerSecurityContext {
                        namespace_options: Some(options.clone()),
                        ..Default::default()
                    }),
                    ..Default::default()
                }),
                ..Default::default()
            };
            let request = v1::CreateContainerRequest {
                pod_sandbox_id: sandbox.clone(),
                config: Some(config),
                sandbox_config: Some(sandbox_config.clone()),
            };
            let container_id = runtime.create_container(request).await.expect("create").container_id;
            runtime.start_container(v1::StartContainerRequest { container_id: container_id.clone() }).await.expect("start");
            println!("{container_id}");
        }
        std::future::pending::<()>().await;
    };
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("runtime").block_on(run);
}

/// Sends back in upper case what each connection sends, until its end.
fn upper_server(port: u16) {
    let listener = std::net::TcpListener::bind(("127.0.0.1", port)).expect("bind");
    println!("listening");
    for stream in listener.incoming() {
        let mut stream = stream.expect("connection");
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = stream.read(&mut buffer) {
                buffer[..length].make_ascii_uppercase();
                if stream.write_all(&buffer[..length]).is_err() {
                    return;
                }
            }
        });
    }
}
