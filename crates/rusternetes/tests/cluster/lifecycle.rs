//! The server comes and goes; containers stay, or come back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use serde_json::Value;

use crate::harness::{Cluster, Kubectl, teardown};
use crate::images::builtin;
use crate::kubectl::{http_get, items, run_hello, text, try_http_get};

/// What must be the same after the server is back: uid, container id and restart count of each pod.
fn identities(kubectl: &Kubectl) -> Vec<(String, String, u64)> {
    let mut found: Vec<_> = items(&kubectl.json("get pods -A"))
        .flat_map(|pod| {
            let uid = text(&pod["metadata"]["uid"]);
            let statuses = pod["status"]["containerStatuses"].as_array().cloned().unwrap_or_default();
            statuses.into_iter().map(move |status: Value| {
                (uid.clone(), text(&status["containerID"]), status["restartCount"].as_u64().expect("a count"))
            })
        })
        .collect();
    found.sort();
    found
}

/// Asks a pod over and over and counts what failed.
struct Load {
    stop: Arc<AtomicBool>,
    failed: Arc<AtomicU32>,
    asked: Arc<AtomicU32>,
    thread: std::thread::JoinHandle<()>,
}

impl Load {
    fn start(host: String) -> Self {
        let (stop, failed, asked) = (Arc::<AtomicBool>::default(), Arc::<AtomicU32>::default(), Arc::<AtomicU32>::default());
        let (stop_it, failures, count) = (Arc::clone(&stop), Arc::clone(&failed), Arc::clone(&asked));
        let thread = std::thread::spawn(move || {
            while !stop_it.load(Ordering::Relaxed) {
                if try_http_get(&host, 8080, "/").is_err() {
                    failures.fetch_add(1, Ordering::Relaxed);
                }
                count.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        Self { stop, failed, asked, thread }
    }

    /// The requests made and the requests failed.
    fn finish(self) -> (u32, u32) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("no panic");
        (self.asked.load(Ordering::Relaxed), self.failed.load(Ordering::Relaxed))
    }
}

#[test]
fn containers_outlive_the_server() {
    let mut cluster = Cluster::start();
    let kubectl = cluster.kubectl();
    kubectl.ok(&format!("create deployment web --image={} -- rusternetes hello --port 8080", builtin()));
    kubectl.ok("rollout status deployment/web --timeout=120s");
    let address = text(&kubectl.json("get pods")["items"][0]["status"]["podIP"]);
    let before = identities(&kubectl);
    assert_eq!(before.len(), 1);

    let load = Load::start(address.clone());
    cluster.kill_server();
    assert!(http_get(&address, 8080).contains("Hello"), "served without the server");
    cluster.start_server();
    kubectl.ok("rollout status deployment/web --timeout=120s");
    assert_eq!(identities(&kubectl), before, "after kill -9");

    assert_eq!(cluster.stop_server(), Some(0), "SIGTERM ends the server cleanly");
    assert!(http_get(&address, 8080).contains("Hello"), "served without the server");
    cluster.start_server();
    kubectl.ok("rollout status deployment/web --timeout=120s");
    assert_eq!(identities(&kubectl), before, "after SIGTERM");
    let (asked, failed) = load.finish();
    assert!(asked > 50, "{asked} requests");
    assert_eq!(failed, 0, "of {asked} requests");

    // A container that ends while no server runs is noticed and restarted, with its exit code kept.
    cluster.kill_server();
    let process = process_of_hello(&address);
    nix::sys::signal::kill(process, nix::sys::signal::Signal::SIGKILL).expect("it runs");
    cluster.start_server();
    cluster.wait_for("the restart", |_| {
        let pod = &kubectl.json("get pods")["items"][0]["status"]["containerStatuses"][0].clone();
        pod["restartCount"] == 1 && pod["ready"] == true && pod["lastState"]["terminated"]["exitCode"] == 137
    });
}

/// The process that serves on an address: the one whose network namespace has it.
fn process_of_hello(address: &str) -> nix::unistd::Pid {
    let entries = std::fs::read_dir("/proc").expect("proc").filter_map(Result::ok);
    for entry in entries {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<i32>() else { continue };
        let command = std::fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default();
        let routes = std::fs::read_to_string(entry.path().join("net/fib_trie")).unwrap_or_default();
        if command.contains("\0hello\0") && routes.contains(&format!("|-- {address}\n")) {
            return nix::unistd::Pid::from_raw(pid);
        }
    }
    panic!("no process serves on {address}");
}

#[test]
fn deployments_come_back_after_a_reboot() {
    let mut cluster = Cluster::start();
    let kubectl = cluster.kubectl();
    kubectl.ok(&format!("create deployment web --replicas=2 --image={} -- rusternetes hello --port 8080", builtin()));
    kubectl.ok("rollout status deployment/web --timeout=120s");
    cluster.kill_server();
    teardown(&cluster.data_dir());
    cluster.start_server();
    cluster.wait_for("both pods to serve again", |_| {
        let pods = kubectl.json("get pods -l app=web");
        let serving = items(&pods)
            .filter(|pod| pod["status"]["containerStatuses"][0]["ready"] == true)
            .filter_map(|pod| pod["status"]["podIP"].as_str())
            .filter(|address| try_http_get(address, 8080, "/").is_ok())
            .count();
        serving == 2
    });
}

#[test]
fn two_servers_share_a_machine() {
    let mut first = Cluster::start();
    let mut second = Cluster::start();
    let (one, two) = (first.kubectl(), second.kubectl());
    run_hello(&mut first, &one, "web");
    run_hello(&mut second, &two, "web");
    let addresses: Vec<String> =
        [&one, &two].iter().map(|kubectl| text(&kubectl.json("get pod web")["status"]["podIP"])).collect();
    assert_ne!(addresses[0], addresses[1]);
    for address in &addresses {
        assert!(http_get(address, 8080).contains("host: web"));
    }
    drop(second);
    assert!(http_get(&addresses[0], 8080).contains("host: web"), "the first is untouched by the second's end");
    assert!(try_http_get(&addresses[1], 8080, "/").is_err());
}
