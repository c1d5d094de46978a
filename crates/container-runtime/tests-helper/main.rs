//! What the integration tests start as runtime executable, and what runs in their containers: one static file can be both.

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
