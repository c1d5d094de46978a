//! Pulls from a real registry (Debian's docker-registry): plain HTTP on loopback, HTTPS, with credentials from a Secret and from a file.

use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use base64::Engine;

use crate::harness::{Cluster, free_port};
use crate::images::{Image, busybox, digest, image_command, oci_archive, oci_manifest};

/// A running registry.
struct Registry {
    child: Child,
    address: IpAddr,
    port: u16,
}

impl Registry {
    /// Starts docker-registry on loopback with the given additional configuration.
    fn start(directory: &Path, extra: &str) -> Self {
        Self::start_on(IpAddr::V4(Ipv4Addr::LOCALHOST), directory, extra)
    }

    fn start_on(address: IpAddr, directory: &Path, extra: &str) -> Self {
        let port = free_port();
        let storage = directory.join(format!("registry-{port}"));
        let config = directory.join(format!("registry-{port}.yml"));
        let text = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp:\n  addr: {address}:{port}\n{extra}",
            storage.display()
        );
        std::fs::write(&config, text).expect("writable");
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("docker-registry (`cargo xtask test` installs it)");
        Self { child, address, port }
    }

    /// Pushes an image through the registry's own API with curl.
    fn push(&self, cluster: &mut Cluster, scheme: &str, options: &[&str], repository: &str, tag: &str, image: &Image) {
        let base = format!("{scheme}://{}:{}/v2", self.address, self.port);
        cluster.wait_for("the registry", |_| curl(options, &[&format!("{base}/")]).is_some());
        let manifest = oci_manifest(image);
        for blob in [&image.config, &image.layer] {
            let started =
                curl(options, &["-X", "POST", "-D", "-", &format!("{base}/{repository}/blobs/uploads/")]).expect("an upload");
            let location = started
                .lines()
                .find_map(|line| line.split_once(": ").filter(|(name, _)| name.eq_ignore_ascii_case("location")))
                .map(|(_, value)| value.trim().to_owned())
                .expect("a location");
            let file = cluster.scratch().join("blob");
            std::fs::write(&file, blob).expect("writable");
            let data = format!("@{}", file.display());
            let url = format!("{location}&digest={}", digest(blob));
            curl(options, &["-X", "PUT", "-H", "Content-Type: application/octet-stream", "--data-binary", &data, &url])
                .expect("the blob is taken");
        }
        let file = cluster.scratch().join("manifest");
        std::fs::write(&file, manifest).expect("writable");
        let data = format!("@{}", file.display());
        let kind = "Content-Type: application/vnd.oci.image.manifest.v1+json";
        curl(options, &["-X", "PUT", "-H", kind, "--data-binary", &data, &format!("{base}/{repository}/manifests/{tag}")])
            .expect("the manifest is taken");
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        // It may have ended by itself: then there is nothing to stop.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs curl; `None` when the server did not answer with success.
fn curl(options: &[&str], arguments: &[&str]) -> Option<String> {
    let output = Command::new("curl").args(["-sSf", "--max-time", "30"]).args(options).args(arguments).output().expect("curl");
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs a pod to its end and returns its log.
fn run(cluster: &mut Cluster, name: &str, image: &str, overrides: &str) -> String {
    let kubectl = cluster.kubectl();
    let mut arguments = vec!["run".to_owned(), name.to_owned(), format!("--image={image}"), "--restart=Never".to_owned()];
    if !overrides.is_empty() {
        arguments.push(format!("--overrides={overrides}"));
    }
    arguments.extend(["--", "sh", "-c", "echo pulled and run"].map(str::to_owned));
    kubectl.ok_arguments(&arguments);
    cluster.wait_for("the pod to end", |_| kubectl.ok(&format!("get pod {name}")).contains("Completed"));
    kubectl.ok(&format!("logs {name}"))
}

#[test]
fn pulls_over_http_and_with_credentials() {
    let mut cluster = Cluster::start();
    let image = busybox();
    let directory = cluster.scratch().to_path_buf();

    let open = Registry::start(&directory, "");
    open.push(&mut cluster, "http", &[], "team/box", "v1", &image);
    let name = format!("127.0.0.1:{}/team/box:v1", open.port);
    assert_eq!(run(&mut cluster, "plain", &name, ""), "pulled and run\n");
    assert!(image_command(&cluster, &["list"]).contains(&name));

    let closed = Registry::start(&directory, &passwords(&directory));
    closed.push(&mut cluster, "http", &["-u", "ann:secret"], "team/box", "v2", &image);
    let server = format!("127.0.0.1:{}", closed.port);
    let name = format!("{server}/team/box:v2");
    let kubectl = cluster.kubectl();
    kubectl.ok_arguments(["run", "denied", &format!("--image={name}"), "--restart=Never"]);
    cluster.wait_for("the refusal", |_| kubectl.ok("get pod denied").contains("ImagePull"));
    kubectl.ok(&format!(
        "create secret docker-registry pull --docker-server={server} --docker-username=ann --docker-password=secret"
    ));
    let overrides = r#"{"spec":{"imagePullSecrets":[{"name":"pull"}]}}"#;
    assert_eq!(run(&mut cluster, "allowed", &name, overrides), "pulled and run\n");
}

/// The registry's configuration to let in ann with the password `secret` and nobody else.
fn passwords(directory: &Path) -> String {
    let passwords = Command::new("htpasswd").args(["-Bbn", "ann", "secret"]).output().expect("htpasswd");
    let htpasswd = directory.join("htpasswd");
    std::fs::write(&htpasswd, passwords.stdout).expect("writable");
    format!("auth: {{htpasswd: {{realm: test, path: {}}}}}\n", htpasswd.display())
}

/// This machine's own address: registries on loopback are spoken to by plain HTTP.
fn own_address() -> IpAddr {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("binds");
    // Sends nothing: it asks for the route. The address is one for documentation (RFC 5737).
    socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9)).expect("there is a default route");
    socket.local_addr().expect("is bound").ip()
}

#[test]
fn pulls_over_https_with_a_file_of_credentials() {
    let address = own_address();
    let mut registry = None;
    let mut cluster = Cluster::start_with(|scratch| {
        let own = rcgen::generate_simple_self_signed([address.to_string()]).expect("a certificate");
        let [certificate, key, credentials] = ["registry.crt", "registry.key", "config.json"].map(|name| scratch.join(name));
        std::fs::write(&certificate, own.cert.pem()).expect("writable");
        std::fs::write(&key, own.signing_key.serialize_pem()).expect("writable");
        let tls = format!("  tls: {{certificate: {}, key: {}}}\n", certificate.display(), key.display());
        let started = Registry::start_on(address, scratch, &(tls + &passwords(scratch)));
        let auth = base64::engine::general_purpose::STANDARD.encode("ann:secret");
        let config = format!(r#"{{"auths":{{"{address}:{}":{{"auth":"{auth}"}}}}}}"#, started.port);
        std::fs::write(&credentials, config).expect("writable");
        registry = Some(started);
        let flag = |name: &str, file: &Path| format!("{name}={}", file.display());
        vec![flag("--registry-ca", &certificate), flag("--registry-credentials", &credentials)]
    });
    let registry = registry.expect("was started");
    let ca = cluster.scratch().join("registry.crt").display().to_string();
    registry.push(&mut cluster, "https", &["--cacert", &ca, "-u", "ann:secret"], "team/box", "v3", &busybox());
    let name = format!("{address}:{}/team/box:v3", registry.port);
    assert_eq!(run(&mut cluster, "private", &name, ""), "pulled and run\n");

    // The same registry for a server that does not trust its certificate.
    let mut distrustful = Cluster::start();
    let kubectl = distrustful.kubectl();
    kubectl.ok_arguments(["run", "denied", &format!("--image={name}"), "--restart=Never"]);
    distrustful.wait_for("the refusal", |_| kubectl.ok("get events").contains("UnknownIssuer"));
}

#[test]
fn imports_and_removes_archives() {
    let mut cluster = Cluster::start();
    let image = busybox();
    let archive = oci_archive(cluster.scratch(), &image, "example.test/oci:1");
    let imported = image_command(&cluster, &["import", archive.to_str().expect("UTF-8")]);
    assert!(imported.contains("example.test/oci:1"), "{imported}");
    assert_eq!(run(&mut cluster, "imported", "example.test/oci:1", ""), "pulled and run\n");
    cluster.kubectl().ok("delete pod imported");
    image_command(&cluster, &["remove", "example.test/oci:1"]);
    assert!(!image_command(&cluster, &["list"]).contains("example.test/oci:1"));
}
