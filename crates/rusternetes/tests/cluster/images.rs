//! Images for the tests: busybox from Debian's static executable, as docker and OCI archives. Nothing is downloaded.

use std::path::{Path, PathBuf};

use serde_json::json;
use sha2::{Digest, Sha256};

use crate::harness::Cluster;

/// The name under which the tests import busybox.
pub(crate) const BUSYBOX: &str = "example.test/busybox:1";

/// The built-in image.
pub(crate) fn builtin() -> String {
    format!("localhost/rusternetes:{}", env!("CARGO_PKG_VERSION"))
}

/// What an image is made of: one uncompressed layer and its configuration.
pub(crate) struct Image {
    /// The layer, a tar archive.
    pub(crate) layer: Vec<u8>,
    /// The image configuration, JSON.
    pub(crate) config: Vec<u8>,
}

/// `sha256:...` of some bytes.
pub(crate) fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

/// Busybox with a link for each applet that the tests use.
pub(crate) fn busybox() -> Image {
    let executable = std::fs::read("/bin/busybox").expect("the package busybox-static (`cargo xtask test` installs it)");
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = owned_by_root();
    for directory in ["bin/", "tmp/", "etc/", "root/"] {
        header.set_entry_type(tar::EntryType::Directory);
        header.set_mode(if directory == "tmp/" { 0o1777 } else { 0o755 });
        header.set_size(0);
        tar.append_data(&mut header, directory, std::io::empty()).expect("written to memory");
    }
    let mut header = owned_by_root();
    header.set_mode(0o755);
    header.set_size(executable.len() as u64);
    tar.append_data(&mut header, "bin/busybox", executable.as_slice()).expect("written to memory");
    for applet in APPLETS {
        let mut header = owned_by_root();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        tar.append_link(&mut header, format!("bin/{applet}"), "busybox").expect("written to memory");
    }
    let layer = tar.into_inner().expect("written to memory");
    let config = json!({
        "architecture": "amd64",
        "os": "linux",
        "config": {"Env": ["PATH=/bin"], "Cmd": ["sh"], "WorkingDir": "/"},
        "rootfs": {"type": "layers", "diff_ids": [digest(&layer)]},
    });
    Image { layer, config: config.to_string().into_bytes() }
}

fn owned_by_root() -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_mode(0o777);
    header
}

const APPLETS: &[&str] = &[
    "sh", "cat", "echo", "sleep", "ls", "id", "env", "hostname", "tar", "wget", "nslookup", "nc", "awk", "printf", "kill", "ps",
    "true", "false", "stat", "touch", "mkdir", "rm", "date", "head", "tail", "grep", "printenv", "tty", "stty", "df", "mount",
    "dd", "test", "readlink", "sync", "trap", "seq", "httpd", "pwd",
];

/// Writes an image as `docker save` does and returns the archive's path.
pub(crate) fn docker_archive(directory: &Path, image: &Image, name: &str) -> PathBuf {
    let manifest = json!([{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]);
    write_tar(
        &directory.join("docker-archive.tar"),
        &[("manifest.json", manifest.to_string().as_bytes()), ("config.json", &image.config), ("layer.tar", &image.layer)],
    )
}

/// The image's OCI manifest.
pub(crate) fn oci_manifest(image: &Image) -> Vec<u8> {
    json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": digest(&image.config),
            "size": image.config.len(),
        },
        "layers": [{
            "mediaType": "application/vnd.oci.image.layer.v1.tar",
            "digest": digest(&image.layer),
            "size": image.layer.len(),
        }],
    })
    .to_string()
    .into_bytes()
}

/// Writes an image as an OCI image layout in a tar archive and returns its path.
pub(crate) fn oci_archive(directory: &Path, image: &Image, name: &str) -> PathBuf {
    let manifest = oci_manifest(image);
    let index = json!({
        "schemaVersion": 2,
        "manifests": [{
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": digest(&manifest),
            "size": manifest.len(),
            "annotations": {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name},
        }],
    })
    .to_string();
    let blob = |bytes: &[u8]| format!("blobs/sha256/{}", digest(bytes).trim_start_matches("sha256:"));
    write_tar(
        &directory.join("oci-archive.tar"),
        &[
            ("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#.as_slice()),
            ("index.json", index.as_bytes()),
            (&blob(&manifest), &manifest),
            (&blob(&image.config), &image.config),
            (&blob(&image.layer), &image.layer),
        ],
    )
}

fn write_tar(path: &Path, files: &[(&str, &[u8])]) -> PathBuf {
    let mut tar = tar::Builder::new(std::fs::File::create(path).expect("a writable directory"));
    for (name, contents) in files {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(contents.len() as u64);
        tar.append_data(&mut header, name, *contents).expect("a writable directory");
    }
    tar.into_inner().expect("a writable directory");
    path.to_path_buf()
}

/// Imports busybox as [`BUSYBOX`] into a running cluster through the command line.
pub(crate) fn import_busybox(cluster: &Cluster) {
    let archive = docker_archive(cluster.scratch(), &busybox(), BUSYBOX);
    let output = image_command(cluster, &["import", archive.to_str().expect("a UTF-8 path")]);
    assert!(output.contains(BUSYBOX), "{output}");
}

/// Runs `rusternetes image ...`; it must succeed.
pub(crate) fn image_command(cluster: &Cluster, arguments: &[&str]) -> String {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_rusternetes"))
        .arg("image")
        .args(arguments)
        .arg("--data-dir")
        .arg(cluster.data_dir())
        .output()
        .expect("the binary starts");
    assert!(output.status.success(), "image {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}
