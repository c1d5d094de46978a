//! The list of kubectl commands that issue 3 names, each asserted by what happened.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::Stdio;
use std::time::Duration;

use crate::harness::{Cluster, Kubectl, free_port};
use crate::images::{BUSYBOX, builtin, import_busybox};

/// Reading commands with the output that upstream gives.
#[test]
fn reads_as_upstream() {
    let cluster = Cluster::start();
    for kubectl in [cluster.kubectl(), cluster.old_kubectl()] {
        let nodes = kubectl.ok("get nodes -o wide");
        let header: Vec<&str> =
            nodes.lines().next().expect("a header").split("  ").map(str::trim).filter(|c| !c.is_empty()).collect();
        assert_eq!(
            header,
            [
                "NAME",
                "STATUS",
                "ROLES",
                "AGE",
                "VERSION",
                "INTERNAL-IP",
                "EXTERNAL-IP",
                "OS-IMAGE",
                "KERNEL-VERSION",
                "CONTAINER-RUNTIME"
            ]
        );
        assert!(nodes.lines().nth(1).expect("a node").contains(" Ready "), "{nodes}");
        assert!(nodes.contains("rusternetes://"), "{nodes}");

        assert_eq!(kubectl.ok("auth can-i create pods").trim(), "yes");
        let denied = kubectl.output(["auth", "can-i", "create", "pods", "--as", "system:serviceaccount:default:default"]);
        assert_eq!(String::from_utf8_lossy(&denied.stdout).trim(), "no");

        let resources = kubectl.ok("api-resources");
        for row in ["pods", "deployments", "ingresses", "clusterroles", "endpointslices", "leases"] {
            assert!(resources.lines().any(|line| line.starts_with(row)), "{row} is missing:\n{resources}");
        }
        let explain = kubectl.ok("explain pod.spec");
        assert!(explain.starts_with("KIND:       Pod\nVERSION:    v1\n\nFIELD: spec <PodSpec>"), "{explain}");
        assert!(
            explain.contains("activeDeadlineSeconds") && explain.contains("List of containers belonging to the pod"),
            "{explain}"
        );

        let metrics = kubectl.ok("get --raw /metrics");
        assert!(metrics.contains("apiserver_request_total{"), "no request metric");
        let version = kubectl.ok("version");
        assert!(version.contains("Server Version: v1.35"), "{version}");
    }
}

/// A deployment from creation to roll-back and removal.
#[test]
fn deployment_rolls_out_and_back() {
    let mut cluster = Cluster::start();
    let kubectl = cluster.kubectl();
    assert_eq!(kubectl.ok("create namespace shop").trim(), "namespace/shop created");
    let image = builtin();
    let created =
        kubectl.ok(&format!("-n shop create deployment web --image={image} --replicas=3 -- rusternetes hello --port 8080"));
    assert_eq!(created.trim(), "deployment.apps/web created");
    kubectl.ok("-n shop rollout status deployment/web --timeout=120s");

    // Three processes really answer, each from its own address.
    let pods = kubectl.json("-n shop get pods -l app=web");
    let mut hosts: Vec<String> = items(&pods)
        .map(|pod| http_get(pod["status"]["podIP"].as_str().expect("an address"), 8080))
        .map(|body| line_value(&body, "host: "))
        .collect();
    let mut names: Vec<String> = items(&pods).map(|pod| text(&pod["metadata"]["name"])).collect();
    hosts.sort();
    names.sort();
    assert_eq!(hosts, names);
    assert_eq!(hosts.len(), 3);

    assert_eq!(kubectl.ok("-n shop scale deployment/web --replicas=1").trim(), "deployment.apps/web scaled");
    cluster.wait_for("one pod", |_| items(&kubectl.json("-n shop get pods -l app=web")).count() == 1);

    import_busybox(&cluster);
    kubectl.ok(&format!("-n shop set image deployment/web rusternetes={BUSYBOX}"));
    // Busybox has no `rusternetes`: the new pod cannot start, the old one must go on serving.
    cluster.wait_for("the new pod to fail", |_| {
        kubectl.ok("-n shop get pods").contains("RunContainerError")
            || kubectl.ok("-n shop get pods").contains("CrashLoopBackOff")
    });
    let ready: Vec<String> = items(&kubectl.json("-n shop get pods -l app=web"))
        .filter(|pod| pod["status"]["containerStatuses"][0]["ready"] == true)
        .map(|pod| text(&pod["status"]["podIP"]))
        .collect();
    assert_eq!(ready.len(), 1);
    assert!(http_get(&ready[0], 8080).contains("Hello"));
    assert!(kubectl.ok("-n shop rollout undo deployment/web").contains("rolled back"));
    kubectl.ok("-n shop rollout status deployment/web --timeout=120s");
    assert_eq!(kubectl.json("-n shop get deployment web")["spec"]["template"]["spec"]["containers"][0]["image"], image);

    let described = kubectl.ok("-n shop describe deployment web");
    assert!(described.contains("ScalingReplicaSet"), "{described}");
    assert!(kubectl.ok("-n shop get events").contains("ScalingReplicaSet"));

    kubectl.ok("delete namespace shop --timeout=120s");
    assert!(kubectl.fails("get namespace shop").contains("NotFound"));
    assert_eq!(kubectl.ok("get pods -A -l app=web -o name"), "");
}

/// `get pods` in every output format, and the watch that prints each step.
#[test]
fn output_formats_and_watch() {
    let mut cluster = Cluster::start();
    let kubectl = cluster.kubectl();
    // The watch is there once it shows a pod that exists; only then does it see each step of the next one.
    run_hello(&mut cluster, &kubectl, "first");
    let mut watch = kubectl.command(["get", "pods", "-o", "wide", "-w"]).stdout(Stdio::piped()).spawn().expect("kubectl starts");
    let mut watched = BufReader::new(watch.stdout.take().expect("piped"));
    let mut seen = String::new();
    while !seen.contains("first") {
        assert_ne!(watched.read_line(&mut seen).expect("UTF-8"), 0, "the watch ended: {seen}");
    }
    kubectl.ok("delete pod first");
    run_hello(&mut cluster, &kubectl, "web");
    let wide = kubectl.ok("get pods -o wide");
    assert!(wide.starts_with("NAME   READY   STATUS    RESTARTS   AGE"), "{wide}");
    assert!(
        wide.lines().next().expect("a header").ends_with("IP           NODE")
            || wide.contains("NOMINATED NODE   READINESS GATES"),
        "{wide}"
    );
    assert_eq!(kubectl.ok("get pods -o name").trim(), "pod/web");
    assert_eq!(kubectl.ok("get pods -o jsonpath={.items[0].status.phase}"), "Running");
    let columns = kubectl.ok("get pods -o custom-columns=N:.metadata.name,P:.spec.containers[0].command[1]");
    assert_eq!(columns.split_whitespace().collect::<Vec<_>>(), ["N", "P", "web", "hello"]);
    assert!(kubectl.ok("get pod web -o yaml").contains("\n  phase: Running\n"));
    assert_eq!(kubectl.json("get pods")["kind"], "List");
    kubectl.ok("delete pod web");
    // The watch saw the pod come and go.
    cluster.wait_for("the watch to be killed", |_| watch.kill().is_ok());
    watched.read_to_string(&mut seen).expect("UTF-8");
    watch.wait().expect("a child of ours");
    for status in ["Pending", "ContainerCreating", "Running", "Terminating"] {
        let shown = seen.lines().any(|line| line.starts_with("web") && line.contains(status));
        assert!(shown, "{status} is missing:\n{seen}");
    }
}

/// logs, exec with and without a terminal, cp both ways, port-forward.
#[test]
fn reaches_into_containers() {
    let mut cluster = Cluster::start();
    import_busybox(&cluster);
    for (kubectl, pod) in [(cluster.kubectl(), "box-new"), (cluster.old_kubectl(), "box-old")] {
        let script = "echo started; trap 'exit 0' TERM; i=0; while true; do echo line $i; i=$((i+1)); sleep 1; done";
        kubectl.ok_arguments(["run", pod, &format!("--image={BUSYBOX}"), "--restart=Never", "--", "sh", "-c", script]);
        kubectl.ok(&format!("wait --for=condition=Ready pod/{pod} --timeout=120s"));

        cluster.wait_for("log lines", |_| kubectl.ok(&format!("logs {pod}")).contains("line 1"));
        assert!(kubectl.ok(&format!("logs {pod}")).starts_with("started\nline 0\n"));
        assert_eq!(kubectl.ok(&format!("logs {pod} --tail=1")).lines().count(), 1);
        let mut follow = kubectl.command(["logs", "-f", pod]).stdout(Stdio::piped()).spawn().expect("kubectl starts");
        let mut stream = follow.stdout.take().expect("piped");
        let mut followed = String::new();
        let mut buffer = [0; 256];
        // Lines that are written after the call arrive too.
        while !followed.contains("line 4") {
            let count = stream.read(&mut buffer).expect("a stream");
            assert!(count > 0, "the stream ended: {followed}");
            followed.push_str(&String::from_utf8_lossy(&buffer[..count]));
        }
        follow.kill().and_then(|()| follow.wait()).expect("a child of ours");

        let exec = kubectl.with_input(&format!("exec -i {pod} -- sh"), "echo to-stdout; echo to-stderr >&2; hostname; exit 7\n");
        assert_eq!(String::from_utf8_lossy(&exec.stdout), format!("to-stdout\n{pod}\n"));
        assert!(String::from_utf8_lossy(&exec.stderr).contains("to-stderr"));
        assert_eq!(exec.status.code(), Some(7));
        assert_terminal(&kubectl, pod);

        let local = cluster.scratch().join(format!("{pod}.bin"));
        let bytes: Vec<u8> = (0..300_000u32).map(|i| (i % 251) as u8).collect();
        std::fs::write(&local, &bytes).expect("a writable directory");
        kubectl.ok_arguments(["cp", local.to_str().expect("UTF-8"), &format!("{pod}:/tmp/copy.bin")]);
        let size = kubectl.ok_arguments(["exec", pod, "--", "stat", "-c", "%s", "/tmp/copy.bin"]);
        assert_eq!(size.trim(), "300000");
        let back = cluster.scratch().join(format!("{pod}.back"));
        kubectl.ok_arguments(["cp", &format!("{pod}:/tmp/copy.bin"), back.to_str().expect("UTF-8")]);
        assert_eq!(std::fs::read(&back).expect("the copy"), bytes);
        kubectl.ok(&format!("delete pod {pod} --now"));
    }
    let kubectl = cluster.kubectl();
    run_hello(&mut cluster, &kubectl, "web");
    for kubectl in [cluster.kubectl(), cluster.old_kubectl()] {
        assert_port_forward(&mut cluster, &kubectl);
    }
}

/// `exec -it` gives a terminal: kubectl itself needs one, made by `script`.
fn assert_terminal(kubectl: &Kubectl, pod: &str) {
    let command = kubectl.command(["exec", "-it", pod, "--", "sh", "-c", "tty; stty size"]);
    let line: Vec<String> = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| format!("'{}'", word.to_string_lossy()))
        .collect();
    let mut script = std::process::Command::new("script");
    for (name, value) in command.get_envs() {
        script.env(name, value.expect("set"));
    }
    let output = script
        .args(["-qec", &format!("stty rows 33 cols 77; {}", line.join(" ")), "/dev/null"])
        .stdin(Stdio::null())
        .output()
        .expect("script of util-linux");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("/dev/pts/") || text.contains("/dev/console"), "no terminal: {text}");
}

fn assert_port_forward(cluster: &mut Cluster, kubectl: &Kubectl) {
    let port = free_port();
    let mut forward = kubectl
        .command(["port-forward", "pod/web", &format!("{port}:8080")])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("kubectl starts");
    cluster.wait_for("the forwarded port", |_| TcpStream::connect(("127.0.0.1", port)).is_ok());
    for path in ["/first", "/second"] {
        assert_eq!(line_value(&http_get_path("127.0.0.1", port, path), "path: "), path);
    }
    forward.kill().and_then(|()| forward.wait()).expect("a child of ours");
}

/// Client-side apply of several objects and of a changed file, then server-side apply with a conflict.
#[test]
fn apply_on_both_sides() {
    let cluster = Cluster::start();
    let manifest = |value: &str, extra: &str| {
        format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: settings\n  labels: {{tier: one}}\ndata:\n  colour: {value}\n{extra}---\n\
             apiVersion: v1\nkind: Service\nmetadata:\n  name: front\nspec:\n  selector: {{app: front}}\n  ports:\n  - port: 80\n"
        )
    };
    for kubectl in [cluster.kubectl(), cluster.old_kubectl()] {
        assert_eq!(kubectl.apply(&manifest("blue", "  size: small\n")), "configmap/settings created\nservice/front created\n");
        let before = kubectl.json("get service front");
        assert_eq!(kubectl.apply(&manifest("green", "")), "configmap/settings configured\nservice/front unchanged\n");
        let data = kubectl.json("get configmap settings");
        assert_eq!(data["data"], serde_json::json!({"colour": "green"}), "the field left out of the file is gone");
        assert_eq!(kubectl.json("get service front")["spec"]["clusterIP"], before["spec"]["clusterIP"]);
        kubectl.ok("delete configmap/settings service/front");

        let server_side = |value: &str, manager: &str| {
            let line = format!("apply --server-side --field-manager={manager} -f -");
            kubectl.with_input(&line, &manifest(value, ""))
        };
        assert!(server_side("blue", "one").status.success());
        let conflict = server_side("red", "two");
        let message = String::from_utf8_lossy(&conflict.stderr).into_owned();
        assert!(!conflict.status.success() && message.contains("conflict with \"one\": .data.colour"), "{message}");
        let map = kubectl.json("get configmap settings --show-managed-fields");
        assert_eq!(map["data"]["colour"], "blue");
        let managers: Vec<_> =
            map["metadata"]["managedFields"].as_array().expect("managed fields").iter().map(|m| text(&m["manager"])).collect();
        assert_eq!(managers, ["one"]);
        kubectl.ok("delete configmap/settings service/front");
    }
}

/// `delete pod` waits for the container to end within the grace period.
#[test]
fn deletion_is_graceful() {
    let mut cluster = Cluster::start();
    import_busybox(&cluster);
    let kubectl = cluster.kubectl();
    let script = "trap 'echo got TERM; sleep 2; echo leaving; exit 0' TERM; echo ready; while true; do sleep 0.1; done";
    kubectl.ok_arguments(["run", "polite", &format!("--image={BUSYBOX}"), "--restart=Never", "--", "sh", "-c", script]);
    cluster.wait_for("the script", |_| {
        let logs = kubectl.output(["logs", "polite"]);
        String::from_utf8_lossy(&logs.stdout).contains("ready")
    });
    let mut follow = kubectl.command(["logs", "-f", "polite"]).stdout(Stdio::piped()).spawn().expect("kubectl starts");
    let begun = std::time::Instant::now();
    kubectl.ok("delete pod polite");
    let took = begun.elapsed();
    assert!(took >= Duration::from_secs(2) && took < Duration::from_secs(25), "{took:?}");
    let mut log = String::new();
    follow.stdout.take().expect("piped").read_to_string(&mut log).expect("UTF-8");
    follow.wait().expect("a child of ours");
    assert_eq!(log, "ready\ngot TERM\nleaving\n");
}

/// Starts a pod of the built-in image and waits until it is ready.
pub(crate) fn run_hello(cluster: &mut Cluster, kubectl: &Kubectl, name: &str) {
    let image = format!("--image={}", builtin());
    kubectl.ok_arguments(["run", name, image.as_str(), "--command", "--", "rusternetes", "hello", "--port", "8080"]);
    cluster.wait_for("the pod to be running", |_| kubectl.ok("get pods").contains("Running"));
    kubectl.ok(&format!("wait --for=condition=Ready pod/{name} --timeout=120s"));
}

/// The items of a list.
pub(crate) fn items(list: &serde_json::Value) -> impl Iterator<Item = &serde_json::Value> {
    list["items"].as_array().expect("a list").iter()
}

/// A string of an object.
pub(crate) fn text(value: &serde_json::Value) -> String {
    value.as_str().expect("a string").to_owned()
}

/// The rest of the line that starts with `key`.
pub(crate) fn line_value(body: &str, key: &str) -> String {
    let line = body.lines().find_map(|line| line.strip_prefix(key));
    line.unwrap_or_else(|| panic!("no line {key:?} in {body:?}")).to_owned()
}

/// GET / of an HTTP server.
pub(crate) fn http_get(host: &str, port: u16) -> String {
    http_get_path(host, port, "/")
}

fn http_get_path(host: &str, port: u16, path: &str) -> String {
    try_http_get(host, port, path).unwrap_or_else(|error| panic!("GET http://{host}:{port}{path}: {error}"))
}

/// GET with a deadline of twenty seconds.
pub(crate) fn try_http_get(host: &str, port: u16, path: &str) -> std::io::Result<String> {
    let address = format!("{host}:{port}").parse().map_err(std::io::Error::other)?;
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(20))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    match answer.split_once("\r\n\r\n") {
        Some((head, body)) if head.starts_with("HTTP/1.1 200") => Ok(body.to_owned()),
        _ => Err(std::io::Error::other(answer)),
    }
}
