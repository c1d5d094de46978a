//! Mistakes get a clear error that says what to do, and nothing is lost.

use std::process::{Command, Output};

use crate::harness::Cluster;

fn server(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_rusternetes")).arg("server").args(arguments).output().expect("the binary starts")
}

fn error(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn bad_objects_are_refused() {
    let mut cluster = Cluster::start();
    let kubectl = cluster.kubectl();
    let create = |manifest: &str, flags: &str| kubectl.with_input(&format!("create {flags} -f -"), manifest);

    let malformed = create("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a\n", "");
    assert!(!malformed.status.success() && error(&malformed).contains("error"), "{malformed:?}");

    let unknown = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: typo}\ndate: {a: b}\n";
    let strict = create(unknown, "--validate=strict");
    assert!(error(&strict).contains(r#"unknown field "date""#), "{strict:?}");
    assert!(kubectl.fails("get configmap typo").contains("NotFound"));
    let warned = create(unknown, "--validate=warn");
    assert!(warned.status.success() && error(&warned).contains(r#"Warning: unknown field "date""#), "{warned:?}");

    let name = create("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: No_Good}\n", "");
    assert!(error(&name).contains("a lowercase RFC 1123 subdomain must consist of"), "{name:?}");

    let service = |name: &str| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec:\n  type: NodePort\n  selector: {{app: a}}\n  ports: [{{port: 80, nodePort: 31234}}]\n"
        )
    };
    assert!(create(&service("one"), "").status.success());
    let taken = create(&service("two"), "");
    assert!(error(&taken).contains("provided port is already allocated"), "{taken:?}");
    kubectl.ok("delete service one");
    assert!(create(&service("two"), "").status.success(), "the port is free again");

    kubectl.ok_arguments(["run", "ghost", "--image=127.0.0.1:1/no/such:image"]);
    cluster.wait_for("the pull to fail", |_| {
        let pod = kubectl.ok("get pod ghost");
        pod.contains("ErrImagePull") || pod.contains("ImagePullBackOff")
    });
    let described = kubectl.ok("describe pod ghost");
    assert!(described.contains("Failed to pull image \"127.0.0.1:1/no/such:image\""), "{described}");
    kubectl.ok("delete pod ghost --timeout=120s");
}

#[test]
fn the_command_line_says_what_is_wrong() {
    let cluster = Cluster::start();
    let data_dir = cluster.data_dir();
    let data_dir = data_dir.to_str().expect("UTF-8");

    let second = server(&["--data-dir", data_dir]);
    assert_eq!(second.status.code(), Some(3), "{second:?}");
    assert!(error(&second).contains(&format!("in use by process {}", cluster.pid())), "{second:?}");

    let other = tempfile::tempdir().expect("a directory");
    let other_dir = other.path().join("data");
    let port = cluster.port().to_string();
    let taken = server(&["--data-dir", other_dir.to_str().expect("UTF-8"), "--secure-port", &port]);
    assert_eq!(taken.status.code(), Some(4), "{taken:?}");
    assert!(error(&taken).contains(&port) && error(&taken).contains("--secure-port"), "{taken:?}");

    let newer = tempfile::tempdir().expect("a directory");
    std::fs::write(newer.path().join("instance.json"), r#"{"format": 4000, "slot": 90, "version": "77.0.0"}"#).expect("writable");
    let refused = server(&["--data-dir", newer.path().to_str().expect("UTF-8")]);
    assert_eq!(refused.status.code(), Some(3), "{refused:?}");
    assert!(error(&refused).contains("77.0.0") && error(&refused).contains("nothing was changed"), "{refused:?}");

    let unknown = server(&["--no-such-flag"]);
    assert_eq!(unknown.status.code(), Some(2), "{unknown:?}");

    // The cluster that all of this met goes on.
    assert!(cluster.kubectl().ok("get nodes").contains(" Ready "));
}

#[test]
fn without_root_it_says_so() {
    use std::os::unix::process::CommandExt;
    let directory = tempfile::tempdir().expect("a directory");
    // The build directory may be closed to others: run a copy in a place that is open.
    let copy = directory.path().join("rusternetes");
    std::fs::copy(env!("CARGO_BIN_EXE_rusternetes"), &copy).expect("copied");
    std::os::unix::fs::chown(directory.path(), Some(65534), Some(65534)).expect("root");
    let output =
        Command::new(&copy).uid(65534).gid(65534).arg("--data-dir").arg(directory.path().join("data")).output().expect("starts");
    assert_eq!(output.status.code(), Some(5), "{output:?}");
    assert!(error(&output).contains("needs root"), "{output:?}");
}

/// The store's file system fills up: writes are refused with a clear error, reads go on, nothing that was acknowledged is lost.
#[test]
fn a_full_disk_loses_nothing() {
    let mut cluster = Cluster::start_on_small_disk(1 << 30);
    let kubectl = cluster.kubectl();
    let filler = cluster.data_dir().join("filler");
    let payload = "x".repeat(100_000);
    kubectl.ok_arguments(["create", "configmap", "before", &format!("--from-literal=a={payload}")]);
    fill(&filler);
    let mut written = vec!["before".to_owned()];
    let mut refused = None;
    for number in 0..400 {
        let name = format!("map-{number}");
        let output = kubectl.output(["create", "configmap", &name, &format!("--from-literal=a={payload}")]);
        if !output.status.success() {
            refused = Some(error(&output));
            break;
        }
        written.push(name);
    }
    let refused = refused.expect("the disk is full at some point");
    assert!(refused.contains("no space left"), "{refused}");
    assert!(kubectl.ok("get configmap before").contains("before"), "reads go on");
    std::fs::remove_file(&filler).expect("the filler");
    cluster.wait_for("writes to work again", |_| kubectl.output(["create", "configmap", "after"]).status.success());
    cluster.kill_server();
    cluster.start_server();
    for name in &written {
        assert_eq!(kubectl.json(&format!("get configmap {name}"))["data"]["a"].as_str().map(str::len), Some(payload.len()));
    }
}

/// Writes zeros until the file system has no room.
fn fill(path: &std::path::Path) {
    use std::io::Write;
    let mut file = std::fs::File::create(path).expect("writable");
    let block = vec![0u8; 64 << 10];
    while file.write_all(&block).is_ok() {}
}
