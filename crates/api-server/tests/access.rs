//! Who may do what, as upstream's kubectl sees it: a real listener, the bootstrap policy, tokens, impersonation, escalation.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use api_server::{
    AccessConfig, ApiServer, BootstrapConfig, Credentials, Listener, Pki, PkiConfig, ServerConfig, ServingCertificate,
    ShutdownConfig,
};
use tokio::io::AsyncWriteExt;
use tokio_util::sync::CancellationToken;

const DEADLINE: Duration = Duration::from_secs(60);

struct Cluster {
    dir: tempfile::TempDir,
    stop: CancellationToken,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// The text of a finished command.
struct Output {
    ok: bool,
    out: String,
    err: String,
}

async fn start() -> Cluster {
    let dir = tempfile::tempdir().expect("temporary directory");
    let service_ip = IpAddr::from([10, 43, 0, 1]);
    let pki = Pki::load_or_create(
        PkiConfig {
            dir: dir.path().join("pki"),
            node_name: "node-a".to_owned(),
            node_ips: vec![IpAddr::from([127, 0, 0, 1])],
            host_names: Vec::new(),
            service_ip,
            cluster_domain: "cluster.local".to_owned(),
        },
        jiff::Timestamp::now(),
    )
    .expect("certificates");
    let credentials = Credentials::new(AccessConfig::cluster(
        pki.ca_cert_pem.clone(),
        pki.front_proxy_ca_cert_pem.clone(),
        pki.service_account_key_pem.clone(),
        "https://kubernetes.default.svc.cluster.local".to_owned(),
    ))
    .expect("credentials");
    let server = ApiServer::builder(ServerConfig::default(), Arc::new(storage::Memory::new())).credentials(credentials).build();
    let listener = Listener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.expect("a free port");
    let (address, stop) = (listener.address(), CancellationToken::new());
    let certificate = ServingCertificate::new(&pki.api_server).expect("certificate");
    tokio::spawn(listener.serve(server.clone(), certificate, ShutdownConfig::default(), stop.clone()));
    tokio::spawn({
        let (server, stop) = (server.clone(), stop.clone());
        async move { server.run_background(stop).await }
    });
    let config = BootstrapConfig {
        advertise_address: IpAddr::from([127, 0, 0, 1]),
        advertise_port: address.port(),
        service_cidrs: vec!["10.43.0.0/16".to_owned()],
        service_ip,
        publish_endpoints: true,
    };
    server.bootstrap(&config).await.expect("bootstrap objects");
    let url = format!("https://{address}");
    pki.write_admin_kubeconfig(&dir.path().join("admin.kubeconfig"), &url).expect("kubeconfig");
    let node = pki.kubeconfig(&url, "node", &pki.kubelet_client);
    std::fs::write(dir.path().join("node.kubeconfig"), node).expect("kubeconfig");
    Cluster { dir, stop }
}

impl Cluster {
    async fn run(&self, kubeconfig: &str, arguments: &[&str], input: &str) -> Output {
        let kubectl = std::env::var_os("RUSTERNETES_KUBECTL_1_35").map_or_else(|| PathBuf::from("kubectl"), PathBuf::from);
        let mut child = tokio::process::Command::new(kubectl)
            .args(arguments)
            .env("KUBECONFIG", self.dir.path().join(kubeconfig))
            .env("HOME", self.dir.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("kubectl is installed");
        let mut stdin = child.stdin.take().expect("piped");
        stdin.write_all(input.as_bytes()).await.expect("kubectl reads");
        drop(stdin);
        let output = child.wait_with_output().await.expect("kubectl ends");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
        Output { ok: output.status.success(), out: text(output.stdout), err: text(output.stderr) }
    }

    /// Runs as the administrator and must succeed.
    async fn admin(&self, arguments: &[&str]) -> String {
        let output = self.run("admin.kubeconfig", arguments, "").await;
        assert!(output.ok, "kubectl {arguments:?}: {}", output.err);
        output.out
    }

    /// Runs as the administrator and must fail; what it says.
    async fn refused(&self, arguments: &[&str]) -> String {
        let output = self.run("admin.kubeconfig", arguments, "").await;
        assert!(!output.ok, "kubectl {arguments:?}: {}", output.out);
        output.err
    }

    /// Authorization follows changes of RBAC with a moment's delay.
    async fn eventually(&self, arguments: &[&str], wanted: &str) {
        let started = Instant::now();
        loop {
            let output = self.run("admin.kubeconfig", arguments, "").await;
            if output.out.contains(wanted) {
                return;
            }
            assert!(started.elapsed() < DEADLINE, "kubectl {arguments:?}: {} {}", output.out, output.err);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn questions_and_roles() {
    let cluster = start().await;
    assert_eq!(cluster.admin(&["auth", "whoami", "-o", "jsonpath={.status.userInfo.username}"]).await, "kubernetes-admin");
    assert_eq!(cluster.admin(&["auth", "can-i", "delete", "nodes"]).await, "yes\n");
    let bob = ["auth", "can-i", "list", "pods", "--as", "bob", "-n", "default"];
    let output = cluster.run("admin.kubeconfig", &bob, "").await;
    assert_eq!((output.ok, output.out.as_str()), (false, "no\n"), "{}", output.err);
    let text = cluster.refused(&["get", "pods", "--as", "bob", "-n", "default"]).await;
    let wanted = r#"pods is forbidden: User "bob" cannot list resource "pods" in API group "" in the namespace "default""#;
    assert!(text.contains(wanted), "{text}");
    cluster.admin(&["create", "role", "reader", "--verb=list", "--resource=pods", "-n", "default"]).await;
    cluster.admin(&["create", "rolebinding", "bob", "--role=reader", "--user=bob", "-n", "default"]).await;
    cluster.eventually(&bob, "yes").await;
    let list = cluster.admin(&["auth", "can-i", "--list", "--as", "bob", "-n", "default"]).await;
    assert!(list.contains("pods") && list.contains("selfsubjectaccessreviews.authorization.k8s.io"), "{list}");
    let output =
        cluster.run("admin.kubeconfig", &["auth", "can-i", "list", "pods", "--as", "bob", "-n", "kube-system"], "").await;
    assert_eq!(output.out, "no\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_grants_what_they_do_not_have() {
    let cluster = start().await;
    cluster.admin(&["create", "clusterrole", "granter", "--verb=get,list,create,update", "--resource=roles,rolebindings"]).await;
    cluster.admin(&["create", "clusterrolebinding", "granter", "--clusterrole=granter", "--user=eve"]).await;
    cluster.eventually(&["auth", "can-i", "create", "roles", "--as", "eve", "-n", "default"], "yes").await;
    let create = ["create", "role", "thief", "--verb=get", "--resource=secrets", "-n", "default", "--as", "eve"];
    let text = cluster.refused(&create).await;
    assert!(
        text.contains(
            r#"user "eve" (groups=["system:authenticated"]) is attempting to grant RBAC permissions not currently held:"#
        ),
        "{text}"
    );
    assert!(text.contains(r#"{APIGroups:[""], Resources:["secrets"], Verbs:["get"]}"#), "{text}");
    let bind = ["create", "rolebinding", "thief", "--clusterrole=cluster-admin", "--user=eve", "-n", "default", "--as", "eve"];
    assert!(cluster.refused(&bind).await.contains("is attempting to grant RBAC permissions not currently held"));
    cluster
        .admin(&[
            "create",
            "role",
            "same",
            "--verb=get",
            "--resource=roles.rbac.authorization.k8s.io",
            "-n",
            "default",
            "--as",
            "eve",
        ])
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens() {
    let cluster = start().await;
    cluster.admin(&["create", "serviceaccount", "robot", "-n", "default"]).await;
    let token = cluster.admin(&["create", "token", "robot", "-n", "default"]).await;
    let with_token = ["auth", "whoami", "-o", "jsonpath={.status.userInfo.username}", "--token", token.trim()];
    // A client certificate would win over the token.
    let plain = cluster.admin(&["config", "view", "--raw", "--minify"]).await;
    let plain: String = plain.lines().filter(|l| !l.contains("client-")).map(|l| format!("{l}\n")).collect();
    std::fs::write(cluster.dir.path().join("plain.kubeconfig"), plain).expect("kubeconfig");
    let output = cluster.run("plain.kubeconfig", &with_token, "").await;
    assert_eq!(output.out, "system:serviceaccount:default:robot", "{}", output.err);
    cluster.admin(&["delete", "serviceaccount", "robot", "-n", "default"]).await;
    let output = cluster.run("plain.kubeconfig", &with_token, "").await;
    assert!(!output.ok && output.err.contains("must be logged in"), "{} {}", output.out, output.err);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_cluster_starts_with() {
    let cluster = start().await;
    let names = cluster.admin(&["get", "namespaces", "-o", "name"]).await;
    for name in ["default", "kube-system", "kube-public", "kube-node-lease"] {
        assert!(names.contains(&format!("namespace/{name}\n")), "{names}");
    }
    let ip = cluster.admin(&["get", "service", "kubernetes", "-n", "default", "-o", "jsonpath={.spec.clusterIP}"]).await;
    assert_eq!(ip, "10.43.0.1");
    let classes = cluster.admin(&["get", "priorityclasses", "-o", "name"]).await;
    assert!(classes.contains("system-node-critical") && classes.contains("system-cluster-critical"), "{classes}");
    let ready = cluster.admin(&["get", "--raw", "/readyz?verbose"]).await;
    assert!(ready.contains("[+]etcd ok") && ready.ends_with("readyz check passed\n"), "{ready}");
    let text = cluster.refused(&["delete", "namespace", "kube-system"]).await;
    assert!(text.contains("this namespace may not be deleted"), "{text}");
    let text = cluster.refused(&["create", "configmap", "x", "-n", "nowhere"]).await;
    assert!(text.contains(r#"namespaces "nowhere" not found"#), "{text}");
    let metrics = cluster.admin(&["get", "--raw", "/metrics"]).await;
    assert!(metrics.contains(r#"apiserver_storage_objects{resource="namespaces"} 4"#), "{metrics}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_keep_to_themselves() {
    let cluster = start().await;
    let node = |name: &str| format!(r#"{{"apiVersion":"v1","kind":"Node","metadata":{{"name":"{name}"}}}}"#);
    let own = cluster.run("node.kubeconfig", &["create", "-f", "-"], &node("node-a")).await;
    assert!(own.ok, "{}", own.err);
    let taint = cluster.admin(&["get", "node", "node-a", "-o", "jsonpath={.spec.taints[0].key}"]).await;
    assert_eq!(taint, "node.kubernetes.io/not-ready");
    let other = cluster.run("node.kubeconfig", &["create", "-f", "-"], &node("node-b")).await;
    assert!(other.err.contains(r#"node "node-a" is not allowed to modify node "node-b""#), "{}", other.err);
    let secrets = cluster.run("node.kubeconfig", &["get", "secret", "x", "-n", "default"], "").await;
    assert!(secrets.err.contains("no relationship found between node 'node-a' and this object"), "{}", secrets.err);
    cluster.admin(&["create", "serviceaccount", "default", "-n", "default"]).await;
    let pod = r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p","namespace":"default"},"spec":{"nodeName":"node-a",
        "containers":[{"name":"c","image":"i","env":[{"name":"X","valueFrom":{"secretKeyRef":{"name":"x","key":"k"}}}]}]}}"#;
    let created = cluster.run("admin.kubeconfig", &["create", "-f", "-"], pod).await;
    assert!(created.ok, "{}", created.err);
    let volume = cluster.admin(&["get", "pod", "p", "-n", "default", "-o", "jsonpath={.spec.volumes[0].name}"]).await;
    assert!(volume.starts_with("kube-api-access-"), "{volume}");
    cluster.admin(&["create", "secret", "generic", "x", "-n", "default", "--from-literal=k=v"]).await;
    let secrets = cluster.run("node.kubeconfig", &["get", "secret", "x", "-n", "default"], "").await;
    assert!(secrets.ok, "a pod of the node refers to it now: {}", secrets.err);
}
